#!/usr/bin/python
# Waits until every proxy that must enforce a policy has it.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: policy_ready
short_description: Waits until AuthorizationPolicies are in force in an ambient mesh
version_added: 0.1.0
description:
  - Waits until every proxy that must enforce the O(policies) has them as they are written now, instead of
    sleeping and hoping.
  - For a policy without C(targetRefs) these are the ztunnels of all nodes with a pod in the mesh that the policy
    selects. Each must have this version of the policy, and name it in the workload where the policy has a selector.
  - For a policy with C(targetRefs) these are all pods of the waypoints that the named Services, Gateways or
    GatewayClass mean. Each must have this version of the policy in its listeners.
  - istiod's own condition (C(ZtunnelAccepted), C(WaypointAccepted)) must be there for this generation of the policy,
    with the reason C(Accepted). Where it says that the policy can't be enforced as written, the module fails at once.
  - A version is told from another one by what the policy says, read from the proxy's C(/config_dump). In Envoy,
    attributes of JWTs, SNI and trust domains are not compared.
author:
  - The ambient lab's authors (@ambient-lab)
extends_documentation_fragment:
  - ambient.lab._attributes
  - ambient.lab._attributes.probes
  - ambient.lab._kube
notes:
  - The user needs the right to create C(pods/portforward) in the namespaces of the proxies, and to list pods in all
    namespaces, because ztunnel may be installed in any.
  - That a proxy has a policy does not end connections that are already open through it.
options:
  policies:
    description: The AuthorizationPolicies, each as C(namespace/name); an empty list is an error.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(present) waits until the policies are in force, V(absent) until they are deleted and no proxy has them any
        more. Of a deleted policy nobody knows whom it selected, so every ztunnel and all gateways of its namespace
        are asked.
    type: str
    choices: [present, absent]
    default: present
  timeout:
    description: Seconds to wait.
    type: float
    default: 30
  interval:
    description: Seconds between two looks.
    type: float
    default: 0.1
seealso:
  - module: ambient.lab.curl_outcomes
  - module: ambient.lab.policy_convergence
"""

EXAMPLES = r"""
- name: Wait until the policy is in force
  ambient.lab.policy_ready:
    kubeconfig: "{{ lab.kubeconfig }}"
    policies: [default/layer4-authz]

- name: Wait until the policy is gone from every proxy
  ambient.lab.policy_ready:
    kubeconfig: "{{ lab.kubeconfig }}"
    policies: [layer7/layer7-authz]
    state: absent
    timeout: 60
"""

RETURN = r"""
waited:
  description: Seconds until the policies were in force, or gone.
  returned: success
  type: float
  sample: 0.21
proxies:
  description:
    - When each proxy was first seen with the policy, or without it. istiod's condition is one of the lines, with
      the kind V(istiod).
  returned: success
  type: list
  elements: dict
  contains:
    policy:
      description: The policy (namespace/name).
      type: str
      returned: always
      sample: default/layer4-authz
    kind:
      description: V(ztunnel), V(waypoint) or V(istiod).
      type: str
      returned: always
      sample: ztunnel
    proxy:
      description: The proxy's pod (namespace/name).
      type: str
      returned: always
      sample: istio-system/ztunnel-x7k2p
    after:
      description: Seconds after the waiting began.
      type: float
      returned: always
      sample: 0.13
"""


from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import (
    KUBE_SPEC,
    KUBERNETES_IMPORT_ERROR,
)
from ansible_collections.ambient.lab.plugins.module_utils._common.module import Work
from ansible_collections.ambient.lab.plugins.module_utils._ready.policy_ready import policy_ready

SPEC = {
    **KUBE_SPEC,
    "policies": {"type": "list", "elements": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "timeout": {"type": "float", "default": 30},
    "interval": {"type": "float", "default": 0.1},
}
WORK = Work(SPEC, lambda call: policy_ready(call.params), KUBERNETES_IMPORT_ERROR)


def main() -> None:
    """Entry point of the module."""
    WORK.main()


if __name__ == "__main__":
    main()
