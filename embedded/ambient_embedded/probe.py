"""What the kernel lets us do, tried out inside scratch namespaces: run under ``unshare`` by the preflight.

Standard library alone. Argument: a scratch folder on the state's file system. Prints a JSON list of problems.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

MS_REC, MS_PRIVATE = 16384, 1 << 18
NETLINK_NETFILTER = 12
NLM_F_REQUEST_ACK = 1 | 4
NFT_MSG_GETGEN = (10 << 8) | 16  # subsystem nf_tables, message GETGEN (linux/netfilter/nf_tables.h)

libc = ctypes.CDLL(None, use_errno=True)


def overlay(scratch: Path) -> str | None:
    """Can a root file system be laid over another here?"""
    for name in ("lower", "upper", "work", "merged"):
        (scratch / name).mkdir()
    libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    options = f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work"
    if libc.mount(b"overlay", str(scratch / "merged").encode(), b"overlay", 0, options.encode()) != 0:
        reason = os.strerror(ctypes.get_errno())
        return (
            f"overlayfs cannot be mounted on {scratch.parent} ({reason}): "
            "set cluster_state_dir to a folder on ext4, xfs or btrfs"
        )
    libc.umount2(str(scratch / "merged").encode(), 0)
    return None


def nf_tables() -> str | None:
    """Does a network namespace have nf_tables, which iptables and kube-proxy need?"""
    message = struct.pack("=IHHIIBBH", 20, NFT_MSG_GETGEN, NLM_F_REQUEST_ACK, 1, 0, 0, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
            netlink.settimeout(2)
            netlink.send(message)
            answer = netlink.recv(4096)
    except OSError as error:
        return f"the kernel's nf_tables does not answer ({error}): load the module nf_tables"
    kind = struct.unpack_from("=IH", answer)[1]
    if kind == 2 and (code := struct.unpack_from("=i", answer, 16)[0]) != 0:  # NLMSG_ERROR
        return f"the kernel refuses nf_tables ({os.strerror(-code)}): load the module nf_tables"
    return None


def links() -> list[str]:
    """Which kinds of interfaces that nodes are joined with cannot be made?"""
    if not shutil.which("ip"):
        return []  # installed together with the other tools, before anything is started
    problems = []
    for kind, *peer in (("veth", "peer", "name", "probe1"), ("bridge",)):
        command = ["ip", "link", "add", f"{kind}0", "type", kind, *peer]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            problems.append(f"a {kind} cannot be made ({result.stderr.strip()}): load the module {kind}")
    return problems


def main() -> int:
    problems = (overlay(Path(sys.argv[1])), nf_tables(), *links())
    print(json.dumps([problem for problem in problems if problem]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
