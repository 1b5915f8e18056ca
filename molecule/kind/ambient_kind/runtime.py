#!/usr/bin/python3 -I
"""runc for an engine without CAP_SYS_RESOURCE: a privileged container gets the capabilities that are there.

dockerd asks for every capability the kernel knows, and runc stops at the one that root itself lacks ("unable to
apply caps: operation not permitted"). containerd's shim calls this program with runc's arguments.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

CAP_SYS_RESOURCE = 24  # linux/capability.h


def bounding_set() -> int:
    """The capabilities that a process may have at all here, as a bit mask (proc(5), CapBnd)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("CapBnd:")).split()[1], 16)


def limit(process: dict[str, Any]) -> None:
    """Take the capability out of a process's description (OCI runtime-spec, process.capabilities)."""
    for capabilities in process.get("capabilities", {}).values():
        capabilities[:] = [name for name in capabilities if name != "CAP_SYS_RESOURCE"]


def main() -> None:
    arguments = sys.argv[1:]
    if not bounding_set() >> CAP_SYS_RESOURCE & 1:
        for option, file, member in (("--bundle", "config.json", "process"), ("--process", "", "")):
            if option in arguments:  # of `create` and of `exec`
                path = Path(arguments[arguments.index(option) + 1]) / file
                description = json.loads(path.read_text())
                limit(description[member] if member else description)
                path.write_text(json.dumps(description))
    os.execv("/usr/sbin/runc", ["runc", *arguments])


if __name__ == "__main__":
    main()
