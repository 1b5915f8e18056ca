#!/usr/bin/python
# Hands over the facts of a lab, or says what is missing.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_info
short_description: Facts of a lab, and a check that what must be there is there
version_added: 0.1.0
description:
  - Reads C(lab.json) of a lab, checks that its cluster answers and that the required objects exist.
  - Fails with one line that says what is missing, and what its caller knows about that.
  - In check mode that is a warning and RV(complete=false), because an earlier task may be about to make it.
author:
  - The ambient lab's authors (@ambient-lab)
extends_documentation_fragment:
  - ambient.lab._attributes
requirements:
  - kubernetes >= 24.2.0 (Python client)
  - urllib3 >= 2.0 (comes with it)
options:
  lab_dir:
    description: Folder of the lab, with the facts that M(ambient.lab.lab_facts) wrote.
    type: path
    required: true
  facts:
    description: The facts that M(ambient.lab.lab_facts) of the same run gave; they are not read from the folder then.
    type: dict
    version_added: 0.3.0
  hints:
    description: What messages advise on top, for those who know how the lab is made.
    type: dict
    default: {}
    version_added: 0.3.0
    suboptions:
      lab:
        description: Where the lab or a part of its facts is missing.
        type: str
        default: write its facts with ambient.lab.lab_facts first
      cluster:
        description: Where its cluster does not answer.
        type: str
      rights:
        description: Where the kubeconfig's user lacks a right.
        type: str
  requires:
    description: Objects that must exist in the cluster.
    type: list
    elements: dict
    default: []
    suboptions:
      kind:
        description: Kind of the object.
        type: str
        required: true
      api_version:
        description: API version of the object, with its group.
        type: str
        required: true
      name:
        description: Name of the object.
        type: str
        required: true
      namespace:
        description: Namespace of the object, where its kind has one.
        type: str
      hint:
        description: What to say where it is missing, for example what to run first.
        type: str
        version_added: 0.3.0
  look_for:
    description: Objects that may exist; those that do are returned in RV(found).
    type: list
    elements: dict
    default: []
    suboptions:
      kind:
        description: Kind of the objects.
        type: str
        required: true
      api_version:
        description: API version of the objects, with its group.
        type: str
        required: true
      name:
        description: Name of the object. Left out, all objects of the kind are looked for.
        type: str
      namespace:
        description: Namespace of the objects, where their kind has one. Left out, a list is of all namespaces.
        type: str
      label_selector:
        description: Labels of the objects, for example C(app=curl), where no name is given.
        type: str
"""

EXAMPLES = r"""
- name: Find the lab
  ambient.lab.lab_info:
    lab_dir: "{{ playbook_dir }}/.lab/istio-ambient"

- name: Find the lab, with a mesh in it
  ambient.lab.lab_info:
    lab_dir: "{{ lab_dir }}"
    requires:
      - {kind: Namespace, api_version: v1, name: istio-system, hint: install the mesh first}

- name: Find the lab, with the sample app in it
  ambient.lab.lab_info:
    lab_dir: "{{ lab_dir }}"
    requires:
      - {kind: Service, api_version: v1, name: sample-app, namespace: default}
    look_for:
      - {kind: AuthorizationPolicy, api_version: security.istio.io/v1, name: layer4-authz, namespace: default}
"""

RETURN = r"""
complete:
  description: Whether the lab and everything in O(requires) is there; false in check mode only.
  returned: success
  type: bool
ansible_facts:
  description: The lab's facts, as M(ambient.lab.lab_facts) wrote them.
  returned: where RV(complete=true)
  type: dict
  contains:
    lab:
      description: Provider, kubeconfig, charts, images and addresses of the lab.
      returned: success
      type: dict
      sample: {"provider": "embedded", "cluster_name": "istio-ambient"}
found:
  description: The objects of O(look_for) that exist, as the API gave them.
  returned: success
  type: list
  elements: dict
"""

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import KUBERNETES_IMPORT_ERROR
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.module import Call, Work
from ansible_collections.ambient.lab.plugins.module_utils._lab.lab_info import hinted, read_lab, require

OBJECT_SPEC = {
    "kind": {"type": "str", "required": True},
    "api_version": {"type": "str", "required": True},
    "name": {"type": "str", "required": True},
    "namespace": {"type": "str"},
    "hint": {"type": "str"},
}
HINTS_SPEC = {
    "lab": {"type": "str", "default": "write its facts with ambient.lab.lab_facts first"},
    "cluster": {"type": "str"},
    "rights": {"type": "str"},
}
LOOK_SPEC = {
    "kind": {"type": "str", "required": True},
    "api_version": {"type": "str", "required": True},
    "name": {"type": "str"},
    "namespace": {"type": "str"},
    "label_selector": {"type": "str"},
}
SPEC: dict[str, dict[str, t.Any]] = {
    "lab_dir": {"type": "path", "required": True},
    "facts": {"type": "dict"},
    "hints": {"type": "dict", "default": {}, "options": HINTS_SPEC},
    "requires": {"type": "list", "elements": "dict", "default": [], "options": OBJECT_SPEC},
    "look_for": {"type": "list", "elements": "dict", "default": [], "options": LOOK_SPEC},
}


def run(call: Call) -> dict[str, t.Any]:
    """Read the lab's facts, and look for the objects."""
    try:
        hints = call.params["hints"]
        lab = read_lab(call.params["lab_dir"], hints["lab"], call.params["facts"])
        with hinted(hints):
            found = require(lab, call.params["requires"], call.params["look_for"])
    except LabError as error:
        if not call.check_mode:
            raise
        return {"complete": False, "found": [], "warnings": [f"Check mode can't look further: {error.message}"]}
    return {"complete": True, "ansible_facts": {"lab": lab}, "found": found}


WORK = Work(SPEC, run, KUBERNETES_IMPORT_ERROR)


def main() -> None:
    """Entry point of the module."""
    WORK.main()


if __name__ == "__main__":
    main()
