# Where a token goes that a request has in its headers and its body: to the server, and nowhere else on the way there.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import pathlib
import shutil
import string
import subprocess
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import Kube, shell_input
from ansible_collections.ambient.lab.plugins.module_utils._curl.script import Loop, build_script, parse_output
from ansible_collections.ambient.lab.plugins.module_utils._mesh.destinations import Request
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.servers import WatchingServer

TOKEN = "planted-2b7d41"
SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("how", [{}, {"alone": True}, {"loop": Loop(20, 0.2)}], ids=["once", "alone", "loop"])
def test_a_token_is_in_no_url_and_in_no_process(tmp_path: pathlib.Path, shell: str, how: dict[str, t.Any]) -> None:
    """Neither as an argument nor in an environment, whatever variables and options of the shell a container sets."""
    (tmp_path / "sh").symlink_to(shutil.which(shell) or "")
    names = [*string.ascii_letters, "out", "tool"]
    with WatchingServer(TOKEN) as server, FakeApi({}) as api:
        api.environment = {**dict.fromkeys(names, "x"), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        api.environment["SHELLOPTS"] = "allexport"
        requests = [
            Request(server.url("ok"), "POST", (("authorization", f"Bearer {TOKEN}"),), "x"),
            Request(server.url("ok"), "POST", body=f"password={TOKEN}"),
        ]
        script = build_script("probe-1", dict(enumerate(requests)), 5, **how)
        Kube(api.kubeconfig(tmp_path), None).run("default", "curl", "main", script, 20)
        assert len([request for request in server.requests if TOKEN.encode() in request]) >= 2
    assert server.seen == []
    assert [path for path, _headers in api.asked if TOKEN in path] == []


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_a_shell_that_is_told_to_trace_prints_no_token() -> None:
    """What it prints on standard error is shown to the user."""
    request = Request("http://127.0.0.1:1/", headers=(("authorization", f"Bearer {TOKEN}"),))
    given = shell_input(build_script("probe-1", {0: request}, 5))
    environment = {**os.environ, "SHELLOPTS": "verbose:xtrace"}
    done = subprocess.run(["bash", "-s"], input=given, capture_output=True, env=environment, check=True, timeout=20)
    assert b"set +" in done.stderr
    assert TOKEN.encode() not in done.stderr


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_a_shell_without_a_printf_of_its_own_is_not_given_a_token(tmp_path: pathlib.Path) -> None:
    """A program of that name would get it as an argument."""
    (tmp_path / "sh").symlink_to(shutil.which("bash") or "")
    with FakeApi({}) as api:
        api.environment["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
        script = "enable -n printf\n" + build_script("probe-1", {0: Request("http://127.0.0.1:1/")}, 5)
        output, _problem = Kube(api.kubeconfig(tmp_path), None).run("default", "curl", "main", script, 20)
    assert parse_output("probe-1", output, [0]) == {0: "the container has no printf in its shell"}
