# Mutants of policies: each change is made once and is valid, and claims notice what they should.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import json
import pathlib
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import parse_claims
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._mesh.folder import assembled, read_objects
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh
from ansible_collections.ambient.lab.plugins.module_utils._mesh.valid import problems
from ansible_collections.ambient.lab.plugins.module_utils._reach.claims_mutation import mutate
from ansible_collections.ambient.lab.plugins.module_utils._reach.mutants import mutants
from ansible_collections.ambient.lab.plugins.module_utils._reach.verdicts import Verdict, judged
from ansible_collections.ambient.lab.tests.unit.fakes import report as fakes
from ansible_collections.ambient.lab.tests.unit.plugins.module_utils._mesh.test_folder import L4, PLAIN, SHOP, WAYPOINT

CLIENT = {"from": {"pod": "client", "namespace": "shop"}}
GET = {**CLIENT, "name": "get", "to": "http://app.shop/", "expect": "allowed"}
POST = {**CLIENT, "name": "post", "to": {"url": "http://app.shop/", "method": "POST"}, "expect": "denied_l7"}
GUARD = L4.replace("[client]", "[wp, other]")
PEER = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
"""
RICH = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: rich, namespace: shop}
spec:
  selector: {matchLabels: {app: app}}
  action: DENY
  rules:
  - from:
    - source: {namespaces: [a, b], notPrincipals: [cluster.local/ns/a/sa/c]}
    - source: {ipBlocks: [192.0.2.0/24]}
    to: [{operation: {ports: ["8080"]}}]
    when: [{key: source.namespace, notValues: [c]}]
  - {}
"""


def mesh_of(*texts: str) -> Mesh:
    return assembled(read_objects([(f"{number}.yaml", text) for number, text in enumerate(texts)], "here")[0])


def test_a_policy_is_weakened_in_every_way() -> None:
    found = [mutant for mutant in mutants(mesh_of(RICH)) if mutant.item == "AuthorizationPolicy shop/rich"]
    assert [mutant.what for mutant in found] == [
        "removed",
        "DENY becomes ALLOW",
        "without its selector",
        "its selector moved",
        "without rule 0",
        "rule 0 without from",
        "rule 0 without from[0]",
        "rule 0: from[0] namespaces dropped",
        "rule 0: from[0] namespaces widened to *",
        "rule 0: from[0] namespaces without a",
        "rule 0: from[0] namespaces without b",
        "rule 0: from[0] notPrincipals dropped",
        "rule 0: from[0] notPrincipals without its not",
        "rule 0 without from[1]",
        "rule 0 without to",
        "rule 0 without when",
        "rule 0: when[0] source.namespace notValues without its not",
        "without rule 1",
    ]
    assert all(mutant.new is None or not [*problems(mutant.new)] for mutant in found)
    places = {mutant.what: mutant.place for mutant in found}
    assert places["rule 0: from[0] notPrincipals dropped"] == "0.yaml:10"


MORE = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: more, namespace: shop}
spec:
  selector: {matchLabels: {app: app, tier: back}}
  rules:
  - from:
    - source: {principals: [cluster.local/ns/a/sa/b, "*"]}
    - source: {serviceAccounts: [b, a/c]}
    when:
    - {key: source.principal, values: [cluster.local/ns/a/sa/b]}
    - {key: source.namespace, values: [a]}
    - {key: source.serviceAccount, values: [a/b]}
    - {key: request.auth.principal, values: [i/s]}
    - {key: source.ip, values: [10.0.0.0/8]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: ports, namespace: shop}
spec:
  selector: {matchLabels: {app: app, tier: back}}
  mtls: {mode: STRICT}
  portLevelMtls: {8080: {mode: STRICT}, 9090: {mode: PERMISSIVE}}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt, namespace: shop}
spec: {targetRefs: [{kind: Service, name: app}], jwtRules: [{issuer: a}]}
---
apiVersion: v1
kind: Pod
metadata: {name: own, namespace: shop, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: wp}}
"""


@pytest.mark.parametrize(
    "mutant",
    [
        "AuthorizationPolicy shop/more: its selector without app",
        "AuthorizationPolicy shop/more: its selector without tier",
        "AuthorizationPolicy shop/more: rule 0: from[0] principals widened to the namespace of cluster.local/ns/a/sa/b",
        "AuthorizationPolicy shop/more: rule 0: from[1] serviceAccounts widened to the namespace of b, a/c",
        "AuthorizationPolicy shop/more: rule 0: when[0] source.principal values widened to *",
        "AuthorizationPolicy shop/more: rule 0: when[0] source.principal values widened to the namespace of "
        "cluster.local/ns/a/sa/b",
        "AuthorizationPolicy shop/more: rule 0: when[1] source.namespace values widened to *",
        "AuthorizationPolicy shop/more: rule 0: when[2] source.serviceAccount values widened to the namespace of a/b",
        "AuthorizationPolicy shop/more: rule 0: when[3] request.auth.principal values widened to *",
        "PeerAuthentication shop/ports: removed",
        "PeerAuthentication shop/ports: STRICT becomes PERMISSIVE",
        "PeerAuthentication shop/ports: STRICT of port 8080 becomes PERMISSIVE",
        "PeerAuthentication shop/ports: portLevelMtls without 8080",
        "PeerAuthentication shop/ports: portLevelMtls without 9090",
        "PeerAuthentication shop/ports: its selector without tier",
        "RequestAuthentication shop/jwt: removed",
        "RequestAuthentication shop/jwt: targetRef app moved",
        "Pod shop/own: without label istio.io/dataplane-mode",
        "Pod shop/own: without label istio.io/use-waypoint",
    ],
)
def test_what_else_is_weakened(mutant: str) -> None:
    found = [item for item in mutants(mesh_of(MORE)) if str(item) == mutant]
    assert len(found) == 1
    assert found[0].new is None or not [*problems(found[0].new)]


def test_widened_to_a_namespace_is_what_it_says() -> None:
    found = {
        item.what: (item.new or {})["spec"]["rules"][0]
        for item in mutants(mesh_of(MORE))
        if " namespace of " in item.what
    }
    sources = [rule["from"] for rule in found.values()]
    assert {"source": {"principals": ["cluster.local/ns/a/*", "*"]}} in [source[0] for source in sources]
    assert {"source": {"namespaces": ["shop", "a"]}} in [source[1] for source in sources]
    conditions = [rule["when"] for rule in found.values()]
    assert {"key": "source.namespace", "values": ["a"]} in [condition[2] for condition in conditions]
    assert not any("source.ip" in str(what) for what in found)


def test_no_mutant_is_one_that_the_api_would_refuse() -> None:
    denying = "spec: {action: DENY, rules: [{to: [{operation: {ports: ['1']}}]}]}"
    found = [mutant.what for mutant in mutants(mesh_of(f"{L4.partition('spec')[0]}{denying}"))]
    assert found == ["removed", "DENY becomes ALLOW", "rule 0 without to"]


def fate(*texts: str, claims: t.Sequence[dict[str, t.Any]] = (GET, POST)) -> dict[str, str]:
    """What becomes of each mutant of a folder."""
    found = judged(mesh_of(*texts), parse_claims([*claims], "shop"))
    return {str(item.mutant): item.kind for item in found}


def test_claims_kill_what_they_notice() -> None:
    found = fate(SHOP, WAYPOINT)
    assert {kind for name, kind in found.items() if "AuthorizationPolicy" in name} == {"killed"}
    # The POST passes once nobody leads it through the waypoint, and so it does outside of the mesh.
    assert found["Service shop/app: without label istio.io/use-waypoint"] == "killed"
    assert found["Namespace shop: without label istio.io/dataplane-mode"] == "killed"
    weak = fate(SHOP, WAYPOINT, claims=[GET])
    # The app, which calls itself then, is told apart from the client.
    assert weak["Namespace shop: without label istio.io/dataplane-mode"] == "survived"
    assert weak["AuthorizationPolicy shop/get: removed"] == "survived"
    assert weak["AuthorizationPolicy shop/get: without rule 0"] == "killed"


def test_a_change_that_changes_nothing_does_not_count() -> None:
    idle = GUARD.replace("spec: {", "spec: {selector: {matchLabels: {app: nobody}}, ")
    labelled = SHOP.replace("{name: client, namespace: shop}", "{name: client, namespace: shop, labels: {a: b}}")
    whole = mesh_of(labelled, WAYPOINT, idle)
    whole.config = dataclasses.replace(whole.config, whole=True)
    assert {item.kind for item in judged(whole, []) if "shop/l4: removed" in str(item.mutant)} == {"equivalent"}
    # Pods that it selects may stand in another folder.
    assert fate(SHOP, WAYPOINT, idle)["AuthorizationPolicy shop/l4: removed"] == "unclear"
    assert fate(SHOP, WAYPOINT, GUARD, PEER)["PeerAuthentication shop/strict: removed"] == "equivalent"
    assert fate(SHOP, WAYPOINT, PEER)["PeerAuthentication shop/strict: STRICT becomes PERMISSIVE"] == "survived"


def test_what_nobody_can_know_is_neither() -> None:
    """Nobody knows the addresses of pods that do not run yet."""
    blocks = (
        "spec: {action: DENY, rules: [{from: [{source: {ipBlocks: [10.0.0.0/8]}}], to: [{operation: {ports: ['1']}}]}]}"
    )
    found = fate(SHOP, f"{L4.partition('spec')[0]}{blocks}", claims=[GET])
    assert found["AuthorizationPolicy shop/l4: rule 0 without to"] == "unclear"


def test_each_survivor_comes_with_a_claim_that_kills_it() -> None:
    for item in judged(mesh_of(SHOP, WAYPOINT, GUARD, PEER), parse_claims([GET], "shop")):
        if item.kind == "survived" and item.claim and not item.needs:
            again = judged(mesh_of(SHOP, WAYPOINT, GUARD, PEER), parse_claims([GET, item.claim], "shop"))
            assert {str(one.mutant): one.kind for one in again}[str(item.mutant)] == "killed"


JWT = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt, namespace: shop}
spec: {targetRefs: [{kind: Service, name: app}], jwtRules: [{issuer: a}]}
"""


def test_nobody_can_know_what_a_token_is_refused_for() -> None:
    assert fate(SHOP, WAYPOINT, JWT)["RequestAuthentication shop/jwt: removed"] == "unclear"
    unbound = JWT.replace("targetRefs: [{kind: Service, name: app}]", "selector: {matchLabels: {app: app}}")
    assert fate(SHOP, WAYPOINT, unbound)["RequestAuthentication shop/jwt: removed"] == "equivalent"


ENROLLED = PLAIN.replace("labels: {istio.io/dataplane-mode: ambient}", "labels: {a: b}").replace(
    "{labels: {app: app}}", "{labels: {app: app, istio.io/dataplane-mode: ambient}}"
)


def test_a_pod_that_leaves_the_mesh_is_open() -> None:
    open_ = {**CLIENT, "name": "shut", "to": "http://app.shop/", "expect": "denied_l4"}
    name = "Pod shop/app-deployment-0: without label istio.io/dataplane-mode"
    assert fate(ENROLLED, L4, claims=[open_])[name] == "killed"
    mutant = by_mutant(ENROLLED, L4)[name]
    assert (mutant.kind, mutant.mutant.place) == ("survived", "0.yaml:8")


def by_mutant(*texts: str) -> dict[str, Verdict]:
    return {str(item.mutant): item for item in judged(mesh_of(*texts), [])}


def test_a_claim_names_a_pod_that_is_there_where_one_shows_the_same() -> None:
    strict = by_mutant(PLAIN, PEER)["PeerAuthentication shop/strict: removed"]
    assert strict.needs.startswith("a pod outside of the mesh: in a namespace without istio.io/dataplane-mode=ambient")
    assert "any-other" not in str(strict.claim)
    assert (strict.claim or {})["from"]["namespace"] == "outside-of-the-mesh"
    plain = "\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: bare}\n---\napiVersion: v1\nkind: Pod\n"
    plain += "metadata: {name: curl, namespace: bare}\nspec: {serviceAccountName: curl}\n"
    real = by_mutant(PLAIN, PEER, plain)["PeerAuthentication shop/strict: removed"]
    assert ((real.claim or {})["from"], real.needs) == ({"service_account": "curl", "namespace": "bare"}, "")
    allowed = L4.replace("[client]", "[client, other/job]")
    named = by_mutant(PLAIN, allowed)["AuthorizationPolicy shop/l4: rule 0: from[0] serviceAccounts without other/job"]
    assert named.needs == "a pod of the mesh with ServiceAccount job in namespace other"


def test_claims_that_need_a_pod_are_kept_apart(tmp_path: pathlib.Path) -> None:
    found = scored(tmp_path, PLAIN, PEER, claims=[GET], min_score=0)
    assert found["missing_claims"] == []
    (needed,) = found["claims_without_pod"]
    assert needed["needs"].startswith("a pod outside of the mesh")
    assert needed["claim"]["expect"] == "denied_l4"
    assert any("it needs a pod outside of the mesh" in line for line in found["report"])


def scored(path: pathlib.Path, *texts: str, **given: t.Any) -> dict[str, t.Any]:
    for number, text in enumerate(texts):
        (path / f"{number}.yaml").write_text(text, encoding="utf-8")
    none = dict.fromkeys(("kubeconfig", "context", "revision", "results_file", "section", "prove"))
    lists: dict[str, list[str]] = {"namespaces": [], "only": [], "accept": []}
    more = {"over_cluster": False, **lists, "min_score": 100, "namespace": "shop"}
    return mutate({**none, **more, "manifests": str(path), **given})


def test_the_score_counts_what_the_claims_kill(tmp_path: pathlib.Path) -> None:
    assert scored(tmp_path, SHOP, WAYPOINT, claims=[GET, POST])["score"] == 100
    with pytest.raises(LabError, match=r"score \d+ %: \d of 8 mutants are killed, \d survive") as caught:
        scored(tmp_path, SHOP, WAYPOINT, claims=[GET])
    assert "AuthorizationPolicy shop/get: removed" in caught.value.message
    assert "expect: denied_l7" in caught.value.message
    found = scored(tmp_path, SHOP, WAYPOINT, claims=[GET], min_score=0)
    claims = [GET, *found["missing_claims"]]
    assert scored(tmp_path, SHOP, WAYPOINT, claims=claims)["score"] == 100
    accepted = scored(tmp_path, SHOP, WAYPOINT, claims=[GET], accept=["*", "none"])
    assert (accepted["score"], accepted["survivors"]) == (100, [])
    assert "accept names no survivor: none" in accepted["warnings"]


ISOLATED = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: n, namespace: shop}
spec: {podSelector: {matchLabels: {app: app}}, policyTypes: [Ingress]}
"""
# A Service beside it that nothing protects.
BESIDE = """
apiVersion: v1
kind: Service
metadata: {name: b, namespace: shop}
spec: {selector: {app: b}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: shop, labels: {app: b}}
"""


def test_mutants_that_nobody_can_judge_are_no_full_score(tmp_path: pathlib.Path) -> None:
    guarded = L4.replace("spec: {", "spec: {selector: {matchLabels: {app: app}}, ")
    assert fate(SHOP, ISOLATED, guarded, claims=[GET])["AuthorizationPolicy shop/l4: removed"] == "unclear"
    shop = SHOP.replace("istio.io/use-waypoint: wp", "a: b").replace("istio.io/dataplane-mode: ambient", "a: b")
    with pytest.raises(LabError, match="no mutant can be judged"):
        scored(tmp_path, shop, ISOLATED, BESIDE, guarded, claims=[{**GET, "to": "http://b.shop/"}])


def test_claims_that_do_not_hold_judge_nobody(tmp_path: pathlib.Path) -> None:
    with pytest.raises(LabError, match="do not hold on the objects as they are"):
        scored(tmp_path, SHOP, WAYPOINT, claims=[{**GET, "expect": "denied_l7"}])


FOREIGN = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: theirs, namespace: SPACE}
spec: {selector: {matchLabels: {app: b}}, action: DENY, rules: [{to: [{operation: {ports: ['80']}}]}]}
"""


def test_what_is_somebody_elses_does_not_count(tmp_path: pathlib.Path) -> None:
    """A cluster has other policies than those that a list of claims is about."""
    texts = [SHOP, WAYPOINT, BESIDE, FOREIGN.replace("SPACE", "shop")]
    space = SHOP.partition("---")[0].replace("shop", "other")
    elsewhere = [SHOP, WAYPOINT, space, *(text.replace("shop", "other") for text in (BESIDE, texts[-1]))]
    own = ["AuthorizationPolicy shop/get: *", "Namespace shop: *"]
    policies: dict[str, list[str]] = {"only": ["AuthorizationPolicy *"], "namespaces": ["shop"]}
    for folder, given in (("a", {"only": [*own, "Pod *"]}), ("b", policies)):
        (tmp_path / folder).mkdir()
        listed = texts if folder == "a" else elsewhere
        with pytest.raises(LabError, match="theirs: removed"):
            scored(tmp_path / folder, *listed, claims=[GET, POST])
        found = scored(tmp_path / folder, *listed, claims=[GET, POST], **given)
        assert found["score"] == 100
        assert any("only names no mutant: Pod *" in text for text in found["warnings"]) == (folder == "a")
    with pytest.raises(LabError, match="has no policy to weaken that only names"):
        scored(tmp_path / "a", claims=[GET], only=["AuthorizationPolicy shop/gte: *"])


def test_without_a_least_score_nothing_fails_and_all_is_kept(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"shop": fakes.l7()}), encoding="utf-8")
    kept: dict[str, t.Any] = {"min_score": 0, "results_file": str(path), "section": "shop"}
    (tmp_path / "mesh").mkdir()
    red = scored(tmp_path / "mesh", SHOP, WAYPOINT, claims=[{**GET, "expect": "denied_l7"}], **kept)
    assert (red["score"], "do not hold" in red["report"][0]) == (None, True)
    scored(tmp_path / "mesh", claims=[GET], **kept)
    section = json.loads(path.read_text(encoding="utf-8"))["shop"]
    kept = section["mutation"]
    assert (len(section["after"]["claims"]), kept["score"] < 100, bool(kept["missing_claims"])) == (5, True, True)
    assert "survives: AuthorizationPolicy shop/get: removed" in kept["summary"]
