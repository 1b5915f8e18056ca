# What an interrupted play leaves of the embedded provider: the lab, and nothing of the command and what it started.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.ambient.lab.plugins.action.embedded_cluster import _command

# Starts a build, and a lab in a session of its own, says their process ids, and waits.
COMMAND = """
import subprocess, sys, time
build = subprocess.Popen(["sleep", "60"])
lab = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL, start_new_session=True)
with open({path!r} + ".new", "w") as file:
    file.write(f"{{build.pid}} {{lab.pid}}")
import os
os.rename({path!r} + ".new", {path!r})
time.sleep(60)
"""
# As ansible-core's worker has it: a task's timeout is an alarm that raises.
WORKER = """
import signal, sys
from ansible_collections.ambient.lab.plugins.action.embedded_cluster import _command
class Timeout(BaseException): pass
def alarm(number, frame): raise Timeout
signal.signal(signal.SIGALRM, alarm)
_command(sys.argv[1], {})
"""


def _runs(process: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _source(folder: pathlib.Path, text: str) -> str:
    package = folder / "source/ambient_embedded"
    package.mkdir(parents=True)
    (package / "__main__.py").write_text(text)
    return str(package.parent)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGALRM])
def test_an_interrupted_play_takes_its_command_along(tmp_path: pathlib.Path, number: signal.Signals) -> None:
    told = tmp_path / "told"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "ANSIBLE_LOCAL_TEMP": str(tmp_path)}
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, _source(tmp_path, COMMAND.format(path=str(told)))],
        env=environment, start_new_session=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not told.exists():
        assert worker.poll() is None
        time.sleep(0.02)
    build, lab = map(int, told.read_text().split())
    try:
        worker.send_signal(number)
        worker.wait(10)
        end = time.monotonic() + 5
        while _runs(build) and time.monotonic() < end:
            time.sleep(0.02)
        assert (_runs(build), _runs(lab)) == (False, True)
    finally:
        for process in (build, lab):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def test_the_answer(tmp_path: pathlib.Path) -> None:
    text = "import json, sys; print(json.dumps({'given': json.load(sys.stdin)}))"
    assert _command(_source(tmp_path, text), {"name": "lab"}) == {"given": {"name": "lab"}}


def test_a_command_that_breaks_off_says_what_to_do(tmp_path: pathlib.Path) -> None:
    with pytest.raises(AnsibleActionFail) as caught:
        _command(_source(tmp_path, "import sys; sys.exit(sys.stdin.read() and 'no space left')"), {})
    assert str(caught.value).rstrip() == (
        "The embedded provider broke off; run it again, what is built is kept:\nno space left"
    )
