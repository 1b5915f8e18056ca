#!/usr/bin/python
# Says which pairs a change of policies opens and closes, before it is applied.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: policy_diff
short_description: Says what a change of policies opens and closes in an ambient mesh
version_added: 0.3.0
description:
  - Compares two states of a mesh. Says for all requests that the policies of both can tell apart which of them are let
    through now and were not before, which are refused now, and which policy and rule is the reason.
  - A pair is a source, a destination and a class of requests, as M(ambient.lab.policy_reachability) has them.
  - Fails where something opens that O(allow_new) does not name, so that a playbook ends with 2. What may open, because
    a state is unknown, counts as well.
  - Not only policies open. So do labels, waypoints, Services and PeerAuthentications.
author:
  - The ambient lab's authors (@ambient-lab)
extends_documentation_fragment:
  - ambient.lab._attributes
  - ambient.lab._attributes.probes
  - ambient.lab._kube
  - ambient.lab._state.scope
  - ambient.lab._state.results
options:
  old:
    description: The state before. Without O(old.manifests) it is the cluster.
    type: dict
    required: true
    suboptions: &state
      manifests:
        description: Folder of YAML or JSON files.
        type: path
      revision:
        description: Revision of the git repository in which the folder is.
        type: str
      over_cluster:
        description: Lay the folder over the cluster.
        type: bool
        default: false
  new:
    description: The state after, in the same form.
    type: dict
    required: true
    suboptions: *state
  allow_new:
    description:
      - What may open, as C(source -> destination) or C(source -> destination request), with C(*) for any text. An
        example is C(shop/client -> Service shop/app:80).
    type: list
    elements: str
    default: []
  fail_on:
    description: Whether to fail where something opens that O(allow_new) does not name.
    type: str
    choices: [opened, never]
    default: opened
  markdown:
    description: File to write with the comparison as Markdown, for a comment on a pull request.
    type: path
seealso:
  - module: ambient.lab.policy_reachability
  - module: ambient.lab.claims_matrix
"""

EXAMPLES = r"""
- name: A pull request opens nothing
  ambient.lab.policy_diff:
    old: {manifests: policies, revision: origin/main}
    new: {manifests: policies}
    markdown: comment.md

- name: What would happen to the cluster
  ambient.lab.policy_diff:
    kubeconfig: "{{ lab.kubeconfig }}"
    old: {}
    new: {manifests: policies, over_cluster: true}
    allow_new: ["shop/client -> Service shop/app:80 GET*"]
    fail_on: never
"""

RETURN = r"""
opened:
  description: Classes of pairs that are let through now.
  returned: always
  type: list
  elements: dict
  contains: &change
    change: {description: "V(opened), V(closed), V(unclear) or V(changed).", type: str, returned: always}
    from: {description: Sources., type: list, elements: str, returned: always}
    to: {description: Destination., type: str, returned: always, sample: "Service shop/app:80"}
    request: {description: The class of requests., type: str, returned: always, sample: "POST /orders"}
    example: {description: A request of the class., type: str, returned: always}
    was: {description: What it met before., type: str, returned: always, sample: "denied_l7 (shop/get rule 0)"}
    now: {description: What it meets now., type: str, returned: always, sample: "allowed (shop/all rule 0)"}
    because: {description: What differs on the way., type: str, returned: always, sample: shop/all is new}
closed:
  description: Classes of pairs that are refused now.
  returned: always
  type: list
  elements: dict
  contains: *change
unclear:
  description: Classes of pairs of which one state is unknown, or both are and differ in what that follows from.
  returned: always
  type: list
  elements: dict
  contains: *change
altered:
  description: Classes of pairs that are refused as before, but otherwise, or let through as before, but elsewhere.
  returned: always
  type: list
  elements: dict
  contains: *change
counts:
  description: Pairs by kind of change.
  returned: always
  type: dict
  sample: {"opened": 1, "closed": 0, "unclear": 0, "changed": 0}
verdict:
  description: "V(fail) where something opens, or may, that O(allow_new) does not name."
  returned: always
  type: str
  sample: pass
pairs:
  description: How many pairs were compared.
  returned: always
  type: int
table:
  description: The same as lines for people.
  returned: always
  type: list
  elements: str
"""


from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import KUBE_SPEC, KUBERNETES_IMPORT_ERROR
from ansible_collections.ambient.lab.plugins.module_utils._common.module import Work
from ansible_collections.ambient.lab.plugins.module_utils._reach.policy_diff import compare
from ansible_collections.ambient.lab.plugins.module_utils._reach.states import RESULTS_SPEC, SCOPE_SPEC, STATE_SPEC

SPEC = {
    **KUBE_SPEC,
    **SCOPE_SPEC,
    **RESULTS_SPEC,
    "old": {"type": "dict", "required": True, "options": STATE_SPEC},
    "new": {"type": "dict", "required": True, "options": STATE_SPEC},
    "allow_new": {"type": "list", "elements": "str", "default": []},
    "fail_on": {"type": "str", "choices": ["opened", "never"], "default": "opened"},
    "markdown": {"type": "path"},
}
WORK = Work(SPEC, lambda call: compare(call.params, call.check_mode), KUBERNETES_IMPORT_ERROR)


def main() -> None:
    """Entry point of the module."""
    WORK.main()


if __name__ == "__main__":
    main()
