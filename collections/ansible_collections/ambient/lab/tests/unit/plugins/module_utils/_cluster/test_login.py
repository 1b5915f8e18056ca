# Users whose credential somebody else gives: login plugins, files, providers. Nobody is asked as nobody.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import concurrent.futures
import datetime
import json
import pathlib
import time
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._cluster import login as login_module
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import Kube
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.tls import Pair, encoded

VERSION = "client.authentication.k8s.io/v1"


def plugin(folder: pathlib.Path, script: str, **options: object) -> dict[str, t.Any]:
    """A user with a login plugin, which leaves a line in `runs` each time."""
    path = folder / "company-login"
    path.write_text(f"#!/bin/sh\necho >> {folder}/runs\n{script}\n")
    path.chmod(0o755)
    return {"exec": {"apiVersion": VERSION, "command": str(path), "interactiveMode": "IfAvailable", **options}}


def answer(**status: object) -> str:
    """A script that prints an ExecCredential."""
    return f"cat <<'E'\n{json.dumps({'apiVersion': VERSION, 'kind': 'ExecCredential', 'status': status})}\nE"


def in_seconds(seconds: float) -> str:
    """A time from now on, as RFC 3339 has it."""
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    return end.strftime("%Y-%m-%dT%H:%M:%SZ")


def runs(folder: pathlib.Path) -> int:
    """How often the plugin has run."""
    return len((folder / "runs").read_text().splitlines())


FAILS = "echo 'your session has ended, run:' >&2; echo '  company-login' >&2; exit 7"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (FAILS, "failed with exit status 7: your session has ended, run: company-login;"),
        (f"echo 'log in first' {'x' * 40}; exit 1", "failed with exit status 1: log in first ...;"),
        ("printf 'red \\033[31m' >&2; kill -9 $$", "failed with exit status -9: red [31m;"),
        (":", "prints nothing;"),
        ("echo 'no cache' >&2", "prints nothing: no cache;"),
        ("echo 'Open the browser'", "prints no ExecCredential with a status: Open the browser;"),
        # What it printed may be the token itself.
        (f"echo {'x' * 40}", "prints no ExecCredential with a status: ...;"),
        ("echo '[]'", "prints no ExecCredential with a status: [];"),
        (
            """echo '{"apiVersion": "v9", "status": {"token": "a"}}'""",
            f"answers in v9, and the kubeconfig says {VERSION}",
        ),
        (answer(), "prints neither a token nor a certificate with its key"),
        (answer(clientCertificateData="a"), "prints neither a token nor a certificate with its key"),
        (answer(token=12), "prints something else than texts"),
        (answer(token="a\nb"), "the token has a line break"),
        (answer(token="a", expirationTimestamp="soon"), "prints an expirationTimestamp that is no time"),
    ],
)
def test_a_plugin_that_gives_no_credential(tmp_path: pathlib.Path, script: str, words: str) -> None:
    """Before any request: without a credential the API would answer as to nobody."""
    with FakeApi({}) as api:
        kubeconfig = api.kubeconfig(tmp_path, user=plugin(tmp_path, script, args=["--client-secret=abc"]))
        with pytest.raises(LabError) as caught:
            Kube(kubeconfig, None)
        assert api.asked == []
    assert caught.value.message.startswith(f"The kubeconfig's login plugin {tmp_path}/company-login ")
    assert words in caught.value.message
    assert "abc" not in caught.value.message
    assert caught.value.message.endswith("; log in again, or use another kubeconfig")
    assert caught.value.message.isprintable()


def test_a_plugin_that_is_not_there(tmp_path: pathlib.Path) -> None:
    call = {
        "apiVersion": VERSION,
        "command": "company-login-is-not-there",
        "installHint": "brew install\n company-login",
    }
    with FakeApi({}) as api, pytest.raises(LabError) as caught:
        Kube(api.kubeconfig(tmp_path, user={"exec": call}), None)
    assert "company-login-is-not-there can't be started: No such file or directory. brew install company" in str(
        caught.value
    )


def test_a_plugin_that_hangs_is_ended_with_what_it_started(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login_module, "PLUGIN_SECONDS", 0.3)
    with FakeApi({}) as api, pytest.raises(LabError, match=r"does not end within 0\.3 s"):
        Kube(api.kubeconfig(tmp_path, user=plugin(tmp_path, f"sleep 1; touch {tmp_path}/late")), None)
    time.sleep(1)
    assert not (tmp_path / "late").exists()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"command": "a"}, "needs command and apiVersion"),
        ({"apiVersion": VERSION}, "needs command and apiVersion"),
        ({"apiVersion": VERSION, "command": "a", "env": [{"value": "x"}]}, "env without names"),
        ({"apiVersion": VERSION, "command": "a", "args": 3}, "args or env that are no lists"),
        ({"apiVersion": VERSION, "command": "a", "interactiveMode": "Always"}, "wants a terminal"),
        ("a", "exec must have keys and values"),
    ],
)
def test_an_exec_that_is_incomplete(tmp_path: pathlib.Path, call: object, words: str) -> None:
    with FakeApi({}) as api, pytest.raises(LabError, match=f"Can't use kubeconfig.*{words}"):
        Kube(api.kubeconfig(tmp_path, user={"exec": call}), None)


@pytest.mark.parametrize(("lasts", "times"), [(None, 1), (60, 1), (5, 4), (-5, 4)])
def test_a_plugin_runs_again_when_its_token_has_ended(tmp_path: pathlib.Path, lasts: float | None, times: int) -> None:
    """Once for each request where each finds it at its end."""
    ends = {} if lasts is None else {"expirationTimestamp": in_seconds(lasts)}
    with FakeApi({}) as api:
        kube = Kube(api.kubeconfig(tmp_path, user=plugin(tmp_path, answer(token="secret", **ends))), None)
        assert kube.get("/version")
        assert kube.run("default", "curl", "main", "echo a", 5) == ("a\n", "")
        assert kube.get("/version")
    assert runs(tmp_path) == times


def test_the_next_token_is_used_when_the_api_takes_the_last_no_more(tmp_path: pathlib.Path) -> None:
    """For a request and for an exec; threads that find it out together run the plugin once."""
    script = f"cat {tmp_path}/answer"
    with FakeApi({}) as api:
        for number in (1, 2, 3):
            api.tokens = {f"token-{number}"}
            status = {"token": f"token-{number}"}
            (tmp_path / "answer").write_text(json.dumps({"apiVersion": VERSION, "status": status}))
            if number == 1:
                kube = Kube(api.kubeconfig(tmp_path, user=plugin(tmp_path, script)), None)
            if number == 3:
                assert kube.run("default", "curl", "main", "echo a", 5) == ("a\n", "")
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                assert all(pool.map(kube.get, ["/version"] * 4))
    assert runs(tmp_path) == 3


def test_a_plugin_that_fails_later(tmp_path: pathlib.Path) -> None:
    """In an exec it is what went wrong there: another thread's claims go on."""
    script = f"test ! -e {tmp_path}/ended || {{ echo 'session has ended' >&2; exit 1; }}\n" + answer(
        token="secret", expirationTimestamp=in_seconds(1)
    )
    with FakeApi({}) as api:
        kube = Kube(api.kubeconfig(tmp_path, user=plugin(tmp_path, script)), None)
        (tmp_path / "ended").touch()
        with pytest.raises(LabError, match="session has ended"):
            kube.get("/version")
        stdout, problem = kube.run("default", "curl", "main", "echo a", 5)
        assert (stdout, "session has ended" in problem) == ("", True)
        assert api.asked == []


def test_a_plugin_may_give_a_certificate(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And another one when that has ended; connections that were made with the old one are not used then."""
    authority, ends = Pair("ca", is_ca=True), in_seconds(3600)
    for number in (1, 2):
        client = Pair(f"client-{number}", authority)
        pair = {"clientCertificateData": client.certificate, "clientKeyData": client.key}
        status = {**pair, "expirationTimestamp": ends if number == 1 else None}
        (tmp_path / f"answer-{number}").write_text(json.dumps({"apiVersion": VERSION, "status": status}))
    user = plugin(tmp_path, f"cat {tmp_path}/answer-$(grep -c ^ {tmp_path}/runs)")
    with FakeApi({}, Pair("api", authority).server(tmp_path, authority)) as api:
        trust = {"certificate-authority-data": encoded(authority.certificate)}
        kube = Kube(api.kubeconfig(tmp_path, user, trust), None)
        for connections in (2, 4):
            assert kube.get("/version")
            assert kube.get("/version")
            assert kube.run("default", "curl", "main", "echo a", 5) == ("a\n", "")
            assert len(api.connections) == connections
            monkeypatch.setattr(login_module, "LEEWAY", datetime.timedelta(hours=2))
    assert runs(tmp_path) == 2


def test_what_a_plugin_hears(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own variables go before those of the task; a command with a slash is relative to the kubeconfig."""
    monkeypatch.setenv("LOGIN_PLACE", "task")
    monkeypatch.setenv("LOGIN_TASK", "task")
    script = f'echo "$1 $LOGIN_PLACE $LOGIN_TASK $KUBERNETES_EXEC_INFO" > {tmp_path}/heard\n' + answer(token="secret")
    call = plugin(
        tmp_path,
        script,
        command="./company-login",
        args=["get token"],
        env=[{"name": "LOGIN_PLACE", "value": "plugin"}],
        provideClusterInfo=True,
    )
    extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}
    with FakeApi({}) as api:
        Kube(api.kubeconfig(tmp_path, call, {"extensions": [extension], "tls-server-name": "api"}), None)
    head, _brace, info = (tmp_path / "heard").read_text().partition("{")
    assert head == "get token plugin task "
    assert json.loads("{" + info) == {
        "apiVersion": VERSION,
        "kind": "ExecCredential",
        "spec": {
            "interactive": False,
            "cluster": {"server": api.url, "tls-server-name": "api", "config": {"audience": "x"}},
        },
    }


def test_a_token_of_a_file_is_the_one_that_is_in_it_now(tmp_path: pathlib.Path) -> None:
    """While it is written anew the last one counts."""
    file = tmp_path / "token"
    file.write_text("one\n")
    with FakeApi({}) as api:
        api.tokens = {"one"}
        kube = Kube(api.kubeconfig(tmp_path, user={"tokenFile": "token"}), None)
        assert kube.get("/version")
        file.write_text("")
        assert kube.get("/version")
        file.write_text("two\n")
        api.tokens = {"two"}
        assert kube.get("/version")
        assert kube.run("default", "curl", "main", "echo a", 5) == ("a\n", "")


def _jwt(**claims: object) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({}, claims)]
    return ".".join([*parts, "signature"])


def test_an_auth_provider_logs_in(tmp_path: pathlib.Path) -> None:
    token = _jwt(exp=time.time() + 3600)
    with FakeApi({}) as api:
        api.tokens = {token}
        user = {"auth-provider": {"name": "oidc", "config": {"id-token": token}}}
        assert Kube(api.kubeconfig(tmp_path, user=user), None).get("/version")


@pytest.mark.parametrize(
    "provider",
    [{"name": "oidc", "config": {"id-token": "no token"}}, {"name": "oidc", "config": {}}, {"name": "azure"}, {"a": 1}],
)
def test_an_auth_provider_that_gives_no_token(tmp_path: pathlib.Path, provider: dict[str, object]) -> None:
    with FakeApi({}) as api:
        with pytest.raises(LabError, match=r"The kubeconfig's auth-provider \w+ can't log in: .+; log in again"):
            Kube(api.kubeconfig(tmp_path, user={"auth-provider": provider}), None)
        assert api.asked == []
