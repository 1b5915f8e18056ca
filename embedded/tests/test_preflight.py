"""The preflight: every problem at once, each with what to do about it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
from ambient_embedded import launcher, preflight, probe
from ambient_embedded.errors import LabError

Usage = namedtuple("Usage", "total used free")
NAMESPACES = [*launcher.UNSHARE, "mount,pid,net,uts,ipc"]
PROBE = str(Path(probe.__file__))


def problems(error: pytest.ExceptionInfo[LabError]) -> list[str]:
    """The problems that a message lists, once its frame is proven."""
    first, *listed, last = str(error.value).splitlines()
    assert first == "The embedded cluster cannot run on this machine:"
    assert last == "Another way: <otherwise>."
    return [line.removeprefix("  - ") for line in listed]


@pytest.mark.root
def test_a_machine_that_can_is_let_through(tmp_path: Path, free_port: int) -> None:
    preflight.check_basics()
    preflight.check(tmp_path / "cache", tmp_path / "state", (("127.0.0.1", free_port, 30080),), building=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
def test_every_problem_is_named_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 1 << 30))
    monkeypatch.setattr(preflight, "available_memory_bytes", lambda: 1 << 29)
    cgroups = tmp_path / "cgroup"
    (cgroups / "memory").mkdir(parents=True)
    monkeypatch.setattr(preflight, "CGROUPS", cgroups)
    monkeypatch.setattr(preflight, "cgroup_hierarchies", lambda: [cgroups / "memory", cgroups / "gone"])
    answer = subprocess.CompletedProcess([], 0, json.dumps(["overlayfs cannot be mounted: set <state_dir>"]), "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LabError) as error:
            preflight.check(tmp_path / "cache", tmp_path / "state", (("127.0.0.1", port, 30080),), building=True)
    name = Path("/proc/self/comm").read_text().strip()
    assert problems(error) == [
        f"1.0 GiB are free for {tmp_path}/state, 3 GiB are needed: make room or set <state_dir>",
        f"1.0 GiB are free for {tmp_path}/cache, 15 GiB are needed: make room or set <cache_dir>",
        "0.5 GiB of memory are available, 4 GiB are needed: end other programs or give the machine more",
        "the kernel has no cgroup controllers cpu, cpuset, pids: enable them or <otherwise>",
        f"no cgroup can be made in {cgroups}/gone (No such file or directory): "
        f"give the container its cgroups writable (Docker: --privileged) or <otherwise>",
        "overlayfs cannot be mounted: set <state_dir>",
        f"port 127.0.0.1:{port} is taken by {name}, pid {os.getpid()}: set another one in <port>",
    ]


def test_what_the_machine_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    with pytest.raises(LabError) as error:
        preflight.check_basics()
    assert problems(error) == [
        "the processor riscv64 is neither x86_64 nor aarch64: <otherwise>",
        "not root: namespaces and mounts need it, run it as root or with sudo",
        "missing, and no apt-get that could install them: install mmdebstrap, iproute2, util-linux",
    ]


def test_another_system_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with pytest.raises(LabError) as error:
        preflight.check_basics()
    assert problems(error) == ["Darwin is not Linux, whose namespaces the embedded cluster needs: <otherwise>"]


def test_nothing_is_installed_where_apt_can_do_it_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda tool: tool if tool == "apt-get" else None)
    preflight.check_basics()
    assert preflight.missing_tools() == ["mmdebstrap", "iproute2", "util-linux"]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="the machine has no IPv6")
def test_a_port_that_an_ipv6_socket_takes_has_a_holder_too() -> None:
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as taken:
        port = taken.getsockname()[1]
        (problem,) = preflight._ports((("127.0.0.1", port, 30080),))
    assert f", pid {os.getpid()}: set another one" in problem


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_an_address_that_is_not_this_machines_is_not_called_taken(address: str, free_port: int) -> None:
    (problem,) = preflight._ports(((address, free_port, 30080),))
    assert "taken" not in problem
    assert problem.startswith("Cannot assign requested address")
    assert f"'{address}', {free_port}" in problem
    assert problem.endswith(": set <host>")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="the machine has no IPv6")
def test_a_free_port_of_an_ipv6_address_is_let_through(free_port: int) -> None:
    assert list(preflight._ports((("::1", free_port, 30080),))) == []


@pytest.mark.root
def test_nothing_stays_of_a_state_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert list(preflight._kernel(tmp_path / "one/two/state")) == []
    assert list(tmp_path.iterdir()) == []


def command_lines() -> str:
    """Those of all processes."""
    lines = ""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            lines += file.read_text()
    return lines


@pytest.mark.root
def test_a_probe_that_hangs_is_ended_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Callable[[Callable[[], object], str], None]
) -> None:
    (tmp_path / "probe.py").write_text("import time; time.sleep(1000)")
    monkeypatch.setattr(preflight, "PROBE", tmp_path / "probe.py")
    monkeypatch.setattr(preflight, "PROBE_SECONDS", 1.0)
    (problem,) = preflight._kernel(tmp_path)
    eventually(lambda: str(tmp_path / "probe.py") not in command_lines(), "the probe has ended")
    assert problem.startswith("namespaces cannot be made (the test did not end in 1 s): give the container the right")


@pytest.mark.root
def test_a_state_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert list(preflight._kernel(tmp_path / "file/state")) == [
        f"{tmp_path}/file/state cannot be written (Not a directory): set <state_dir>"
    ]


@pytest.mark.root
def test_the_probe_finds_nothing_amiss_here(tmp_path: Path) -> None:
    done = subprocess.run(
        [*NAMESPACES, sys.executable, "-I", PROBE, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    assert not any(str(tmp_path) in line for line in Path("/proc/self/mountinfo").read_text().splitlines())


@pytest.mark.root
def test_the_probe_names_a_file_system_that_overlayfs_refuses(tmp_path: Path) -> None:
    """An overlay cannot carry the upper layer of another one: as in a container."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    script = (
        'mount --make-rprivate / && cd "$1" && mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work '
        'overlay merged && mkdir merged/scratch && exec "$2" -I "$3" "$1/merged/scratch"'
    )
    command = [*NAMESPACES, "sh", "-c", script, "sh", str(tmp_path), sys.executable, PROBE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    (problem,) = json.loads(done.stdout)
    assert problem.startswith(f"overlayfs cannot be mounted on {tmp_path}/merged (")
    assert problem.endswith("set <state_dir> to a folder on ext4, xfs or btrfs")


@pytest.mark.root
def test_the_probe_says_what_a_process_without_rights_may_not(tmp_path: Path) -> None:
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]
    if not shutil.which("setpriv"):
        pytest.skip("setpriv (util-linux) is missing")
    done = subprocess.run(
        [*NAMESPACES, *drop, sys.executable, "-I", PROBE, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert [problem.partition(" (")[0].partition(":")[0] for problem in json.loads(done.stdout)] == [
        f"overlayfs cannot be mounted on {tmp_path.parent}",
        "the kernel refuses nf_tables",
        "no policy routing",
        "a veth cannot be made",
        "a bridge cannot be made",
    ]


ASK = """
import json, socket, sys
sys.path.insert(0, sys.argv[1])
from ambient_embedded import probe
print(json.dumps({
    "extension": [probe.has_extension("NOPE", target=True), probe.has_extension("mark", target=False)],
    "sets": [probe.has_sets("hash:nope"), probe.has_sets("hash:ip")],
    "chain": [probe.has_chain(socket.AF_INET6, "nope", 0), probe.has_chain(socket.AF_INET6, "nat", 0)],
}))
"""


@pytest.mark.root
def test_the_probe_tells_what_this_kernel_has_from_what_no_kernel_has() -> None:
    command = [*launcher.UNSHARE, "net", sys.executable, "-c", ASK, str(Path(probe.__file__).parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == {what: [False, True] for what in ("extension", "sets", "chain")}


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """A kernel that lacks what the test puts in: extensions, kinds of sets, chains as family and kind."""
    lacks: set[str] = set()
    monkeypatch.setattr(probe, "has_extension", lambda name, target: name not in lacks)
    monkeypatch.setattr(probe, "has_sets", lambda kind: kind not in lacks)
    monkeypatch.setattr(probe, "has_chain", lambda family, kind, _: f"{family} {kind}" not in lacks)
    monkeypatch.setattr(probe, "ask", lambda _: 22 if "netlink" in lacks else 0)
    monkeypatch.setattr(Path, "exists", lambda _: "ipv6" not in lacks)
    return lacks


@pytest.mark.parametrize(
    ("lacks", "says"),
    [
        ({"CT", "set"}, "netfilter lacks what istio-cni and kube-proxy need (xt_CT xt_set): modprobe xt_CT xt_set"),
        ({"mark", "MARK"}, "netfilter lacks what istio-cni and kube-proxy need (xt_mark): modprobe xt_mark"),
        ({"hash:ip"}, "netfilter lacks what istio-cni and kube-proxy need (ip_set_hash_ip): modprobe ip_set_hash_ip"),
        ({"netlink"}, "(nf_conntrack_netlink): modprobe nf_conntrack_netlink"),
        ({f"{int(socket.AF_INET)} nat"}, "(nft_chain_nat): modprobe nft_chain_nat"),
        ({f"{int(socket.AF_INET6)} nat"}, "ip6tables has no place in the kernel (CONFIG_NF_TABLES_IPV6)"),
        ({"ipv6"}, "IPv6 is off in the kernel: istio-cni's rules need it, start the machine without ipv6.disable=1"),
    ],
)
def test_what_a_kernel_lacks_is_named_with_its_module(kernel: set[str], lacks: set[str], says: str) -> None:
    assert probe.netfilter() == []
    kernel |= lacks
    (problem,) = probe.netfilter()
    assert says in problem


def test_apparmor_is_named_where_it_may_be_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_probe", lambda _: ["namespaces cannot be made (Permission denied)"])
    monkeypatch.setattr(preflight, "PROFILE", tmp_path / "current")
    told = []
    for profile in ("unconfined\n", "docker-default (enforce)\n", "mine (complain)\n"):
        (tmp_path / "current").write_text(profile)
        told.append(list(preflight._kernel(tmp_path))[1:])
    (tmp_path / "current").unlink()
    assert [len(lines) for lines in told] == [0, 1, 0]
    assert told[1][0].startswith(
        "AppArmor confines this process (docker-default), and may be the reason: run it unconf"
    )
    assert len(list(preflight._kernel(tmp_path))) == 1


@pytest.mark.root
@pytest.mark.parametrize(
    ("owner", "mode", "says"),
    [
        (1000, 0o755, "can be changed by its owner (uid 1000)"),
        (0, 0o777, "can be changed by its group or everybody (chmod go-w)"),
        (0, 0o775, ""),  # root's group
        (0, 0o1777, ""),  # as /tmp
        (0, 0o700, ""),
    ],
)
@pytest.mark.parametrize("which", ["cache", "state"])
def test_programs_and_keys_that_others_can_change_are_refused(
    tmp_path: Path, owner: int, mode: int, says: str, which: str
) -> None:
    home = tmp_path / "home"
    (home / which).mkdir(parents=True)
    os.chown(home, owner, 0)
    home.chmod(mode)
    (tmp_path / "link").symlink_to(home / which)
    for folder in (home / which, home / which / "not/there", tmp_path / "link"):
        folders = {"cache": tmp_path / "own", "state": tmp_path / "own", which: folder}
        problems = list(preflight._owners(folders["cache"], folders["state"]))
        assert len(problems) == bool(says), problems
        assert all(f"{home} and with it {folder} {says}, and what is in it runs as root" in line for line in problems)


@pytest.mark.root
def test_a_part_of_the_cache_that_somebody_else_has_restored_is_refused(tmp_path: Path) -> None:
    (tmp_path / "programs-0123456789ab").mkdir()
    assert list(preflight._owners(tmp_path, tmp_path / "state")) == []
    os.chown(tmp_path / "programs-0123456789ab", 1000, 0)
    (problem,) = preflight._owners(tmp_path, tmp_path / "state")
    assert problem.endswith("set <cache_dir> to ~root/.cache/ambient-lab")


@pytest.mark.root
@pytest.mark.parametrize("whose", ["the link", "what is on the way"])
def test_a_link_that_somebody_else_may_turn_round_is_refused(tmp_path: Path, whose: str) -> None:
    (tmp_path / "house").mkdir()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    (tmp_path / "cache").mkdir()
    link = tmp_path / "tmp/link"
    link.symlink_to("../house/second")
    (tmp_path / "house/second").symlink_to(tmp_path / "cache")
    assert list(preflight._owners(link, tmp_path / "state")) == []
    changed = link if whose == "the link" else tmp_path / "house"
    os.lchown(changed, 1000, 0)
    (problem,) = preflight._owners(link / "sub", tmp_path / "state")
    assert problem.startswith(f"{changed} and with it {link}/sub can be changed by its owner (uid 1000)")


def test_a_place_that_is_no_better_is_not_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a container's / belongs to somebody else than root."""
    monkeypatch.setattr(preflight, "_writable", lambda _: "its owner (uid 1000)")
    problems = list(preflight._owners(Path("/srv/cache"), Path("/srv/state")))
    assert [line.endswith(": chown root:root /; chmod go-w /") for line in problems] == [True, True]


def test_a_threaded_cgroup_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu cpuset memory pids")
    monkeypatch.setattr(preflight, "CGROUPS", tmp_path)
    monkeypatch.setattr(preflight, "cgroup_hierarchies", lambda: [tmp_path])
    assert list(preflight._cgroups()) == []
    (tmp_path / "cgroup.type").write_text("domain threaded\n")
    assert "threaded cgroup" in next(iter(preflight._cgroups()))


def test_on_another_disk_than_the_caches_each_new_node_needs_room_for_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 4 << 30))
    monkeypatch.setattr(preflight, "available_memory_bytes", lambda: 1 << 40)
    asked = [(Path("/proc"), 2), (Path("/proc"), 0), (tmp_path, 2)]
    told = [list(preflight._resources(tmp_path, state, False, False, nodes)) for state, nodes in asked]
    assert told == [["4.0 GiB are free for /proc, 7 GiB are needed: make room or set <state_dir>"], [], []]


def test_a_restart_needs_no_memory_that_the_lab_itself_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "available_memory_bytes", lambda: 1 << 29)
    told = [list(preflight._resources(tmp_path, tmp_path, False, running, 0)) for running in (False, True)]
    assert ["memory" in line for line in told[0]] == [True]
    assert told[1] == []
