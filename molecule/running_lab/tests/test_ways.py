"""Every way to a destination: predictions against real requests, and claims that once passed and should not."""

from __future__ import annotations

from typing import Any

from fault_world import check
from running_lab import Lab
from trial import Tally, Trial
from trial_claims import asked, bound, on, policy, settled, there, words
from trial_world import OUTSIDE, POINT, SERVER, SPACE, pod

Object = dict[str, Any]

BAD = {"from": [{"source": {"principals": [f"cluster.local/ns/{SPACE}/sa/b"]}}]}
GOOD = {"from": [{"source": {"principals": [f"cluster.local/ns/{SPACE}/sa/a"]}}]}
NEVER = {"to": [{"operation": {"ports": ["9999"]}}]}
GET = {"to": [{"operation": {"methods": ["GET"]}}]}
POST = {"to": [{"operation": {"methods": ["POST"]}}]}
STABLE_NAME = f"http://plain-0.head.{SPACE}.svc.cluster.local:8080/"
HTTPROUTE = "gateway.networking.k8s.io/v1"
ON_SHARED = bound("Gateway", "shared", "gateway.networking.k8s.io")


def test_random_policies_do_what_the_model_says(trial: Trial) -> None:
    """A few sets of `python tests/trial.py`; each difference is a fault of the model, the lab or Istio."""
    tally = Tally()
    for number in range(6):
        trial.run(number, tally)
    trial.forget()
    assert tally.requests >= 6 * 24
    assert not tally.differences, tally.differences[0]


def test_by_names_the_policy_that_decided_however_the_destination_is_named(lab: Lab, trial: Trial) -> None:
    ways = [
        f"http://plain.{SPACE}/",
        f"http://{trial.addresses['service/plain']}/",
        STABLE_NAME,
        f"http://{trial.addresses['pod/plain']}:8080/",
    ]
    pairs = [(asked(url, "a", "allowed"), asked(url, "b", "denied_l4", by=f"{SPACE}/real-reason")) for url in ways]
    right = [claim for pair in pairs for claim in pair]
    with there(lab, policy("never-fits", NEVER, **on("plain")), policy("real-reason", BAD, **on("plain"))):
        assert settled(lab, right, lambda said: said.verdict == "pass").verdict == "pass"
        by_another = [{**claim, "by": f"{SPACE}/never-fits"} for _good, claim in pairs]
        wrong = check(lab, [*(good for good, _bad in pairs), *by_another], namespace=SPACE)
        reasons = [wrong.claims[claim["name"]]["reason"] for claim in by_another]
        assert reasons == [f"denied by {SPACE}/real-reason, not by {SPACE}/never-fits"] * len(ways)
    with there(lab, policy("flawed", POST, **on("plain"))):
        good = [good for good, _bad in pairs]
        said = settled(lab, good, lambda said: {item["verdict"] for item in said.claims.values()} == {"error"})
        assert {item["verdict"] for item in said.claims.values()} == {"error"}
        assert "which ztunnel can't match" in words(said)


def test_a_waypoint_of_another_namespace(lab: Lab, trial: Trial) -> None:
    url = f"http://shared.{SPACE}/"
    only_get = policy("only-get", GET, POINT, action="ALLOW", **ON_SHARED)
    another = policy("for-another", GET, action="ALLOW", **bound("Service", "own"))
    claims = [asked(url, "a", "allowed"), asked(url, "a", "denied_l7", "POST", by=f"{POINT}/only-get")]
    with there(lab, only_get, another):
        assert settled(lab, claims, lambda said: said.verdict == "pass").verdict == "pass"
        wrong = check(lab, [claims[0], {**claims[1], "by": f"{SPACE}/for-another"}], namespace=SPACE)
        assert wrong.verdict in ("fail", "error")
        untrue = check(lab, [asked(url, "a", "denied_l7")], namespace=SPACE)
        assert f"{POINT}/only-get (ALLOW) matches" in words(untrue)
        clients = policy("clients", GOOD, action="ALLOW", **on("shared"))
        with there(lab, clients):
            upstream = settled(lab, claims[:1], lambda said: said.verdict != "pass")
            assert f"here it is cluster.local/ns/{POINT}/sa/shared" in words(upstream)


def test_by_a_clusterip_the_waypoint_decides_too(lab: Lab, trial: Trial) -> None:
    url = f"http://{trial.addresses['service/own']}/"
    claims = [asked(url, "a", "allowed"), asked(url, "a", "denied_l7", "POST", by=f"{SPACE}/get")]
    with there(lab, policy("get", GET, action="ALLOW", **bound("Service", "own"))):
        assert settled(lab, claims, lambda said: said.verdict == "pass").verdict == "pass"


def test_an_egress_waypoint(lab: Lab, trial: Trial) -> None:
    image = lab.facts["images"]["app"]
    partner = pod("partner", OUTSIDE, image, ["python3", "-c", SERVER], {"app": "partner"}, account="default")
    with there(lab, partner):
        lab.kubectl("wait", "-n", OUTSIDE, "--for=condition=Ready", "pod/partner", "--timeout=50s")
        address = lab.get("-n", OUTSIDE, "pod", "partner")["status"]["podIP"]
        entry: Object = {
            "apiVersion": "networking.istio.io/v1",
            "kind": "ServiceEntry",
            "metadata": {"name": "partner", "namespace": POINT, "labels": {"istio.io/use-waypoint": "shared"}},
            "spec": {
                "hosts": ["api.partner.example"],
                "addresses": ["240.1.2.3"],
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080}],
                "resolution": "STATIC",
                "location": "MESH_EXTERNAL",
                "endpoints": [{"address": address}],
            },
        }
        only = policy("only-a", GOOD, POINT, action="ALLOW", **bound("ServiceEntry", "partner", "networking.istio.io"))
        url = "http://240.1.2.3/"
        claims = [asked(url, "a", "allowed"), asked(url, "b", "denied_l7", by=f"{POINT}/only-a")]
        for claim in claims:
            claim["to"]["headers"] = {"Host": "api.partner.example"}
        with there(lab, entry, only):
            assert settled(lab, claims, lambda said: said.verdict == "pass").verdict == "pass"
            del entry["metadata"]["labels"]
            lab.kubectl("label", "-n", POINT, "serviceentry", "partner", "istio.io/use-waypoint-")
            loose = settled(lab, claims, lambda said: said.verdict != "pass")
            assert f"ServiceEntry {POINT}/partner is not enrolled with a waypoint" in words(loose)


def test_actions_that_ztunnel_does_not_take(lab: Lab, trial: Trial) -> None:
    url = f"http://plain.{SPACE}/"
    deny = policy("deny-b", BAD, **on("plain"))
    claims = [asked(url, "a", "allowed"), asked(url, "b", "denied_l4", by=f"{SPACE}/deny-b")]
    with there(lab, deny, policy("audit", POST, action="AUDIT", **on("plain"))):
        assert settled(lab, claims, lambda said: said.verdict == "pass").verdict == "pass"
    custom = policy("ask", POST, action="CUSTOM", provider={"name": "nobody"}, **on("plain"))
    with there(lab, deny, custom):
        said = settled(lab, claims, lambda said: said.verdict == "error")
        assert "does not support the CUSTOM action" in words(said)


def test_pods_without_a_ztunnel_are_named_at_once(lab: Lab, trial: Trial) -> None:
    image = lab.facts["images"]["app"]
    none = {"app": "out", "istio.io/dataplane-mode": "none"}
    item = pod("out", SPACE, image, ["python3", "-c", SERVER], none, account="default")
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "out", "namespace": SPACE},
        "spec": {"selector": {"app": "out"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    }
    with there(lab, item, service, policy("closed", {}, **on("out"))):
        lab.kubectl("wait", "-n", SPACE, "--for=condition=Ready", "pod/out", "--timeout=50s")
        claims = [asked(f"http://out.{SPACE}/", "a", "denied_l4", by=f"{SPACE}/closed")]
        said = check(lab, claims, namespace=SPACE, timeout=30.0)
        assert (said.verdict, "has opted out of the mesh" in words(said)) == ("fail", True)
        assert said.result["elapsed"] < 30
        # It declares no port, and answers all the same.
        assert check(lab, [asked(f"http://out.{SPACE}/", "a", "allowed")], namespace=SPACE).verdict == "pass"


def test_what_a_waypoint_answers_itself(lab: Lab, trial: Trial) -> None:
    route: Object = {
        "apiVersion": HTTPROUTE,
        "kind": "HTTPRoute",
        "metadata": {"name": "moved", "namespace": SPACE},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "own", "port": 80}],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/old"}}],
                    "filters": [
                        {"type": "RequestRedirect", "requestRedirect": {"hostname": "new.example", "statusCode": 302}}
                    ],
                },
                {"backendRefs": [{"name": "plain", "port": 80}]},
            ],
        },
    }
    redirect = asked(f"http://own.{SPACE}/old", "a", {"outcome": "local_reply", "http_code": 302})
    through = asked(f"http://own.{SPACE}/", "b", "allowed")
    with there(lab, route):
        said = settled(lab, [redirect, through], lambda said: said.verdict == "pass")
        assert said.verdict == "pass", said.message
        # The route leads to another Service's pods, and their policy sees the waypoint.
        clients = policy("clients", BAD, action="ALLOW", **on("plain"))
        with there(lab, clients):
            claims = [
                {**through, "expect": "denied_upstream", "by": f"{SPACE}/clients"},
                asked(f"http://shared.{SPACE}/", "b", "allowed"),
            ]
            refused = settled(lab, claims, lambda said: said.verdict == "pass")
            assert refused.verdict == "pass", refused.message


def test_a_port_that_nobody_has_is_no_block(lab: Lab, trial: Trial) -> None:
    nobody = [asked(f"http://plain.{SPACE}:81/", "a", "refused"), asked(f"http://plain.{SPACE}:81/", "b", "timeout")]
    assert check(lab, nobody, namespace=SPACE).verdict in ("fail", "error")
