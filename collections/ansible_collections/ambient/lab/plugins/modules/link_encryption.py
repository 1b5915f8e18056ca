#!/usr/bin/python
# Proves that what passes between nodes is encrypted.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: link_encryption
short_description: Proves that requests between nodes are encrypted
version_added: 0.3.0
description:
  - Sends requests from pods while it captures what passes an interface between the nodes, and looks for them there.
  - A claim holds when TLS from its pod to HBONE's port (15008) passes, the request in plain text does not, and the same
    request, sent by a pod outside of the mesh, is seen in plain text. Without this control nothing shows that a
    readable request would have been seen, so the claim is an error.
  - A request is found by a header with a random value (C(x-ambient-lab-mark)).
  - Nothing that is captured is kept or shown but addresses, ports and the number of bytes.
author:
  - The ambient lab's authors (@ambient-lab)
extends_documentation_fragment:
  - ambient.lab._attributes
  - ambient.lab._attributes.probes
  - ambient.lab._kube
notes:
  - It captures on the machine that runs it, so it must run there where the nodes' packets pass, as root (or with
    C(CAP_NET_RAW) and C(CAP_NET_ADMIN)), on Linux.
  - With TLS 1.3, which ztunnel speaks, certificates are encrypted too; so the identity is not in what is seen.
    C(curl_outcomes) asks the proxies for it.
options:
  claims:
    description: What nobody between the nodes may be able to read.
    type: list
    elements: raw
    required: true
  namespace:
    description: Namespace of sources that name none.
    type: str
    default: default
  interface:
    description: Network interface that the nodes' packets pass, for example the bridge that joins them.
    type: str
    required: true
  network_namespace:
    description: Path of the network namespace that has the interface, for example C(/run/netns/nodes).
    type: path
  timeout:
    description: Seconds until claims that do not hold are given up.
    type: float
    default: 20
  probe_timeout:
    description: Seconds that one request may take.
    type: float
    default: 5
  results_file:
    description: JSON file in which the results are kept under O(section), as with M(ambient.lab.curl_outcomes).
    type: path
  section:
    description: Name under which the results are kept.
    type: str
seealso:
  - module: ambient.lab.curl_outcomes
"""

EXAMPLES = r"""
- name: Prove that nobody between the nodes can read the requests
  ambient.lab.link_encryption:
    kubeconfig: "{{ lab.kubeconfig }}"
    interface: br-kind
    claims:
      - name: the client's request is encrypted
        from: {pod: curl}
        to: http://sample-app.default:8080/
        # Outside of the mesh, and on another node than the destination.
        control: {pod: curl-outside}
"""

RETURN = r"""
verdict:
  description: V(pass), V(fail) or V(error), of all claims.
  returned: always, when claims were checked
  type: str
  sample: pass
rounds:
  description: How often the requests were sent.
  returned: always, when claims were checked
  type: int
  sample: 1
elapsed:
  description: Seconds.
  returned: always, when claims were checked
  type: float
  sample: 0.8
claims:
  description:
    - What was seen of each claim in the last round, in the form of C(claims) of M(ambient.lab.curl_outcomes).
    - C(outcome) in C(seen) is V(encrypted), V(plain text) or V(not seen), and C(control) is the pod outside of the
      mesh that sent the same. It is the verdict that says whether this proves anything.
  returned: always, when claims were checked
  type: list
  elements: dict
  contains:
    flows:
      description: TLS from the pod to HBONE's port. Each has C(source), C(target) and C(bytes) of application data.
      type: list
      elements: dict
      returned: always
    identity:
      description: SPIFFE ID in a certificate that could be read, null with TLS 1.3.
      type: str
      returned: always
"""

from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import (
    KUBE_SPEC,
    KUBERNETES_IMPORT_ERROR,
)
from ansible_collections.ambient.lab.plugins.module_utils._common.module import Work
from ansible_collections.ambient.lab.plugins.module_utils._wire.link_encryption import prove_encryption

SPEC = {
    **KUBE_SPEC,
    "claims": {"type": "list", "elements": "raw", "required": True},
    "namespace": {"type": "str", "default": "default"},
    "interface": {"type": "str", "required": True},
    "network_namespace": {"type": "path"},
    "timeout": {"type": "float", "default": 20},
    "probe_timeout": {"type": "float", "default": 5},
    "results_file": {"type": "path"},
    "section": {"type": "str"},
}
WORK = Work(SPEC, lambda call: prove_encryption(call.params, call.check_mode), KUBERNETES_IMPORT_ERROR)


def main() -> None:
    """Entry point of the module."""
    WORK.main()


if __name__ == "__main__":
    main()
