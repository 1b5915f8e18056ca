#!/usr/bin/python
# Observes by real curl who may call whom, and keeps it as a claims file.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: claims_matrix
short_description: Writes down who may call whom in a cluster, and shows what has opened or closed since
version_added: 0.1.0
description:
  - Spans a matrix of all sources (one per ServiceAccount that runs pods), all destinations (the TCP ports of the
    Services), O(methods) and O(paths), and asks every cell of it by real C(curl) in the source's pod.
  - O(state=observe) asks in rounds until the answers stay the same, has each of them proven by a check as
    M(ambient.lab.curl_outcomes) does it, and writes what was seen as a file of claims. That file is made to be
    read, edited and committed. The same matrix gives the same file, byte for byte.
  - O(state=compare) asks what the file says, and what the cluster has beside it, and shows the difference.
  - A pair whose answer flaps, and a denial without a proof, are returned as RV(unclear), and are no claims. So is
    a pair that is refused, gets no answer in time or has no route, where nothing shows who blocks it because the
    destination answers nobody. The file names such pairs in comments.
  - Sources and destinations that can't be asked are never left out silently. They are returned as RV(unprobed)
    and RV(left_out), each with a reason.
author:
  - The ambient lab's authors (@ambient-lab)
extends_documentation_fragment:
  - ambient.lab._attributes.probes
  - ambient.lab._kube
attributes:
  check_mode:
    support: full
    description:
      - Probes, because that changes nothing, but writes no file and makes no pod or container.
      - Sources that need one are in RV(unprobed) then, and do not make a comparison fail; its RV(verdict) is V(unknown)
        where nothing differs. With O(state=observe) their claims are taken from O(file), and RV(verdict) is V(unknown)
        where it does not have them all.
  diff_mode:
    support: full
    description: Shows the difference of the claims file with O(state=observe).
notes:
  - Requests with a method other than C(GET) or C(HEAD) may change something in the applications that answer them.
  - The user needs the right to list pods, Services, Gateways and AuthorizationPolicies in the namespaces, and to
    create C(pods/exec) in those of the sources. O(probe_with=pod) needs to create, list and delete pods there,
    O(probe_with=ephemeral) to patch C(pods/ephemeralcontainers).
  - The claims name ServiceAccounts, so that the file outlives the pods. Of several pods of a ServiceAccount the
    first ready one in the order of names is asked.
options:
  state:
    description:
      - V(observe) writes O(file). Edits in it are replaced by what was seen. Where nothing can be said of more than
        half of the pairs, it fails and leaves the file as it is.
      - V(compare) reads O(file), writes nothing, and fails when something differs.
    type: str
    choices: [observe, compare]
    default: observe
  file:
    description: The claims file, YAML. Its folder must exist.
    type: path
    required: true
  namespaces:
    description: Namespaces of the sources and the destinations.
    type: list
    elements: str
    required: true
  source_namespaces:
    description: Namespaces of the sources, O(namespaces) when left out.
    type: list
    elements: str
  destination_namespaces:
    description: Namespaces of the destinations, O(namespaces) when left out.
    type: list
    elements: str
  methods:
    description: HTTP methods to ask with.
    type: list
    elements: str
    default: [GET]
  paths:
    description: Paths to ask for.
    type: list
    elements: str
    default: [/]
  pod_ip:
    description:
      - Also ask one pod of each Service by its own address, which leads around a waypoint. Names of such claims
        have C(pod of).
      - The address changes with the pod. O(state=compare) finds the pod by the claim's name.
    type: bool
    default: false
  non_http:
    description:
      - Also ask ports that speak something else than HTTP by their C(appProtocol), name or number. Some databases
        lock out a client that sends them an HTTP request.
      - A denial of these counts only where a proxy says that it was its own.
    type: bool
    default: false
  exclude:
    description:
      - Glob patterns of sources (C(namespace/service_account)) and destinations (C(service.namespace) or
        C(service.namespace:port)) to leave out, for example C(*/batch-*).
      - Claims that are in the file are asked by O(state=compare) all the same.
    type: list
    elements: str
    default: []
  probe_with:
    description:
      - What to do about a source whose container has no C(sh), or no curl 7.83 or newer.
      - V(none) lists it in RV(unprobed).
      - V(pod) makes a short-lived pod with the same ServiceAccount in the same namespace, without any label that a
        Service could select, and removes it in the end, also after a failure. Should the module be killed, the
        next run removes the pod, and the node ends it after a while. It has none of the source's labels, because
        with them Services would send it requests and a ReplicaSet would take it over. So NetworkPolicies that select
        pods by label take it for another pod, and a cell may then differ from the source's own.
      - V(ephemeral) adds an ephemeral container to the source's own pod, and takes one that is there already.
        Kubernetes has no way to remove it from the pod again, so it stays until the pod goes. It has the source's
        own address and labels, so what it sees is exactly what the source would see.
    type: str
    choices: [none, pod, ephemeral]
    default: none
  probe_image:
    description: Image with C(sh) and curl 7.83 or newer. Needed with O(probe_with=pod) and O(probe_with=ephemeral).
    type: str
  probe_resources:
    description:
      - What the container of a short-lived pod gets with O(probe_with=pod), as in a pod's C(resources). Both values
        are there for both resources by default, because a ResourceQuota may want them.
      - An ephemeral container has none, and counts in no quota.
    type: dict
    suboptions:
      requests:
        description: Its requests. Left out, C(cpu=10m) and C(memory=16Mi).
        type: dict
      limits:
        description: Its limits. Left out, C(cpu=250m) and C(memory=128Mi).
        type: dict
  witnesses:
    description:
      - Who must bear out a denial, besides the client, so that it is no unclear pair; as in
        M(ambient.lab.curl_outcomes).
      - With V(required) a proxy must say that it refused the request. With V(available) the client's word is enough
        where no proxy could be asked. With V(none) no proxy is asked, and no policy is named.
    type: str
    choices: [required, available, none]
    default: required
  fail_on_difference:
    description: Whether O(state=compare) fails when something differs from the file.
    type: bool
    default: true
  stable:
    description: Rounds in a row in which every answer must be the same.
    type: int
    default: 2
  timeout:
    description:
      - Seconds to wait for the answers to settle. A pair that has not settled by then flaps.
    type: float
    default: 30
  interval:
    description: Seconds between two rounds.
    type: float
    default: 0.2
  probe_timeout:
    description: Seconds that one request may take.
    type: float
    default: 5
  concurrency:
    description: Pods in which requests are made at the same time, at most 64.
    type: int
    default: 8
  results_file:
    description:
      - JSON file in which the matrix is kept under O(section), beside what other modules keep there.
      - Not written in check mode. Its folder must exist.
    type: path
  section:
    description: Name under which the matrix is kept. Needed with O(results_file).
    type: str
seealso:
  - module: ambient.lab.curl_outcomes
"""

EXAMPLES = r"""
- name: Write down who may call whom
  ambient.lab.claims_matrix:
    kubeconfig: "{{ lab.kubeconfig }}"
    namespaces: [default, layer7]
    methods: [GET, POST]
    file: claims.yml

- name: See what has opened or closed since
  ambient.lab.claims_matrix:
    kubeconfig: "{{ lab.kubeconfig }}"
    namespaces: [default, layer7]
    methods: [GET, POST]
    file: claims.yml
    state: compare

- name: Ask from sources without curl too, and around the waypoints
  ambient.lab.claims_matrix:
    context: staging
    namespaces: [shop]
    exclude: ["*/batch-*", "kiali.shop"]
    pod_ip: true
    probe_with: pod
    probe_image: "{{ lab.images.curl }}"
    file: claims.yml

- name: Prove every claim of the file
  ambient.lab.curl_outcomes:
    kubeconfig: "{{ lab.kubeconfig }}"
    claims: "{{ (lookup('ansible.builtin.file', 'claims.yml') | from_yaml).claims }}"
"""

RETURN = r"""
file:
  description: The claims file.
  returned: success
  type: str
verdict:
  description:
    - V(observed), or with O(state=compare) V(pass) or V(fail).
    - V(unknown) in check mode, where it could not ask all that a real run would.
  returned: always
  type: str
  sample: pass
claims:
  description: How many claims the file has.
  returned: with O(state=observe), unless the verdict is V(unknown)
  type: int
  sample: 24
rounds:
  description: How often everything was asked, the rounds that prove what was seen among them.
  returned: always
  type: int
  sample: 2
elapsed:
  description: Seconds that asking took.
  returned: always
  type: float
  sample: 1.42
cells:
  description: Every pair that was asked.
  returned: success, and with C(-v) also on failure
  type: list
  elements: dict
  sample:
    - name: default/curl-deny -> sample-app.default:8080 GET
      from: default/curl-deny
      to: sample-app.default:8080
      method: GET
      outcome: denied_l4
      http_code: 0
      exit_code: 56
      decided_by: ztunnel
      policy: default/layer4-authz
sources:
  description: The sources that were asked, whether their traffic goes through ztunnel, and what asked in their place.
  returned: success, and with C(-v) also on failure
  type: list
  elements: dict
  sample: [{"name": "default/curl", "mesh": true, "asked_from": "its own pod"}]
unclear:
  description: Pairs of which nothing can be said, and why. They are no claims.
  returned: success, and with C(-v) also on failure
  type: list
  elements: dict
  sample: [{"name": "default/curl -> old.default:80 GET", "reason": "it flaps: allowed 200/0, timeout 000/28"}]
unprobed:
  description: Sources that could not be asked, and why.
  returned: success, and with C(-v) also on failure
  type: list
  elements: dict
  sample: [{"source": "default/sample-app", "reason": "its container app has no curl"}]
left_out:
  description: What is no part of the matrix, and why.
  returned: success, and with C(-v) also on failure
  type: list
  elements: dict
  sample: [{"what": "dns.default:53", "reason": "UDP: curl speaks TCP"}]
same:
  description: How many pairs are as the file says.
  returned: with O(state=compare)
  type: int
opened:
  description:
    - Pairs that were denied, and are let through now. C(policy) is the one that denied them by the file.
    - A TLS handshake that fails because the certificate is not trusted counts as let through.
  returned: with O(state=compare), on failure only with C(-v)
  type: list
  elements: dict
  sample: [{"name": "...", "was": "denied_l4 by default/p", "now": "allowed HTTP 200", "policy": "default/p"}]
closed:
  description: Pairs that were let through, and are denied now. C(policy) is the one that denies them.
  returned: with O(state=compare), on failure only with C(-v)
  type: list
  elements: dict
altered:
  description: Pairs with another outcome, HTTP status or deciding policy, or of which nothing can be said now.
  returned: with O(state=compare), on failure only with C(-v)
  type: list
  elements: dict
added:
  description: Pairs of the cluster that the file does not have.
  returned: with O(state=compare), on failure only with C(-v)
  type: list
  elements: dict
gone:
  description: Claims of the file whose source or Service does not exist any more.
  returned: with O(state=compare), on failure only with C(-v)
  type: list
  elements: dict
"""

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._check.curl_outcomes import CHECK_SPEC
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import (
    KUBE_SPEC,
    KUBERNETES_IMPORT_ERROR,
)
from ansible_collections.ambient.lab.plugins.module_utils._common.module import Work
from ansible_collections.ambient.lab.plugins.module_utils._matrix.claims_matrix import matrix

SPEC: dict[str, dict[str, t.Any]] = {
    **KUBE_SPEC,
    "state": {"type": "str", "choices": ["observe", "compare"], "default": "observe"},
    "file": {"type": "path", "required": True},
    "namespaces": {"type": "list", "elements": "str", "required": True},
    "source_namespaces": {"type": "list", "elements": "str"},
    "destination_namespaces": {"type": "list", "elements": "str"},
    "methods": {"type": "list", "elements": "str", "default": ["GET"]},
    "paths": {"type": "list", "elements": "str", "default": ["/"]},
    "pod_ip": {"type": "bool", "default": False},
    "non_http": {"type": "bool", "default": False},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "probe_with": {"type": "str", "choices": ["none", "pod", "ephemeral"], "default": "none"},
    "probe_image": {"type": "str"},
    "probe_resources": {"type": "dict", "options": {"requests": {"type": "dict"}, "limits": {"type": "dict"}}},
    "witnesses": {"type": "str", "choices": ["required", "available", "none"], "default": "required"},
    "fail_on_difference": {"type": "bool", "default": True},
    "stable": {"type": "int", "default": 2},
    "timeout": {"type": "float", "default": 30},
    "interval": {"type": "float", "default": 0.2},
    # What is observed is neither before nor after a policy.
    **{name: option for name, option in CHECK_SPEC.items() if name != "phase"},
}
WORK = Work(SPEC, lambda call: matrix(call.params, call.check_mode, call.diff), KUBERNETES_IMPORT_ERROR)


def main() -> None:
    """Entry point of the module."""
    WORK.main()


if __name__ == "__main__":
    main()
