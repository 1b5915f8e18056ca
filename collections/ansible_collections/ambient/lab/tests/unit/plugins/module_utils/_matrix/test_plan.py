# What pairs a matrix has, how they are named, and what is left out for which reason.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._matrix.goals import goals, hint, speaks
from ansible_collections.ambient.lab.plugins.module_utils._matrix.plan import (
    MAX_PROBES,
    excluded,
    foreign,
    require_few,
)
from ansible_collections.ambient.lab.tests.unit.fakes.matrix import APP, WAYPOINT, cluster, laid_out, service
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object, claim, claims, pod


def test_every_source_meets_every_destination() -> None:
    plan = laid_out(
        cluster([*APP, pod("curl", "shop")], [service("app"), service("curl", "shop")]),
        "default",
        "shop",
        methods=("POST", "GET"),
        paths=("/", "/x"),
    )
    names = [pair.claim.name for pair in plan.pairs]
    assert len(names) == len(set(names)) == 3 * 2 * 2 * 2
    assert names[:4] == [
        "default/app -> app.default:8080 GET",
        "default/app -> app.default:8080 POST",
        "default/app -> app.default:8080 GET /x",
        "default/app -> app.default:8080 POST /x",
    ]
    pair = plan.pairs[3]
    assert (pair.origin, pair.goal) == ("default/app", "app.default:8080/x")
    assert str(pair.claim.request) == "POST http://app.default:8080/x"
    assert (pair.claim.source.namespace, pair.claim.source.service_account) == ("default", "app")
    assert pair.claim.source.pod is None


def test_a_source_is_a_service_account_once() -> None:
    pods = [
        pod("b", service_account="same"),
        pod("a", service_account="same", ready=False),
        pod("old", service_account="done", phase="Succeeded"),
        pod("late", service_account="late", ready=False),
        pod("waypoint", labels=WAYPOINT),
        pod("waypoint", "shop", labels=WAYPOINT),
        pod("app"),
    ]
    plan = laid_out(cluster(pods, [service("app")]), "default", "shop")
    assert [pair.origin for pair in plan.pairs] == ["default/app", "default/late", "default/same"]
    assert [item.what for item in plan.left] == ["default/waypoint", "shop/waypoint"]


@pytest.mark.parametrize(
    ("item", "what", "reason"),
    [
        (service("app", clusterIP="None"), "app.default", "headless: it has no address"),
        (service("app", type="ExternalName", externalName="example.org"), "app.default", "to example.org"),
        (service("app", ports=[{"port": 53, "protocol": "UDP"}]), "app.default:53", "UDP: curl speaks TCP"),
        (service("app", ports=[]), "app.default", "it has no ports"),
        (service("app", ports=[{"name": "mysql", "port": 1}]), "app.default:1", "it speaks mysql: non_http=true"),
        (service("app", ports=[{"port": 5432}]), "app.default:5432", "no HTTP by its number"),
        (service("app", labels=WAYPOINT), "app.default", "a waypoint's own Service"),
        (service("app", selector={"app": "none"}), "app.default", "no ready pod stands behind it"),
    ],
)
def test_what_is_left_out_is_listed_with_a_reason(item: Object, what: str, reason: str) -> None:
    found, left = goals(["default"], cluster(APP, [item]), pod_ip=False, non_http=False)
    assert found == []
    assert [entry.what for entry in left] == [what]
    assert reason in left[0].reason
    with pytest.raises(LabError) as caught:
        laid_out(cluster(APP, [item]))
    assert "there is no destination" in caught.value.message
    assert reason in caught.value.message


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ({"port": 80}, ("http", True)),
        ({"port": 443}, ("https", True)),
        ({"port": 8443, "name": "http-admin"}, ("http", True)),
        ({"port": 80, "name": "https"}, ("https", True)),
        ({"port": 80, "name": "tcp", "appProtocol": "http"}, ("http", True)),
        ({"port": 80, "appProtocol": "kubernetes.io/wss"}, ("https", True)),
        ({"port": 80, "appProtocol": "kubernetes.io/h2c"}, ("http", False)),
        ({"port": 80, "name": "grpc-web"}, ("http", False)),
        ({"port": 80, "name": "metrics"}, ("http", True)),
        ({"port": 3306}, ("http", False)),
        ({"port": 3306, "name": "http"}, ("http", True)),
    ],
)
def test_what_a_port_speaks(port: Object, expected: tuple[str, bool]) -> None:
    assert speaks(port) == expected


def test_hint_is_the_first_part_of_a_name() -> None:
    assert hint({"name": "HTTP-web-2"}) == "http"
    assert hint({}) == ""


def test_ports_for_databases_are_asked_only_on_demand() -> None:
    item = service("app", ports=[{"name": "http", "port": 80}, {"name": "redis", "port": 6379}])
    plan = laid_out(cluster(APP, [item]), non_http=True)
    goals_asked = [("app.default:80", True), ("app.default:6379", False)]
    assert [(pair.goal, pair.http) for pair in plan.pairs] == goals_asked * 2


def test_a_pods_own_address() -> None:
    backend = pod("app-1", labels={"app": "app"}, ip="fd00::5")
    backend["spec"]["containers"] = [{"name": "main", "ports": [{"name": "web", "containerPort": 8000}]}]
    ports = [
        {"port": 80, "targetPort": "web"},
        {"port": 81, "targetPort": 8000},
        {"port": 443, "targetPort": "gone"},
    ]
    for headless in (False, True):
        item = service("app", ports=ports, clusterIP="None" if headless else "10.1.0.1")
        mesh = cluster([backend, pod("app-2", labels={"app": "app"}), pod("curl")], [item])
        plan = laid_out(mesh, pod_ip=True, exclude=("default/app-*",))
        rows = [(pair.claim.name, pair.claim.request.url) for pair in plan.pairs if pair.pod]
        assert rows == [
            ("default/curl -> pod of app.default:443 GET", "https://[fd00::5]:443/"),
            ("default/curl -> pod of app.default:8000 GET", "http://[fd00::5]:8000/"),
        ]
        assert len(plan.pairs) == (2 if headless else 5)


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("default/app", ["default/curl -> app.default:8080 GET", "default/curl -> curl.default:8080 GET"]),
        ("app.default", ["default/app -> curl.default:8080 GET", "default/curl -> curl.default:8080 GET"]),
        ("*.default:8080", None),
        ("*/c*", ["default/app -> app.default:8080 GET", "default/app -> curl.default:8080 GET"]),
        ("nothing", 4),
    ],
)
def test_exclude(pattern: str, left: list[str] | int | None) -> None:
    mesh = cluster(APP, [service("app"), service("curl")])
    if left is None:
        with pytest.raises(LabError, match="there is no destination"):
            laid_out(mesh, exclude=(pattern,))
        return
    names = [pair.claim.name for pair in laid_out(mesh, exclude=(pattern,)).pairs]
    assert len(names) == left if isinstance(left, int) else names == left


def test_patterns_are_case_sensitive_globs() -> None:
    assert excluded(["a*c"], "abc")
    assert not excluded(["A*c", "b"], "abc")


def test_a_namespace_that_does_not_exist() -> None:
    mesh = cluster(APP, [service("app")])
    with pytest.raises(LabError, match="namespace nowhere does not exist"):
        laid_out(mesh, "nowhere")


def test_no_source_no_matrix() -> None:
    with pytest.raises(LabError, match="there is no source"):
        laid_out(cluster([], [service("app", selector=None)]))


def test_too_much_is_said_before_anything_is_built() -> None:
    require_few(MAX_PROBES)
    with pytest.raises(LabError) as caught:
        laid_out(cluster(APP, [service("app")]), paths=tuple(f"/{number}" for number in range(MAX_PROBES)))
    assert "40000 probes in each round, at most 20000" in caught.value.message
    assert "destination_namespaces, exclude, methods or paths" in caught.value.message


def test_a_claim_written_by_hand_is_shown_like_the_others() -> None:
    first, full, second = claims(
        claim("a", source={"service_account": "x", "namespace": "n"}, to="http://app:80/y?z=1"),
        claim("b", to="http://app.n.svc.cluster.local.:80"),
        claim("c", to="http://10.0.0.1:80"),
    )
    mesh = cluster([], [service("app", "n")])
    assert (foreign(first, mesh).origin, foreign(first, mesh).goal) == ("n/x", "app.n:80/y?z=1")
    assert foreign(full, mesh).goal == "app.n:80"
    assert (foreign(second, mesh).origin, foreign(second, mesh).goal) == ("pod default/curl", "10.0.0.1:80")
