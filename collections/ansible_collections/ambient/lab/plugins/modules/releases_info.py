#!/usr/bin/python
# Says which of Helm's releases are not as they are wanted.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: releases_info
short_description: Says which Helm releases are missing, or not as they are wanted
version_added: 0.3.0
description:
  - Reads what Helm keeps of its releases in one request, where M(kubernetes.core.helm) starts helm several times for
    each of them. So only what is to be installed or changed needs that module.
  - It compares what M(kubernetes.core.helm) compares, the chart with its versions and the user's values. A chart whose
    templates have changed under the same version counts as the same.
author:
  - The ambient lab's authors (@ambient-lab)
extends_documentation_fragment:
  - ambient.lab._kube
  - ambient.lab._attributes
  - ambient.lab._attributes.probes
requirements:
  - kubernetes >= 24.2.0 (Python client)
  - urllib3 >= 2.0 (comes with it)
options:
  namespace:
    description: Namespace of the releases.
    type: str
    required: true
  releases:
    description: Releases as they are wanted.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the release.
        type: str
        required: true
      chart:
        description: Folder of the chart, or its name in a repository.
        type: str
        required: true
      version:
        description: Version of a chart that is no folder. Without it such a release counts as outdated.
        type: str
      values:
        description: Values, all of those that the user sets.
        type: dict
        default: {}
"""

EXAMPLES = r"""
- name: See what is not as it should be
  ambient.lab.releases_info:
    namespace: istio-system
    releases:
      - {name: istiod, chart: /charts/istiod, values: {profile: ambient}}
"""

RETURN = r"""
outdated:
  description: Names of the releases that are missing or differ, in the order of O(releases).
  returned: success
  type: list
  elements: str
  sample: [istiod]
"""

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import KUBE_SPEC, KUBERNETES_IMPORT_ERROR, Kube
from ansible_collections.ambient.lab.plugins.module_utils._cluster.releases_info import outdated
from ansible_collections.ambient.lab.plugins.module_utils._common.module import Call, Work

RELEASE_SPEC = {
    "name": {"type": "str", "required": True},
    "chart": {"type": "str", "required": True},
    "version": {"type": "str"},
    "values": {"type": "dict", "default": {}},
}
SPEC = {
    **KUBE_SPEC,
    "namespace": {"type": "str", "required": True},
    "releases": {"type": "list", "elements": "dict", "required": True, "options": RELEASE_SPEC},
}


def run(call: Call) -> dict[str, t.Any]:
    """Compare."""
    kube = Kube(call.params["kubeconfig"], call.params["context"])
    return {"outdated": outdated(call.params["releases"], call.params["namespace"], kube)}


WORK = Work(SPEC, run, KUBERNETES_IMPORT_ERROR)


def main() -> None:
    """Entry point of the module."""
    WORK.main()


if __name__ == "__main__":
    main()
