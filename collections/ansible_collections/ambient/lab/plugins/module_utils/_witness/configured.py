# Asks the proxies' own configuration and istiod's status about the policies that decided: two more witnesses.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import concurrent.futures
import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._cluster.api import Forwarder
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._loaded.dump import waypoint_has, ztunnel_has
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh, Object, name_of, namespace_of
from ansible_collections.ambient.lab.plugins.module_utils._mesh.paths import selects
from ansible_collections.ambient.lab.plugins.module_utils._mesh.policies import target_refs
from ansible_collections.ambient.lab.plugins.module_utils._witness.attribution import Attribution, Query, Statement
from ansible_collections.ambient.lab.plugins.module_utils._witness.enforcement import policy_state
from ansible_collections.ambient.lab.plugins.module_utils._witness.proxies import Proxy, config_dump


class Configurations:
    """The config dumps of proxies, each read once, and what they say of policies.

    Args:
        forwarder: reaches the proxies' admin ports.
        pool: for reads side by side.
    """

    def __init__(self, forwarder: Forwarder, pool: concurrent.futures.Executor) -> None:
        self._forwarder, self._pool = forwarder, pool
        self._dumps: dict[str, Object | str] = {}

    def read(self, proxies: t.Iterable[Proxy]) -> None:
        """Read the dumps that are not known yet, side by side."""
        new = {str(proxy): proxy for proxy in proxies if str(proxy) not in self._dumps}
        self._dumps |= dict(zip(new, self._pool.map(self._read, new.values()), strict=True))

    def writes_access_log(self, proxy: Proxy) -> bool:
        """Whether a waypoint writes requests down where its pod's log is read; so too where nobody can tell."""
        self.read([proxy])
        dump = self._dumps[str(proxy)]
        return isinstance(dump, str) or any(path in ("/dev/stdout", "/dev/stderr") for path in _log_paths(dump))

    def statement(self, proxy: Proxy, policy: Object, mesh: Mesh) -> Statement:
        """Whether a proxy has a policy as it is written now."""
        witness, dump = f"{proxy.kind} config", self._dumps[str(proxy)]
        if isinstance(dump, str):
            return Statement(witness, str(proxy), f"could not be read: {dump}", None)
        if proxy.kind == "waypoint":
            loaded = waypoint_has(dump, policy)
        else:
            space, root = namespace_of(policy), mesh.config.root
            pods = [pod for pod in mesh.items("Pod", None if space == root else space) if selects(policy, pod)]
            here = [pod for pod in pods if pod.get("spec", {}).get("nodeName") == proxy.node]
            loaded = ztunnel_has(dump, policy, [pod for pod in here if mesh.membership(pod).captured], root)
        if loaded.state == "current":
            return Statement(witness, str(proxy), f"has {name_of(policy)} as it is now", True)
        return Statement(witness, str(proxy), f"{name_of(policy)}: {loaded.why}", False)

    def confirm(
        self, attribution: Attribution, query: Query, named: str, proxies: t.Sequence[Proxy], mesh: Mesh
    ) -> Attribution:
        """A denial's attribution with what istiod and the proxies' dumps, read before, say of the policy that decided.

        named: the policy that the claim names in this phase; "" where it names none.
        """
        name = attribution.policy or named
        policy = mesh.get("AuthorizationPolicy", *name.split("/", 1)) if name else None
        # A policy that istiod made of a PeerAuthentication is no object of the API.
        if policy is None or attribution.problem:
            return attribution
        deciders = deciding(attribution, query, policy, proxies)
        statements = [_status(policy), *(self.statement(proxy, policy, mesh) for proxy in deciders)]
        bad = [str(item) for item in statements if item.supports is False]
        problem = f"refused by {name}, yet {'; '.join(bad)}" if bad else ""
        return dataclasses.replace(attribution, statements=(*attribution.statements, *statements), problem=problem)

    def _read(self, proxy: Proxy) -> Object | str:
        try:
            return config_dump(self._forwarder, proxy)
        except LabError as error:
            return error.message


def _log_paths(node: object) -> t.Iterator[str]:
    """Files that access logs of a configuration are written to."""
    if isinstance(node, dict):
        for log in node.get("access_log") or []:
            yield str((log.get("typed_config") or {}).get("path", ""))
        for value in node.values():
            yield from _log_paths(value)
    elif isinstance(node, list):
        for value in node:
            yield from _log_paths(value)


def deciding(attribution: Attribution, query: Query, policy: Object, proxies: t.Sequence[Proxy]) -> list[Proxy]:
    """The proxies that must have the policy for this attribution to be true."""
    if attribution.decided_by == "waypoint":
        return [proxy for proxy in proxies if proxy.kind == "waypoint" and proxy.address in query.waypoint_addresses]
    if target_refs(policy):
        return []
    return [proxy for proxy in proxies if proxy.kind == "ztunnel" and proxy.node in query.nodes]


def _status(policy: Object) -> Statement:
    state = policy_state(name_of(policy), policy)
    kind = "WaypointAccepted" if target_refs(policy) else "ZtunnelAccepted"
    conditions = (policy.get("status") or {}).get("conditions") or []
    if state:
        return Statement("istiod", "", state.text, False)
    if not any(item.get("type") == kind for item in conditions):
        return Statement("istiod", "", f"says nothing of {name_of(policy)}", None)
    return Statement("istiod", "", f"{name_of(policy)}: {kind}", True)
