"""Runs a program in new namespaces, as unshare(1) does: ``python -I unshare.py mount,pid,net PROGRAM ARGUMENT...``.

That program itself is confined by AppArmor on Ubuntu 25.04 and newer (``unshare-userns-restrict``): what it starts
loses its capabilities, root's too. Standard library alone. With ``pid`` the program is PID 1 of its namespace, a child
that the kernel ends with this process; with ``proc`` besides it sees that namespace's processes alone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

# sched.h and mount.h of Linux.
FLAGS = {"mount": 0x20000, "uts": 0x4000000, "ipc": 0x8000000, "pid": 0x20000000, "net": 0x40000000}
MS_REC, MS_PRIVATE = 16384, 1 << 18
MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
PR_SET_PDEATHSIG = 1

libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")


def fork() -> None:
    """Go on as a child, which ends with this process; this one ends as the child does."""
    if pid := os.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status < 0:
            os.kill(os.getpid(), -status)
        sys.exit(status)
    _check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")


def main() -> None:
    kinds, program = sys.argv[1].split(","), sys.argv[2:]
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):  # what Python has changed, a program inherits
        signal.signal(number, signal.SIG_DFL)
    flags = sum(FLAGS[kind] for kind in kinds if kind != "proc")
    _check(libc.unshare(flags), f"unshare(2) of {', '.join(kinds)}")
    if "pid" in kinds:
        fork()
    if "mount" in kinds:
        _check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount /")
    if "proc" in kinds:
        _check(libc.mount(b"proc", b"/proc", b"proc", MS_NOSUID_NODEV_NOEXEC, None), "mount /proc")
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.exit(f"{program[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
