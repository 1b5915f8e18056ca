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
    removed, values widened, C(not) dropped, actions swapped, selectors and targetRefs moved. PeerAuthentications,
    RequestAuthentications and the labels that enrol with the mesh and its waypoints are removed as well.
  - Predicts which claims of the list would notice. A mutant that one of them notices is killed, another one survives.
    A mutant that changes nothing is equivalent, and does not count.
  - Returns the score, the survivors, and for each of them a claim that would kill it.
  - Nothing is applied to a cluster, and no request is sent, unless O(prove) is given.
author:
  - The ambient lab's authors (@ambient-lab)
extends_documentation_fragment:
  - ambient.lab._attributes
  - ambient.lab._attributes.probes
  - ambient.lab._kube
  - ambient.lab._state
  - ambient.lab._state.scope
  - ambient.lab._state.results
attributes:
  check_mode:
    support: full
    description: Predicts as it does otherwise. With O(prove) it says how many mutants it would try, and tries none.
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
  prove:
    description:
      - B(Weakens a live cluster, one object at a time, for seconds each.) Requests that are denied get through
        meanwhile, of the claims and of everybody else, and for seconds it may also deny what is allowed.
        Where a Namespace leaves the mesh, its connections are cut.
      - Tries all survivors and some of the killed on the cluster that was read. It needs O(only), which names
        what may be changed; what O(accept) names is not tried. Each mutant is applied, and once it is in
        force the claims are sent. What they meet must be what is predicted under this mutant. That a claim which denies
        a POST now posts is meant.
      - Only the field that the mutant changes is patched; an object that it removes is deleted. It is put back also
        after a failure, a time-out, a signal, and the end of C(ansible-playbook). After each, the claims must hold.
      - An object is kept in a file (mode 0600) while it is changed, beside O(results_file), else in
        C(~/.local/state/ambient-lab). Where it can't be put back the failure names the file and the command, and as
        long as the file is there nothing else is changed.
      - A survivor is proved by a claim that would kill it, too, where a pod of the claims can send it, and its method
        is GET, HEAD or OPTIONS.
      - Needs a cluster, so neither O(manifests) nor O(over_cluster).
    type: dict
    version_added: 0.3.0
    suboptions:
      killed:
        description: How many of the killed are tried at most, spread evenly. All survivors are.
        type: int
        default: 10
      timeout:
        description:
          - Seconds of each wait; for a mutant to be in force, for the claims to be as predicted, and for both again
            after it was put back.
        type: float
        default: 30
      witnesses:
        description: As of M(ambient.lab.curl_outcomes).
        type: str
        choices: [required, available, none]
        default: required
notes:
  - With O(prove), the user needs the rights of M(ambient.lab.curl_outcomes) and M(ambient.lab.policy_ready), to get and
    patch what is changed, and to delete and create what is removed (AuthorizationPolicies and PeerAuthentications).
  - Whoever puts objects back by himself (GitOps) must be stopped before O(prove), or what is measured differs.
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

- name: The cluster agrees, in all survivors and ten of the killed
  ambient.lab.claims_mutation:
    kubeconfig: "{{ lab.kubeconfig }}"
    namespace: shop
    claims: "{{ shop_claims }}"
    only: ["AuthorizationPolicy shop/*"]
    prove: {killed: 10}
"""

RETURN = r"""
proved:
  description: The mutants that were tried on the cluster. One that does not agree is a failure.
  returned: with O(prove)
  type: list
  elements: dict
  contains:
    mutant: {description: The change., type: str, returned: always, sample: "AuthorizationPolicy shop/get: removed"}
    kind: {description: V(killed) or V(survived)., type: str, returned: always, sample: killed}
    verdict:
      description: V(agree), V(differ), or V(error) where nobody can say.
      type: str
      returned: always
      sample: agree
    problem: {description: Why nothing was measured., type: str, returned: always}
    claims:
      description:
        - Each claim that can be predicted, with C(name), C(predicted), C(by) (the policy that was to refuse),
          C(measured), C(verdict) and C(reason).
      type: list
      elements: dict
      returned: always
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
    needs: {description: "The pod that the claim needs, which nobody has yet.", type: str, returned: always}
unclear:
  description: Mutants of which nobody can know whether they change anything.
  returned: always
  type: list
  elements: str
missing_claims:
  description: The claims that would kill the survivors, each once. Their sources have pods, so that they can be proved.
  returned: always
  type: list
  elements: dict
claims_without_pod:
  description: Claims that would kill the other survivors (C(claim)), with the pod that each needs first (C(needs)).
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
from ansible_collections.ambient.lab.plugins.module_utils._reach.proof import PROVE_SPEC
from ansible_collections.ambient.lab.plugins.module_utils._reach.states import REACH_SPEC

SPEC = {
    **REACH_SPEC,
    "claims": {"type": "list", "elements": "raw", "required": True},
    "namespace": {"type": "str", "default": "default"},
    "only": {"type": "list", "elements": "str", "default": []},
    "accept": {"type": "list", "elements": "str", "default": []},
    "min_score": {"type": "int", "default": 100},
    "prove": PROVE_SPEC,
}
WORK = Work(SPEC, lambda call: mutate(call.params, call.check_mode), KUBERNETES_IMPORT_ERROR)


def main() -> None:
    """Entry point of the module."""
    WORK.main()


if __name__ == "__main__":
    main()
