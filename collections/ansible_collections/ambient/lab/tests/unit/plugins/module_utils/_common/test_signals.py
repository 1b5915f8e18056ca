# What a signal leaves behind: nothing that was to be put right.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.files import replace_file
from ansible_collections.ambient.lab.plugins.module_utils._common.signals import ended_politely

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture
def hang_up() -> t.Iterator[None]:
    """SIGHUP as a terminal gives it, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hang_up")
@pytest.mark.parametrize("number", ENDING)
def test_a_signal_is_an_exception_for_a_while(number: signal.Signals) -> None:
    before = [signal.getsignal(item) for item in ENDING]
    removed = []

    @ended_politely()
    def end() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            # Another one does not break this off.
            for other in ENDING:
                os.kill(os.getpid(), other)
            removed.append("pod")

    with pytest.raises(SystemExit) as caught:
        end()
    assert caught.value.code == 128 + number
    assert removed == ["pod"]
    assert [signal.getsignal(item) for item in ENDING] == before


@pytest.mark.usefixtures("hang_up")
def test_nohup_stays_nohup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ended_politely():
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


_TASK = """
import pathlib, sys, time
from ansible_collections.ambient.lab.plugins.module_utils._common.signals import ended_politely
with ended_politely():
    try:
        pathlib.Path(sys.argv[1], "changed").touch()
        time.sleep(60)
    finally:
        pathlib.Path(sys.argv[1], "put right").touch()
"""
_PLAYBOOK = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]], start_new_session=True)"


def test_a_task_whose_playbook_was_killed_puts_right_what_it_has_changed(tmp_path: pathlib.Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _PLAYBOOK, "-c", _TASK, str(tmp_path)]
    with subprocess.Popen(command, env=environment) as playbook:
        _wait_for(tmp_path / "changed")
        playbook.kill()
    _wait_for(tmp_path / "put right")


def _wait_for(path: pathlib.Path) -> None:
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} never came"
        time.sleep(0.02)


def test_no_half_file_stays(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", lambda *_paths: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit), ended_politely():
        replace_file(str(tmp_path / "a"), "text", 0o600)
    assert list(tmp_path.iterdir()) == []
