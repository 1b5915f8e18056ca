#!/usr/bin/python
# Says who may call whom, by the objects of a cluster or of a folder.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: policy_reachability
short_description: Predicts who may call whom in an ambient mesh
version_added: 0.3.0
description:
  - Says of every source, destination, port and class of requests what the policies make of it, and which policy and
    rule decides. No request is sent.
  - Sources are the ServiceAccounts of all workloads, identities that policies name and no workload has, any other
    identity of each namespace and of all, and clients outside of the mesh.
  - Destinations are the ports of Services and ServiceEntries. A pod's own address is one where it leads around a
    waypoint, or where no Service leads to the port.
  - Requests are cut into the classes that the policies and routes of the waypoint on the way can tell apart. One
    request stands for each class.
  - M(ambient.lab.curl_outcomes) proves the same by real traffic.
author:
  - The ambient lab's authors (@ambient-lab)
extends_documentation_fragment:
  - ambient.lab._attributes
  - ambient.lab._attributes.probes
  - ambient.lab._kube
  - ambient.lab._state
  - ambient.lab._state.scope
  - ambient.lab._state.results
options:
  question:
    description: Answer one question in words instead. May this source send this request, and why, or why not?
    type: dict
    suboptions:
      from:
        description: As C(from) of a claim, or V(outside of the mesh). A ServiceAccount need not have a pod.
        type: raw
        required: true
      to:
        description: As C(to) of a claim, a URL, or a dict of C(url), C(method) and C(headers).
        type: raw
        required: true
  claims_file:
    description: YAML file to write with a claim for each source that has a pod, for M(ambient.lab.curl_outcomes).
    type: path
seealso:
  - module: ambient.lab.policy_diff
  - module: ambient.lab.curl_outcomes
"""

EXAMPLES = r"""
- name: Who may call whom, once these manifests are applied to an empty cluster
  ambient.lab.policy_reachability:
    manifests: policies
  register: reachability

- name: Show it
  ansible.builtin.debug:
    var: reachability.table

- name: May the shop's client post to the application?
  ambient.lab.policy_reachability:
    manifests: policies
    over_cluster: true
    question:
      from: {service_account: client, namespace: shop}
      to: {url: "http://app.shop/orders", method: POST}
"""

RETURN = r"""
reachability:
  description: An item for each class of sources and requests at a destination.
  returned: without O(question)
  type: list
  elements: dict
  contains:
    from: {description: Sources that meet the same., type: list, elements: str, returned: always}
    to: {description: Destination., type: str, returned: always, sample: "Service shop/app:80"}
    request: {description: What tells the class from the others., type: str, returned: always, sample: "POST /orders"}
    example: {description: A request of the class., type: str, returned: always}
    verdict:
      description: >-
        V(allowed), V(denied_l4), V(denied_l7), V(denied_upstream), V(broken) (something is missing on the way), or
        V(unknown).
      type: str
      returned: always
    layer: {description: "Who refuses, V(ztunnel) or V(waypoint).", type: str, returned: always}
    policies:
      description: Policies of which the proxy names one when it refuses.
      type: list
      elements: str
      returned: always
    rules:
      description: Policies that match, and the numbers of their rules.
      type: list
      elements: dict
      returned: always
    by: {description: What decides in a few words., type: str, returned: always}
    why: {description: "All reasons, from the source to the destination.", type: str, returned: always}
table:
  description: The same as lines for people.
  returned: without O(question)
  type: list
  elements: str
counts:
  description: Pairs by verdict.
  returned: without O(question)
  type: dict
  sample: {"allowed": 12, "denied_l7": 3}
answer:
  description: The answer to O(question), the way with the policies in force at each proxy, and the reasons.
  returned: with O(question)
  type: list
  elements: str
verdict:
  description: The outcome for O(question).
  returned: with O(question)
  type: str
  sample: denied_l7
"""


from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import KUBERNETES_IMPORT_ERROR
from ansible_collections.ambient.lab.plugins.module_utils._common.module import Work
from ansible_collections.ambient.lab.plugins.module_utils._reach.policy_reachability import reachability
from ansible_collections.ambient.lab.plugins.module_utils._reach.states import REACH_SPEC

SPEC = {
    **REACH_SPEC,
    "question": {
        "type": "dict",
        "options": {"from": {"type": "raw", "required": True}, "to": {"type": "raw", "required": True}},
    },
    "claims_file": {"type": "path"},
}
WORK = Work(SPEC, lambda call: reachability(call.params, call.check_mode), KUBERNETES_IMPORT_ERROR)


def main() -> None:
    """Entry point of the module."""
    WORK.main()


if __name__ == "__main__":
    main()
