#!/usr/bin/python
# Weakens policies, and says whether a list of claims would notice.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: claims_mutation
short_description: Says how strong a list of claims is, by mutation of the policies
version_added: 0.3.0
description:
  - Changes each policy in every way that leaves it valid, one change at a time. Policies, rules and parts of rules are
    removed, values widened, C(not) dropped, actions swapped, selectors and targetRefs moved. PeerAuthentications and
    the labels that enrol with the mesh and its waypoints are removed as well.
  - Predicts which claims of the list would notice. A mutant that one of them notices is killed, another one survives.
    A mutant that changes nothing is equivalent, and does not count.
  - Returns the score, the survivors, and for each of them a claim that would kill it.
  - Nothing is applied to a cluster, and no request is sent.
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
  claims:
    description: As of M(ambient.lab.curl_outcomes). They must hold on the objects as they are.
    type: list
    elements: raw
    required: true
  namespace:
    description: Namespace of the sources that name none.
    type: str
    default: default
  only:
    description:
      - Mutants to judge, as they are shown, with C(*) for any text. An empty list takes all.
      - Claims about one policy of many need no more. O(namespaces) leaves out what changes nothing in them.
    type: list
    elements: str
    default: []
  accept:
    description: Survivors that need no claim, as they are shown, with C(*) for any text. They do not count.
    type: list
    elements: str
    default: []
  min_score:
    description:
      - Least score in percent; a lower one is a failure, and so is a list of claims by which no mutant can be judged.
      - With V(0) neither is.
    type: int
    default: 100
seealso:
  - module: ambient.lab.curl_outcomes
  - module: ambient.lab.policy_diff
"""

EXAMPLES = r"""
- name: The claims notice every weakened policy
  ambient.lab.claims_mutation:
    manifests: policies
    namespace: shop
    claims: "{{ shop_claims }}"
    accept: ["AuthorizationPolicy shop/legacy: *"]

- name: They notice it where one policy of the cluster is weakened, or its namespace leaves the mesh
  ambient.lab.claims_mutation:
    namespace: shop
    namespaces: [shop]
    claims: "{{ shop_claims }}"
    only: ["AuthorizationPolicy shop/get: *", "Namespace shop: *"]
"""

RETURN = r"""
score:
  description: Killed mutants in percent of those that change anything; V(null) with O(min_score=0) where none can be.
  returned: always
  type: int
  sample: 92
counts:
  description: Mutants by what becomes of them.
  returned: always
  type: dict
  sample: {"killed": 23, "survived": 2, "accepted": 0, "unclear": 0, "equivalent": 4}
killed:
  description: Mutants that claims notice, with the names of these (C(by)).
  returned: always
  type: list
  elements: dict
survivors:
  description: Mutants that no claim notices.
  returned: always
  type: list
  elements: dict
  contains:
    mutant: {description: The change., type: str, returned: always, sample: "AuthorizationPolicy shop/get: removed"}
    place: {description: File and line., type: str, returned: always}
    changes: {description: "What it opens and closes, as of M(ambient.lab.policy_diff).", type: list, returned: always}
    claim: {description: A claim that would kill it., type: dict, returned: always}
unclear:
  description: Mutants of which nobody can know whether they change anything.
  returned: always
  type: list
  elements: str
missing_claims:
  description: The claims that would kill the survivors, each once. A source that has no pod yet needs one.
  returned: always
  type: list
  elements: dict
summary:
  description: The score and the survivors, a line each; or why none can be judged.
  returned: always
  type: list
  elements: str
report:
  description: All of it as lines for people, with the claims as YAML.
  returned: always
  type: list
  elements: str
"""


from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import KUBERNETES_IMPORT_ERROR
from ansible_collections.ambient.lab.plugins.module_utils._common.module import Work
from ansible_collections.ambient.lab.plugins.module_utils._reach.claims_mutation import mutate
from ansible_collections.ambient.lab.plugins.module_utils._reach.states import REACH_SPEC

SPEC = {
    **REACH_SPEC,
    "claims": {"type": "list", "elements": "raw", "required": True},
    "namespace": {"type": "str", "default": "default"},
    "only": {"type": "list", "elements": "str", "default": []},
    "accept": {"type": "list", "elements": "str", "default": []},
    "min_score": {"type": "int", "default": 100},
}
WORK = Work(SPEC, lambda call: mutate(call.params, call.check_mode), KUBERNETES_IMPORT_ERROR)


def main() -> None:
    """Entry point of the module."""
    WORK.main()


if __name__ == "__main__":
    main()
