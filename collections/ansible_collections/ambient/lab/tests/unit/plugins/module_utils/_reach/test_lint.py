# The lint: nothing is found where nothing is wrong, and everything where something is.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import typing as t

import pytest
import yaml
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._mesh.folder import assembled, read_objects
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Object
from ansible_collections.ambient.lab.plugins.module_utils._reach.policy_lint import findings, lint
from ansible_collections.ambient.lab.plugins.module_utils._results.measured import Finding
from ansible_collections.ambient.lab.tests.unit.plugins.module_utils._reach import corpus

HEAD = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy"}
GROUPS = {"Gateway": "gateway.networking.k8s.io/v1", "Deployment": "apps/v1", "PeerAuthentication": HEAD["apiVersion"]}
GROUPS |= {"ServiceEntry": "networking.istio.io/v1", "CronJob": "batch/v1", "StatefulSet": "apps/v1"}
GROUPS["Rollout"] = "argoproj.io/v1alpha1"


def world(version: str = "1.31.0", mode: str = "STRICT") -> list[Object]:
    """The objects of the corpus's mesh, but for the policies."""
    text = corpus.WORLD.replace("VERSION", version).replace("MODE", mode)
    return [{"apiVersion": GROUPS.get(item["kind"], "v1"), **item} for item in yaml.safe_load(text)]


def written(name: str, space: str, spec: str, **metadata: t.Any) -> Object:
    text = spec
    for word, meaning in corpus.WORDS.items():
        text = text.replace(word, meaning)
    return {**HEAD, "metadata": {"name": name, "namespace": space, **metadata}, "spec": yaml.safe_load(text)}


def read(*objects: Object) -> list[Object]:
    """Objects as a folder has them that the API would take."""
    return read_objects([("all.yaml", yaml.safe_dump_all(objects))], "here")[0]


@functools.cache
def prepared(guarded: bool, **given: str) -> list[Object]:
    return read(*world(**given), *([written("guard", "shop", corpus.GUARD)] if guarded else []))


def found(*policies: Object, guarded: bool = True, **given: str) -> list[Finding]:
    """What the lint finds."""
    return findings(assembled([*prepared(guarded, **given), *(read(*policies) if policies else [])]))


def listed() -> t.Iterator[tuple[str, str, str]]:
    """All of the corpus: namespace, spec, and what must be found."""
    for text, shape in (
        (corpus.SOURCES, "from: [{source: {%s}}]"),
        (corpus.OPERATIONS, "to: [{operation: {%s}}]"),
        (corpus.CONDITIONS, "when: [%s]"),
    ):
        for line in text.strip("\n").splitlines():
            for layer in line[:2].replace(" ", ""):
                for action in ("ALLOW", "DENY"):
                    yield "shop", f"{{L{layer}, action: {action}, rules: [{{{shape % line[3:]}}}]}}", ""
    for line in (*corpus.VALID.strip().splitlines(), *corpus.BROKEN.strip().splitlines()):
        space, spec, wanted = line.split("|")
        yield space, spec, wanted


CORPUS = [*listed()]


def test_the_corpus_is_large() -> None:
    broken = sum(bool(wanted) for _space, _spec, wanted in CORPUS)
    assert len(CORPUS) - broken >= 150
    assert broken >= 55


@pytest.mark.parametrize(("space", "spec", "wanted"), CORPUS)
def test_each_policy_has_the_findings_that_it_deserves(space: str, spec: str, wanted: str) -> None:
    policy = written("p", space, spec)
    rules = sorted(item.rule for item in found(policy) if item.policy == f"{space}/p")
    assert rules == sorted(wanted.split())


def rules_of(*policies: Object, **given: t.Any) -> set[str]:
    return {item.rule for item in found(*policies, **given)}


DENYING = "{L4, action: DENY, rules: [{from: [{source: {serviceAccounts: [client]}}]}]}"
GETTING = "{L7, rules: [{to: [{operation: {methods: [GET]}}]}]}"


def test_what_is_enforced_nowhere_shadows_nothing() -> None:
    empty, narrow = written("a", "shop", "{selector: {}, rules: [{}]}"), written("b", "shop", "{L4, rules: [{}]}")
    assert "shadowed-rule" not in rules_of(empty, narrow)


def test_a_gateway_that_stands_elsewhere_is_no_error() -> None:
    text = (
        "{selector: {matchLabels: {istio: ingressgateway}}, action: DENY, rules: [{to: [{operation: {paths: [/x]}}]}]}"
    )
    objects = read(*[item for item in world() if item["metadata"].get("namespace") != "istio-system"])
    policy = read(written("p", "istio-system", text))
    assert [item for item in findings(assembled([*objects, *policy])) if item.policy == "istio-system/p"] == []


def test_an_exception_that_excepts_nothing() -> None:
    policy = written("p", "shop", "{L4, rules: [{to: [{operation: {notPorts: ['80']}}]}]}")
    (finding,) = [item for item in found(policy) if item.rule == "service-port"]
    assert finding.effect.endswith("this excludes nothing")


def test_a_deny_that_clients_without_identity_walk_around() -> None:
    policy = written("p", "shop", DENYING)
    assert "no-identity" not in rules_of(policy)
    assert "no-identity" in rules_of(policy, mode="PERMISSIVE")
    more = written("q", "shop", "{L4, rules: [{from: [{source: {principals: ['*']}}]}]}")
    assert "no-identity" not in rules_of(policy, more, mode="PERMISSIVE")
    by_port = written("p", "shop", "{L4, action: DENY, rules: [{to: [{operation: {ports: ['9090']}}]}]}")
    assert "no-identity" not in rules_of(by_port, mode="PERMISSIVE")


def test_a_waypoint_that_clients_walk_around_by_pod_ip() -> None:
    policy = written("p", "shop", GETTING)
    assert "open-by-pod-ip" not in rules_of(policy)
    (finding,) = [item for item in found(policy, guarded=False) if item.rule == "open-by-pod-ip"]
    assert finding.mend.endswith("with the principal cluster.local/ns/shop/sa/wp alone")


def test_the_policy_that_forgets_the_waypoint_says_how_to_mend_it() -> None:
    policy = written(
        "p", "shop", "{selector: {matchLabels: {app: app}}, rules: [{from: [{source: {namespaces: [a]}}]}]}"
    )
    (finding,) = [item for item in found(policy, guarded=False) if item.rule == "waypoint-forgotten"]
    assert "refuses the waypoint shop/wp, so all that goes through it ends with 503" in finding.effect
    assert "cluster.local/ns/shop/sa/wp" in finding.mend


@pytest.mark.parametrize(("value", "rules"), [("true", ["dry-run"]), ("yes", ["dry-run"]), ("false", [])])
def test_a_dry_run_is_said(value: str, rules: list[str]) -> None:
    policy = written("p", "shop", "{L4, rules: [{}]}", annotations={"istio.io/dry-run": value})
    said = [item for item in found(policy) if item.policy == "shop/p"]
    assert [item.rule for item in said] == rules
    assert all(("decides nothing" if value == "true" else "it is enforced") in item.effect for item in said)


@pytest.mark.parametrize(
    ("version", "holes", "signs"),
    [
        ("1.28.1", 5, True),
        ("1.29.1", 5, True),
        ("1.30.1", 3, False),
        ("1.31.0", 0, False),
        # The patch counts, and older minor versions have patches of their own.
        ("1.30.9", 0, False),
        ("1.29.3", 3, False),
        ("1.29.7", 0, False),
        ("1.28.7", 3, False),
        ("1.27.9", 4, True),
        ("v1.30", 3, False),
        ("unknown", 0, False),
    ],
)
def test_versions_with_known_holes(version: str, holes: int, signs: bool) -> None:
    policy = written("p", "shop", "{L7, rules: [{from: [{source: {serviceAccounts: [cert-manager.io]}}]}]}")
    rules = [item.rule for item in found(policy, version=version)]
    assert rules.count("version-hole") == holes
    assert ("regex-sign" in rules) is signs


def folder(path: pathlib.Path, *policies: Object) -> dict[str, t.Any]:
    (path / "world.yaml").write_text(yaml.safe_dump_all(world()), encoding="utf-8")
    (path / "mine.yaml").write_text(yaml.safe_dump_all(policies), encoding="utf-8")
    none = dict.fromkeys(("kubeconfig", "context", "revision", "results_file", "section"))
    lists: dict[str, list[str]] = {"namespaces": [], "policies": [], "ignore": []}
    return {**none, **lists, "manifests": str(path), "over_cluster": False, "fail_on": "error"}


def test_a_finding_has_its_place_its_effect_and_the_mend(tmp_path: pathlib.Path) -> None:
    spiffe = "{L4, rules: [{from: [{source: {principals: ['spiffe://cluster.local/ns/a/sa/b']}}]}]}"
    params = folder(tmp_path, written("p", "shop", "{L4, rules: [{}]}"), written("q", "shop", spiffe))
    with pytest.raises(LabError) as caught:
        lint(params)
    lines = caught.value.message.splitlines()
    text = (tmp_path / "mine.yaml").read_text(encoding="utf-8").splitlines()
    number = next(index for index, line in enumerate(text, 1) if "principals" in line)
    assert f"{tmp_path}/mine.yaml:{number}: error: shop/q: " in lines[1]
    assert lines[1].endswith("never matches: principals are written without spiffe:// [spiffe-prefix]")
    assert lines[2] == "  mend: write cluster.local/ns/a/sa/b"


def test_a_selector_that_matches_nothing_now_may_match_a_pod_that_comes() -> None:
    """A live cluster has no pods of a CronJob between its runs."""
    mesh = assembled([*prepared(True), *read(written("p", "shop", "{selector: {matchLabels: {app: x}}, rules: []}"))])
    mesh.config = dataclasses.replace(mesh.config, whole=True)
    (finding,) = [item for item in findings(mesh) if item.policy == "shop/p"]
    assert (finding.rule, finding.severity) == ("selector-matches-nothing", "warning")
    assert "matches no pod that runs now" in finding.effect


TWO = """
apiVersion: v1
kind: Service
metadata: {name: app, namespace: shop, labels: {istio.io/use-waypoint: wp}}
spec: {selector: {app: app}, ports: [{name: http, port: 80, targetPort: 8080}, {name: m, port: 9090}]}
"""
METRICS = (
    "{selector: {matchLabels: {app: app}}, rules: [{FROM {serviceAccounts: [wp]}}], TO {ports: ['8080']}}]}, "
    "{FROM {namespaces: [monitoring]}}], TO {ports: ['9090']}}]}]}"
)


def test_a_port_that_is_for_others_does_not_forget_the_waypoint() -> None:
    objects = [item for item in world() if item["metadata"]["name"] != "app" or item["kind"] != "Service"]
    both = read(*objects, yaml.safe_load(TWO), written("p", "shop", METRICS))
    assert [item for item in findings(assembled(both)) if item.policy == "shop/p"] == []
    forgotten = read(*objects, yaml.safe_load(TWO), written("p", "shop", METRICS.replace("[wp]", "[client]")))
    assert [item.rule for item in findings(assembled(forgotten))] == ["waypoint-forgotten"]


def test_accounts_of_two_namespaces_do_not_shadow_each_other() -> None:
    spec = "{rules: [{FROM {serviceAccounts: [%s]}}]}]}"
    root, own = written("root", "istio-system", spec % "a"), written("p", "shop", spec % "a")
    assert "shadowed-rule" not in rules_of(root, own)
    assert "shadowed-rule" in rules_of(written("root", "istio-system", spec % "shop/a"), own)


def test_the_workloads_port_is_right_at_a_waypoint_for_workloads_alone() -> None:
    """One that takes pods, too, sees both; one for Services sees the Service's."""
    policy = written("p", "shop", "{targetRefs: [{GATEWAY, name: wp}], rules: [{TO {ports: ['8080']}}]}]}")
    ordinary = [item for item in world() if item["metadata"]["name"] != "pods"]
    assert "workload-port" in {item.rule for item in findings(assembled(read(*ordinary, policy)))}
    for item in ordinary:
        if (item["kind"], item["metadata"]["name"]) == ("Gateway", "wp"):
            item["metadata"]["labels"] = {"istio.io/waypoint-for": "all"}
    assert "workload-port" not in {item.rule for item in findings(assembled(read(*ordinary, policy)))}


def test_what_is_ignored_is_no_failure_and_an_idle_word_is_said(tmp_path: pathlib.Path) -> None:
    params = folder(tmp_path, written("p", "shop", "{selector: {matchLabels: {app: plane}}, rules: [{}]}"))
    values = lint({**params, "ignore": ["selector-matches-nothing shop/*", "spiffe-prefix"]})
    assert (values["findings"], values["ignored"]) == ([], 1)
    assert values["warnings"][-1] == "ignore names no finding: spiffe-prefix"
    assert len(lint({**params, "fail_on": "never"})["findings"]) == 1
    shadowed = folder(tmp_path, written("p", "shop", "{L4, rules: [{}, {}]}"))
    assert [item["rule"] for item in lint(shadowed)["findings"]] == ["shadowed-rule"]
    with pytest.raises(LabError, match="shadowed-rule"):
        lint({**shadowed, "fail_on": "warning"})


def test_findings_of_other_policies_are_left_out(tmp_path: pathlib.Path) -> None:
    bad = "{selector: {matchLabels: {app: plane}}, rules: [{}]}"
    params = folder(tmp_path, written("p", "shop", bad), written("q", "shop", bad))
    (tmp_path / "world.yaml").write_text(yaml.safe_dump_all(world("1.28.0")), encoding="utf-8")
    path = tmp_path.parent / f"{tmp_path.name}.json"
    kept = {**params, "fail_on": "never", "policies": ["shop/q*"], "results_file": str(path), "section": "shop"}
    assert [item["policy"] for item in lint(kept)["findings"]] == ["shop/q"]
    assert "" in {item["policy"] for item in lint({**kept, "policies": [], "results_file": None})["findings"]}
    section = json.loads(path.read_text(encoding="utf-8"))["shop"]["lint"]
    assert (section["policies"], section["findings"][0]["policy"]) == (1, "shop/q")
    with pytest.raises(LabError, match="policies: there is no shop/r in"):
        lint({**params, "policies": ["shop/q", "shop/r"]})


def test_nobody_is_told_of_a_foreign_trust_domain_where_the_own_is_not_known() -> None:
    policy = written("p", "shop", "{L4, rules: [{from: [{source: {principals: [prod.example/ns/a/sa/b]}}]}]}")
    objects = [item for item in world() if item["kind"] != "ConfigMap"]
    mesh = assembled(read_objects([("a.yaml", yaml.safe_dump_all([*objects, policy]))], "here")[0])
    assert "foreign-trust-domain" not in {item.rule for item in findings(mesh)}
