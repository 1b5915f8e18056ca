# Reading a mesh: what the objects on the ways name is followed, and what may not be read is said.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._mesh.config import config_of
from ansible_collections.ambient.lab.plugins.module_utils._mesh.destinations import resolve
from ansible_collections.ambient.lab.plugins.module_utils._mesh.load import Asked, Loader
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import NAMESPACE_PATH, PATHS, Object
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import gateway, pod, policy, service, target

SHARED = {"istio.io/use-waypoint": "wp", "istio.io/use-waypoint-namespace": "infra"}


class Api:
    """The API of a cluster in memory; refused: paths that answer 403."""

    def __init__(self, *objects: Object | list[Object], refused: t.Collection[str] = (), page: int = 500) -> None:
        self.objects = [item for entry in objects for item in (entry if isinstance(entry, list) else [entry])]
        self.refused, self.page = refused, page
        self.asked: list[str] = []

    def ask(self, path: str, **query: str) -> Answer:
        self.asked.append(path)
        if path in self.refused:
            return Answer(403, {}, json.dumps({"message": f"{path} is forbidden"}).encode())
        spaces = {item["metadata"]["namespace"] for item in self.objects}
        if path == NAMESPACE_PATH:
            names = [{"metadata": {"name": name}} for name in sorted(spaces)]
            return Answer(200, {}, json.dumps({"items": names, "metadata": {}}).encode())
        if path.startswith(f"{NAMESPACE_PATH}/") and path.count("/") == 4:
            name = path.rpartition("/")[2]
            return Answer(200, {}, json.dumps({"metadata": {"name": name}}).encode()) if name in spaces else NOTHING
        kinds = {
            PATHS[kind].format(f"/namespaces/{space}" if space else ""): (kind, space)
            for kind in PATHS
            for space in ("", *spaces)
        }
        if path not in kinds:
            return NOTHING
        kind, space = kinds[path]
        found = [
            {key: value for key, value in item.items() if key != "kind"}
            for item in self.objects
            if item["kind"] == kind and space in ("", item["metadata"]["namespace"])
        ]
        if address := query.get("fieldSelector", "").removeprefix("status.podIP="):
            found = [item for item in found if item["status"]["podIP"] == address]
        start = int(query.get("continue", 0))
        more = {"continue": str(start + self.page)} if start + self.page < len(found) else {}
        return Answer(200, {}, json.dumps({"items": found[start : start + self.page], "metadata": more}).encode())


NOTHING = Answer(404, {}, b"")


def load(api: Api, host: str, port: int = 8080) -> t.Any:
    return Loader(api, [Asked(host, port, "default")], {"default"}).load()


def test_a_waypoint_of_another_namespace_is_followed_with_its_policies() -> None:
    point = gateway("wp", "infra", allowed="All")
    only = policy("only", "infra", targetRefs=target("wp", "Gateway"))
    mesh = load(Api(pod("client"), pod("app"), service("app", labels=SHARED), point, only), "app")
    assert [item["metadata"]["name"] for item in mesh.items("AuthorizationPolicy")] == ["only"]
    assert [item["metadata"]["name"] for item in mesh.items("Pod", "infra")] == ["wp-x"]
    # The API leaves the kind out of a list's items.
    assert mesh.get("Gateway", "infra", "wp")["kind"] == "Gateway"


def test_an_alias_a_route_and_addresses_are_followed() -> None:
    alias = service("alias", ip=None, type="ExternalName", externalName="app.shop.svc.cluster.local")
    shop = [pod("app", "shop", ip="10.0.0.7"), service("app", "shop", ip="10.96.0.7")]
    assert load(Api(pod("client"), alias, shop), "alias").items("Pod", "shop")
    assert load(Api(pod("client"), shop), "10.0.0.7").items("Service", "shop")
    assert load(Api(pod("client"), shop), "10.96.0.7").items("Pod", "shop")
    route = {
        "kind": "HTTPRoute",
        "metadata": {"name": "r", "namespace": "default"},
        "spec": {"parentRefs": [], "rules": [{"backendRefs": [{"name": "app", "namespace": "shop", "port": 8080}]}]},
    }
    assert load(Api(pod("client"), pod("app"), service("app"), route, shop), "app").items("Pod", "shop")


def test_a_service_entry_of_any_namespace_is_found() -> None:
    entry = {
        "kind": "ServiceEntry",
        "metadata": {"name": "partner", "namespace": "egress", "labels": {"istio.io/use-waypoint": "out"}},
        "spec": {"hosts": ["api.example"], "addresses": ["240.1.2.3"], "ports": [{"number": 80, "name": "http"}]},
    }
    for host in ("api.example", "240.1.2.3"):
        mesh = load(Api(pod("client"), entry, gateway("out", "egress")), host, 80)
        assert [item["metadata"]["name"] for item in mesh.items("Gateway")] == ["out"]


def test_endpoint_slices_are_read_only_of_a_service_without_a_selector() -> None:
    slices = PATHS["EndpointSlice"].format("/namespaces/default")
    with_selector, without = (Api(pod("client"), service("app", selector=item)) for item in ({"app": "app"}, None))
    load(with_selector, "app")
    load(without, "app")
    assert (slices in with_selector.asked, slices in without.asked) == (False, True)


def test_long_lists_come_in_pages() -> None:
    many = [pod(f"p{number}", ip=f"10.1.0.{number}") for number in range(7)]
    assert len(load(Api(many, page=3), "app").items("Pod", "default")) == 7


def test_what_changes_seldom_is_read_once() -> None:
    api = Api(pod("client"), pod("app"), service("app"))
    loader = Loader(api, [Asked("app", 8080, "default")], {"default"})
    loader.load()
    first, api.asked = len(api.asked), []
    loader.load()
    again = list(api.asked)
    assert len(again) < first / 2
    assert PATHS["Pod"].format("/namespaces/default") in again
    assert PATHS["PeerAuthentication"].format("/namespaces/default") not in again
    loader.load(anew=True)
    assert PATHS["PeerAuthentication"].format("/namespaces/default") in api.asked[len(again) :]


def test_what_the_claims_themselves_name_must_be_readable() -> None:
    path = PATHS["AuthorizationPolicy"].format("/namespaces/default")
    with pytest.raises(LabError, match="Give the kubeconfig's user this right"):
        load(Api(pod("client"), refused=[path]), "app")


@pytest.mark.parametrize("kind", ["Gateway", "Pod", "AuthorizationPolicy", "PeerAuthentication", "NetworkPolicy"])
def test_what_may_not_be_read_elsewhere_is_noted(kind: str) -> None:
    path = PATHS[kind].format("/namespaces/infra")
    api = Api(pod("client"), pod("app"), service("app", labels=SHARED), gateway("wp", "infra"), refused=[path])
    assert "forbidden" in load(api, "app").why_unread(kind, "infra")


def test_the_meshs_configuration_is_read_or_its_defaults_are_said() -> None:
    assert len(load(Api(pod("client")), "app").config.assumed) == 2
    said = "rootNamespace: mesh\ntrustDomain: td\ntrustDomainAliases: [old]\n"
    api = Api(pod("client"))
    answers = {
        "/api/v1/namespaces/istio-system/configmaps/istio": {"data": {"mesh": said}},
        "/apis/apps/v1/namespaces/istio-system/deployments/istiod": {
            "metadata": {"labels": {"app.kubernetes.io/version": "1.31.0"}},
            "spec": {
                "template": {"spec": {"containers": [{"args": ["discovery", "--domain", "corp"], "env": [FLAG]}]}}
            },
        },
    }
    ask = api.ask

    def answer(path: str, **query: str) -> Answer:
        found = answers.get(path)
        return Answer(200, {}, json.dumps(found).encode()) if found else ask(path, **query)

    api.ask = answer  # type: ignore[method-assign]
    config = load(api, "app").config
    assert (config.root, config.domain, config.trust_domains, config.assumed) == ("mesh", "corp", ("td", "old"), ())
    assert config.version == (1, 31, 0)
    assert config.flag("ENABLE_LAYERED_WAYPOINT_AUTHORIZATION_POLICIES")


@pytest.mark.parametrize(
    ("label", "tag", "version"),
    [
        ("1.31-alpha.eed52ebb66ad", "9f44f0be", (1, 31)),
        ("1.0.0", "1.29.2-distroless", (1, 29, 2)),
        ("1.0.0", "9f44", None),
    ],
)
def test_a_chart_that_was_never_released_names_no_version(
    label: str, tag: str, version: tuple[int, ...] | None
) -> None:
    deployment = {
        "metadata": {"labels": {"app.kubernetes.io/version": label}},
        "spec": {"template": {"spec": {"containers": [{"image": f"hub/pilot:{tag}"}]}}},
    }
    assert config_of({}, deployment).version == version


class Istiods(Api):
    """Also istiod's Deployments, by their label, and ConfigMaps."""

    def __init__(self, *istiods: Object, maps: t.Mapping[str, str], refused: t.Collection[str] = ()) -> None:
        super().__init__(pod("client"), refused=refused)
        self.istiods, self.maps = istiods, maps

    def ask(self, path: str, **query: str) -> Answer:
        if path in self.refused:
            return Answer(403, {}, b"{}")
        if path == "/apis/apps/v1/deployments" and query == {"labelSelector": "app=istiod"}:
            return Answer(200, {}, json.dumps({"items": self.istiods}).encode())
        for item in self.istiods:
            meta = item["metadata"]
            if path == f"/apis/apps/v1/namespaces/{meta['namespace']}/deployments/{meta['name']}":
                return Answer(200, {}, json.dumps(item).encode())
        name = path.removeprefix("/api/v1/namespaces/").replace("/configmaps/", "/")
        if name in self.maps:
            return Answer(200, {}, json.dumps({"data": {"mesh": self.maps[name]}}).encode())
        return super().ask(path, **query)


def istiod(name: str, namespace: str, revision: str) -> Object:
    env = [{"name": "REVISION", "value": revision}]
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": {"istio.io/rev": revision}},
        "spec": {"template": {"spec": {"containers": [{"image": "pilot:1.31.2", "env": env}]}}},
    }


CANARY, OTHER = istiod("istiod-canary", "mesh", "canary"), istiod("istiod-b", "mesh", "b")
ISTIOD = istiod("istiod", "istio-system", "default")


def test_an_istiod_of_a_revision_or_another_namespace_is_found() -> None:
    said = "trustDomain: td\nextensionProviders: [{name: a, envoyExtAuthzHttp: {}}, {name: b, zipkin: {}}, 1]"
    config = load(Istiods(CANARY, maps={"mesh/istio-canary": said}), "app").config
    assert (config.root, config.trust_domains, config.version, config.revision) == (
        "mesh",
        ("td",),
        (1, 31, 2),
        "canary",
    )
    assert (config.providers, config.assumed) == ({"a": "http"}, ())


def test_that_an_istiod_is_the_only_one_is_assumed_where_the_list_is_refused() -> None:
    config = load(Istiods(ISTIOD, maps={"istio-system/istio": ""}, refused=["/apis/apps/v1/deployments"]), "app").config
    assert (config.revision, len(config.assumed)) == ("default", 1)
    assert "is the only istiod can't be read: GET /apis/apps/v1/deployments answers HTTP 403" in config.assumed[0]


@pytest.mark.parametrize(
    ("api", "words"),
    [
        (Istiods(CANARY, OTHER, maps={}), "several istiods may be in charge (mesh/istiod-canary, mesh/istiod-b)"),
        # One of the chart's name does not hide the other.
        (Istiods(ISTIOD, CANARY, maps={}), "several istiods may be in charge (istio-system/istiod, mesh/istiod-c"),
        (Istiods(maps={}), "istiod's Deployment is not found: GET /apis/apps/v1/deployments answers HTTP 200"),
        (
            Istiods(maps={}, refused=["/apis/apps/v1/namespaces/istio-system/deployments/istiod"]),
            "can't be read: GET /apis/apps/v1/namespaces/istio-system/deployments/istiod answers HTTP 403",
        ),
    ],
)
def test_an_istiod_that_is_not_known_is_said(api: Istiods, words: str) -> None:
    config = load(api, "app").config
    assert words in config.assumed[0]
    assert config.assumed[1] == "ConfigMap istio-system/istio can't be read (HTTP 404): Istio's defaults are taken"
    assert (config.providers, config.revision) == (None, None)


def test_an_older_version_of_a_kind_is_read_where_the_first_is_not_served() -> None:
    item = {"metadata": {"name": "r", "namespace": "default"}, "spec": {}}
    older = "/apis/gateway.networking.k8s.io/v1alpha2/namespaces/default/tlsroutes"
    api = Api(pod("client"))
    ask = api.ask

    def answer(path: str, **query: str) -> Answer:
        return Answer(200, {}, json.dumps({"items": [item]}).encode()) if path == older else ask(path, **query)

    api.ask = answer  # type: ignore[method-assign]
    # The first one is not there, as of a cluster with an older Gateway API.
    assert [found["kind"] for found in Loader(Versions(api), [], {"default"}).load().items("TLSRoute")] == ["TLSRoute"]


class Versions:
    """An API that serves no TLSRoutes of version v1."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def ask(self, path: str, **query: str) -> Answer:
        return NOTHING if path.endswith("tlsroutes") and "/v1/" in path else self._api.ask(path, **query)


def test_the_class_of_a_gateway_is_read() -> None:
    cluster = {"kind": "GatewayClass", "metadata": {"name": "mine", "namespace": ""}, "spec": {"controllerName": "x"}}
    mesh = load(Api(pod("client"), service("app"), cluster), "app")
    assert mesh.get("GatewayClass", "", "mine")


FLAG = {"name": "ENABLE_LAYERED_WAYPOINT_AUTHORIZATION_POLICIES", "value": "true"}


def test_lists_of_all_namespaces_that_are_refused_leave_what_was_read_alone() -> None:
    refused = [PATHS[kind].format("") for kind in ("Pod", "Service", "ServiceEntry")]
    api = Api(pod("client"), pod("app"), service("app"), refused=refused)
    # An address that no namespace at hand has is looked for in all of them.
    mesh = Loader(api, [Asked("app", 8080, "default"), Asked("10.9.9.9", 80, "default")], {"default"}).load()
    assert (mesh.why_unread("Service", "default"), mesh.why_unread("Pod", "default")) == ("", "")
    assert "forbidden" in mesh.why_unread("Service", "")
    assert resolve(mesh, "app", 8080, "default").kind == "service"


@pytest.mark.parametrize("text", ["foo", "[1]", "a: : b"])
def test_a_configuration_that_is_no_mapping_is_said(text: str) -> None:
    config = config_of({"data": {"mesh": text}}, {})
    assert (config.root, len(config.assumed)) == ("istio-system", 1)


PODS, OURS = PATHS["Pod"].format(""), PATHS["Pod"].format("/namespaces/default")


def test_all_of_a_cluster_takes_one_list_a_kind() -> None:
    api = Api(pod("app"), pod("far", "elsewhere"), policy("p"))
    mesh = Loader(api, (), ()).load_all()
    assert {item["metadata"]["name"] for item in mesh.items("Pod")} == {"app", "far"}
    assert mesh.namespace("elsewhere")
    assert [path for path in api.asked if path.endswith("/pods")] == [PODS]


def test_what_of_a_cluster_may_not_be_read_is_read_by_namespace_or_unknown() -> None:
    far = PATHS["Pod"].format("/namespaces/elsewhere")
    mesh = Loader(Api(pod("app"), pod("far", "elsewhere"), refused={PODS, far}), (), ()).load_all()
    assert [item["metadata"]["name"] for item in mesh.items("Pod")] == ["app"]
    assert mesh.why_unread("Pod", "default") == ""
    assert f"{far} is forbidden" in mesh.why_unread("Pod", "elsewhere")


def test_whoever_may_not_list_namespaces_names_them() -> None:
    objects, refused = [pod("app"), pod("far", "elsewhere")], {NAMESPACE_PATH, PODS}
    mesh = Loader(Api(*objects, refused=refused), (), ()).load_all(["default"])
    assert [item["metadata"]["name"] for item in mesh.items("Pod")] == ["app"]
    with pytest.raises(LabError, match=r"is forbidden.*or name the namespaces to read"):
        Loader(Api(*objects, refused=refused), (), ()).load_all()
