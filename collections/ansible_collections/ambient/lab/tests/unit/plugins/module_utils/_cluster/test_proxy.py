# The proxy on the way to an API: which one it is, and that reads and execs go through the same one.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pathlib
import sys

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import Kube
from ansible_collections.ambient.lab.plugins.module_utils._cluster.proxy import environment_proxy, parse_proxy
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.proxy import FakeProxy
from ansible_collections.ambient.lab.tests.unit.fakes.tls import Pair, encoded

VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy")
HOST = "k8s.corp.example"


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


# What kubectl does with each was seen with kubectl 1.36.
NO_PROXY = [
    ("", HOST, False),
    ("*", HOST, True),
    (" other , * ", HOST, True),
    ("k8s.corp.example", HOST, True),
    ("K8S.Corp.example", HOST, True),
    ("k8s.corp.example:6443", HOST, True),
    ("k8s.corp.example:443", HOST, False),
    ("corp.example", HOST, True),
    (".corp.example", HOST, True),
    ("*.corp.example", HOST, True),
    (".corp.example:6443", HOST, True),
    (".k8s.corp.example", HOST, False),
    ("*corp.example", HOST, False),
    ("rp.example", HOST, False),
    ("s.corp.example", HOST, False),
    ("203.0.113.7", "203.0.113.7", True),
    ("203.0.113.7:6443", "203.0.113.7", True),
    ("203.0.113.7:443", "203.0.113.7", False),
    ("203.0.113.0/24", "203.0.113.7", True),
    ("203.0.113.9/24", "203.0.113.7", True),
    ("198.51.100.0/24", "203.0.113.7", False),
    ("203.0.113.0/24", HOST, False),
    ("203.0.113", "203.0.113.7", False),
    ("2001:db8::7", "2001:db8::7", True),
    ("[2001:db8::7]:6443", "2001:db8::7", True),
    ("[2001:db8::7]:443", "2001:db8::7", False),
    ("2001:db8::/32", "2001:db8::7", True),
    ("2001:db8::/zz,:6443,/,.", "2001:db8::7", False),
    ("", "localhost", True),
    ("", "127.0.0.1", True),
    ("", "127.8.9.1", True),
    ("", "::1", True),
    ("", "::ffff:127.0.0.1", True),
    ("", "a.localhost", False),
]


@pytest.mark.parametrize(("no_proxy", "host", "is_direct"), NO_PROXY)
def test_whom_no_proxy_means(monkeypatch: pytest.MonkeyPatch, no_proxy: str, host: str, is_direct: bool) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (environment_proxy("https", host, 6443) is None) is is_direct


@pytest.mark.parametrize(
    ("variables", "scheme", "proxy"),
    [
        ({"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:2"}, "https", "http://a:1"),
        ({"HTTPS_PROXY": "", "https_proxy": "b"}, "https", "http://b:80"),
        ({"https_proxy": "b:2", "no_proxy": HOST}, "https", "None"),
        ({"https_proxy": "b:2", "NO_PROXY": "c", "no_proxy": HOST}, "https", "http://b:2"),
        ({"HTTP_PROXY": "http://a:1"}, "https", "None"),
        ({"HTTP_PROXY": "https://a"}, "http", "https://a:443"),
        ({"ALL_PROXY": "http://a:1", "all_proxy": "http://a:1"}, "https", "None"),
    ],
)
def test_which_variable_counts(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], scheme: str, proxy: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(environment_proxy(scheme, HOST, 6443)) == proxy


@pytest.mark.parametrize(
    "text", ["", "http://", "ftp://a:1", "socks4://a:1", "http://a:no", "http://me:top/secret@a:1", "a:1"]
)
def test_what_is_no_proxy_is_said_without_its_password(text: str) -> None:
    with pytest.raises(LabError, match=r"^There is no proxy that can be used in HTTPS_PROXY: give it") as caught:
        parse_proxy(text, "HTTPS_PROXY")
    assert "secret" not in caught.value.message


def _cluster(authority: Pair, **options: object) -> dict[str, object]:
    """The API by a name that only the proxy knows."""
    return {"certificate-authority-data": encoded(authority.certificate), **options}


def _uses(kube: Kube) -> None:
    assert kube.get("/version") == {"gitVersion": "v1"}
    assert kube.run("default", "curl", "main", "echo a", 5) == ("a\n", "")
    assert kube.forward("mesh", "ztunnel-a", 15000, "/x").status == 200


def _api(folder: pathlib.Path, authority: Pair) -> FakeApi:
    api = FakeApi({}, Pair(HOST, authority).server(folder))
    api.forwarded["mesh/ztunnel-a:15000/x"] = {}
    api.url = f"https://{HOST}:{api.port}"
    return api


def test_reads_and_execs_go_through_the_same_proxy(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Pair("ca", is_ca=True)
    with _api(tmp_path, authority) as api, FakeProxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        _uses(Kube(api.kubeconfig(tmp_path, cluster=_cluster(authority)), None))
        assert set(proxy.asked) == {f"{HOST}:{api.port}"}
        assert len(proxy.asked) == 3


def test_the_kubeconfigs_proxy_goes_before_the_variables(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for a host that the variables leave out. A password has characters that stand percent-encoded in a URL."""
    authority = Pair("ca", is_ca=True)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "*")
    with _api(tmp_path, authority) as api, FakeProxy("wörker:p@ss word") as proxy:
        options = _cluster(authority, **{"proxy-url": f"http://w%C3%B6rker:p%40ss%20word@{proxy.address}"})
        _uses(Kube(api.kubeconfig(tmp_path, cluster=options), None))
        assert len(proxy.asked) == 3


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
def test_an_api_on_the_loopback_needs_no_proxy(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Of kind and of the embedded provider; nobody listens on port 9."""
    authority = Pair("ca", is_ca=True)
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with _api(tmp_path, authority) as api:
        api.url = f"https://127.0.0.1:{api.port}"
        _uses(Kube(api.kubeconfig(tmp_path, cluster=_cluster(authority)), None))


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        ("HTTPS_PROXY", "correct it, or put the cluster's host into NO_PROXY"),
        ("the kubeconfig's proxy-url", "correct it"),
    ],
)
def test_a_proxy_that_refuses_is_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, source: str, advice: str
) -> None:
    authority = Pair("ca", is_ca=True)
    with _api(tmp_path, authority) as api, FakeProxy("worker:right") as proxy:
        url = f"http://worker:wrong@{proxy.address}"
        if source == "HTTPS_PROXY":
            monkeypatch.setenv("HTTPS_PROXY", url)
        options = {} if source == "HTTPS_PROXY" else {"proxy-url": url}
        kube = Kube(api.kubeconfig(tmp_path, cluster=_cluster(authority, **options)), None)
        with pytest.raises(LabError) as caught:
            kube.get("/version")
        assert "407 Proxy Authentication Required" in kube.run("default", "curl", "main", "true", 5)[1]
    assert caught.value.message == (
        f"No answer from {api.url} through the proxy http://{proxy.address} of {source}: "
        f"Tunnel connection failed: 407 Proxy Authentication Required; {advice}"
    )


def test_a_proxy_that_no_websocket_goes_through(tmp_path: pathlib.Path) -> None:
    with FakeApi({}) as api:
        kube = Kube(api.kubeconfig(tmp_path, cluster={"proxy-url": "https://127.0.0.1:1"}), None)
        words = "a proxy by https:// can't carry it: give the kubeconfig's proxy-url as http://"
        assert kube.run("default", "curl", "main", "true", 5) == ("", words)
        with pytest.raises(LabError, match=words):
            kube.forward("default", "curl", 15000, "/")


def test_a_socks_proxy_without_its_package(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socks", None)
    with FakeApi({}) as api, pytest.raises(LabError) as caught:
        Kube(api.kubeconfig(tmp_path, cluster={"proxy-url": "socks5://me:secret@127.0.0.1"}), None)
    assert caught.value.message == (
        "The proxy socks5://127.0.0.1:1080 of the kubeconfig's proxy-url needs the package PySocks: "
        "install it (pip install PySocks), or give a proxy by http://"
    )
