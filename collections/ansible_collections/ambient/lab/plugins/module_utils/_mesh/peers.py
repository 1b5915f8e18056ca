# Which PeerAuthentication makes a pod refuse plain text, and under which name ztunnel then says so.
# SPDX-License-Identifier: GPL-3.0-or-later
#
# istiod makes a DENY policy of it, which is no object of the API
# (istio/istio pilot/pkg/serviceregistry/ambient/authorization.go and policies.go).

from __future__ import annotations

import dataclasses
import typing as t

from .mesh import Mesh, Object, has_labels, name_of, namespace_of
from .policies import selector

STATIC_STRICT = "istio_converted_static_strict"
CONVERTED = "converted_peer_authentication_"


@dataclasses.dataclass(frozen=True)
class Strictness:
    """What a port of a pod demands.

    Attributes:
        strict: connections without an identity are refused.
        policy: namespace/name under which ztunnel says so; no AuthorizationPolicy has it.
        cause: namespace/name of the PeerAuthentication.
        doubt: why it may be otherwise; "" where it is sure.
    """

    strict: bool = False
    policy: str = ""
    cause: str = ""
    doubt: str = ""


def strictness(mesh: Mesh, pod: Object, port: int | None) -> Strictness:
    """Whether a pod refuses plain text at a port.

    Of each level the oldest object counts: the workload's own before its namespace's before the mesh's. Below a
    selector only those of the pod's own namespace count.
    """
    space, root = namespace_of(pod), mesh.config.root
    if why := mesh.why_unread("PeerAuthentication", space, root):
        return Strictness(doubt=why)
    own = [item for item in mesh.items("PeerAuthentication", space) if has_labels(pod, selector(item))]
    found = (
        _oldest(item for item in mesh.items("PeerAuthentication", root) if not selector(item)),
        _oldest(item for item in own if not selector(item) and space != root),
        _oldest(item for item in own if selector(item) and space != root),
    )
    for items in found:
        if len({(_mode(item), str(_ports(item))) for item in items}) > 1 or (len(items) > 1 and _ports(items[0])):
            return Strictness(doubt=f"PeerAuthentications {', '.join(map(name_of, items))} are of the same age")
    levels = [items[0] if items else None for items in found]
    above, cause = "UNSET", None
    for item in levels[:2]:
        if item is not None and _mode(item) != "UNSET":
            above, cause = _mode(item), item
    workload = levels[2]
    if workload is None:
        return _static(mesh, above == "STRICT", cause)
    mode = _mode(workload)
    effective = above if mode == "UNSET" else mode
    ports = {int(number): str((item or {}).get("mode") or "UNSET") for number, item in _ports(workload).items()}
    if port is None and ports:
        return Strictness(doubt=f"PeerAuthentication {name_of(workload)} differs by port, and the port is not known")
    here = ports.get(port or 0, "UNSET")
    opened = {"PERMISSIVE"} if mode == "UNSET" else {"PERMISSIVE", "DISABLE"}
    if effective == "STRICT" and not opened & set(ports.values()):
        return _static(mesh, True, workload if mode == "STRICT" else cause)
    strict = here == "STRICT" if effective != "STRICT" else here not in ("PERMISSIVE", "DISABLE")
    name = f"{namespace_of(workload)}/{CONVERTED}{workload['metadata']['name']}"
    return Strictness(strict, name, name_of(workload), _lost(mode, above, levels, ports))


def _lost(mode: str, above: str, levels: t.Sequence[Object | None], ports: t.Mapping[int, str]) -> str:
    """Where istiod names the policy for the workload and then does not make it, so that nothing is enforced."""
    if above != "STRICT" or (levels[1] is not None and _mode(levels[1]) != "UNSET"):
        return ""
    if mode in ("PERMISSIVE", "DISABLE") and "STRICT" in ports.values():
        return "istiod may not enforce a STRICT port below a mesh that is STRICT"
    if mode == "UNSET" and levels[1] is not None and "PERMISSIVE" in ports.values():
        return "istiod may not enforce anything where the namespace's PeerAuthentication has no mode"
    return ""


def _static(mesh: Mesh, strict: bool, cause: Object | None) -> Strictness:
    if not strict or cause is None:
        return Strictness()
    return Strictness(True, f"{mesh.config.root}/{STATIC_STRICT}", name_of(cause))


def _mode(item: Object) -> str:
    return str((item.get("spec", {}).get("mtls") or {}).get("mode") or "UNSET")


def _ports(item: Object) -> dict[str, Object]:
    return dict(item.get("spec", {}).get("portLevelMtls") or {})


def _oldest(items: t.Iterable[Object]) -> list[Object]:
    """The oldest one; several where they are of the same age, of which istiod takes any (getOldestPeerAuthn)."""
    ages: dict[str, list[Object]] = {}
    for item in items:
        ages.setdefault(str(item["metadata"].get("creationTimestamp") or ""), []).append(item)
    return ages[min(ages)] if ages else []
