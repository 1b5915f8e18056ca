#!/usr/bin/python
# Says what a policy as written never does, or does more than it seems.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: policy_lint
short_description: Finds AuthorizationPolicies that do not do what they say in an ambient mesh
version_added: 0.3.0
description:
  - Looks at each AuthorizationPolicy of a cluster or of a folder, as ztunnel and the waypoints take it. Each finding
    has its effect in words, its place, and what to write instead.
  - Findings of severity V(error) never do what they say. They are C(selector-matches-nothing), C(selector-empty),
    C(selector-on-waypoint), C(target-missing), C(target-without-waypoint), C(http-at-ztunnel), C(action-at-ztunnel),
    C(service-port), C(workload-port), C(spiffe-prefix), C(inner-star), C(method-case), C(trust-domains-at-ztunnel),
    C(http-at-tcp-port) and C(waypoint-forgotten).
  - Findings of severity V(warning) do more or less than it seems. They are C(no-identity) (a DENY that clients without
    identity walk around), C(open-by-pod-ip) (a waypoint that clients walk around), C(shadowed-rule),
    C(foreign-trust-domain), C(dry-run), C(regex-sign) and C(version-hole). A DENY of which ztunnel leaves HTTP
    attributes out, so that it denies more, is a warning as well. So is C(selector-matches-nothing) in a live cluster,
    where pods come and go.
  - A policy that the API would refuse is no finding. It fails with file and line.
  - Where no workload, or no Service, of a namespace is known, selectors and targets there are not looked at. Policies
    may be kept apart from what they protect; lay them over a cluster then.
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
  policies:
    description:
      - Policies to look at, as C(namespace/name) with C(*) for any text. An empty list takes all.
      - The others are read as well, because a policy may shadow another one. With policies named, findings about the
        mesh as a whole are left out.
    type: list
    elements: str
    default: []
  ignore:
    description: Findings to leave out, as C(rule), or C(rule namespace/name) with C(*) for any text.
    type: list
    elements: str
    default: []
  fail_on:
    description: The least severity of a finding that is a failure.
    type: str
    choices: [error, warning, never]
    default: error
seealso:
  - module: ambient.lab.policy_reachability
"""

EXAMPLES = r"""
- name: Every policy does what it says
  ambient.lab.policy_lint:
    manifests: policies
    fail_on: warning
    ignore:
      - no-identity legacy/*
"""

RETURN = r"""
findings:
  description: What is wrong, errors first.
  returned: always
  type: list
  elements: dict
  contains:
    rule: {description: Name of the rule., type: str, returned: always, sample: spiffe-prefix}
    severity: {description: V(error) or V(warning)., type: str, returned: always}
    policy: {description: namespace/name of the policy., type: str, returned: always}
    place: {description: "File and line, empty for a cluster.", type: str, returned: always, sample: "shop.yaml:12"}
    effect: {description: "What the policy does, in words.", type: str, returned: always}
    mend: {description: What to write instead., type: str, returned: always}
report:
  description: The same as lines for people.
  returned: always
  type: list
  elements: str
policies:
  description: How many policies were looked at.
  returned: always
  type: int
ignored:
  description: How many findings O(ignore) has left out.
  returned: always
  type: int
"""


from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import KUBERNETES_IMPORT_ERROR
from ansible_collections.ambient.lab.plugins.module_utils._common.module import Work
from ansible_collections.ambient.lab.plugins.module_utils._reach.policy_lint import lint
from ansible_collections.ambient.lab.plugins.module_utils._reach.states import REACH_SPEC

SPEC = {
    **REACH_SPEC,
    "policies": {"type": "list", "elements": "str", "default": []},
    "ignore": {"type": "list", "elements": "str", "default": []},
    "fail_on": {"type": "str", "choices": ["error", "warning", "never"], "default": "error"},
}
WORK = Work(SPEC, lambda call: lint(call.params, call.check_mode), KUBERNETES_IMPORT_ERROR)


def main() -> None:
    """Entry point of the module."""
    WORK.main()


if __name__ == "__main__":
    main()
