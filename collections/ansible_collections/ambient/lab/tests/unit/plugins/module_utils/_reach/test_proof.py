# Mutants on a cluster in memory: what is compared, and that every object is as it was, whatever happens meanwhile.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import pathlib
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._check.curl_outcomes import KubeEdge
from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import Settings
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import parse_claims
from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kept import Kept, identity
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._reach import proof, states
from ansible_collections.ambient.lab.plugins.module_utils._reach.claims_mutation import mutate
from ansible_collections.ambient.lab.plugins.module_utils._reach.proof import Prover, Tried, choose, trial_of
from ansible_collections.ambient.lab.plugins.module_utils._reach.verdicts import judged
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.proving import Changeable
from ansible_collections.ambient.lab.tests.unit.plugins.module_utils._mesh.test_folder import L4, SHOP, WAYPOINT
from ansible_collections.ambient.lab.tests.unit.plugins.module_utils._reach.test_mutation import (
    GET,
    GUARD,
    PEER,
    POST,
    mesh_of,
)

Patch = pytest.MonkeyPatch
GET_POLICY = "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/get"
REMOVED = "AuthorizationPolicy shop/get: removed"
WIDENED = "AuthorizationPolicy shop/get: rule 0 without to"


@pytest.fixture(name="live")
def fixture_live() -> Changeable:
    return Changeable(mesh_of(SHOP, WAYPOINT))


def tried(live: Changeable, folder: pathlib.Path, only: str = "*", raw: t.Sequence[t.Any] = (GET, POST)) -> list[Tried]:
    """All mutants of a cluster that a pattern names."""
    claims, mesh = parse_claims([*raw], "shop"), live.mesh()
    prover = Prover(live, claims, Settings(timeout=5), str(folder), "kubectl")
    trials = [trial_of(item, claims, mesh) for item in choose([*judged(mesh, claims, [only])], 100)]
    prover.run([trial for trial in trials if trial.is_shown])
    return prover.tried


def test_a_cluster_that_does_as_predicted_agrees_and_is_as_it_was(tmp_path: pathlib.Path) -> None:
    live = Changeable(mesh_of(SHOP, WAYPOINT, GUARD, PEER))
    before = live.written()
    found = {str(one.item.mutant): one for one in tried(live, tmp_path)}
    # A policy removed and patched, and labels of a Namespace and of a Service.
    labels = "Namespace shop: without label istio.io/dataplane-mode", "Service shop/app: without label istio.io/use-way"
    for name in (REMOVED, WIDENED, *labels):
        assert [one.verdict for text, one in found.items() if text.startswith(name)] == ["agree"]
    assert {one.verdict for one in found.values() if not one.problem} == {"agree"}
    rows = {row["name"]: (row["predicted"], row["measured"]) for row in found[REMOVED].values()["claims"]}
    assert rows == {"get": ("allowed", "allowed 200/0"), "post": ("allowed", "allowed 200/0")}
    assert live.written() == before
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_that_does_otherwise_is_told_with_its_rows(live: Changeable, tmp_path: pathlib.Path) -> None:
    live.deaf, before = True, live.written()
    (one,) = tried(live, tmp_path, REMOVED)
    assert one.verdict == "differ"
    said = "    post: predicted allowed, measured denied_l7 403/0: expected allowed, saw denied_l7 403/0"
    assert one.lines[1:] == [said]
    assert live.written() == before


def test_a_survivor_is_shown_by_a_missing_claim_of_a_known_pod(tmp_path: pathlib.Path) -> None:
    """That its claims hold on is no news of a change that may not be in force yet."""
    live = Changeable(mesh_of(SHOP, WAYPOINT.replace("[GET]", "[POST]")))
    unlabelled = "Service shop/app: without label istio.io/use-waypoint"
    posting = {**POST, "expect": "allowed"}
    (one,) = tried(live, tmp_path, unlabelled, [posting])
    assert (one.item.kind, one.verdict) == ("survived", "agree")
    rows = {row["name"]: row["predicted"] for row in one.values()["claims"]}
    assert rows == {"post": "allowed", "shop/client -> Service shop/app:80 GET /": "allowed"}
    live.deaf = True
    assert [one.verdict for one in tried(live, tmp_path, unlabelled, [posting])] == ["differ"]


def test_pods_that_leave_the_mesh_late_are_waited_for(tmp_path: pathlib.Path) -> None:
    """Meanwhile the objects say what is seen, and one check would give up."""
    plain, denying = SHOP.replace("istio.io/use-waypoint: wp", "a: b"), L4.replace("spec: {", "spec: {action: DENY, ")
    live = Changeable(mesh_of(plain, denying))
    live.lag = 10
    assert [one.verdict for one in tried(live, tmp_path, "Namespace *", [{**GET, "expect": "denied_l4"}])] == ["agree"]


def test_what_changes_seldom_is_read_again_under_a_mutant(tmp_path: pathlib.Path) -> None:
    with FakeApi({"/api/v1/namespaces/shop": {"metadata": {"name": "shop"}}}) as api:
        edge = KubeEdge(api.kubeconfig(tmp_path), None)
        reads = []
        for forget in (False, False, True):
            if forget:
                edge.forget()
            edge.mesh([], {"shop"})
            reads.append(sum("/namespaces/shop/peerauthentications" in path for path, _headers in api.asked))
    assert reads == [1, 1, 2]


def test_a_survivor_that_nothing_shows_to_be_in_force_is_no_agreement(live: Changeable, tmp_path: pathlib.Path) -> None:
    """The missing claim is a POST, which is not sent unasked, and no proxy is found."""
    (one,) = tried(live, tmp_path, REMOVED, [GET])
    assert [row.partition(" (survived): ")[2] for row in one.lines] == [
        "no proxy is found that had the policy or has it now, and no claim shows whether it is in force"
    ]
    plain = Changeable(mesh_of(SHOP.replace("istio.io/use-waypoint: wp", "a: b"), PEER))
    assert tried(plain, tmp_path, "PeerAuthentication *", [GET]) == []


def test_claims_that_do_not_hold_change_nothing(live: Changeable, tmp_path: pathlib.Path) -> None:
    live.answers = lambda *_: (0, 28, {}, "")
    with pytest.raises(LabError, match="nothing was changed, and\n2 of 2 claims did not hold"):
        tried(live, tmp_path)
    assert live.sent == []


@pytest.mark.parametrize("error", [LabError("the API is gone"), SystemExit(143), KeyboardInterrupt()])
@pytest.mark.parametrize("only", [REMOVED, WIDENED, "Namespace shop: *", "Service shop/app: *"])
def test_an_object_is_put_back_whatever_ends_the_trial(
    live: Changeable, tmp_path: pathlib.Path, monkeypatch: Patch, error: BaseException, only: str
) -> None:
    before, run = live.written(), live.run

    def breaking(*given: t.Any) -> tuple[str, str]:
        if live.sent:
            assert [*tmp_path.iterdir()]
            raise error
        return run(*given)

    monkeypatch.setattr(live, "run", breaking)
    with pytest.raises(type(error)):
        tried(live, tmp_path, only)
    assert (live.written(), len(live.sent)) == (before, 2)
    assert list(tmp_path.iterdir()) == []


def test_a_signal_while_it_is_put_back_does_not_leave_it_changed(live: Changeable, tmp_path: pathlib.Path) -> None:
    before = live.written()
    signals = iter([SystemExit(143)])

    def end() -> None:
        for signal in signals:
            raise signal

    live.answer["POST"] = end
    with pytest.raises(SystemExit):
        tried(live, tmp_path, REMOVED)
    assert live.written() == before


def test_an_api_that_is_away_for_a_moment_is_asked_again(live: Changeable, tmp_path: pathlib.Path) -> None:
    before = live.written()
    busy = iter([Answer(500, {}, b"{}"), Answer(409, {}, b"{}")])
    live.answer["POST"] = lambda: next(busy, None)
    assert [one.verdict for one in tried(live, tmp_path, REMOVED)] == ["agree"]
    assert live.written() == before


@pytest.mark.parametrize(
    ("only", "method", "command"),
    [
        (REMOVED, "POST", "kubectl replace --force -f"),
        ("Namespace shop: *", "PATCH", "kubectl label --overwrite istio.io/dataplane-mode=ambient -f"),
    ],
)
def test_what_can_not_be_put_back_is_in_a_file_and_nothing_else_is_changed(
    live: Changeable, tmp_path: pathlib.Path, only: str, method: str, command: str
) -> None:
    claims = live.mesh()

    def gone() -> Answer | None:
        return Answer(500, {}, b'{"message": "etcd is gone"}') if live.sent else None

    live.answer[method] = gone
    with pytest.raises(LabError, match="was not put back: the API refuses it: etcd is gone") as caught:
        tried(live, tmp_path, only)
    (file,) = tmp_path.iterdir()
    assert f"{command} {file}`" in caught.value.message
    assert caught.value.result["changed"]
    kept = json.loads(file.read_text())
    assert claims.get(kept["kind"], kept["metadata"].get("namespace", ""), kept["metadata"]["name"])
    again = Changeable(claims)
    with pytest.raises(LabError, match="has not given it back") as caught:
        tried(again, tmp_path, only)
    assert f"{command} {file}`" in caught.value.message
    assert again.sent == []


def test_what_somebody_else_writes_meanwhile_is_not_written_over(
    live: Changeable, tmp_path: pathlib.Path, monkeypatch: Patch
) -> None:
    run, theirs = live.run, {"action": "DENY", "rules": [{}]}

    def meddle(*given: t.Any) -> tuple[str, str]:
        if live.sent:
            live.there[GET_POLICY]["spec"] = theirs
        return run(*given)

    monkeypatch.setattr(live, "run", meddle)
    with pytest.raises(LabError, match="was not put back: somebody has changed it meanwhile"):
        tried(live, tmp_path, WIDENED)
    assert live.there[GET_POLICY]["spec"] == theirs
    # Before, too: nobody can say what the model's mutant of it would be.
    stale = Changeable(mesh_of(SHOP, WAYPOINT))
    monkeypatch.setattr(stale, "get", lambda _path: live.there[GET_POLICY])
    with pytest.raises(LabError, match="is not as it was read"):
        tried(stale, tmp_path / "other", WIDENED)
    assert stale.sent == []


def test_a_mutant_that_the_api_refuses_is_no_agreement(live: Changeable, tmp_path: pathlib.Path) -> None:
    live.answer["PATCH"] = lambda: Answer(422, {}, b'{"message": "admission webhook denied it"}')
    (one,) = tried(live, tmp_path, WIDENED)
    assert one.lines == [f"  error: {WIDENED} (killed): the API refuses it: admission webhook denied it"]
    said = 'authorizationpolicies "get" is forbidden: User "x" cannot patch resource "authorizationpolicies"'
    live.answer["PATCH"] = lambda: Answer(403, {}, json.dumps({"message": said}).encode())
    with pytest.raises(LabError, match=r"cannot patch .* Give the kubeconfig's user this right"):
        tried(live, tmp_path, WIDENED)


@pytest.mark.parametrize(("only", "method"), [(REMOVED, "POST"), (WIDENED, "PATCH")])
def test_what_could_not_be_put_back_is_not_changed(
    live: Changeable, tmp_path: pathlib.Path, only: str, method: str
) -> None:
    """A right to delete is none to create, and a webhook may be newer than the object."""
    live.answer[f"dry {method}"] = lambda: Answer(422, {}, b'{"message": "admission webhook denied it"}')
    (one,) = tried(live, tmp_path, only)
    assert one.problem == "it could not be put back: the API refuses it: admission webhook denied it"
    said = 'authorizationpolicies is forbidden: User "x" cannot create resource "authorizationpolicies"'
    live.answer[f"dry {method}"] = lambda: Answer(403, {}, json.dumps({"message": said}).encode())
    with pytest.raises(LabError, match="Give the kubeconfig's user this right"):
        tried(live, tmp_path, only)
    # Another 409 says nothing of what comes before the name.
    live.answer[f"dry {method}"] = lambda: Answer(409, {}, b'{"reason": "Conflict", "message": "over quota"}')
    assert [one.verdict for one in tried(live, tmp_path, only)] == ["error"]
    assert (live.sent, [*tmp_path.iterdir()]) == ([], [])


@pytest.mark.parametrize("only", [REMOVED, WIDENED])
@pytest.mark.parametrize("error", [LabError("no answer"), SystemExit(143)])
def test_a_change_whose_answer_never_came_is_not_made_later(
    live: Changeable, tmp_path: pathlib.Path, monkeypatch: Patch, only: str, error: BaseException
) -> None:
    """Else the file is gone by then, and nobody knows of it."""
    before, send = live.written(), live.send
    on_the_way: list[tuple[t.Any, ...]] = []

    def losing(method: str, path: str, *given: t.Any, **query: t.Any) -> Answer:
        if not query and not on_the_way:
            on_the_way.append((method, path, *given))
            raise error
        return send(method, path, *given, **query)

    monkeypatch.setattr(live, "send", losing)
    with pytest.raises(type(error)):
        tried(live, tmp_path, only)
    assert [*tmp_path.iterdir()] == []
    (late,) = on_the_way
    assert send(*late).status == 409
    assert live.written() == {**before, GET_POLICY: (*before[GET_POLICY][:2], {})}


@pytest.mark.parametrize("only", [WIDENED, "Service shop/app: *"])
def test_what_its_owner_deletes_meanwhile_is_not_made_again(
    live: Changeable, tmp_path: pathlib.Path, monkeypatch: Patch, only: str
) -> None:
    run = live.run

    def delete(*given: t.Any) -> tuple[str, str]:
        for path in {sent.split()[1] for sent in live.sent}:
            live.there.pop(path, None)
        return run(*given)

    monkeypatch.setattr(live, "run", delete)
    with pytest.raises(LabError, match="was deleted meanwhile by somebody else"):
        tried(live, tmp_path, only)
    assert (len(live.sent), [*tmp_path.iterdir()]) == (1, [])


@pytest.mark.parametrize("only", [REMOVED, WIDENED])
def test_a_mutant_that_somebody_puts_back_meanwhile_was_not_measured(
    live: Changeable, tmp_path: pathlib.Path, monkeypatch: Patch, only: str
) -> None:
    run, first = live.run, live.there[GET_POLICY]

    def revert(*given: t.Any) -> tuple[str, str]:
        seen = run(*given)
        if live.sent:
            live.there[GET_POLICY] = first
        return seen

    monkeypatch.setattr(live, "run", revert)
    (one,) = tried(live, tmp_path, only)
    assert (one.verdict, one.problem[:22], len(live.sent)) == ("error", "somebody put it back, ", 1)


def test_an_api_that_is_away_for_minutes_still_gets_the_object_back(live: Changeable, tmp_path: pathlib.Path) -> None:
    before, until = live.written(), live.now() + 300
    live.answer["POST"] = lambda: Answer(503, {}, b"{}") if live.now() < until else None
    tried(live, tmp_path, REMOVED)
    assert live.written() == before


def test_only_what_is_named_and_not_accepted_is_changed(live: Changeable, monkeypatch: Patch) -> None:
    with pytest.raises(LabError, match="name those that it may change in only"):
        module(live, monkeypatch, only=[])
    with pytest.raises(LabError, match="there is no mutant to try"):
        module(live, monkeypatch, accept=["*"])
    assert live.sent == []


@pytest.mark.parametrize(("only", "method"), [(REMOVED, "POST"), (WIDENED, "PATCH")])
def test_an_object_is_back_when_it_is_read_as_it_was(
    live: Changeable, tmp_path: pathlib.Path, only: str, method: str
) -> None:
    """Whatever an API, or a webhook of it, says of the write."""
    live.answer[method] = lambda: Answer(200, {}, b"{}") if live.sent else None
    with pytest.raises(LabError, match=r"was not put back: .*(read|changed)"):
        tried(live, tmp_path, only)
    assert len([*tmp_path.iterdir()]) == 1


def test_the_only_copy_of_an_object_is_never_written_over(tmp_path: pathlib.Path) -> None:
    item = {"kind": "K", "metadata": {"name": "p"}, "spec": {"a": 1}}
    mine, other = (Kept(str(tmp_path), "cluster", "K p", "kubectl") for _ in range(2))
    mine.keep(item)
    with pytest.raises(LabError, match="can't be kept"):
        other.keep({**item, "spec": {}})
    mine.keep(item)
    assert json.loads(pathlib.Path(mine.path).read_text())["spec"] == {"a": 1}


def test_a_cluster_is_the_same_by_another_address(tmp_path: pathlib.Path) -> None:
    there = {"/api/v1/namespaces/kube-system": {"metadata": {"uid": "u"}}}
    for objects, found in ((there, {"u"}), ({next(iter(there)): 403}, None)):
        with FakeApi(objects) as api:
            assert {identity(KubeEdge(api.kubeconfig(tmp_path), None))} == (found or {api.url})


OPTIONS: dict[str, t.Any] = {"killed": 2, "timeout": 5.0, "witnesses": "none"}


def module(live: Changeable, patch: Patch, check_mode: bool = False, **given: t.Any) -> dict[str, t.Any]:
    """The module on a cluster."""
    patch.setattr(states, "_cluster", lambda _params: live.mesh())
    patch.setattr(proof, "KubeEdge", lambda *_args: live)
    names = ("manifests", "revision", "kubeconfig", "context", "results_file", "section")
    lists: dict[str, list[str]] = {"namespaces": [], "only": [], "accept": []}
    more = {"over_cluster": False, **lists, "only": ["*"], "min_score": 100, "namespace": "shop"}
    params = {**dict.fromkeys(names), **more, "claims": [GET, POST], "prove": OPTIONS, **given}
    return mutate(params, check_mode)


def test_the_module_proves_its_score(live: Changeable, tmp_path: pathlib.Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    found = module(live, monkeypatch)
    assert [row["verdict"] for row in found["proved"]] == ["agree", "agree"]
    assert "proved on the cluster: 2 tried: 2 agree, 0 differ, 0 error" in found["report"]
    live.deaf = True
    with pytest.raises(LabError, match="0 agree, 2 differ") as caught:
        module(live, monkeypatch)
    assert "score 100 %" in caught.value.message


def test_nothing_is_proved_in_check_mode_or_without_a_cluster(live: Changeable, monkeypatch: Patch) -> None:
    found = module(live, monkeypatch, check_mode=True)
    assert (found["proved"], live.sent) == ([], [])
    assert "check mode: 2 mutants were to be tried on the cluster, and none was" in found["warnings"]
    with pytest.raises(LabError, match="prove changes a cluster: leave out manifests"):
        module(live, monkeypatch, manifests="/tmp", over_cluster=True)
    with pytest.raises(LabError, match="there is no mutant to try"):
        module(live, monkeypatch, prove={**OPTIONS, "killed": 0})
    with pytest.raises(LabError, match=r"prove.killed must be at least 0"):
        module(live, monkeypatch, prove={**OPTIONS, "killed": -1})
    assert live.sent == []


def test_the_killed_are_chosen_evenly() -> None:
    claims = parse_claims([GET, POST], "shop")
    found = [*judged(mesh_of(SHOP, WAYPOINT), claims)]
    dead = [item for item in found if item.kind == "killed"]
    assert choose(found, 2) == [dead[0], dead[len(dead) // 2]]
    assert choose(found, 100) == dead
    assert choose(found, 0) == []
