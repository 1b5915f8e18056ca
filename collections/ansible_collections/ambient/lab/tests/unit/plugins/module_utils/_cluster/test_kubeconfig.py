# A kubeconfig as kubectl reads it: which of several files counts, as whom to ask, whom the API may be, and in a pod.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import json
import pathlib
import tempfile
import types
import typing as t

import pytest
import urllib3.util.ssl_
from ansible_collections.ambient.lab.plugins.module_utils._cluster import kubeconfig as kubeconfig_module
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import Kube, Web
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.tls import Pair, encoded

Object = dict[str, t.Any]
AS_NOBODY = {"as": "system:serviceaccount:default:nobody"}


def uses(kube: Kube) -> None:
    """A read, and an exec."""
    assert kube.get("/version") == {"gitVersion": "v1"}
    assert kube.run("default", "curl", "main", "echo a", 5) == ("a\n", "")


def write(path: pathlib.Path, url: str, name: str = "lab", **options: object) -> str:
    """A kubeconfig with one context."""
    content = {
        "clusters": [{"name": name, "cluster": {"server": url}}],
        "users": [{"name": name, "user": {"token": "secret"}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
        **options,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("user", "headers"),
    [
        (AS_NOBODY, {"impersonate-user": "system:serviceaccount:default:nobody"}),
        (
            {"as": "jürgen", "as-uid": "7", "as-groups": ["a, b", "c"]},
            {"impersonate-user": "jürgen", "impersonate-uid": "7", "impersonate-group": "a, b\nc"},
        ),
        (
            {"as": "me", "as-user-extra": {"acme.com/scopes%": ["view", "edit"], "why": ["x"]}},
            {
                "impersonate-user": "me",
                "impersonate-extra-acme.com%2fscopes%25": "view\nedit",
                "impersonate-extra-why": "x",
            },
        ),
    ],
)
def test_who_acts_as_somebody_else_does_so_with_each_request(
    tmp_path: pathlib.Path, user: Object, headers: dict[str, str]
) -> None:
    with FakeApi({"PATCH /a": {}}) as api:
        kube = Kube(api.kubeconfig(tmp_path, user={"token": "secret", **user}), None)
        uses(kube)
        assert kube.send("PATCH", "/a", {}).status == 200
        for _path, asked in api.asked:
            said = {name: value for name, value in asked.items() if name.startswith("impersonate-")}
            # http.server reads headers as Latin-1; they are UTF-8.
            assert {name: value.encode("latin-1").decode() for name, value in said.items()} == headers
        assert len(api.asked) == 3


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ({"as-groups": ["a"]}, "as-uid, as-groups or as-user-extra, and no as"),
        ({"as": 1000}, "as must be text: put it in quotes"),
        ({"as": "a", "as-groups": [1000]}, "must be text, also 1000"),
        ({"as": "a", "as-groups": "b"}, "as-groups must be a list"),
        ({"as": "a", "as-user-extra": {"b": "c"}}, "b must be a list"),
        ({"as": "a\r\nImpersonate-Group: system:masters"}, "Impersonate-User has a line break"),
        ({"token": "a\nb"}, "the token has a line break"),
        ({"token": "a", "username": "b", "password": "c"}, "both a token and a password"),
        ({"exec": {"command": "a"}, "auth-provider": {"name": "oidc"}}, "both exec and auth-provider"),
        ({"tokenFile": "not/there"}, "No such file or directory"),
        ({"tokenFile": "/dev/null"}, "/dev/null is empty, and must hold a token"),
        ({"client-certificate-data": "YQ=="}, "a client-certificate, and no client-key"),
        ({"client-certificate-data": "no base64"}, "client-certificate-data is not base64"),
    ],
)
def test_a_user_that_kubectl_refuses_too(tmp_path: pathlib.Path, user: Object, words: str) -> None:
    with FakeApi({}) as api, pytest.raises(LabError, match=f"Can't use kubeconfig.*{words}"):
        Kube(api.kubeconfig(tmp_path, user=user), None)


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ({"server": ""}, "the server of its cluster must be a URL"),
        ({"server": "ftp://a"}, "the server of its cluster must be a URL"),
        ({"server": "https://a:no"}, "Port could not be cast"),
        ({"insecure-skip-tls-verify": "false"}, "insecure-skip-tls-verify must be true or false, without quotes"),
        ({"insecure-skip-tls-verify": True, "certificate-authority-data": "YQ=="}, "both insecure-skip-tls-verify and"),
        ({"certificate-authority": "not/there"}, "No such file or directory"),
    ],
)
def test_a_cluster_that_kubectl_refuses_too(tmp_path: pathlib.Path, cluster: Object, words: str) -> None:
    with FakeApi({}) as api, pytest.raises(LabError, match=f"Can't use kubeconfig.*{words}"):
        Kube(api.kubeconfig(tmp_path, cluster=cluster), None)


def test_a_user_with_a_password(tmp_path: pathlib.Path) -> None:
    with FakeApi({}) as api:
        Kube(api.kubeconfig(tmp_path, user={"username": "jürgen", "password": "p:w"}), None).ask("/version")
        assert api.asked[0][1]["authorization"] == f"Basic {base64.b64encode('jürgen:p:w'.encode()).decode()}"


@pytest.mark.parametrize("options", [{"users": []}, {"clusters": []}, {"contexts": []}])
def test_what_a_context_names_must_be_there(tmp_path: pathlib.Path, options: Object) -> None:
    """A user, too: without it the API would be asked as nobody."""
    kind = next(iter(options)).removesuffix("s")
    with pytest.raises(LabError, match=f"it has no {kind} lab"):
        Kube(write(tmp_path / "config", "http://127.0.0.1:1", **options), None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"users": [{"name": "a", "user": {}}, {"name": "a", "user": {}}]}, "it has two users with the name a"),
        ({"users": [{"user": {}}]}, "each of its users needs a name and a user"),
        ({"users": ["a"]}, "each of its users needs a name and a user"),
        ({"clusters": {}, "users": {"a": 1}}, "users must be a list"),
        ({"current-context": ""}, "it has no current-context"),
    ],
)
def test_a_file_that_is_no_kubeconfig(tmp_path: pathlib.Path, options: Object, words: str) -> None:
    with pytest.raises(LabError, match=words):
        Kube(write(tmp_path / "config", "http://127.0.0.1:1", **options), None)


def test_of_several_files_the_first_counts(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its current context, too; and a path in a file is relative to that file."""
    with FakeApi({}) as api:
        users = [{"name": "second", "user": {"tokenFile": "token"}}]
        first = write(tmp_path / "a/config", "http://127.0.0.1:1", "first", **{"current-context": "second"})
        second = write(tmp_path / "b/config", api.url, "second", users=users, **{"current-context": "first"})
        third = write(tmp_path / "c/config", "http://127.0.0.1:2", "second")
        (tmp_path / "b/token").write_text("secret")
        monkeypatch.setenv("KUBECONFIG", f":{tmp_path}/none:{first}:{second}:{third}")
        uses(Kube(None, None))
        uses(Kube(f"{first}:{second}", None))


def test_a_server_without_a_scheme(tmp_path: pathlib.Path) -> None:
    with FakeApi({}) as api:
        uses(Kube(api.kubeconfig(tmp_path, cluster={"server": f"127.0.0.1:{api.port}/"}), None))


def _pod(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, port: int, authority: Pair) -> pathlib.Path:
    """What the kubelet gives to a pod; nobody has a kubeconfig there."""
    account = folder / "serviceaccount"
    account.mkdir()
    (account / "ca.crt").write_text(authority.certificate)
    (account / "token").write_text("secret\n")
    monkeypatch.setattr(kubeconfig_module, "SERVICE_ACCOUNT", str(account))
    monkeypatch.setenv("HOME", str(folder / "nowhere"))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(port))
    return account


def test_in_a_pod_without_a_kubeconfig(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Pair("ca", is_ca=True)
    with FakeApi({}, Pair("api", authority).server(tmp_path)) as api:
        account = _pod(tmp_path, monkeypatch, api.port, authority)
        kube = Kube(None, None)
        uses(kube)
        # The kubelet replaces it before it ends.
        (account / "token").write_text("rotated\n")
        api.tokens = {"rotated"}
        uses(kube)


def test_in_a_pod_a_kubeconfig_goes_first(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that is named and can't be used is an error, there too."""
    _pod(tmp_path, monkeypatch, 1, Pair("ca", is_ca=True))
    with FakeApi({}) as api:
        kubeconfig = api.kubeconfig(tmp_path)
        uses(Kube(kubeconfig, None))
        monkeypatch.setenv("KUBECONFIG", kubeconfig)
        uses(Kube(None, None))
    monkeypatch.delenv("KUBECONFIG")
    (tmp_path / "empty").touch()
    for path, words in ((tmp_path / "none", "there is no such file"), (tmp_path / "empty", "it is empty")):
        with pytest.raises(LabError, match=words):
            Kube(str(path), None)
    with pytest.raises(
        LabError, match=r"Can't use the default kubeconfig, context other: nothing is in ~/\.kube/config"
    ):
        Kube(None, "other")


@pytest.mark.parametrize("without", ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "token"])
def test_what_is_no_pod(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    account = _pod(tmp_path, monkeypatch, 1, Pair("ca", is_ca=True))
    if without == "token":
        (account / "token").unlink()
    else:
        monkeypatch.setenv(without, "")
    with pytest.raises(LabError, match="Can't use the default kubeconfig: nothing is in"):
        Kube(None, None)


@pytest.fixture
def _newer_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.13 or newer, with which urllib3 checks certificates more strictly (VERIFY_X509_STRICT)."""
    monkeypatch.setattr(urllib3.util.ssl_, "sys", types.SimpleNamespace(version_info=(3, 13)))


@pytest.mark.usefixtures("_newer_python")
@pytest.mark.parametrize("trusted", [0, 1])
def test_a_ca_without_key_identifiers_and_an_intermediate_one(tmp_path: pathlib.Path, trusted: int) -> None:
    authorities = [Pair("ca", is_ca=True)]
    authorities.append(Pair("intermediate", authorities[0], is_ca=True))
    with FakeApi({}, Pair("api", authorities[trusted]).server(tmp_path)) as api:
        trust = {"certificate-authority-data": encoded(authorities[trusted].certificate)}
        uses(Kube(api.kubeconfig(tmp_path, cluster=trust), None))


@pytest.mark.usefixtures("_newer_python")
def test_an_address_outside_of_the_api_is_trusted_in_the_same_way(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the machine trusts; and what it does not is said to be that."""
    authority = Pair("ca", is_ca=True)
    (tmp_path / "trusted.pem").write_text(authority.certificate)
    with FakeApi({}, Pair("api", authority).server(tmp_path)) as api:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "trusted.pem"))
        assert Web(api.url).ask("/version").status == 401
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(LabError, match=r"unable to get local issuer certificate"):
            Web(api.url).ask("/version")


ADVICE = "certificate-authority-data (or certificate-authority), for another name its server or tls-server-name"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("other", {}, "unable to get local issuer certificate"),
        ("ca", {"tls-server-name": "stranger"}, "Hostname mismatch, certificate is not valid for 'stranger'."),
    ],
)
def test_a_certificate_that_does_not_fit_is_said_to_be_that(
    tmp_path: pathlib.Path, name: str, options: dict[str, str], words: str
) -> None:
    authorities = {name: Pair(name, is_ca=True) for name in ("ca", "other")}
    with FakeApi({}, Pair("api", authorities["ca"]).server(tmp_path)) as api:
        trust = {"certificate-authority-data": encoded(authorities[name].certificate), **options}
        kube = Kube(api.kubeconfig(tmp_path, cluster=trust), None)
        with pytest.raises(LabError) as caught:
            kube.get("/version")
        assert "certificate verify failed" in kube.run("default", "curl", "main", "true", 5)[1]
        assert not api.asked
    assert caught.value.message == (
        f"The certificate of {api.url} can't be verified: {words}; correct the kubeconfig's {ADVICE}"
    )


def test_a_common_name_is_no_hosts_name(tmp_path: pathlib.Path) -> None:
    nameless = Pair("localhost", is_ca=True)
    with FakeApi({}, nameless.server(tmp_path)) as api:
        trust = {"certificate-authority-data": encoded(nameless.certificate), "server": f"https://localhost:{api.port}"}
        with pytest.raises(LabError, match="Hostname mismatch"):
            Kube(api.kubeconfig(tmp_path, cluster=trust), None).get("/version")


def test_an_api_that_speaks_no_tls(tmp_path: pathlib.Path) -> None:
    with FakeApi({}) as api:
        url = api.url.replace("http", "https")
        kube = Kube(api.kubeconfig(tmp_path, cluster={"server": url, "insecure-skip-tls-verify": True}), None)
        with pytest.raises(LabError, match=f"TLS with {url} fails: .*; correct the kubeconfig's server"):
            kube.get("/version")


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
@pytest.mark.parametrize("options", [{"insecure-skip-tls-verify": True}, {"tls-server-name": "api"}])
def test_what_a_kubeconfig_says_of_the_certificate_counts_for_both(tmp_path: pathlib.Path, options: Object) -> None:
    authority = Pair("ca", is_ca=True)
    trust = {} if "insecure-skip-tls-verify" in options else {"certificate-authority": "ca.crt"}
    (tmp_path / "ca.crt").write_text(authority.certificate)
    with FakeApi({}, Pair("api", authority).server(tmp_path)) as api:
        api.url = f"https://localhost:{api.port}"
        uses(Kube(api.kubeconfig(tmp_path, cluster={**trust, **options}), None))


def test_a_client_certificate_leaves_no_key_behind(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL reads a key from a file alone."""
    authority, temporary = Pair("ca", is_ca=True), tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    client = Pair("me", authority)
    user = {"client-certificate-data": encoded(client.certificate), "client-key-data": encoded(client.key)}
    trust = {"certificate-authority-data": encoded(authority.certificate)}
    with FakeApi({}, Pair("api", authority).server(tmp_path, authority)) as api:
        kube = Kube(api.kubeconfig(tmp_path, user, trust), None)
        assert list(temporary.iterdir()) == []
        uses(kube)
        assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("user", "cluster", "words"),
    [
        ({}, {"certificate-authority-data": encoded("nothing")}, "certificate-authority holds no certificate"),
        ({"client-certificate-data": "YQ==", "client-key-data": "YQ=="}, {}, "a key that are no pair"),
    ],
)
def test_what_is_no_certificate(tmp_path: pathlib.Path, user: Object, cluster: Object, words: str) -> None:
    with FakeApi({}) as api, pytest.raises(LabError, match=f"The kubeconfig's .*{words} .*; correct it"):
        Kube(api.kubeconfig(tmp_path, user, {"server": "https://127.0.0.1:1", **cluster}), None)
