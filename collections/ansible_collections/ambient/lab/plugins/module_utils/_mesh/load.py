# Reads the objects on the ways of some requests from a cluster, following what they name until nothing new appears.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import itertools
import typing as t

from .._cluster.api import Asker, listed
from .._cluster.channel import Answer
from .._cluster.kube import refusal
from .._common.errors import LabError
from .config import read_config
from .destinations import names_of, resolve
from .mesh import NAMESPACE_PATH, OLDER, PATHS, Mesh, MeshConfig, Object, ip, is_ip, namespace_of
from .routes import EXTENSIONS, ROUTES, TRAFFIC
from .waypoints import named_waypoint

PARALLEL = 8
# What changes while claims are checked is read in each round, the rest once.
MOVING = ("Pod", "Service", "AuthorizationPolicy", "Gateway")
SETTLED = (
    "ServiceEntry",
    "WorkloadEntry",
    "GatewayClass",
    "PeerAuthentication",
    "RequestAuthentication",
    "NetworkPolicy",
    *ROUTES,
    *TRAFFIC,
    *EXTENSIONS,
)
# What of the root namespace holds everywhere.
_ROOT_MOVING = ("AuthorizationPolicy",)
_ROOT_SETTLED = ("PeerAuthentication", "RequestAuthentication", "DestinationRule", *EXTENSIONS)
_MAX_TURNS = 8


class Asked(t.NamedTuple):
    """A host that a pod of a namespace calls, with its port."""

    host: str
    port: int
    namespace: str


# A list of the API: kind, namespace ("" for all), and its query.
_List = tuple[str, str, tuple[tuple[str, str], ...]]


class Loader:
    """Reads a mesh from a cluster, again for each round.

    Args:
        asked: what is going to be called.
        namespaces: whose objects the user must be able to read: of the sources, and of policies that claims name.
        kinds: to read; all that a prediction rests on, unless fewer are needed.
    """

    def __init__(
        self,
        reader: Asker,
        asked: t.Iterable[Asked],
        namespaces: t.Iterable[str],
        kinds: t.Collection[str] = (*MOVING, *SETTLED),
    ) -> None:
        self._reader, self._kinds = reader, kinds
        self._asked = tuple(dict.fromkeys(asked))
        self._own = set(namespaces)
        self._config: MeshConfig | None = None
        self._spaces: dict[str, Object | None] = {}
        self._kept: dict[_List, list[Object]] = {}
        self._unread: dict[tuple[str, str], str] = {}

    def load(self, *, anew: bool = False) -> Mesh:
        """The mesh as it is now; anew: what changes seldom is read again, too.

        Raises:
            LabError: when the API does not answer, or refuses to list what the claims themselves name.
        """
        if anew:
            self._config, self._kept, self._unread = None, {}, {}
        with _no_search_for_cycles(), concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
            if self._config is None:
                self._config = read_config(self._reader)
            domain = self._config.domain
            fresh: dict[_List, list[Object]] = {}
            named = [names_of(asked.host, asked.namespace, domain) for asked in self._asked if not is_ip(asked.host)]
            spaces = {*self._own, *(name.namespace for names in named for name in names)}
            wanted: set[_List] = set()
            for _turn in range(_MAX_TURNS):
                new = [name for name in spaces if name not in self._spaces]
                self._spaces |= zip(new, pool.map(self._space, new), strict=True)
                wanted = self._lists(spaces) | wanted
                unread = [item for item in wanted if item not in fresh and item not in self._kept]
                for item, found in zip(unread, pool.map(self._list, unread), strict=True):
                    (fresh if item[0] in MOVING else self._kept)[item] = found
                mesh = self._mesh(fresh)
                more, lists = self._followed(mesh)
                if more <= spaces and lists <= wanted:
                    break
                spaces |= more
                wanted |= lists
        return mesh

    def load_all(self, namespaces: t.Collection[str] = ()) -> Mesh:
        """The whole mesh. What may not be read is unknown there, with the right that is missing.

        Args:
            namespaces: to read where no list of all namespaces is allowed; as many as can be listed are read anyway.

        Raises:
            LabError: when the API does not answer, or the namespaces can neither be listed nor were named.
        """
        with _no_search_for_cycles(), concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
            self._config = read_config(self._reader)
            answer = self._reader.ask(NAMESPACE_PATH)
            if answer.status == 200:
                for item in _object(answer).get("items") or []:
                    self._spaces[item["metadata"]["name"]] = {**item, "kind": "Namespace"}
            elif not namespaces:
                why = refusal(answer, f"The cluster answered GET {NAMESPACE_PATH} with HTTP {answer.status}")
                raise LabError(f"{why}; or name the namespaces to read")
            new = [name for name in {*namespaces, self._config.root} if name not in self._spaces]
            self._spaces |= zip(new, pool.map(self._space, new), strict=True)
            every: list[_List] = [(kind, "", ()) for kind in (*self._kinds, "EndpointSlice")]
            fresh = dict(zip(every, pool.map(self._list, every), strict=True))
            refused = [kind for kind, space in self._unread if not space and kind != "GatewayClass"]
            spaces = [name for name, item in self._spaces.items() if item]
            rest: list[_List] = [(kind, space, ()) for kind in refused for space in spaces]
            fresh |= zip(rest, pool.map(self._list, rest), strict=True)
            return self._mesh(fresh)

    def _lists(self, spaces: t.Iterable[str]) -> set[_List]:
        root = (self._config or MeshConfig()).root
        found: set[_List] = {(kind, root, ()) for kind in (*_ROOT_MOVING, *_ROOT_SETTLED)} | {("GatewayClass", "", ())}
        for space in spaces:
            if self._spaces.get(space) is not None or space in self._own:
                found |= {(kind, space, ()) for kind in (*MOVING, *SETTLED) if kind != "GatewayClass"}
        return {item for item in found if item[0] in self._kinds}

    def _followed(self, mesh: Mesh) -> tuple[set[str], set[_List]]:
        """Namespaces and lists that the objects on the ways name."""
        spaces: set[str] = set()
        lists: set[_List] = set()
        for asked in self._asked:
            found = resolve(mesh, asked.host, asked.port, asked.namespace)
            if found.kind in ("outside", "unknown", "node"):
                # It may be where no name of the cluster leads to.
                lists.add(("ServiceEntry", "", ()))
                if is_ip(asked.host):
                    at: _List = ("Pod", "", (("fieldSelector", f"status.podIP={ip(asked.host)}"),))
                    lists |= {("Service", "", ()), at}
            spaces |= {namespace_of(pod) for pod in found.pods}
            target = found.service or next(iter(found.pods), None)
            if target is None:
                alias = mesh.get("Service", asked.namespace, asked.host.partition(".")[0])
                target = alias if alias and alias.get("spec", {}).get("externalName") else None
            if target is None:
                continue
            spec = target.get("spec", {})
            spaces |= {namespace_of(target)}
            if spec.get("externalName"):
                names = names_of(f"{spec['externalName']}.".replace("..", "."), "", mesh.config.domain)
                spaces |= {name.namespace for name in names}
            if target["kind"] == "Service" and not spec.get("selector"):
                lists.add(("EndpointSlice", namespace_of(target), ()))
            for item in [target, *found.pods]:
                if named := named_waypoint(mesh, item):
                    spaces.add(named[0])
                    spaces |= set(_routed(mesh, named[0]))
            spaces |= set(_routed(mesh, namespace_of(target)))
        return spaces, lists

    def _space(self, name: str) -> Object | None:
        answer = self._reader.ask(f"{NAMESPACE_PATH}/{name}")
        if answer.status == 200:
            return {**_object(answer), "kind": "Namespace"}
        if answer.status == 403:
            # Whoever may not read the namespace may well list what is in it.
            self._unread["Namespace", name] = refusal(answer, "HTTP 403")
            return {"kind": "Namespace", "metadata": {"name": name}}
        return None

    def _list(self, wanted: _List) -> list[Object]:
        kind, space, query = wanted
        newest = PATHS[kind].format(f"/namespaces/{space}" if space else "")
        group, _slash, rest = newest.removeprefix("/apis/").partition("/")
        older = [f"/apis/{group}/{version}/{rest.partition('/')[2]}" for version in OLDER.get(kind, ())]

        def page(path: str, **query: str) -> Object | None:
            answer = self._reader.ask(path, **query)
            if answer.status in (200, 404):
                return _object(answer) if answer.status == 200 else None
            why = refusal(answer, f"The cluster answered GET {path} with HTTP {answer.status}")
            if answer.status != 403 or (kind in MOVING and space in self._own):
                raise LabError(why)
            self._unread[kind, space] = why
            return {}

        pages = (listed(page, path, **dict(query)) for path in (newest, *older))
        found = next((items for items in pages if items is not None), [])
        for item in found:
            # The API leaves the kind out of a list's items.
            item["kind"] = kind
        return found

    def _mesh(self, fresh: t.Mapping[_List, list[Object]]) -> Mesh:
        lists = {**self._kept, **fresh}
        read = {(kind, space) for kind, space, _query in lists} - self._unread.keys()
        spaces = [item for item in self._spaces.values() if item]
        return Mesh(itertools.chain(spaces, *lists.values()), self._config, self._unread, read)


def _routed(mesh: Mesh, space: str) -> t.Iterator[str]:
    """Namespaces of the backends of a namespace's routes."""
    rules = [rule for route in mesh.items("HTTPRoute", space) for rule in route.get("spec", {}).get("rules") or []]
    yield from (str(ref["namespace"]) for rule in rules for ref in rule.get("backendRefs") or [] if "namespace" in ref)


@contextlib.contextmanager
def _no_search_for_cycles() -> t.Iterator[None]:
    """Decoded JSON has none, and Python's search for them takes twice as long as decoding it."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _object(answer: Answer) -> Object:
    found = answer.json()
    if found is None:
        raise LabError("The cluster answered a list with something else than a JSON object; check the kubeconfig")
    return found
