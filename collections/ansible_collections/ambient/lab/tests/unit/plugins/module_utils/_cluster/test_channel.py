# Channels into containers: an exec that is heard while it runs, GET through a forwarded port, what ends them early.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pathlib
import time
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._cluster import channel as channel_module
from ansible_collections.ambient.lab.plugins.module_utils._cluster import kube as kube_module
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import APPLY, Kube
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi

DUMP = {"policies": [{"name": "x" * 9000}]}
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
WITHOUT_LENGTH = b"HTTP/1.1 503 No\r\n\r\nuntil the end"


def test_output_is_heard_when_it_comes(tmp_path: pathlib.Path) -> None:
    heard: list[bytes] = []
    mark = tmp_path / "mark"

    def hear(piece: bytes) -> None:
        heard.append(piece)
        mark.touch()

    # Its second line comes when somebody has heard the first.
    script = f"echo a; until test -e {mark}; do sleep 0.05; done; echo b; echo c >&2"
    with FakeApi({}) as api:
        answer = Kube(api.kubeconfig(tmp_path), None).run("default", "curl", "main", script, 20, hear)
    assert answer == ("", "c")
    assert heard == [b"a\n", b"b\n"]


def test_a_listener_that_has_heard_enough_ends_the_script(tmp_path: pathlib.Path) -> None:
    mark = tmp_path / "mark"
    script = f"for i in 1 2 3 4 5 6 7 8; do echo $i || exit; sleep 0.1; done; touch {mark}"
    with FakeApi({}) as api:
        answer = Kube(api.kubeconfig(tmp_path), None).run("default", "curl", "main", script, 20, lambda piece: True)
        time.sleep(1.5)
    assert answer == ("", "")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("wire", "status", "headers", "body"),
    [
        (DUMP, 200, {"content-length": "9028"}, b'{"policies": [{"name": "' + b"x" * 9000 + b'"}]}'),
        (CHUNKED, 200, {"transfer-encoding": "chunked", "x-a": "b"}, b"abcde"),
        (WITHOUT_LENGTH, 503, {}, b"until the end"),
    ],
)
def test_forward(tmp_path: pathlib.Path, wire: object, status: int, headers: dict[str, str], body: bytes) -> None:
    with FakeApi({}) as api:
        api.forwarded["mesh/ztunnel-a:15000/config_dump?all"] = wire
        answer = Kube(api.kubeconfig(tmp_path), None).forward("mesh", "ztunnel-a", 15000, "/config_dump?all")
    assert (answer.status, dict(answer.headers), answer.body) == (status, headers, body)


@pytest.mark.parametrize(
    ("forwarded", "words"),
    [
        ({}, "port 15000 of pod mesh/ztunnel-a: connection refused"),
        ({"mesh/ztunnel-a": 403}, "HTTP 403: pods/portforward is forbidden"),
        ({"mesh/ztunnel-a:15000/": b"garbage\r\n\r\n"}, "no HTTP answer"),
        ({"mesh/ztunnel-a:15000/": b""}, "no HTTP answer"),
        ({"mesh/ztunnel-a:15000/": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"}, "ends 4 bytes early"),
        ({"mesh/ztunnel-a:15000/": CHUNKED[:-8]}, "no HTTP answer"),
        ({"mesh/ztunnel-a:15000/": b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 101}, "more than 100 bytes of answer"),
    ],
)
def test_forward_fails_in_one_line(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, forwarded: dict[str, t.Any], words: str
) -> None:
    monkeypatch.setattr(channel_module, "MAX_ANSWER", 100)
    with FakeApi({}) as api:
        api.forwarded = forwarded
        with pytest.raises(LabError) as caught:
            Kube(api.kubeconfig(tmp_path), None).forward("mesh", "ztunnel-a", 15000, "/")
    assert words in caught.value.message
    assert "\n" not in caught.value.message


def test_forward_is_bounded_in_time(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_module, "READ_SECONDS", 0.3)

    def slow(_query: dict[str, str]) -> bytes:
        time.sleep(1)
        return b""

    with FakeApi({}) as api:
        api.forwarded["mesh/ztunnel-a:15000/"] = slow
        with pytest.raises(LabError, match="did not end in time"):
            Kube(api.kubeconfig(tmp_path), None).forward("mesh", "ztunnel-a", 15000, "/")


def test_a_credential_does_not_follow_a_redirect(tmp_path: pathlib.Path) -> None:
    """A login's page, for example, which stands before an API."""
    with FakeApi({}) as api, FakeApi({}) as other:
        api.exec_status, api.headers = (302, {}), {"Location": other.url.replace("http", "ws") + "/exec?command=true"}
        assert Kube(api.kubeconfig(tmp_path), None).run("default", "curl", "main", "true", 5)[1]
        assert other.asked == []


def test_send(tmp_path: pathlib.Path) -> None:
    objects = {"PATCH /a": lambda body: (201, {"given": body}), "DELETE /a": {"status": "Success"}, "POST /a": 409}
    with FakeApi(objects) as api:
        kube = Kube(api.kubeconfig(tmp_path), None)
        answer = kube.send("PATCH", "/a", {"x": 1}, APPLY, fieldManager="ambient-lab", force="true")
        assert (answer.status, answer.body) == (201, b'{"given": {"x": 1}}')
        path, headers = api.asked[-1]
        assert path == "/a?fieldManager=ambient-lab&force=true"
        assert headers["content-type"] == APPLY
        assert kube.send("DELETE", "/a").status == 200
        assert kube.send("DELETE", "/b").status == 404
        assert kube.send("POST", "/a", {}).status == 409
        kubeconfig = api.kubeconfig(tmp_path)
    with pytest.raises(LabError, match="The cluster does not answer"):
        Kube(kubeconfig, None).send("DELETE", "/a")
