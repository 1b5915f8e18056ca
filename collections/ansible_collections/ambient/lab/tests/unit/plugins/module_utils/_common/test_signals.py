# What a signal leaves behind: nothing that was to be put right.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import pathlib
import signal

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.files import replace_file
from ansible_collections.ambient.lab.plugins.module_utils._common.signals import ended_politely


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_an_exception_for_a_while(number: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    removed = []

    @ended_politely()
    def end() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            # Another one does not break this off.
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            removed.append("pod")

    with pytest.raises(SystemExit) as caught:
        end()
    assert caught.value.code == 128 + number
    assert removed == ["pod"]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_no_half_file_stays(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", lambda *_paths: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit), ended_politely():
        replace_file(str(tmp_path / "a"), "text", 0o600)
    assert list(tmp_path.iterdir()) == []
