#!/usr/bin/python
# Checks claims on the traffic graph that Kiali draws.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kiali_graph
short_description: Checks that Kiali draws the traffic there is, and none where there must be none
version_added: 0.1.0
description:
  - Sends requests in each round as M(ambient.lab.curl_outcomes) does, asks Kiali for its graph, and compares the
    edges with what each claim expects, until all claims hold O(stable) rounds in a row or time is up.
  - Looks only at what was counted after its own start, by the server's clock. An edge that must not be there, or a
    response code too many, begins the stretch of time (the window) anew, because it would stay in it for ever.
  - An edge that is missing counts only if the same window shows that such traffic is counted. Another claim's edge
    must be there, reported by the same kind of proxy (ztunnel for tcp, waypoint for http and grpc), to the same
    destination or from the same source. Without a protocol V(no_edge) means that there is none at all. That needs a tcp
    edge, and an http or grpc edge as well where the destination is behind a waypoint. Of another destination the edge
    counts only if the same waypoint reports it.
  - Where Prometheus has ztunnels among its targets, one on a node of the missing edge's ends must be up.
  - Requests that would make the edge must have been sent, behaved as O(traffic) claims, and been followed by samples of
    Prometheus. Otherwise the verdict is V(error).
  - An edge that is expected but missing is V(error) too, not V(fail), when it is the telemetry that is broken. The
    message then names the first broken part, among Kiali, Prometheus, its targets, and the proxy's own metrics.
  - Wrong input, and a source that does not exist, fail before any request is sent.
author:
  - The ambient lab's authors (@ambient-lab)
extends_documentation_fragment:
  - ambient.lab._attributes
  - ambient.lab._attributes.probes
  - ambient.lab._check
  - ambient.lab._kube
notes:
  - O(results_file) also gets Kiali's last answer of each phase, for M(ambient.lab.graph_picture).
  - Kiali must allow anonymous access.
  - The user needs what M(ambient.lab.curl_outcomes) needs, and the right to get C(services/proxy) of Kiali. To list
    Services and pods in the namespaces of O(traffic). To look into a missing edge also C(services/proxy) of
    Prometheus, C(pods/proxy) of ztunnel and the waypoints, and to list pods in all namespaces.
options:
  namespace:
    description: Namespace of the names in O(claims) and of the sources in O(traffic) that name none.
    type: str
    default: default
  namespaces:
    description: Namespaces that Kiali is asked about; each claim has an end in one of them. Left out, O(namespace).
    type: list
    elements: str
  claims:
    description:
      - Between which nodes of the graph there is traffic, or none.
      - Unknown keys and unknown outcomes are an error, and so is an empty list.
      - Each claim is a dict. C(name) is unique in the list.
      - C(from) and C(to) are the name of a workload, or a dict of exactly one of C(workload) and C(service), and
        optionally C(namespace). A bare pod is a workload of its own name.
      - C(expect) is V(edge) or V(no_edge), or a dict of C(outcome), C(protocol) (V(tcp), V(http) or V(grpc); any
        when left out), C(min_rate) (bytes per second of tcp, else requests per second), C(codes) (a number or a
        list, exactly the HTTP statuses in the window) and C(mtls) (all of it, or none of it, is protected; where Kiali
        does not know, neither holds). With V(no_edge)
        only C(protocol) is possible.
      - C(before) is what is expected in its place with O(phase=before). When left out it is C(expect) where that is
        an edge, and otherwise an edge of the same protocol.
      - A claim V(no_edge) without another claim that can be its control is an error.
    type: list
    elements: raw
    default: []
  checks:
    description:
      - Several checks in the place of one, all at the same time, each in a window of its own. So two of them take as
        long as one.
    type: list
    elements: dict
    default: []
    suboptions:
      section:
        description: Name under which its results are kept in O(results_file).
        type: str
      namespace:
        description: As O(namespace).
        type: str
        default: default
      namespaces:
        description: As O(namespaces).
        type: list
        elements: str
      claims:
        description: As O(claims).
        type: list
        elements: raw
        required: true
      traffic:
        description: As O(traffic).
        type: list
        elements: raw
        default: []
  traffic:
    description:
      - Requests to send in each round, claims as those of M(ambient.lab.curl_outcomes). A round in which one of them
        does not hold is not good. Which policy denied one is not asked here, so C(by) is not looked at.
      - A claim V(no_edge) needs requests from its source to its destination here.
      - A request to a Service with several workloads behind it surely goes to the Service only. Name the Service in
        C(to) then.
    type: list
    elements: raw
    default: []
  stable:
    description: Rounds in a row in which all claims must hold.
    type: int
    default: 2
  timeout:
    description:
      - Seconds to wait for the claims to hold, after the first window is long enough to prove anything. That takes
        two scrape intervals of Prometheus and four seconds.
      - A row of good rounds that has begun by then is followed to its end.
    type: float
    default: 30
  interval:
    description: Seconds between two rounds.
    type: float
    default: 0.5
  kiali:
    description: Kiali's Service, which is reached through the Kubernetes API. Not used with O(url).
    type: dict
    suboptions:
      namespace:
        description: Its namespace.
        type: str
        default: istio-system
      service:
        description: Its name.
        type: str
        default: kiali
      port:
        description: Its port.
        type: int
        default: 20001
      web_root:
        description: Path below which Kiali serves, its C(server.web_root).
        type: str
        default: /kiali
  url:
    description: Address of Kiali with its web root, to ask it directly, for example C(http://localhost:20001/kiali).
    type: str
  prometheus:
    description: Prometheus' Service, which is reached through the Kubernetes API. Asked about a missing edge only.
    type: dict
    suboptions:
      url:
        description: Its address as pods use it, such as C(http://prometheus.istio-system:9090), in place of the others.
        type: str
        version_added: 0.3.0
      namespace:
        description: Its namespace.
        type: str
        default: istio-system
      service:
        description: Its name.
        type: str
        default: prometheus
      port:
        description: Its port.
        type: int
        default: 9090
seealso:
  - module: ambient.lab.curl_outcomes
  - module: ambient.lab.graph_picture
  - module: ambient.lab.claims_report
"""

EXAMPLES = r"""
- name: Kiali draws what curl-allow sends, and nothing from curl-deny
  ambient.lab.kiali_graph:
    kubeconfig: "{{ lab.kubeconfig }}"
    claims:
      - name: curl-allow's bytes reach sample-app
        from: curl-allow
        to: sample-app-blue
        expect: {outcome: edge, protocol: tcp, min_rate: 0.1, mtls: true}
      - name: no byte of curl-deny's reaches sample-app
        from: curl-deny
        to: sample-app-blue
        before: {outcome: edge, protocol: tcp}
        expect: no_edge
    traffic: "{{ l4_claims }}"
    results_file: "{{ lab_dir }}/results.json"
    section: l4

- name: The waypoint's 403 are in the graph
  ambient.lab.kiali_graph:
    kubeconfig: "{{ lab.kubeconfig }}"
    namespace: layer7
    claims:
      - name: curl gets 200 and 403
        from: curl
        to: {service: sample-app}
        before: {outcome: edge, protocol: http, codes: [200]}
        expect: {outcome: edge, protocol: http, codes: [200, 403]}
    traffic: "{{ l7_claims }}"

- name: Both at the same time
  ambient.lab.kiali_graph:
    kubeconfig: "{{ lab.kubeconfig }}"
    checks:
      - {section: l4, claims: "{{ l4_graph_claims }}", traffic: "{{ l4_claims }}"}
      - section: l7
        namespace: layer7
        claims: "{{ l7_graph_claims }}"
        traffic: "{{ l7_claims }}"
    results_file: "{{ lab_dir }}/results.json"
"""

RETURN = r"""
checks:
  description: What each of O(checks) would have returned alone.
  returned: success, where O(checks) was given
  type: list
  elements: dict
verdict:
  description: V(pass) when all claims and the traffic held; else the worst of them, V(fail) or V(error).
  returned: when something was checked
  type: str
  sample: pass
at:
  description: When the check ended, ISO 8601 in UTC.
  returned: when something was checked
  type: str
  sample: "2026-11-23T16:18:31+00:00"
rounds:
  description: How often everything was sent and asked.
  returned: when something was checked
  type: int
  sample: 6
elapsed:
  description: Seconds that the check took.
  returned: when something was checked
  type: float
  sample: 6.4
converged_after:
  description: Seconds until the first of the rounds in which all claims held; null when they did not.
  returned: when something was checked
  type: float
  sample: 5.3
window:
  description: Length of the window in seconds; null when Kiali gave no answer.
  returned: when something was checked
  type: int
  sample: 5
restarts:
  description: How often the window began anew, because it held something that must not be there.
  returned: when something was checked
  type: int
  sample: 1
graph:
  description: How many C(nodes) and C(edges) Kiali's last answer has. With C(-v) the answer itself.
  returned: when something was checked
  type: dict
  sample: {"nodes": 4, "edges": 3}
claims:
  description:
    - What was seen, per claim, in the last round, in the form of C(claims) of M(ambient.lab.curl_outcomes).
    - In C(seen), C(outcome) is V(edge), V(no_edge) or V(no_answer), and C(edges) have C(protocol), C(rate),
      C(codes), and C(errors) and C(mtls) in percent.
    - For an edge that is not there, C(control) says what in the same window shows that such traffic is counted.
    - Ansible prints the whole result of a failed task. So a failure carries this only with C(-v); its message
      names the claims that matter, and O(results_file) has all of it.
  returned: success, and with C(-v) also on failure
  type: list
  elements: dict
traffic:
  description: What the requests saw in the last round, as C(claims) of M(ambient.lab.curl_outcomes).
  returned: success, and with C(-v) also on failure
  type: list
  elements: dict
"""


from ansible_collections.ambient.lab.plugins.module_utils._check.curl_outcomes import CHECK_SPEC
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import (
    KUBE_SPEC,
    KUBERNETES_IMPORT_ERROR,
)
from ansible_collections.ambient.lab.plugins.module_utils._common.module import Work
from ansible_collections.ambient.lab.plugins.module_utils._graph.kiali_graph import prove_graphs

KIALI_SPEC = {
    "namespace": {"type": "str", "default": "istio-system"},
    "service": {"type": "str", "default": "kiali"},
    "port": {"type": "int", "default": 20001},
    "web_root": {"type": "str", "default": "/kiali"},
}
PROMETHEUS_SPEC = {
    "url": {"type": "str"},
    "namespace": {"type": "str", "default": "istio-system"},
    "service": {"type": "str", "default": "prometheus"},
    "port": {"type": "int", "default": 9090},
}
ONE_SPEC = {
    "section": {"type": "str"},
    "namespace": {"type": "str", "default": "default"},
    "namespaces": {"type": "list", "elements": "str"},
    "claims": {"type": "list", "elements": "raw", "required": True},
    "traffic": {"type": "list", "elements": "raw", "default": []},
}
SPEC = {
    **KUBE_SPEC,
    **CHECK_SPEC,
    "namespace": {"type": "str", "default": "default"},
    "namespaces": {"type": "list", "elements": "str"},
    "claims": {"type": "list", "elements": "raw", "default": []},
    "checks": {"type": "list", "elements": "dict", "default": [], "options": ONE_SPEC},
    "traffic": {"type": "list", "elements": "raw", "default": []},
    "stable": {"type": "int", "default": 2},
    "timeout": {"type": "float", "default": 30},
    "interval": {"type": "float", "default": 0.5},
    "kiali": {"type": "dict", "apply_defaults": True, "options": KIALI_SPEC},
    "url": {"type": "str"},
    "prometheus": {"type": "dict", "apply_defaults": True, "options": PROMETHEUS_SPEC},
}
WORK = Work(SPEC, lambda call: prove_graphs(call.params, call.check_mode, call.verbosity > 0), KUBERNETES_IMPORT_ERROR)


def main() -> None:
    """Entry point of the module."""
    WORK.main()


if __name__ == "__main__":
    main()
