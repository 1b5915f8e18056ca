#!/usr/bin/python
# Says which CustomResourceDefinitions have objects, and which could go.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: crds_info
short_description: Which CustomResourceDefinitions have objects, and which could go
version_added: 0.2.0
description:
  - Whoever removes a CustomResourceDefinition removes all objects of its kind, everybody's. So a clean-up asks first.
author:
  - The ambient lab's authors (@ambient-lab)
extends_documentation_fragment:
  - ambient.lab._kube
  - ambient.lab._attributes
  - ambient.lab._attributes.probes
options:
  label_selectors:
    description: Which CustomResourceDefinitions; those that any of these selects.
    type: list
    elements: str
    required: true
  owner:
    description: Objects with this value of the label C(app.kubernetes.io/managed-by) do not count.
    type: str
"""

EXAMPLES = r"""
- name: Find the kinds of Istio that nobody uses
  ambient.lab.crds_info:
    kubeconfig: "{{ lab.kubeconfig }}"
    label_selectors: [app.kubernetes.io/part-of=istio]
"""

RETURN = r"""
unused:
  description: The CustomResourceDefinitions without objects, by name, as M(ambient.lab.objects) takes them.
  returned: success
  type: list
  elements: dict
used:
  description: Names of those with objects.
  returned: success
  type: list
  elements: str
  sample: [virtualservices.networking.istio.io]
"""

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._cluster.crds_info import crds
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import (
    KUBE_SPEC,
    KUBERNETES_IMPORT_ERROR,
    Kube,
)
from ansible_collections.ambient.lab.plugins.module_utils._common.module import Call, Work

SPEC = {
    **KUBE_SPEC,
    "label_selectors": {"type": "list", "elements": "str", "required": True},
    "owner": {"type": "str"},
}


def run(call: Call) -> dict[str, t.Any]:
    """Find the CRDs."""
    kube = Kube(call.params["kubeconfig"], call.params["context"])
    unused, used = crds(kube, call.params["label_selectors"], call.params["owner"])
    return {"unused": unused, "used": used}


WORK = Work(SPEC, run, KUBERNETES_IMPORT_ERROR)


def main() -> None:
    """Entry point of the module."""
    WORK.main()


if __name__ == "__main__":
    main()
