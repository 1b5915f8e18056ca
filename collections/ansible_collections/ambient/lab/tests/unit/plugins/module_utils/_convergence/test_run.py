# The measurement as a whole: a real loop, an API on the loopback whose policy switches what a server answers.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import json
import pathlib
import signal
import socket
import threading
import time
import typing as t

import pytest
import yaml
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import PolicyRef
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._convergence.kept import Kept
from ansible_collections.ambient.lab.plugins.module_utils._convergence.options import read_plan
from ansible_collections.ambient.lab.plugins.module_utils._convergence.policy_convergence import policy_convergence
from ansible_collections.ambient.lab.plugins.module_utils._convergence.states import as_new
from ansible_collections.ambient.lab.plugins.modules import policy_convergence as module
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.objects import claim, condition, pod
from ansible_collections.ambient.lab.tests.unit.fakes.program import returned, start
from ansible_collections.ambient.lab.tests.unit.fakes.servers import ScriptedServer

Object = dict[str, t.Any]


@pytest.fixture(autouse=True)
def state_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Where a policy is kept that is taken away."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state/ambient-lab"


POLICIES = "/apis/security.istio.io/v1/namespaces/default/authorizationpolicies"
POLICY = f"{POLICIES}/p"
SPEC = {"action": "DENY", "rules": [{"to": [{"operation": {"ports": ["8080"]}}]}]}
DEFINITION = {
    "apiVersion": "security.istio.io/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "p"},
    "spec": SPEC,
}


DRY_RUN = {"labels": {"team": "shop"}, "annotations": {"istio.io/dry-run": "true"}}


class Switched(ScriptedServer):
    """Answers /switch by what is in force."""

    answer = "ok"

    def _answer(self, connection: socket.socket, behaviour: str) -> None:
        super()._answer(connection, self.answer if behaviour == "switch" else behaviour)


class World:
    """A cluster with one policy, which ztunnel has as soon as the API, and the server `late` seconds after it."""

    def __init__(self, server: Switched, late: float = 0.0, spec: Object | None = None) -> None:
        self._server = server
        self._late = late
        self._generation = 0
        self.policy: Object | None = None
        self.sent: list[str] = []
        self.accepted = True
        if spec is not None:
            self._put({**DEFINITION, "metadata": {"name": "p", "namespace": "default"}, "spec": spec})
            self._server.answer = "reset"
        node = {"nodeName": "n1", "containers": [{"name": "main"}]}
        app, client, ztunnel = pod("app"), pod("curl"), pod("zt", "mesh")
        self.objects: Object = {
            "/api/v1/namespaces/default/pods": {"items": [{**app, "spec": node}, {**client, "spec": node}]},
            "/api/v1/pods": {"items": [{**ztunnel, "spec": node}]},
            POLICY: lambda _query: self.policy or 404,
            f"PATCH {POLICY}": self._patch,
            f"DELETE {POLICY}": self._delete,
            f"POST {POLICIES}": self._post,
        }

    def dump(self, _query: object) -> Object:
        """What ztunnel has."""
        if self.policy is None:
            return {"policies": []}
        found = {"name": "p", "namespace": "default", "scope": "Namespace", "action": "Deny"}
        return {"policies": [{**found, "rules": [[[{"destinationPorts": [8080]}]]]}]}

    @contextlib.contextmanager
    def served(self) -> t.Iterator[FakeApi]:
        """Its API."""
        with FakeApi(self.objects) as api:
            api.forwarded["mesh/zt:15000/config_dump"] = self.dump
            yield api

    def _put(self, body: Object) -> Object:
        self._generation += 1
        metadata = {**body["metadata"], "generation": self._generation, "uid": f"u{self._generation}"}
        status = {"conditions": [condition(seen=self._generation)]}
        self.policy = {**body, "metadata": metadata, "status": status}
        return self.policy

    def _patch(self, body: Object) -> Object | int:
        self.sent.append("PATCH")
        if not self.accepted:
            return 403
        self._switch("reset")
        return self._put(body)

    def _post(self, body: Object) -> Object:
        self.sent.append("POST")
        assert "uid" not in body["metadata"]
        assert "status" not in body
        self._switch("reset")
        return self._put(body)

    def _delete(self, _body: Object) -> Object | int:
        self.sent.append("DELETE")
        found, self.policy = self.policy, None
        self._switch("ok")
        return 404 if found is None else {"status": "Success"}

    def _switch(self, answer: str) -> None:
        timer = threading.Timer(self._late, lambda: setattr(self._server, "answer", answer))
        timer.daemon = True
        timer.start()
        if not self._late:
            timer.join()


def params(api: FakeApi, folder: pathlib.Path, claims: list[Object], **changed: t.Any) -> Object:
    defaults = {name: option.get("default") for name, option in module.SPEC.items()}
    given = {"kubeconfig": api.kubeconfig(folder), "claims": claims, "definition": DEFINITION}
    return {**defaults, **given, "settle": 0.5, "timeout": 5, "rate": 20.0, **changed}


def claims_of(server: Switched, **limits: t.Any) -> list[Object]:
    return [
        claim("stays", to=server.url("ok")),
        claim("is cut off", to=server.url("switch"), expect="denied_l4", limits=limits),
    ]


def measure(
    world: World, tmp_path: pathlib.Path, claims: list[Object], check: bool = False, **changed: t.Any
) -> Object:
    with world.served() as api:
        return policy_convergence(params(api, tmp_path, claims, **changed), check)


def test_a_policy_that_works_at_once(tmp_path: pathlib.Path) -> None:
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"role": {"claims": [], "phase": "after"}}))
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server)
        claims = claims_of(server, leaks_after_ready=0)
        found = measure(world, tmp_path, claims, repeats=2, results_file=str(results), section="role")
    assert (found["changed"], world.policy) == (False, None)
    conv = found["convergence"]
    assert (conv["verdict"], conv["reason"], conv["policy"], conv["repeats"]) == ("pass", "", "default/p", 2)
    assert 0.05 <= conv["resolution"] < 2
    for name, old, new in (("apply", "allowed", "denied_l4"), ("remove", "denied_l4", "allowed")):
        direction = conv["directions"][name]
        assert direction["ready"]["max"] >= 0
        stays, cut = direction["pairs"]
        assert (cut["old"], cut["new"], cut["from"]) == (old, new, "default/curl")
        assert (cut["stale_after_accepted"], cut["stale_after_ready"], cut["flaps"]) == (0, 0, 0)
        assert len(cut["runs"]) == 2
        assert [text.split(" ")[0] for _at, text in cut["runs"][0]["changes"]] == [old, new]
        assert (stays["old"], stays["new"], stays["flaps"]) == ("allowed", "allowed", 0)
    assert conv["requests"] == sum(pair["requests"] for item in conv["directions"].values() for pair in item["pairs"])
    kept = json.loads(results.read_text())["role"]
    assert kept == {"claims": [], "phase": "after", "convergence": conv}
    documented = yaml.safe_load(module.RETURN)
    assert set(documented["convergence"]["contains"]) == set(conv)


def test_a_policy_that_leaks_after_every_proxy_has_it(tmp_path: pathlib.Path) -> None:
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server, late=0.4)
        with pytest.raises(LabError) as caught:
            measure(world, tmp_path, claims_of(server, leaks_after_ready=0), settle=1.2)
    conv = caught.value.result["convergence"]
    cut = conv["directions"]["apply"]["pairs"][1]
    assert cut["verdict"] == "fail"
    assert cut["stale_after_ready"] > 0
    assert 0.2 < cut["first_new"]["max"] < 1.2
    assert abs(cut["last_old"]["max"] - cut["first_new"]["max"]) <= 2 * conv["resolution"]
    # What is opened late is no leak.
    assert conv["directions"]["remove"]["pairs"][1]["verdict"] == "pass"
    lines = caught.value.message.splitlines()
    assert lines[0].startswith("default/p did not converge as the claims say (1 repeats, ")
    assert any("requests leaked after every proxy had it (leaks_after_ready: 0)" in line for line in lines)
    assert world.policy is None


@pytest.mark.parametrize(
    ("final_state", "there", "changed", "sent"),
    [
        (None, False, False, ["PATCH", "DELETE"]),
        (None, True, False, ["DELETE", "PATCH", "DELETE", "POST"]),
        ("present", False, True, ["PATCH", "DELETE", "PATCH"]),
        ("present", True, False, ["DELETE", "PATCH", "DELETE", "POST"]),
        ("absent", True, True, ["DELETE", "PATCH", "DELETE"]),
        ("absent", False, False, ["PATCH", "DELETE"]),
    ],
)
def test_final_states(
    tmp_path: pathlib.Path, final_state: str | None, there: bool, changed: bool, sent: list[str]
) -> None:
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server, spec=SPEC if there else None)
        claims = claims_of(server)
        foreseen = measure(world, tmp_path, claims, check=True, final_state=final_state)
        assert (foreseen["changed"], world.sent, len(server.requests)) == (changed, [], 0)
        found = measure(world, tmp_path, claims, final_state=final_state, settle=0.2)
    assert (found["changed"], world.sent) == (changed, sent)
    assert (world.policy is not None) == (final_state == "present" or (final_state is None and there))


def test_a_dry_run_is_another_policy_than_the_one_that_is_given(tmp_path: pathlib.Path) -> None:
    """Its spec is the same, but it denies nobody."""
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server, spec=SPEC)
        assert world.policy is not None
        world.policy["metadata"] |= DRY_RUN
        claims = claims_of(server)
        assert measure(world, tmp_path, claims, check=True, final_state="present")["changed"] is True
        found = measure(world, tmp_path, claims, final_state="present", settle=0.2)
    assert (found["changed"], world.sent) == (True, ["DELETE", "PATCH", "DELETE", "PATCH"])
    assert not set(DRY_RUN) & set(world.policy["metadata"])


def test_the_policy_is_given_back_when_something_fails(tmp_path: pathlib.Path) -> None:
    other = {**SPEC, "rules": [{"to": [{"operation": {"ports": ["9090"]}}]}]}
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server, spec=other)
        world.accepted = False
        with pytest.raises(LabError, match="The API refused to apply the policy with HTTP 403"):
            measure(world, tmp_path, claims_of(server))
        assert world.policy is not None
        assert world.policy["spec"] == other
        count = len(server.requests)
        threading.Event().wait(0.5)
        assert len(server.requests) == count, "a loop was left behind"


class Deaf(World):
    """Its ztunnel never gets the policy."""

    def dump(self, _query: object) -> Object:
        """What ztunnel has."""
        return {"policies": []}


@pytest.mark.parametrize(("final_state", "changed"), [(None, False), ("absent", True)])
def test_the_policy_is_given_back_as_it_was(tmp_path: pathlib.Path, final_state: str | None, changed: bool) -> None:
    """Also where it fails while another policy is there that says the same."""
    ours = {"labels": {"app.kubernetes.io/managed-by": "ambient-lab"}, "annotations": {"why": "because"}}
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = Deaf(server, spec=SPEC)
        assert world.policy is not None
        world.policy["metadata"] |= ours
        with pytest.raises(LabError, match="apply: the barrier was not reached") as caught:
            measure(world, tmp_path, claims_of(server), timeout=1, settle=0.2, final_state=final_state)
    assert caught.value.result["changed"] is changed
    if changed:
        assert world.policy is None
    else:
        assert world.policy is not None
        assert {key: world.policy["metadata"].get(key) for key in ours} == ours


def ended(api: FakeApi, world: World, tmp_path: pathlib.Path, claims: list[Object], number: signal.Signals) -> int:
    """What a module returns that gets a signal as soon as it has taken the policy away."""
    with start(module, params(api, tmp_path, claims, repeats=50)) as program:
        while not world.sent:
            assert program.poll() is None, program.communicate()
            time.sleep(0.01)
        program.send_signal(number)
        program.communicate(timeout=30)
    return int(program.returncode)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_module_that_is_ended_gives_the_policy_back(
    tmp_path: pathlib.Path, state_folder: pathlib.Path, number: signal.Signals
) -> None:
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server, spec=SPEC)
        with world.served() as api:
            assert ended(api, world, tmp_path, claims_of(server), number) == 128 + number
    assert world.policy is not None
    assert world.policy["spec"] == SPEC
    assert list(state_folder.iterdir()) == []


def test_a_module_that_is_killed_leaves_the_policy_in_a_file(
    tmp_path: pathlib.Path, state_folder: pathlib.Path
) -> None:
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server, spec=SPEC)
        assert world.policy is not None
        world.policy["metadata"] |= DRY_RUN
        with world.served() as api:
            assert ended(api, world, tmp_path, claims_of(server), signal.SIGKILL) == -signal.SIGKILL
            (file,) = state_folder.iterdir()
            assert (file.stat().st_mode & 0o777, state_folder.stat().st_mode & 0o777) == (0o600, 0o700)
            kept = json.loads(file.read_text())
            assert kept == {**DEFINITION, "metadata": {"name": "p", "namespace": "default", **DRY_RUN}}
            # The next run says so, and changes nothing.
            given, sent = params(api, tmp_path, claims_of(server), settle=0.2), list(world.sent)
            for check in (True, False):
                with pytest.raises(LabError, match="has not given it back") as caught:
                    policy_convergence(given, check)
                assert f"replace --force -f {file}`" in caught.value.message
            assert world.sent == sent
            # Once somebody has given it back, the file is of no use any more.
            world._put(kept)
            server.answer = "reset"
            policy_convergence(given, False)
    assert world.policy["metadata"]["annotations"] == DRY_RUN["annotations"]
    assert list(state_folder.iterdir()) == []


@pytest.mark.parametrize("results", [False, True])
def test_a_policy_that_can_not_be_given_back_is_named_with_its_file(
    tmp_path: pathlib.Path, state_folder: pathlib.Path, results: bool
) -> None:
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server, spec=SPEC)
        world.objects[f"POST {POLICIES}"] = (500, {"message": "etcd is gone"})
        changed: Object = {"results_file": str(tmp_path / "results.json"), "section": "s"} if results else {}
        with pytest.raises(LabError, match="HTTP 500: etcd is gone\ndefault/p was not given back") as caught:
            measure(world, tmp_path, claims_of(server), settle=0.2, **changed)
    assert world.policy is None
    (file,) = (tmp_path if results else state_folder).glob("policy_default_p_*.json")
    assert str(file) in caught.value.message
    assert json.loads(file.read_text())["spec"] == SPEC


def test_nothing_is_removed_that_can_not_be_kept(tmp_path: pathlib.Path) -> None:
    (tmp_path / "state").touch()
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server, spec=SPEC)
        with pytest.raises(LabError, match=r"can't be kept in .* Nothing was changed"):
            measure(world, tmp_path, claims_of(server))
    assert world.sent == []


def test_a_kept_policy_that_is_none(tmp_path: pathlib.Path, state_folder: pathlib.Path) -> None:
    kept = Kept(str(state_folder), "https://api", PolicyRef("default", "p"), "kubectl")
    state_folder.mkdir(parents=True)
    for content in ("{", "[]", "{}"):
        pathlib.Path(kept.path).write_text(content)
        with pytest.raises(LabError, match="can't be read"):
            kept.require_none({"metadata": {}})


def test_a_failure_says_what_it_has_changed(tmp_path: pathlib.Path) -> None:
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server)
        claims = [claim("wrong", to=server.url("proxy_403"), expect="denied_l4")]
        with world.served() as api:
            given = params(api, tmp_path, claims, settle=0.2, final_state="present")
            ok, told = returned(start(module, given))
    assert (ok, told["failed"], told["changed"]) == (False, True, True)
    assert "convergence" not in told


def test_what_others_keep_meanwhile_stays(tmp_path: pathlib.Path) -> None:
    results = tmp_path / "results.json"

    class Busy(World):
        def _patch(self, body: Object) -> Object | int:
            results.write_text(json.dumps({"other": {"claims": []}}))
            return super()._patch(body)

    with Switched() as opened:
        server = t.cast("Switched", opened)
        claims = claims_of(server)
        measure(Busy(server), tmp_path, claims, settle=0.2, results_file=str(results), section="role")
    assert set(json.loads(results.read_text())) == {"other", "role"}


def test_answers_that_are_not_as_before_prove_nothing(tmp_path: pathlib.Path) -> None:
    with Switched() as opened:
        server = t.cast("Switched", opened)
        claims = [claim("wrong", to=server.url("proxy_403"), expect="denied_l4")]
        with pytest.raises(LabError, match="before the change it saw denied_l7 403/0, not allowed") as caught:
            measure(World(server), tmp_path, claims, settle=0.2)
    assert caught.value.result["convergence"]["verdict"] == "error"


def test_nothing_is_changed_where_a_source_can_not_probe(tmp_path: pathlib.Path) -> None:
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server)
        bad = claim("cut", source={"pod": "nobody"}, expect="denied_l4")
        with pytest.raises(LabError, match="nothing was changed: pod default/nobody does not exist"):
            measure(world, tmp_path, [bad])
        assert world.sent == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"repeats": 0}, "repeats must be from 1 to 100"),
        ({"rate": 500.0}, "rate must be from 1 to 200"),
        ({"repeats": 100, "timeout": 60.0}, "more than the 7200 s that are allowed"),
        ({"repeats": 50, "rate": 200.0}, "more than the 1000000 that are allowed"),
        ({"definition": {"kind": "Service"}}, "definition must be an AuthorizationPolicy"),
        ({"definition": {**DEFINITION, "metadata": {}}}, "metadata.name is missing"),
        ({"definition": {**DEFINITION, "metadata": {"name": "A b"}}}, "definition: 'default/A b' must be"),
        ({"claims": []}, "claims is empty"),
        ({"claims": [claim("same")]}, "nothing to converge"),
        (
            {"claims": [claim("x", limit=1)]},
            "unknown key 'limit'; allowed are name, from, to, expect, before, by, limits",
        ),
        ({"claims": [claim("x", limits={"leaks": 1})]}, "unknown key 'leaks'"),
        ({"claims": [claim("x", limits={"leaks_after_ready": -1})]}, "is not a number of requests"),
        ({"claims": [claim("x", limits={"converges_within": True})]}, "is not a number of seconds"),
        ({"claims": [claim("x", expect="probe_error")]}, "can't be expected"),
        (
            {"claims": [claim("x", expect="denied_l4", by="default/other")]},
            "claim 'x': by: default/other is not default/p, which alone comes and goes here",
        ),
        (
            {
                "claims": [
                    claim("y", expect="denied_l4"),
                    claim("x", before="denied_l4", expect="denied_l4", by="default/p"),
                ]
            },
            "claim 'x': by: the claim expects the same without the policy",
        ),
    ],
)
def test_options_are_read_strictly(changed: Object, words: str) -> None:
    defaults = {name: option.get("default") for name, option in module.SPEC.items()}
    claims = [claim("x", expect="denied_l4", by="default/p"), claim("y")]
    given = {**defaults, "definition": DEFINITION, "claims": claims, "rate": 20.0}
    assert read_plan(given).policy.name == "p"
    with pytest.raises(LabError) as caught:
        read_plan({**given, **changed})
    assert words in caught.value.message


def test_an_object_is_given_back_without_what_the_api_set() -> None:
    policy = {"kind": "K", "metadata": {"name": "p", "uid": "1", "annotations": {"a": "b"}}, "status": {}, "spec": {}}
    assert as_new(policy) == {"kind": "K", "metadata": {"name": "p", "annotations": {"a": "b"}}, "spec": {}}
