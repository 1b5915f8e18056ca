# A cluster with one policy, which switches what a server answers to real curl.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import pathlib
import socket
import threading
import time
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._convergence.policy_convergence import policy_convergence
from ansible_collections.ambient.lab.plugins.modules import policy_convergence as module
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.objects import claim, condition, pod
from ansible_collections.ambient.lab.tests.unit.fakes.servers import ScriptedServer

Object = dict[str, t.Any]

POLICIES = "/apis/security.istio.io/v1/namespaces/default/authorizationpolicies"
POLICY = f"{POLICIES}/p"
SPEC = {"action": "DENY", "rules": [{"to": [{"operation": {"ports": ["8080"]}}]}]}
DEFINITION = {
    "apiVersion": "security.istio.io/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "p"},
    "spec": SPEC,
}


LEAKED, PATIENCE = 4, 10.0
DRY_RUN = {"labels": {"team": "shop"}, "annotations": {"istio.io/dry-run": "true"}}


class Switched(ScriptedServer):
    """Answers /switch by what is in force."""

    answer = "ok"
    answered = 0

    def _answer(self, connection: socket.socket, behaviour: str) -> None:
        self.answered += behaviour == "switch"
        super()._answer(connection, self.answer if behaviour == "switch" else behaviour)


class World:
    """A cluster with one policy, which ztunnel has as soon as the API, and the server `late` seconds after it.

    However slow the machine is, a few requests get the old answer after somebody has seen that ztunnel has it.
    """

    def __init__(self, server: Switched, late: float = 0.0, spec: Object | None = None) -> None:
        self._server = server
        self._late = late
        self._generation = 0
        self._dumps = 0
        self.policy: Object | None = None
        self.sent: list[str] = []
        self.accepted = True
        if spec is not None:
            self._put({**DEFINITION, "metadata": {"name": "p", "namespace": "default"}, "spec": spec})
            self._server.answer = "reset"
        node = {"nodeName": "n1", "containers": [{"name": "istio-proxy"}]}
        app, client, ztunnel = pod("app"), pod("curl"), pod("zt", "mesh")
        ztunnel["metadata"]["ownerReferences"] = [{"kind": "DaemonSet", "name": "ztunnel", "controller": True}]
        self.objects: Object = {
            "/api/v1/namespaces/default": {"metadata": {"name": "default"}},
            "/api/v1/namespaces/default/pods": {"items": [{**app, "spec": node}, {**client, "spec": node}]},
            "/api/v1/pods": {"items": [{**ztunnel, "spec": node}]},
            POLICY: lambda _query: self.policy or 404,
            f"PATCH {POLICY}": self._patch,
            f"DELETE {POLICY}": self._delete,
            f"POST {POLICIES}": self._post,
        }

    def dump(self, _query: object) -> Object:
        """What ztunnel has."""
        self._dumps += 1
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

    @staticmethod
    def _wait(done: t.Callable[[], bool], end: float) -> None:
        while not done() and time.monotonic() < end:
            time.sleep(0.01)

    def _switch(self, answer: str) -> None:
        self._dumps = 0

        def switch() -> None:
            wanted = LEAKED if self._late else 0
            self._wait(lambda: self._dumps >= min(wanted, 1), end)
            begin = self._server.answered
            self._wait(lambda: self._server.answered >= begin + wanted, end)
            self._server.answer = answer

        end = time.monotonic() + self._late + PATIENCE
        timer = threading.Timer(self._late, switch)
        timer.daemon = True
        timer.start()
        if not self._late:
            timer.join()


def params(api: FakeApi, folder: pathlib.Path, claims: list[Object], **changed: t.Any) -> Object:
    """Parameters of the module with their defaults."""
    defaults = {name: option.get("default") for name, option in module.SPEC.items()}
    given = {"kubeconfig": api.kubeconfig(folder), "claims": claims, "definition": DEFINITION}
    return {**defaults, **given, "settle": 0.5, "timeout": 5, "rate": 20.0, **changed}


def claims_of(server: Switched, **limits: t.Any) -> list[Object]:
    """One that the policy does not concern, and one that it cuts off."""
    return [
        claim("stays", to=server.url("ok")),
        claim("is cut off", to=server.url("switch"), expect="denied_l4", limits=limits),
    ]


def measure(
    world: World, tmp_path: pathlib.Path, claims: list[Object], check: bool = False, **changed: t.Any
) -> Object:
    """What the module returns."""
    with world.served() as api:
        return policy_convergence(params(api, tmp_path, claims, **changed), check)
