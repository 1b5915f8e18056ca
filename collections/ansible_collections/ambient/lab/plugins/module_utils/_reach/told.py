# What a prediction says, for people and for claims.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from .._common.errors import LabError
from .._mesh.mesh import DATAPLANE_MODE, Mesh, Object, account_of, is_ip, namespace_of
from .._mesh.predictions import Prediction
from .doors import Door
from .patterns import OTHER
from .reach import LAYERS, Cell
from .sources import OUTSIDE, Source

# Of a table with five columns.
WIDTH = 150
_SHOWN = 3


def within(namespaces: t.Collection[str], meshes: t.Iterable[Mesh]) -> t.Callable[[Door], bool]:
    """Whether a destination is of some namespaces; none are all.

    Raises:
        LabError: when no state has one of them.
    """
    known = {name for mesh in meshes for name in mesh.spaces}
    if lost := [name for name in namespaces if name not in known]:
        raise LabError(f"namespaces: there is no {', '.join(lost)}; known are {', '.join(sorted(known))}")
    return lambda door: not namespaces or door.namespace in namespaces


def require_some(found: t.Sequence[Cell], label: str, namespaces: t.Sequence[str], meshes: t.Sequence[Mesh]) -> None:
    """Raises LabError where there is nothing to call: that nobody may call it is no answer."""
    if found:
        return
    where = f" in namespaces {', '.join(namespaces)}" if namespaces else ""
    looks = ((mesh, kind) for mesh in meshes for kind in ("Service", "Pod"))
    unread = next(filter(None, (mesh.why_unread(kind, *(namespaces or mesh.spaces)) for mesh, kind in looks)), "")
    raise LabError(f"{label}: there is no destination{where}: {unread or 'add the Services and workloads'}")


def row(cell: Cell, prediction: Prediction) -> dict[str, t.Any]:
    """A cell in a state as plain data."""
    return {
        "from": [source.name for source in cell.sources],
        "to": cell.door.name,
        "request": cell.kind.label,
        "example": str(cell.kind.request),
        "verdict": prediction.outcome,
        "layer": LAYERS.get(prediction.outcome),
        "policies": list(prediction.among),
        "rules": [{"policy": name, "rule": number} for name, number in prediction.rules],
        "by": by(prediction),
        "why": "; ".join(reason.text for reason in prediction.reasons),
    }


def by(prediction: Prediction) -> str:
    """What decided, in a few words."""
    if prediction.rules:
        return ", ".join(f"{name} rule {number}" for name, number in prediction.rules)
    if prediction.cause:
        return f"PeerAuthentication {prediction.cause}"
    if prediction.among:
        return f"no ALLOW rule of {', '.join(prediction.among)}"
    if prediction.outcome == "allowed":
        return "no ALLOW policy in force"
    return prediction.reasons[-1].text if prediction.reasons else ""


def few(names: t.Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def claim_of(cell: Cell, source: Source, prediction: Prediction, state: int = 0) -> Object | None:
    """A claim that says what a cell says; None where none can."""
    door, request = cell.door, cell.kind.request
    nowhere = door.supposed or (door.name.startswith("pod ") and not is_ip(door.host))
    if prediction.outcome in ("unknown", "broken") or nowhere:
        return None
    meta, spec = source.pods[state]["metadata"], source.pods[state].get("spec", {})
    own = {"service_account": spec.get("serviceAccountName", "default"), "namespace": meta["namespace"]}
    if "(pod " in source.name:
        own = {"pod": meta["name"], "namespace": meta["namespace"]}
    elif source.name.startswith(OUTSIDE):
        own = {"service_account": "default", "namespace": OUTSIDE.replace(" ", "-")}
    url = request.url
    to: Object = {"url": url, "method": request.method, "headers": dict(request.headers)}
    to = {key: value for key, value in to.items() if value and (key, value) != ("method", "GET")}
    claim = {
        "name": f"{source.name} -> {door.name} {request.method} {request.path.rstrip('?')}{_said(request.headers)}",
        "from": own,
        "to": url if len(to) == 1 else to,
        "expect": prediction.outcome,
    }
    sure = len(prediction.among) == 1 and not prediction.cause and not prediction.doubtful
    return {**claim, "by": prediction.among[0]} if sure else claim


def pod_for(source: Source) -> str:
    """The pod that has to be there before a claim of a source that no workload has can be proved."""
    if source.name.startswith(OUTSIDE):
        where = source.name.removeprefix(OUTSIDE).removeprefix(", at ")
        label = f"namespace without {DATAPLANE_MODE}=ambient and without injection, which the claim then names"
        return f"a pod {OUTSIDE}: in a {label}" + (f"; with the address {where}" if where else "")
    if source.identity:
        return f"a workload of the trust domain of {source.name}"
    own = source.pods[0]
    named = f"ServiceAccount {account_of(own)} in namespace {namespace_of(own)}"
    return f"a pod of the mesh with {named}" + (f" ({OTHER}: none that a policy names)" if OTHER in named else "")


def _said(headers: t.Sequence[tuple[str, str]]) -> str:
    return f" with {', '.join(f'{name}: {text}' for name, text in headers)}" if headers else ""
