# Who may call whom in one state or several: every source, destination and class of requests, with what it meets.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._common.rounds import Reason
from .._mesh.destinations import Request
from .._mesh.l4 import Identity
from .._mesh.mesh import Mesh, name_of
from .._mesh.paths import Path, path_to
from .._mesh.predictions import Prediction, predict_on
from .doors import Door, doors
from .patterns import TooManyError
from .requests import Kind, kinds
from .sources import Crowd, Place, Source

LAYERS = {"denied_l4": "ztunnel", "denied_upstream": "ztunnel", "denied_l7": "waypoint"}
_GONE = Prediction("broken", (Reason("the destination does not exist"),))


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a class of requests from some sources meets at a destination, in each state.

    ways: of its first source; None where the destination does not exist. lost: why nobody looked at what it meets.
    """

    door: Door
    kind: Kind
    sources: tuple[Source, ...]
    found: tuple[Prediction, ...]
    ways: tuple[Path | None, ...]
    lost: str = ""


def cells(meshes: t.Sequence[Mesh], wanted: t.Callable[[Door], bool] = lambda _door: True) -> list[Cell]:
    """Everything that the policies of some states can tell apart.

    Args:
        meshes: the states.
        wanted: whether a destination is looked at.
    """
    crowd = Crowd(meshes)
    return [cell for door in doors(meshes) if wanted(door) for cell in _at(door, crowd)]


def _at(door: Door, crowd: Crowd) -> t.Iterator[Cell]:
    plain, states = kinds(door, [])[0], list(enumerate(crowd.meshes))
    places, hops = [], []
    for state, mesh in states:
        there = door.found[state]
        if there is None:
            continue
        ends = [way(mesh, source, state, door, plain.request) for source in (crowd.inside, crowd.outside)]
        ways = [path for path in ends if path]
        hop = ways[0].at_waypoint
        hops += [(mesh, hop)] if hop else []
        at_ztunnel = {name_of(item): item for path in ways if not path.at_waypoint for item in path.ztunnel_policies}
        local = (there.service or {}).get("spec", {}).get("internalTrafficPolicy") == "Local"
        pods = {name_of(pod) for pod in there.pods}
        place = Place(state, ways[0].waypoint_policies, list(at_ztunnel.values()), hop is not None, pods, local)
        places.append(place)
    try:
        told, parts = kinds(door, hops) if hops else [plain], crowd.parts(places)
    except TooManyError as error:
        why = f"nobody can look at each way in which its policies and routes match: they have {error}"
        unknown = (Prediction("unknown", (Reason(why),)),) * len(states)
        anybody = dataclasses.replace(crowd.inside, name="anybody")
        found = tuple(way(mesh, anybody, state, door, plain.request) for state, mesh in states)
        yield Cell(door, plain, (anybody,), unknown, found, why)
        return
    for sources in map(tuple, parts):
        through = any(mesh.membership(sources[0].pods[state]).captured for state, mesh in states)
        for kind in told if through else [plain]:
            paths = [way(mesh, sources[0], state, door, kind.request) for state, mesh in states]
            outcomes = (met(mesh, path, kind.request) for mesh, path in zip(crowd.meshes, paths, strict=True))
            yield Cell(door, kind, sources, tuple(outcomes), tuple(paths))


def way(mesh: Mesh, source: Source, state: int, door: Door, request: Request) -> Path | None:
    """The way of a request in a state; None where its destination does not exist."""
    destination = door.found[state]
    if destination is None:
        return None
    path = path_to(mesh, source.pods[state], request, destination)
    return _called_by(path, source.identity) if source.identity else path


def met(mesh: Mesh, path: Path | None, request: Request) -> Prediction:
    """What a request meets on its way."""
    return predict_on(mesh, path, request) if path else _GONE


def predicted(mesh: Mesh, source: Source, state: int, door: Door, request: Request) -> Prediction:
    """What a request meets in a state."""
    return met(mesh, way(mesh, source, state, door, request), request)


def _called_by(path: Path, identity: Identity) -> Path:
    """The way, for a caller of another identity, as of a foreign trust domain."""
    if path.at_waypoint:
        connection = dataclasses.replace(path.at_waypoint.connection, identity=identity)
        return dataclasses.replace(path, at_waypoint=dataclasses.replace(path.at_waypoint, connection=connection))
    seen = [(hop, hop.connection.identity and identity) for hop in path.at_ztunnel]
    hops = [dataclasses.replace(hop, connection=dataclasses.replace(hop.connection, identity=own)) for hop, own in seen]
    return dataclasses.replace(path, at_ztunnel=tuple(hops))
