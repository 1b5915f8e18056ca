"""unshare(2) as the program of that name uses it: namespaces, statuses, signals, and an end with the parent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ambient_embedded.launcher import UNSHARE

Eventually = Callable[[Callable[[], object], str], None]
pytestmark = pytest.mark.root


def run(kinds: str, *program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*UNSHARE, kinds, *program], capture_output=True, text=True, timeout=30)


def test_the_namespaces_that_are_asked_for_are_other_ones_and_no_more() -> None:
    done = run("mount,uts,ipc,net", "sh", "-c", "readlink /proc/self/ns/*")
    own = {os.readlink(f"/proc/self/ns/{kind}") for kind in os.listdir("/proc/self/ns")}
    assert {text.partition(":")[0] for text in set(done.stdout.split()) - own} == {"mnt", "uts", "ipc", "net"}


def test_with_a_pid_namespace_the_program_is_its_first_process_and_mounts_stay_in_it() -> None:
    done = run("mount,pid,proc", "sh", "-c", "echo $$; mount -t tmpfs none /mnt; ls /proc | grep -c '^[0-9]*$'")
    assert (done.stdout.split()[0], int(done.stdout.split()[1]) <= 4, done.stderr) == ("1", True, "")
    assert " /mnt " not in Path("/proc/self/mounts").read_text()


@pytest.mark.parametrize("kinds", ["net", "pid"])
@pytest.mark.parametrize(
    ("program", "status", "says"),
    [
        (["sh", "-c", "exit 7"], 7, ""),
        (["/no/such/program"], 1, "/no/such/program: No such file or directory\n"),
        # A first process can't be aborted: what comes instead is a signal, too.
        ([sys.executable, "-c", "import os; os.abort()"], -1, ""),
        # Python ignores SIGPIPE, and a program inherits that: its bit must be clear.
        (["grep", "-q", "^SigIgn:.*[02468ace]...$", "/proc/self/status"], 0, ""),
    ],
)
def test_the_end_is_the_programs(kinds: str, program: list[str], status: int, says: str) -> None:
    done = run(kinds, *program)
    assert (max(done.returncode, -1), done.stderr) == (status, says)


def test_who_may_not_is_told_why() -> None:
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]
    done = subprocess.run([*drop, *UNSHARE, "mount,pid", "true"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (1, "unshare(2) of mount, pid: Operation not permitted\n")


def test_the_program_ends_with_its_parent(eventually: Eventually) -> None:
    parent = subprocess.Popen([*UNSHARE, "pid", "sleep", "1000"])
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    eventually(children.read_text, "the program has been started")
    child = Path("/proc", children.read_text().split()[0])
    eventually(lambda: "sleep" in (child / "comm").read_text(), "it runs")
    parent.kill()
    parent.wait()
    eventually(lambda: not child.exists() or ") Z " in (child / "stat").read_text(), "it has ended")
