#!/usr/bin/python
# Checks claims (who may call whom) with real curl in the pods.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: curl_outcomes
short_description: Checks by real traffic who may call whom in an ambient mesh
version_added: 0.1.0
description:
  - Runs C(curl) in the pods that the claims name, one exec per pod and round with all of its requests, the
    pods in parallel and a fresh connection for each request.
  - Says what was seen in the words of the mesh, and compares it with what each claim expects.
  - All claims are checked together in rounds, until all of them hold O(stable) rounds in a row or
    O(timeout) ends.
  - A denial counts only if the same round shows the path alive. Either the destination answers another
    request, or the source reaches something else while the destination has a ready endpoint. Where no claim
    gives such a control, the module makes its own. It asks the same URL from up to three of the claims'
    other sources, and the Kubernetes API from the same source. Without a control the verdict is V(error).
  - Wrong input, and a source that does not exist, fail before any request is sent.
author:
  - The ambient lab's authors (@ambient-lab)
extends_documentation_fragment:
  - ambient.lab._attributes
  - ambient.lab._attributes.probes
  - ambient.lab._check
  - ambient.lab._kube
notes:
  - The container needs C(sh) with a C(printf) of its own (as dash, bash and busybox have it), the usual small tools
    (C(cat), C(fold), C(sed), C(tr)) and curl 7.83 or newer. The shell reads its script from standard input. So headers
    and bodies of requests are in no URL of the Kubernetes API, in no argument and in no environment variable.
  - Claims are not written into the system's log, nor into C(invocation) of the result. C(no_log) is not needed.
  - The user needs the right to create C(pods/exec) in the namespaces of the sources, to list pods, Services,
    AuthorizationPolicies and Gateways there, in the destinations' namespaces and in those of their waypoints, and
    AuthorizationPolicies in C(istio-system).
  - Predictions rest on more kinds. What may not be read makes them V(unknown), and no claim fails for it.
  - To hear the witnesses, the user needs the right to list pods in all namespaces, and to get C(pods/log) and
    C(pods/proxy) where ztunnel and the waypoints run. O(witnesses) says what happens without.
options:
  namespace:
    description: Namespace of the sources that name none.
    type: str
    default: default
  claims:
    description:
      - Who calls whom, how, and what must happen.
      - Unknown keys and unknown outcomes are an error, and so is an empty list.
      - Outcomes are V(allowed) (the application answered), V(denied_l4) (connected, request sent, then cut
        off without a byte of answer), V(denied_l7) (refused by a proxy's policy, whatever its status),
        V(denied_upstream) (the destination refused the waypoint, HTTP 503), V(local_reply) (a proxy's own answer that
        is no refusal, such as a redirect by a route), V(refused), V(timeout), V(dns), V(unroutable) and V(tls). A
        V(probe_error) can be seen, but not expected.
      - V(refused), V(timeout) and V(unroutable) count only where the destination answers another source in the same
        round, for a V(timeout) at the same path. A destination that is down or slow looks the same.
      - Each claim is a dict. C(name) is unique in the list. The collection has a JSON schema of it for editors and CI,
        C(docs/claims.schema.json).
      - C(from) is the pod that calls, a dict of exactly one of C(pod) (name), C(labels) (dict) or
        C(service_account) (name), and optionally C(namespace) and C(container).
      - C(to) is a URL, or a dict of C(url), C(method), C(headers) (dict) and C(body). A URL has at most 8192 bytes and
        no user, the headers together 32768 bytes, the body 16384.
      - Write values of C(headers) and C(labels) in quotes where YAML takes them for a boolean or a decimal number, as
        in C("true") and C("1.10"). Without them it is not known what was written, and the claim is an error.
      - C(expect) is an outcome, or a dict of C(outcome), C(http_code) (a number or a list), C(exit_code) (of curl) and
        C(json). Without C(http_code), V(allowed) accepts any 2xx, V(denied_l7) 403 (of gRPC its own status) and
        V(denied_upstream) 503.
      - C(json) is a JMESPath expression that must be true of the answer, of which 4 KiB are read.
      - C(before) is what is expected in its place with O(phase=before), V(allowed) when left out.
      - C(by) is the AuthorizationPolicy (C(namespace/name)) that must have decided. It must be in force at the proxy
        that refused, and a proxy must name it. The claim is an error when nobody names a policy, when the policy does
        not exist, or when istiod says that it is not fully enforced.
      - Named or not, a policy that selects the destination's pods, or that is bound to its Service or waypoint,
        makes the claim an error when istiod says that it is not enforced as written.
    type: list
    elements: raw
    required: true
  stable:
    description: Rounds in a row in which all claims must hold.
    type: int
    default: 3
  timeout:
    description:
      - Seconds to wait for the claims to hold. A row of good rounds that has begun by then is followed to
        its end.
      - What is not there, for example a policy that GitOps has still to apply, is waited for all the time. The
        check ends before only where in 5 rounds in a row something that is written keeps each failing claim from
        holding.
    type: float
    default: 30
  interval:
    description: Seconds between two rounds.
    type: float
    default: 0.2
  witnesses:
    description:
      - Who must bear out a denial, besides the client.
      - With V(required), a denial is an error unless a proxy says that it refused the request. ztunnel says it in
        its log and its counter, a waypoint in its counter and its access log.
      - With V(available), the client's word is enough where no proxy could be asked. A proxy that was asked and
        says otherwise is still an error.
      - With V(none), no proxy is asked.
    type: str
    choices: [required, available, none]
    default: required
  surprises:
    description:
      - What to do where an answer differs from a sure prediction, though the claim holds. A prediction is made of the
        cluster's objects alone, so a difference means that the mesh does not do what they say.
      - With V(report) it is a warning, with V(fail) the claim fails.
    type: str
    choices: [report, fail]
    default: report
    version_added: 0.3.0
  predict_only:
    description:
      - Send nothing, and judge the claims by the predictions alone. What can't be predicted is an error.
      - Nothing is written to O(results_file).
    type: bool
    default: false
    version_added: 0.3.0
  manifests:
    description:
      - With O(predict_only), a folder of YAML or JSON files that is taken for the cluster. No cluster is asked.
      - A workload stands for one ready pod without an address. A Gateway is taken for programmed. Pods are in the mesh
        where their own label or their namespace's says so.
    type: path
    version_added: 0.3.0
seealso:
  - module: ambient.lab.claims_report
"""

EXAMPLES = r"""
- name: The L4 policy cuts off curl-deny, and nobody else
  ambient.lab.curl_outcomes:
    kubeconfig: "{{ lab.kubeconfig }}"
    claims:
      - name: curl-allow reaches sample-app
        from: {pod: curl-allow}
        to: http://sample-app:8080/
        expect: allowed
      - name: curl-deny is cut off by ztunnel
        from: {pod: curl-deny}
        to: http://sample-app:8080/
        expect: denied_l4
        by: default/layer4-authz

- name: Before the policy both get through
  ambient.lab.curl_outcomes:
    kubeconfig: "{{ lab.kubeconfig }}"
    phase: before
    claims: "{{ l4_claims }}"
    results_file: "{{ lab_dir }}/results.json"
    section: l4

- name: The waypoint lets only GET pass
  ambient.lab.curl_outcomes:
    kubeconfig: "{{ lab.kubeconfig }}"
    namespace: layer7
    claims:
      - name: GET passes
        from: {service_account: curl}
        to: http://sample-app:8080/
        expect: allowed
      - name: POST is refused
        from: {service_account: curl}
        to: {url: "http://sample-app:8080/", method: POST, headers: {x-team: blue}, body: hello}
        expect: {outcome: denied_l7, http_code: 403}
"""

RETURN = r"""
verdict:
  description: V(pass) when all claims held; else the worst of them, V(fail) or V(error).
  returned: when something was checked
  type: str
  sample: pass
at:
  description: When the check ended, ISO 8601 in UTC.
  returned: when something was checked
  type: str
  sample: "2026-11-23T16:18:31+00:00"
rounds:
  description: How often everything was asked.
  returned: when something was checked
  type: int
  sample: 4
elapsed:
  description: Seconds that the check took.
  returned: when something was checked
  type: float
  sample: 1.42
converged_after:
  description: Seconds until the first of the rounds in which all claims held; null when they did not.
  returned: when something was checked
  type: float
  sample: 0.51
claims:
  description:
    - What was seen, per claim, in the last round.
    - Ansible prints the whole result of a failed task. So a failure carries this only with C(-v); its message
      names the claims that matter, and O(results_file) has all of it.
  returned: success, and with C(-v) also on failure
  type: list
  elements: dict
  contains:
    name:
      description: Name of the claim.
      type: str
      returned: always
    from:
      description: Pod that called (namespace/name), or what was looked for when there is none.
      type: str
      returned: always
      sample: default/curl-deny
    to:
      description: Method and URL.
      type: str
      returned: always
      sample: GET http://sample-app:8080/
    source:
      description: Who calls, as the claim names it.
      type: str
      returned: always
      sample: pod default/curl-deny
    path:
      description:
        - Whether the request stays on one node, by where the pods on its way run. V(same node), V(cross node), or
          V(same or cross node) where it depends on which pod answers.
        - None where that is not known, and outside of the cluster.
      type: str
      returned: always
      sample: cross node
    expected:
      description: What the claim expects in this phase.
      type: str
      returned: always
      sample: denied_l4
    predicted:
      description:
        - What the cluster's objects say that the request meets. An outcome, V(broken) (something on the way is
          missing), or V(unknown).
      type: str
      returned: always
      sample: denied_l4
    prediction:
      description:
        - Why, from the source to the destination.
        - It ends with what was assumed, where the mesh's configuration could not be read.
      type: str
      returned: always
      sample: "ztunnel of pod default/app: rule 0 of AuthorizationPolicy default/layer4-authz (DENY) matches"
    surprise:
      description: How the answer differs from a sure prediction; empty where it does not.
      type: str
      returned: always
    by:
      description: The policy that the claim names.
      type: str
      returned: always
      sample: default/layer4-authz
    seen:
      description:
        - The outcome, the same with its codes as C(text), and curl's own report (C(http_code), C(exit_code),
          C(errormsg)).
        - What is only returned, and never kept in O(results_file), is the answer (C(elapsed) in seconds, some
          C(headers), the first bytes of the C(body)).
      type: dict
      returned: always
      sample: {"outcome": "denied_l4", "text": "denied_l4 000/56", "http_code": 0, "exit_code": 56}
    verdict:
      description: V(pass), V(fail) or V(error).
      type: str
      returned: always
      sample: pass
    reason:
      description: Why the claim does not hold.
      type: str
      returned: always
    control:
      description: For a denial, how the same round showed the path alive.
      type: str
      returned: always
    decided_by:
      description:
        - Who decided the outcome, V(ztunnel), V(waypoint), V(application) or V(network); V(-) where nobody could tell.
      type: str
      returned: always
      sample: ztunnel
    policy:
      description: The AuthorizationPolicy that decided, where a witness names it.
      type: str
      returned: always
      sample: default/layer4-authz
    witnesses:
      description:
        - What each witness says. C(witness) is the kind, C(where) the pod, C(said) one line, and C(supports) tells
          whether it bears out what the client saw; null where it could not tell.
      type: list
      elements: dict
      returned: always
      sample: [{"witness": "ztunnel log", "where": "istio-system/ztunnel-x", "said": "...", "supports": true}]
    likely_cause:
      description: What in the cluster's objects probably explains it.
      type: str
      returned: always
    flapped:
      description: Whether the claim held once and then did not.
      type: bool
      returned: always
    history:
      description: Every change of the answer, C(at) in seconds.
      type: list
      elements: dict
      returned: always
      sample: [{"at": 0.11, "outcome": "allowed", "http_code": 200, "verdict": "fail"}]
proxies:
  description: The proxies that were asked, with the version that was recognised and how its log is worded.
  returned: when something was checked
  type: list
  elements: dict
  sample: [{"proxy": "istio-system/ztunnel-x", "kind": "ztunnel", "version": "1.31.0", "wording": "..."}]
"""


from ansible_collections.ambient.lab.plugins.module_utils._check.curl_outcomes import CHECK_SPEC, prove
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import (
    KUBE_SPEC,
    KUBERNETES_IMPORT_ERROR,
)
from ansible_collections.ambient.lab.plugins.module_utils._common.module import Work

SPEC = {
    **KUBE_SPEC,
    **CHECK_SPEC,
    "namespace": {"type": "str", "default": "default"},
    "claims": {"type": "list", "elements": "raw", "required": True},
    "stable": {"type": "int", "default": 3},
    "timeout": {"type": "float", "default": 30},
    "interval": {"type": "float", "default": 0.2},
    "witnesses": {"type": "str", "choices": ["required", "available", "none"], "default": "required"},
    "surprises": {"type": "str", "choices": ["report", "fail"], "default": "report"},
    "predict_only": {"type": "bool", "default": False},
    "manifests": {"type": "path"},
}
WORK = Work(SPEC, lambda call: prove(call.params, call.check_mode), KUBERNETES_IMPORT_ERROR)


def main() -> None:
    """Entry point of the module."""
    WORK.main()


if __name__ == "__main__":
    main()
