#!/usr/bin/python
# Measures when a policy is really in force, and what leaked meanwhile.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: policy_convergence
short_description: Measures when a policy is really in force, and what leaked meanwhile
version_added: 0.1.0
description:
  - Applies and removes an AuthorizationPolicy while probes run all the time, at a set rate, from every source.
  - Per claim and direction it reports when the new answer came first, when the old answer came last, how many
    requests were stale (started after the API had accepted the change, or after every proxy had it, and still got the
    old answer), and how often the answer went back. Over several O(repeats) it gives p50, p99 and the greatest.
  - Where the change is to deny, a stale request is a leak, and so is every answer of the application, whatever its
    status. A claim can forbid leaks with its C(limits).
  - There is one exec per source, with a loop inside of the pod. Each tick of the loop starts a new curl for all
    requests of this source, so that each has a connection of its own.
  - It ends with the policy as it was before, or as O(final_state) says, also when something fails, and when it is ended
    by a signal, a closed terminal, or the end of C(ansible-playbook).
  - A policy that is there already is kept in a file (mode 0600) while it is away, beside O(results_file), else in
    C(~/.local/state/ambient-lab). The file goes when the policy is back. Where it can't be given back the failure names
    the file, and as long as the file is there the next run says so and changes nothing.
  - A request counts as started when the loop read the pod's clock, just before curl was started. So a request that is
    counted as stale was stale; a few that began within RV(convergence.resolution) of a moment may not be counted.
author:
  - The ambient lab's authors (@ambient-lab)
extends_documentation_fragment:
  - ambient.lab._kube
  - ambient.lab._attributes.probes
attributes:
  check_mode:
    support: full
    description: Sends nothing and changes nothing; says what it would do.
  diff_mode:
    support: none
    description: What is measured is not a difference of files.
notes:
  - While it runs, the policy comes and goes. That concerns everybody whom the policy concerns, not only the probes.
  - The container needs C(sh) with a C(printf) of its own, C(fold), C(sed), C(tr), a C(sleep) that takes fractions, and
    curl 7.83 or newer.
  - The user needs the rights of M(ambient.lab.policy_ready), to create C(pods/exec) in the namespaces of the sources,
    and to patch, create and delete AuthorizationPolicies.
options:
  definition:
    description:
      - The AuthorizationPolicy. It is applied server-side with the field manager C(ambient-lab).
      - A policy of this name that is there already is removed first, and is given back in the end.
    type: dict
    required: true
  claims:
    description:
      - Who calls whom, as M(ambient.lab.curl_outcomes) takes it. C(before) is the answer without the policy, C(expect)
        the answer with it. A claim where both are the same must not change at all.
      - C(by) can only name the policy of O(definition), and only where the answer changes. That the answer comes and
        goes with it is what shows it; no proxy is asked.
      - Each may have C(limits), a dict of C(leaks_after_ready) and C(leaks_after_accepted) (number of leaked requests
        that pass, over all runs each) and C(converges_within) (seconds after the API accepted the change, for both
        directions). A probe that failed after the acceptance may have got the old answer, so with one of the last two
        it is an error.
    type: list
    elements: raw
    required: true
  namespace:
    description: Namespace of the sources, and of the policy, where they name none.
    type: str
    default: default
  repeats:
    description: How often the policy is applied and removed, at most 100.
    type: int
    default: 1
  rate:
    description:
      - Requests per claim and second, from 1 to 200. A source that can't keep up sends fewer;
        RV(convergence.resolution) says how far apart they really were.
    type: float
    default: 20
  settle:
    description: Seconds for which the probes go on after the barrier.
    type: float
    default: 1
  timeout:
    description: Seconds to wait for the barrier (see M(ambient.lab.policy_ready)) after each change.
    type: float
    default: 30
  probe_timeout:
    description: Seconds that one request may take. A source waits so long with its next requests.
    type: float
    default: 5
  final_state:
    description:
      - Whether the policy is there in the end. Left out, it is as it was before.
      - V(present) leaves it as O(definition) says. One that was there stays as it was if it has the same spec, labels
        and annotations; a dry run (annotation C(istio.io/dry-run)) is another one.
    type: str
    choices: [present, absent]
  results_file:
    description:
      - JSON file in which the result is kept under O(section), as C(convergence) beside the claims that
        M(ambient.lab.curl_outcomes) keeps there. Not written in check mode. Its folder must exist.
    type: path
  section:
    description: Name under which the result is kept, for example that of the policy.
    type: str
seealso:
  - module: ambient.lab.policy_ready
  - module: ambient.lab.curl_outcomes
"""

EXAMPLES = r"""
- name: Nothing leaks once every ztunnel has the policy
  ambient.lab.policy_convergence:
    kubeconfig: "{{ lab.kubeconfig }}"
    repeats: 20
    definition:
      apiVersion: security.istio.io/v1
      kind: AuthorizationPolicy
      metadata: {name: layer4-authz, namespace: default}
      spec:
        selector: {matchLabels: {app: sample-app}}
        action: DENY
        rules:
          - from: [{source: {principals: [cluster.local/ns/default/sa/curl-deny]}}]
    claims:
      - name: curl-allow is not concerned
        from: {pod: curl-allow}
        to: http://sample-app:8080/
        expect: allowed
      - name: curl-deny is cut off
        from: {pod: curl-deny}
        to: http://sample-app:8080/
        before: allowed
        expect: denied_l4
        limits: {leaks_after_ready: 0, converges_within: 5}

- name: Keep the figures beside the claims, and the policy in force
  ambient.lab.policy_convergence:
    kubeconfig: "{{ lab.kubeconfig }}"
    definition: "{{ lookup('ansible.builtin.template', 'policy.yaml.j2') | from_yaml }}"
    claims: "{{ l4_claims }}"
    final_state: present
    results_file: "{{ lab_dir }}/results.json"
    section: l4
"""

RETURN = r"""
changed:
  description: Whether the policy in the end differs from the one before. It came and went in between.
  returned: always
  type: bool
convergence:
  description: The figures. All times are in seconds after the API accepted the change.
  returned: success, and with C(-v) also on failure
  type: dict
  contains:
    policy:
      description: The policy (namespace/name).
      type: str
      returned: always
      sample: default/layer4-authz
    at:
      description: When it was measured.
      type: str
      returned: always
    verdict:
      description: V(pass), V(fail) (a demand was not met), V(error) (the runs prove nothing).
      type: str
      returned: always
      sample: pass
    reason:
      description: Why it does not pass.
      type: str
      returned: always
    repeats:
      description: How often the policy was to be applied and removed.
      type: int
      returned: always
      sample: 20
    rate:
      description: Requests per claim and second that were asked for.
      type: float
      returned: always
      sample: 20.0
    resolution:
      description: Usual time between two requests of a claim, plus the step of the pod's clock.
      type: float
      returned: always
      sample: 0.06
    requests:
      description: Requests of all runs.
      type: int
      returned: always
      sample: 3120
    directions:
      description:
        - Figures of C(apply) and C(remove). C(ready) is when every proxy had the change, C(pairs) has the claims,
          each with C(name), C(from), C(to), the answers C(old) and C(new), the quantiles (C(p50), C(p99), C(max))
          C(first_new) and C(last_old), the sums C(stale_after_accepted), C(stale_after_ready), C(flaps) and
          C(requests), its C(limits), C(verdict) and C(reason), and C(runs) with the figures and the C(changes) of
          answer of each run.
      type: dict
      returned: always
"""

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import (
    KUBE_SPEC,
    KUBERNETES_IMPORT_ERROR,
)
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.module import Call, Work
from ansible_collections.ambient.lab.plugins.module_utils._convergence.policy_convergence import policy_convergence

SPEC = {
    **KUBE_SPEC,
    "definition": {"type": "dict", "required": True},
    "claims": {"type": "list", "elements": "raw", "required": True},
    "namespace": {"type": "str", "default": "default"},
    "repeats": {"type": "int", "default": 1},
    "rate": {"type": "float", "default": 20},
    "settle": {"type": "float", "default": 1},
    "timeout": {"type": "float", "default": 30},
    "probe_timeout": {"type": "float", "default": 5},
    "final_state": {"type": "str", "choices": ["present", "absent"]},
    "results_file": {"type": "path"},
    "section": {"type": "str"},
}


def run(call: Call) -> dict[str, t.Any]:
    """Measure. Of a failure the figures are returned only with -v: Ansible prints a failed result as a whole."""
    try:
        return policy_convergence(call.params, call.check_mode)
    except LabError as error:
        shown = {key: value for key, value in error.result.items() if key == "changed" or call.verbosity}
        raise LabError(error.message, **shown) from error


WORK = Work(SPEC, run, KUBERNETES_IMPORT_ERROR)


def main() -> None:
    """Entry point of the module."""
    WORK.main()


if __name__ == "__main__":
    main()
