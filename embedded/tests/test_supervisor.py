"""The node's PID 1, run for real in a PID namespace of its own with small components."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ambient_embedded import supervisor
from ambient_embedded.supervisor import Component, Supervisor

Eventually = Callable[[Callable[[], object], str], None]
EMBEDDED = Path(supervisor.__file__).parents[1]
SCRIPT = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
from ambient_embedded import supervisor
supervisor.LOG_DIRECTORY = pathlib.Path(sys.argv[2])
supervisor.Supervisor([supervisor.Component(**item) for item in json.loads(sys.argv[3])]).run()
"""


class Node:
    """A supervisor in a PID namespace that ends with it."""

    def __init__(self, folder: Path, components: list[dict[str, Any]]) -> None:
        self.folder = folder
        namespace = ["unshare", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child"]
        arguments = [sys.executable, "-c", SCRIPT, str(EMBEDDED), str(folder), json.dumps(components)]
        with (folder / "supervisor.log").open("wb") as output:
            self.process = subprocess.Popen([*namespace, *arguments], cwd=folder, stdout=output, stderr=output)

    @property
    def log(self) -> str:
        return (self.folder / "supervisor.log").read_text()

    @property
    def pid(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text())

    def children(self) -> list[tuple[str, str]]:
        """Name and state of every child of PID 1."""
        found = []
        for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            try:
                status = Path(f"/proc/{child}/status").read_text()
            except FileNotFoundError:
                continue
            found.append((status.split()[1], status.partition("State:\t")[2][0]))
        return found


def shell(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Start a supervisor with components; whatever it runs ends with the test."""
    nodes = []

    def make(*components: dict[str, Any]) -> Node:
        nodes.append(Node(tmp_path, list(components)))
        return nodes[-1]

    yield make
    for node in nodes:
        node.process.kill()
        node.process.wait()


@pytest.mark.root
def test_components_start_in_the_order_of_their_conditions(
    start: Callable[..., Node], tmp_path: Path, eventually: Eventually
) -> None:
    listen = "import socket,time; s=socket.socket(socket.AF_UNIX); s.bind('socket'); s.listen(); time.sleep(1000)"
    (tmp_path / "server.py").write_text(listen)
    node = start(
        {"name": "last", "argv": shell("ls job socket > last; exec sleep 1000"), "after": ["unix:socket", "done:job"]},
        {"name": "job", "argv": shell("test -S socket && touch job"), "after": ["unix:socket"], "once": True},
        {"name": "server", "argv": [sys.executable, "server.py"]},
    )
    eventually(lambda: (tmp_path / "last").exists() and (tmp_path / "last").read_text(), "the last component ran")
    assert (tmp_path / "last").read_text().split() == ["job", "socket"]
    eventually(lambda: "last: started" in node.log, "the supervisor says so")
    assert re.findall(r"Z (\w+): (?:started|done)", node.log) == ["server", "job", "job", "last"]


@pytest.mark.root
def test_a_component_waits_for_a_port(start: Callable[..., Node], eventually: Eventually, free_port: int) -> None:
    node = start(
        {"name": "client", "argv": shell("exec sleep 1000"), "after": [f"tcp:{free_port}"]},
        {"name": "other", "argv": shell("exec sleep 1000")},
    )
    eventually(lambda: "other: started" in node.log, "the component without a condition starts")
    assert "client: started" not in node.log
    with socket.create_server(("127.0.0.1", free_port)):
        eventually(lambda: "client: started" in node.log, "the client starts")


@pytest.mark.root
def test_a_one_time_job_is_tried_until_it_succeeds_and_only_once(
    start: Callable[..., Node], eventually: Eventually
) -> None:
    script = "echo try >> tries; test $(wc -l < tries) -ge 3"
    node = start(
        {"name": "job", "argv": shell(script), "once": True},
        {"name": "after", "argv": shell("exec sleep 1000"), "after": ["done:job"]},
    )
    eventually(lambda: "after: started" in node.log, "the component after the job starts")
    assert (node.folder / "tries").read_text() == "try\n" * 3
    assert re.findall(r"job: ended with status (\d+) .* starts again in (\S+) s", node.log) == [
        ("1", "0.2"),
        ("1", "0.4"),
    ]


@pytest.mark.root
def test_a_killed_component_comes_back_and_writes_to_its_log(
    start: Callable[..., Node], tmp_path: Path, eventually: Eventually
) -> None:
    node = start(
        {"name": "server", "argv": shell("echo up; test -e ready || { touch ready; kill -9 $$; }; sleep 1000")}
    )
    eventually(lambda: node.log.count("server: started") == 2, "the component comes back")
    eventually(lambda: (tmp_path / "server.log").read_text() == "up\nup\n", "both runs are in the log")
    assert "ended with status -9" in node.log


@pytest.mark.root
def test_orphans_are_reaped(start: Callable[..., Node], tmp_path: Path, eventually: Eventually) -> None:
    # The inner shell ends at once, so its child falls to PID 1 and ends there.
    orphan = shlex.quote("(until test -e go; do sleep 0.02; done; touch gone) & exit 0")
    node = start({"name": "parent", "argv": shell(f"sh -c {orphan}; touch left; exec sleep 1000")})
    eventually(lambda: (tmp_path / "left").exists() and len(node.children()) == 2, "PID 1 has the orphan")
    (tmp_path / "go").touch()
    eventually(lambda: (tmp_path / "gone").exists() and node.children() == [("sleep", "S")], "the orphan is reaped")
    assert "ended" not in node.log


@pytest.mark.root
def test_components_can_be_ended_by_the_signals_that_pid_1_waits_for(
    start: Callable[..., Node], tmp_path: Path, eventually: Eventually
) -> None:
    node = start({"name": "one", "argv": ["/bin/grep", "SigBlk", "/proc/self/status"], "once": True})
    eventually(lambda: "one: done" in node.log, "the component ran")
    assert int((tmp_path / "one.log").read_text().split()[1], 16) == 0


@pytest.mark.root
def test_a_signal_ends_the_supervisor_and_with_it_everything(
    start: Callable[..., Node], eventually: Eventually
) -> None:
    node = start({"name": "one", "argv": shell("exec sleep 1000")})
    eventually(lambda: "one: started" in node.log and node.children() == [("sleep", "S")], "the component runs")
    pid = node.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(pid, signal.SIGTERM)
    node.process.wait()
    assert "stopping on signal 15" in node.log
    assert not Path(f"/proc/{child}").exists()


def test_the_backoff_grows_to_its_limit_and_starts_anew_after_a_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    component, waits = Component("one", ["/bin/true"]), []
    for ran in (*[1.0] * 8, supervisor.STABLE_SECONDS + 1):
        component.started = now
        now += ran
        component.ended(1)
        waits.append(round(component.not_before - now, 3))
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 0.2]


def test_a_condition_that_held_once_stays_met(tmp_path: Path) -> None:
    job = Component("job", ["/bin/true"], once=True)
    watcher = Supervisor([job])
    path = tmp_path / "socket"
    conditions = [f"unix:{path}", "done:job", "done:no-such-job"]
    assert [watcher.holds(condition) for condition in conditions] == [False] * 3
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        job.done = True
        assert [watcher.holds(condition) for condition in conditions] == [True, True, False]
    assert watcher.holds(f"unix:{path}")


@pytest.mark.root
def test_a_log_begins_anew_when_it_is_long_and_its_writer_goes_on(
    start: Callable[..., Node], tmp_path: Path, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SCRIPT", SCRIPT.replace("import supervisor\n", LIMITED))
    start({"name": "talker", "argv": shell("while :; do echo 0123456789; test -e quiet && exec sleep 1000; done")})
    eventually(lambda: (tmp_path / "talker.log.1").exists(), "the old words are kept")
    (tmp_path / "quiet").touch()
    eventually(lambda: (tmp_path / "talker.log").stat().st_size < 2**20, "the log has begun anew")
    assert (tmp_path / "talker.log").read_text().replace("0123456789\n", "") == ""


LIMITED = "import supervisor\nsupervisor.LOG_BYTES = 2**20\n"
