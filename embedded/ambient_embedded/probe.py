"""What the kernel lets us do, tried out inside scratch namespaces: run by unshare.py for the preflight.

Standard library alone. Argument: a scratch folder on the state's file system. Prints a JSON list of problems.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
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
NLM_F_CREATE, NLA_F_NESTED, NLMSG_ERROR = 0x400, 0x8000, 2
# Subsystems of linux/netfilter/nfnetlink.h, and messages of each.
CONNTRACK, IPSET, NF_TABLES, NFT_COMPAT = 1, 6, 10, 11
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 16, 17
NFT_MSG_NEWTABLE, NFT_MSG_NEWCHAIN, NFT_MSG_GETGEN = 0, 3, 16
IPCTNL_MSG_CT_GET_STATS, IPSET_CMD_TYPE, NFT_COMPAT_GET = 5, 13, 0
# What is in the rules of istio-cni 1.31 and kube-proxy 1.36, and the modules that it is in.
MATCHES = {
    "addrtype": "xt_addrtype", "comment": "xt_comment", "connmark": "xt_connmark", "conntrack": "xt_conntrack",
    "mark": "xt_mark", "set": "xt_set", "statistic": "xt_statistic", "tcp": "xt_tcpudp",
}  # fmt: skip
TARGETS = {
    "CONNMARK": "xt_connmark", "CT": "xt_CT", "DNAT": "xt_nat", "MARK": "xt_mark", "MASQUERADE": "xt_MASQUERADE",
    "REDIRECT": "xt_REDIRECT", "SNAT": "xt_nat",
}  # fmt: skip

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
            "set <state_dir> to a folder on ext4, xfs or btrfs"
        )
    libc.umount2(str(scratch / "merged").encode(), 0)
    return None


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute of a netlink message (linux/netlink.h, struct nlattr)."""
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def message(subsystem: int, kind: int, *attributes: bytes, family: int = 0, flags: int = 0, resource: int = 0) -> bytes:
    """One message of netfilter's (linux/netfilter/nfnetlink.h)."""
    body = struct.pack("!BBH", family, 0, resource) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), subsystem << 8 | kind, NLM_F_REQUEST_ACK | flags, 1, 0) + body


def ask(*messages: bytes) -> int:
    """Send messages in one go; the first error that the kernel answers with, 0 for none."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
        netlink.send(b"".join(messages))
        # The kernel has answered before send() returns.
        with contextlib.suppress(BlockingIOError):
            while data := netlink.recv(65536, socket.MSG_DONTWAIT):
                kind = struct.unpack_from("=IH", data)[1]
                if kind == NLMSG_ERROR and (code := int(struct.unpack_from("=i", data, 16)[0])):
                    return -code
    return 0


def nf_tables() -> str | None:
    """Does a network namespace have nf_tables, which iptables and kube-proxy need?"""
    try:
        code = ask(message(NF_TABLES, NFT_MSG_GETGEN))
    except OSError as error:
        return f"the kernel's nf_tables does not answer ({error}): load the module nf_tables"
    return f"the kernel refuses nf_tables ({os.strerror(code)}): load the module nf_tables" if code else None


def has_chain(family: int, kind: str, hook: int) -> bool:
    """Can rules of iptables or ip6tables be hung in there? As nft does it, in a table of its own."""
    place = attribute(1, struct.pack("!I", hook)) + attribute(2, struct.pack("!i", -300 if kind == "filter" else -100))
    chain = (attribute(1, b"probe\0"), attribute(3, kind.encode() + b"\0"), attribute(4 | NLA_F_NESTED, place))
    return not ask(
        message(0, NFNL_MSG_BATCH_BEGIN, resource=NF_TABLES),
        message(NF_TABLES, NFT_MSG_NEWTABLE, attribute(1, b"probe\0"), family=family, flags=NLM_F_CREATE),
        message(
            NF_TABLES, NFT_MSG_NEWCHAIN, *chain, attribute(7, kind.encode() + b"\0"), family=family, flags=NLM_F_CREATE
        ),
        message(0, NFNL_MSG_BATCH_END, resource=NF_TABLES),
    )


def has_extension(name: str, *, target: bool) -> bool:
    """Does the kernel have a match or target of iptables? It is asked as iptables-nft asks it (nft_compat.c)."""
    wanted = (attribute(1, name.encode() + b"\0"), attribute(2, bytes(4)), attribute(3, struct.pack("!I", target)))
    code = ask(message(NFT_COMPAT, NFT_COMPAT_GET, *wanted, family=socket.AF_INET))
    return code in (0, errno.EPROTONOSUPPORT)  # that of another revision


def has_sets(kind: str) -> bool:
    """Does the kernel have sets of ipset, of this kind? linux/netfilter/ipset/ip_set.h, IPSET_CMD_TYPE."""
    wanted = (attribute(1, b"\6"), attribute(3, kind.encode() + b"\0"), attribute(5, bytes([socket.AF_INET])))
    return not ask(message(IPSET, IPSET_CMD_TYPE, *wanted))


def netfilter() -> list[str]:
    """What of netfilter, that the rules of istio-cni and kube-proxy are made of, is not there?"""
    lacks = [module for name, module in MATCHES.items() if not has_extension(name, target=False)]
    lacks += [module for name, module in TARGETS.items() if not has_extension(name, target=True)]
    lacks += [] if has_sets("hash:ip") else ["ip_set_hash_ip"]
    lacks += [] if has_chain(socket.AF_INET, "nat", 0) else ["nft_chain_nat"]
    problems = []
    if ask(message(CONNTRACK, IPCTNL_MSG_CT_GET_STATS)):
        lacks.append("nf_conntrack_netlink")
    if lacks:
        names = " ".join(sorted(set(lacks)))
        problems.append(f"netfilter lacks what istio-cni and kube-proxy need ({names}): modprobe {names}")
    if not Path("/proc/sys/net/ipv6").exists():
        problems.append(
            "IPv6 is off in the kernel: istio-cni's rules need it, start the machine without ipv6.disable=1"
        )
    elif not has_chain(socket.AF_INET6, "nat", 0) or not has_chain(socket.AF_INET6, "filter", 0):
        problems.append("ip6tables has no place in the kernel (CONFIG_NF_TABLES_IPV6): istio-cni's rules need it")
    return problems


def policy_routing() -> list[str]:
    """Can packets be routed by their mark, as istio-cni does it for answers to the proxy?"""
    if not shutil.which("ip"):
        return []
    command = ["ip", "rule", "add", "fwmark", "0x111/0xfff", "lookup", "100"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode == 0:
        return []
    return [f"no policy routing ({result.stderr.strip()}): istio-cni needs a kernel with CONFIG_IP_MULTIPLE_TABLES"]


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
    refused = nf_tables()
    problems = (overlay(Path(sys.argv[1])), refused, *([] if refused else netfilter()), *policy_routing(), *links())
    print(json.dumps([problem for problem in problems if problem]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
