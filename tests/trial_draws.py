"""Random policies and requests of the trial; one seed always draws the same."""

from __future__ import annotations

import random
from typing import Any

from ansible_collections.ambient.lab.plugins.module_utils._mesh.destinations import Request
from trial_world import APPS, CLIENTS, OUTSIDE, POINT, PORTS, ROOT, SPACE

Object = dict[str, Any]

API = "security.istio.io/v1"
ADDRESSES = ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.0/24", "10.244.0.0/16"]
PATHS = ["/", "/a", "/a/b", "/a/b/c", "/admin", "/A"]
METHODS = ["GET", "POST", "PUT"]
HEADERS: list[dict[str, str]] = [{}, {"x-team": "blue"}, {"x-team": "red"}, {"x-team": "blue", "x-user": "me"}]
_SOURCE: dict[str, list[str]] = {
    "principals": [
        f"cluster.local/ns/{SPACE}/sa/a", f"cluster.local/ns/{POINT}/sa/c", f"cluster.local/ns/{SPACE}/*",
        "*/sa/b", "*", f"spiffe://cluster.local/ns/{SPACE}/sa/a",
        f"cluster.local/ns/{SPACE}/sa/gate", f"cluster.local/ns/{POINT}/sa/shared",
        f"other.domain/ns/{SPACE}/sa/a",
    ],
    "namespaces": [SPACE, POINT, OUTSIDE, "trial*", "*-point", "*", "t*l"],
    "serviceAccounts": ["a", f"{SPACE}/b", f"{POINT}/c", f"{SPACE}/gate", f"{POINT}/shared", f"{SPACE}/both"],
    "ipBlocks": ADDRESSES,
    "remoteIpBlocks": ADDRESSES,
    "requestPrincipals": ["*", "issuer/subject"],
}  # fmt: skip
_OPERATION: dict[str, list[str]] = {
    "ports": ["80", "90", "8080", "9090"],
    "methods": [*METHODS, "G*", "*T", "*"],
    "paths": [*PATHS, "/a*", "*/b", "*", "/a/{*}", "/a/{**}", "/{*}/b"],
    "hosts": ["own", "own.trial", "own*", "*.local", "OWN", "shared*", "*"],
}
_WHEN: dict[str, list[str]] = {
    "source.ip": ADDRESSES,
    "remote.ip": ADDRESSES,
    "source.namespace": _SOURCE["namespaces"],
    "source.principal": _SOURCE["principals"],
    "source.serviceAccount": _SOURCE["serviceAccounts"],
    "destination.ip": ADDRESSES,
    "destination.port": _OPERATION["ports"],
    "request.headers[x-team]": ["blue", "red", "b*", "*d", "*"],
    "request.headers[x-user]": ["me", "*"],
    "request.auth.claims[group]": ["a"],
    "connection.sni": ["own"],
}


class Draws:
    """What one set of the trial consists of.

    Args:
        seed: of the whole trial.
        number: of the set.
    """

    def __init__(self, seed: int, number: int) -> None:
        self._random = random.Random(f"{seed}/{number}")

    def policies(self) -> list[Object]:
        """AuthorizationPolicies, and now and then a PeerAuthentication."""
        count = self._random.choice([1, 1, 2, 2, 3, 4])
        found = [self._policy(f"p{number}") for number in range(count)]
        return [*found, *([self._peer()] if self._random.random() < 0.3 else [])]

    def requests(self, addresses: dict[str, str], count: int) -> list[tuple[tuple[str, str], Request]]:
        """Client (name, namespace) and request.

        Args:
            addresses: by "service/<app>" and "pod/<app>".
            count: how many.
        """
        return [self._request(addresses) for _number in range(count)]

    def _request(self, addresses: dict[str, str]) -> tuple[tuple[str, str], Request]:
        pick = self._random.choice
        client, app, port = pick(CLIENTS), pick(list(APPS)), pick(list(PORTS))
        full = f"{app}.{SPACE}.svc.cluster.local"
        ways = [(f"{app}.{SPACE}", port), (f"{app}.{SPACE}.svc", port), (full, port), (f"{full}.", port)]
        ways += [(app, port)] if client[1] == SPACE else []
        ways += [(addresses[f"service/{app}"], port), (addresses[f"pod/{app}"], PORTS[port])]
        if app == "plain":
            ways += [(f"plain-0.head.{SPACE}.svc.cluster.local", PORTS[port]), (f"head.{SPACE}", PORTS[port])]
        host, number = pick(ways)
        return client, Request(f"http://{host}:{number}{pick(PATHS)}", pick(METHODS), tuple(pick(HEADERS).items()))

    def _policy(self, name: str) -> Object:
        pick = self._random.choice
        bindings: list[tuple[str, Object]] = [
            (SPACE, {}),
            (SPACE, {"selector": {"matchLabels": {"app": pick(list(APPS))}}}),
            (SPACE, {"selector": {"matchLabels": {"tier": "back"}}}),
            (ROOT, {"selector": {"matchLabels": {"app": pick(list(APPS))}}}),
            (SPACE, {"targetRefs": [{"group": "", "kind": "Service", "name": pick(list(APPS))}]}),
            (SPACE, {"targetRefs": [{"group": "", "kind": "Service", "name": "own"}]}),
            (SPACE, {"targetRefs": [_gateway(pick(["gate", "both"]))]}),
            (POINT, {"targetRefs": [_gateway("shared")]}),
            (ROOT, {"targetRefs": [{**_gateway("istio-waypoint"), "kind": "GatewayClass"}]}),
        ]
        space, binding = pick(bindings)
        action = self._random.choices(["ALLOW", "DENY", "AUDIT"], [47, 48, 5])[0]
        rules = [self._rule() for _number in range(pick([1, 1, 1, 2]))]
        if action == "ALLOW" and self._random.random() < 0.05:
            rules = []
        spec: Object = {**binding, "action": action, "rules": rules}
        metadata: Object = {"name": f"trial-{name}", "namespace": space}
        if self._random.random() < 0.05:
            metadata["annotations"] = {"istio.io/dry-run": "true"}
        return {"apiVersion": API, "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec}

    def _rule(self) -> Object:
        rule: Object = {}
        if self._random.random() < 0.6:
            rule["from"] = [{"source": self._attributes(_SOURCE)} for _number in range(self._random.choice([1, 1, 2]))]
        if self._random.random() < 0.5:
            rule["to"] = [
                {"operation": self._attributes(_OPERATION)} for _number in range(self._random.choice([1, 1, 2]))
            ]
        if self._random.random() < 0.25:
            rule["when"] = [self._condition() for _number in range(self._random.choice([1, 1, 2]))]
        return rule

    def _attributes(self, known: dict[str, list[str]]) -> Object:
        names = self._random.sample(list(known), self._random.choice([1, 1, 1, 2]))
        if "serviceAccounts" in names:
            # The API refuses it beside these.
            names = ["serviceAccounts"]
        found = {}
        for name in names:
            field = f"not{name[0].upper()}{name[1:]}" if self._random.random() < 0.3 else name
            found[field] = self._values(known[name])
        return found

    def _condition(self) -> Object:
        key = self._random.choice(list(_WHEN))
        field = "notValues" if self._random.random() < 0.3 else "values"
        return {"key": key, field: self._values(_WHEN[key])}

    def _values(self, known: list[str]) -> list[str]:
        return self._random.sample(known, min(len(known), self._random.choice([1, 1, 2])))

    def _peer(self) -> Object:
        pick = self._random.choice
        spec: Object = {"mtls": {"mode": pick(["STRICT", "STRICT", "PERMISSIVE", "UNSET"])}}
        if self._random.random() < 0.5:
            spec["selector"] = {"matchLabels": {"app": pick(list(APPS))}}
            if self._random.random() < 0.6:
                ports = self._random.sample([8080, 9090], pick([1, 2]))
                spec["portLevelMtls"] = {port: {"mode": pick(["STRICT", "PERMISSIVE", "DISABLE"])} for port in ports}
        metadata = {"name": "trial-peer", "namespace": SPACE}
        return {"apiVersion": API, "kind": "PeerAuthentication", "metadata": metadata, "spec": spec}


def _gateway(name: str) -> Object:
    return {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": name}
