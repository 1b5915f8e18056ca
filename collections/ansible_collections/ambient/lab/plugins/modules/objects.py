#!/usr/bin/python
# Applies or removes many objects of a cluster at once.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: objects
short_description: Applies or removes many objects in one task, with one diff an object
version_added: 0.2.0
description:
  - Applies all objects of a definition on the server's side. Those that the cluster itself says would stay as they are
    are not written.
  - With C(--diff) every object that changes is shown with what changes of it. Of a Secret the keys are shown, as by
    C(kubectl diff), not the values.
  - In check mode the cluster itself is asked (server-side dry run). An object whose namespace or ServiceAccount does
    not exist yet counts as one that would be made, with a warning that the cluster could not be asked.
  - With O(state=absent) a kind that the cluster does not know (any more) is an object that is not there. So is one that
    somebody else removes at the same time, as the API does with a Secret whose ServiceAccount is gone.
  - An object that the API refuses is one line, with what to do about a missing permission.
author:
  - The ambient lab's authors (@ambient-lab)
extends_documentation_fragment:
  - ambient.lab._kube
  - ambient.lab._attributes.changes
  - ambient.lab._attributes.probes
options:
  definition:
    description: Objects. A list, one object, or YAML text with any number of documents.
    type: raw
    required: true
  state:
    description:
      - V(present) applies the objects.
      - V(absent) removes them and waits until they are gone. What belongs to a namespace must name it.
    type: str
    choices: [present, absent]
    default: present
  owner:
    description:
      - Value of the label C(app.kubernetes.io/managed-by), which every object gets.
      - An object that is there already without this label is somebody else's. It is not applied (the task fails and
        names it), and not removed.
    type: str
  field_manager:
    description:
      - Name under which the objects are applied on the server's side. What it has set it also takes back, when a later
        definition has it no more.
    type: str
    default: ambient-lab
  wait_timeout:
    description: How long one object may take to go, in seconds.
    type: int
    default: 120
seealso:
  - module: ambient.lab.ready
"""

EXAMPLES = r"""
- name: Apply a policy and its client
  ambient.lab.objects:
    kubeconfig: "{{ lab.kubeconfig }}"
    definition: "{{ lookup('ansible.builtin.template', 'policy.yaml.j2') }}"

- name: Remove both, and wait until they are gone
  ambient.lab.objects:
    kubeconfig: "{{ lab.kubeconfig }}"
    definition: "{{ lookup('ansible.builtin.template', 'policy.yaml.j2') }}"
    state: absent

- name: Bring a namespace into the mesh; the same without the label takes it out again
  ambient.lab.objects:
    kubeconfig: "{{ lab.kubeconfig }}"
    definition: {apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}}
"""

RETURN = r"""
objects:
  description: Kind, namespace and name of each object that changed (would change, in check mode).
  returned: success
  type: list
  elements: str
  sample: ["AuthorizationPolicy default/layer4-authz"]
refused:
  description: What the API said of each object that it refused, in one line.
  returned: when the API refuses objects, with C(-v)
  type: list
  elements: str
"""

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import KUBE_SPEC, KUBERNETES_IMPORT_ERROR, Kube
from ansible_collections.ambient.lab.plugins.module_utils._cluster.objects import Changer, documents, owned, title
from ansible_collections.ambient.lab.plugins.module_utils._common.module import Call, Work

SPEC = {
    **KUBE_SPEC,
    "definition": {"type": "raw", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "owner": {"type": "str"},
    "field_manager": {"type": "str", "default": "ambient-lab"},
    "wait_timeout": {"type": "int", "default": 120},
}


def run(call: Call) -> dict[str, t.Any]:
    """Apply or remove the objects."""
    params = call.params
    wanted = documents(params["definition"])
    changer = Changer(Kube(params["kubeconfig"], params["context"]), params["field_manager"], call.check_mode)
    if params["state"] == "absent":
        changer.require_namespaces(wanted)
    there = changer.there(wanted)
    if params["owner"]:
        wanted = owned(wanted, list(there.values()), params["owner"], params["state"])
    if params["state"] == "absent":
        return changer.absent([item for item in wanted if title(item) in there], params["wait_timeout"])
    return changer.present(wanted, there)


WORK = Work(SPEC, run, KUBERNETES_IMPORT_ERROR)


def main() -> None:
    """Entry point of the module."""
    WORK.main()


if __name__ == "__main__":
    main()
