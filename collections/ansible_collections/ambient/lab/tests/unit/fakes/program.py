# A module as Ansible runs it: a process of its own, which can be ended.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
import typing as t


def start(
    module: types.ModuleType, options: t.Mapping[str, t.Any], check: bool = False, **environment: str
) -> subprocess.Popen[str]:
    """A module that has got its options; None is one that is left out."""
    given = {key: value for key, value in options.items() if value is not None}
    arguments = json.dumps({"ANSIBLE_MODULE_ARGS": {**given, "_ansible_check_mode": check}})
    program = subprocess.Popen(
        # As from a terminal, where nohup(1) started the tests, too.
        ["env", "--default-signal=HUP", sys.executable, str(module.__file__)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )  # fmt: skip
    assert program.stdin
    program.stdin.write(arguments)
    program.stdin.close()
    program.stdin = None
    return program


def returned(program: subprocess.Popen[str]) -> tuple[bool, dict[str, t.Any]]:
    """Whether a module ended well, and what it returned."""
    stdout, stderr = program.communicate()
    assert stdout, stderr
    values: dict[str, t.Any] = json.loads(stdout)
    return program.returncode == 0, values
