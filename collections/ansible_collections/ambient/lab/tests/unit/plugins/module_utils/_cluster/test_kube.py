# The edge to a Kubernetes API: one line for every failure, and an exec that is bounded.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import socket
import subprocess

import pytest
import urllib3
from ansible_collections.ambient.lab.plugins.module_utils._cluster import channel as channel_module
from ansible_collections.ambient.lab.plugins.module_utils._cluster import kube as kube_module
from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import (
    Kube,
    Web,
    missing_right,
    refusal,
    shell_input,
)
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError, Slow
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi


def test_get_and_items(tmp_path: pathlib.Path) -> None:
    with FakeApi({"/a": {"x": 1}, "/list": {"items": [{"x": 1}, {"x": 2}]}, "/no": 403}) as api:
        kube = Kube(api.kubeconfig(tmp_path), None)
        assert kube.get("/a") == {"x": 1}
        assert kube.get("/b") is None
        assert kube.items("/list") == [{"x": 1}, {"x": 2}]
        assert not kube.items("/b")
        with pytest.raises(LabError, match=f"The cluster at {api.url} answered GET /no with HTTP 403"):
            kube.get("/no")
        assert len(api.connections) == 1


def test_lists_come_in_pages_and_without_managed_fields(tmp_path: pathlib.Path) -> None:
    whole = [{"metadata": {"name": name, "managedFields": [{}]}} for name in "abc"]

    def page(query: dict[str, str]) -> dict[str, object]:
        start = int(query.get("continue", 0))
        more = {"continue": str(start + 1)} if start + 1 < len(whole) else {}
        return {"items": whole[start : start + 1], "metadata": more} if query["limit"] in ("1", "500") else {}

    with FakeApi({"/list": page}) as api:
        kube = Kube(api.kubeconfig(tmp_path), None)
        assert kube.items("/list", labelSelector="x=y") == [{"metadata": {"name": name}} for name in "abc"]
        assert [path for path, _headers in api.asked if "labelSelector" not in path] == []
        # Who asks whether there is any gets the first page.
        assert len(kube.items("/list", limit="1")) == 1


@pytest.mark.parametrize("items", [{"a": 1}, ["x"], [None], "text"])
def test_a_list_of_something_else(tmp_path: pathlib.Path, items: object) -> None:
    with (
        FakeApi({"/list": {"items": items}}) as api,
        pytest.raises(LabError, match="GET /list gives no list of objects"),
    ):
        Kube(api.kubeconfig(tmp_path), None).items("/list")


@pytest.mark.parametrize("page", ["<html>a login</html>", "[]", '"text"'])
def test_what_is_no_kubernetes_api(tmp_path: pathlib.Path, page: str) -> None:
    with FakeApi({"/version": page}) as api:
        with pytest.raises(LabError) as caught:
            Kube(api.kubeconfig(tmp_path), None).get("/version")
        assert caught.value.message.startswith(f"{api.url} is no Kubernetes API: it answered GET /version with")
    assert caught.value.message.endswith("correct the server in the kubeconfig")


RIGHT = "Give the kubeconfig's user this right, or use another kubeconfig"


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (403, b'{"message": "pods is forbidden: you cannot list"}', f"pods is forbidden: you cannot list. {RIGHT}"),
        (403, b'{"message": "it ends\\n with a dot."}', f"it ends with a dot. {RIGHT}"),
        (500, b'{"message": "etcd  is\\n away"}', "GET /a failed: etcd is away"),
        (401, b'{"message": "Unauthorized"}', "GET /a failed: Unauthorized; log in again, or use another kubeconfig"),
        (401, b"", "GET /a failed: no reason given; log in again, or use another kubeconfig"),
        # Not the API's own words: a proxy's page, another JSON.
        (403, b"<html>", "GET /a failed"),
        (403, b"", "GET /a failed"),
        (403, b'{"code": 403}', "GET /a failed"),
        (403, b"[]", "GET /a failed"),
        (502, b"\xff", "GET /a failed"),
    ],
)
def test_refusal(status: int, body: bytes, message: str) -> None:
    assert refusal(Answer(status, {}, body), "GET /a failed") == message


def test_missing_right() -> None:
    assert missing_right("you cannot.") == missing_right("you cannot") == f"you cannot. {RIGHT}"


def test_what_is_refused_names_the_right(tmp_path: pathlib.Path) -> None:
    objects = {"/a": (403, {"message": "a is forbidden: you cannot get it"}), "/b": (500, {"message": "no"})}
    with FakeApi(objects) as api:
        kube = Kube(api.kubeconfig(tmp_path), None)
        with pytest.raises(LabError) as caught:
            kube.get("/a")
        assert caught.value.message == f"a is forbidden: you cannot get it. {RIGHT}"
        with pytest.raises(LabError, match=r"answered GET /b with HTTP 500: no$"):
            kube.items("/b")


def test_an_api_that_does_not_answer(tmp_path: pathlib.Path) -> None:
    with FakeApi({}) as api:
        kubeconfig = api.kubeconfig(tmp_path)
    with pytest.raises(LabError) as caught:
        Kube(kubeconfig, None).get("/version")
    assert caught.value.message.startswith(f"The cluster does not answer at {api.url}: ")
    assert "refused" in caught.value.message
    assert not isinstance(caught.value, Slow)
    assert "object at 0x" not in caught.value.message


def test_an_api_that_hangs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_module, "READ_SECONDS", 0.3)
    with FakeApi({}) as api, socket.create_server(("127.0.0.1", 0)) as silent:
        api.url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        kube = Kube(api.kubeconfig(tmp_path), None)
        with pytest.raises(Slow, match="timed out"):
            kube.get("/version")
        assert "timed out" in kube.run("default", "curl", "main", "true", 5)[1]


@pytest.mark.parametrize("status", [429, 503])
def test_an_answer_that_wants_patience_is_an_answer(tmp_path: pathlib.Path, status: int) -> None:
    """Retry-After has no limit. Who asks repeats it by rules of its own."""
    with FakeApi({"/a": status}) as api:
        api.headers = {"Retry-After": "5"}
        assert Kube(api.kubeconfig(tmp_path), None).ask("/a").status == status
        api.tokens = {"None"}
        assert Web(api.url).ask("/a").status == status
        assert [path for path, _headers in api.asked] == ["/a", "/a"]


@pytest.mark.parametrize(
    ("content", "context", "words"),
    [
        (None, None, "Can't use kubeconfig"),
        ("{", None, "Can't use kubeconfig"),
        ("just text", None, "Can't use kubeconfig"),
        ("", None, "Can't use kubeconfig"),
        ("valid", "other", "context other"),
    ],
)
def test_a_kubeconfig_that_is_none(
    tmp_path: pathlib.Path, content: str | None, context: str | None, words: str
) -> None:
    path = tmp_path / "kubeconfig"
    if content == "valid":
        with FakeApi({}) as api:
            api.kubeconfig(tmp_path)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(LabError) as caught:
        Kube(str(path), context)
    assert words in caught.value.message
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


def test_a_library_that_is_too_old(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib3, "__version__", "1.26.20")
    with FakeApi({}) as api, pytest.raises(LabError, match=r"^urllib3 1\.26\.20 is too old: .*urllib3>=2"):
        Kube(api.kubeconfig(tmp_path), None)


def test_run(tmp_path: pathlib.Path) -> None:
    with FakeApi({}) as api:
        kube = Kube(api.kubeconfig(tmp_path), None)
        assert kube.run("default", "curl", "main", "printf 'a\\nb'", 5) == ("a\nb", "")
        assert kube.run("default", "curl", "main", "echo no >&2; exit 3", 5) == ("", "no")
        stdout, problem = kube.run("default", "curl", "main", "head -c 300000 /dev/zero | tr '\\0' x", 5)
        assert (len(stdout), problem) == (300_000, "")


def test_a_script_comes_by_standard_input(tmp_path: pathlib.Path) -> None:
    """It may be longer than an argument, none of its commands reads it, and nothing of it is in the request's URL."""
    script = f": '{'x' * 300_000}'\ncat\necho end"
    with FakeApi({}) as api:
        assert Kube(api.kubeconfig(tmp_path), None).run("default", "curl", "main", script, 20) == ("end\n", "")
        assert [path.partition("?")[2] for path, _headers in api.asked] == [
            "container=main&stdin=true&stdout=true&stderr=true&command=sh&command=-s"
        ]


def test_a_script_that_is_cut_does_not_begin() -> None:
    given = shell_input("echo begun\necho ended")
    end = given.index(b"}")
    for cut in range(given.index(b"{"), end):
        done = subprocess.run(["sh", "-s"], input=given[:cut], capture_output=True, check=False, timeout=20)
        assert done.stdout == b""


def test_a_shell_that_does_not_read_its_script_is_heard(tmp_path: pathlib.Path) -> None:
    (tmp_path / "sh").write_text("#!/bin/sh\nprintf 'not \\033[2Jtoday' >&2\nexit 1\n")
    (tmp_path / "sh").chmod(0o755)
    with FakeApi({}) as api:
        api.environment["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
        problem = Kube(api.kubeconfig(tmp_path), None).run("default", "curl", "main", "#" * 3_000_000, 20)[1]
    # Without what drives a terminal; that nobody took the script may be said too.
    assert problem.removeprefix("[Errno 32] Broken pipe: ") == "not [2Jtoday"


def test_run_is_bounded(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "MAX_OUTPUT", 1000)
    with FakeApi({}) as api:
        kube = Kube(api.kubeconfig(tmp_path), None)
        assert kube.run("default", "curl", "main", "head -c 3000 /dev/zero", 5) == (
            "",
            "more than 1000 bytes of output",
        )
        assert kube.run("default", "curl", "main", "sleep 3", 0.3) == ("", "it did not end in time")


CREATE = "the kubeconfig's user needs the rights to get and to create pods/exec and pods/portforward"


@pytest.mark.parametrize(
    ("status", "content", "problem"),
    [
        (500, {"message": "no"}, "HTTP 500: no"),
        (500, {}, "HTTP 500: no reason given"),
        (502, "<html>", "HTTP 502: no reason given"),
        # What Kubernetes 1.35 says where the right to create is missing: nothing.
        (403, {"message": 'pods "curl" is forbidden: '}, f'HTTP 403: pods "curl" is forbidden: {CREATE}'),
        (403, {"message": "pods is forbidden: you cannot get"}, "HTTP 403: pods is forbidden: you cannot get"),
        (404, {"message": "is forbidden:"}, "HTTP 404: is forbidden:"),
    ],
)
def test_run_that_is_refused(tmp_path: pathlib.Path, status: int, content: object, problem: str) -> None:
    with FakeApi({}) as api:
        api.exec_status = (status, content)
        ran = Kube(api.kubeconfig(tmp_path), None).run("default", "curl", "main", "true", 5)
    assert ran == ("", problem)


def test_runs_side_by_side(tmp_path: pathlib.Path) -> None:
    with FakeApi({"/a": {"x": 1}}) as api:
        kube = Kube(api.kubeconfig(tmp_path), None)

        def once(number: int) -> bool:
            stdout, problem = kube.run("default", "curl", "main", f"sleep 0.1; printf {number}", 20)
            return (stdout, problem) == (str(number), "") and kube.get("/a") == {"x": 1}

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            assert all(pool.map(once, range(48)))
