"""tests/state.py, which proves that nothing is left behind: it must see what came, and not what moves by itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import state
from project import ROOT

Object = dict[str, Any]
OWNED = {"ownerReferences": [{"kind": "ReplicaSet", "name": "app-1"}]}
NEVER = {"uid": "u", "resourceVersion": "7", "generation": 2, "creationTimestamp": "2026-01-01", "managedFields": [{}]}


def thing(kind: str = "ConfigMap", meta: Object | None = None, **content: Any) -> Object:
    """An object of a cluster."""
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": "app", "namespace": "shop", **(meta or {})},
        **content,
    }


def test_differences() -> None:
    before = {"a same": "1", "a gone": "1", "a changed": "1"}
    after = {"a same": "1", "a new": "2", "a changed": "2"}
    assert state.differences(before, after) == ["+ a new: 2", "- a gone: 1", "~ a changed: 1 -> 2"]
    assert state.differences(before, dict(reversed(before.items()))) == []


def test_table() -> None:
    rows = state.table({"mount /a (x)": "1", "file /b": ""}, {"mount /a (x)": "2", "mount /c (x)": "", "link d": ""})
    assert [row.split() for row in rows] == [
        ["before", "after"],
        ["file", "1", "0"],
        ["link", "0", "1"],
        ["mount", "1", "2"],
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (thing(), thing(meta=NEVER)),
        (thing(meta={"ownerReferences": []}), thing()),
        (thing(status={"seen": 1}), thing(status={"seen": 2})),
        (thing(meta={"annotations": {state.LEADER: "a"}}), thing(meta={"annotations": {state.LEADER: "b"}})),
        (
            thing("Node", {"labels": {"a": "b"}, "annotations": {"seen": "1"}}),
            thing("Node", {"labels": {"a": "b"}, "annotations": {"seen": "2"}}),
        ),
    ],
)
def test_what_moves_by_itself_does_not_count(one: Object, other: Object) -> None:
    assert state._object(one) == state._object(other)
    assert state._object(one)[0] == f"{one['kind']} shop/app"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (thing(data={"a": "1"}), thing(data={"a": "2"})),
        (thing(meta={"labels": {"a": "1"}}), thing()),
        (thing(meta={"annotations": {state.LEADER: "a", "x": "1"}}), thing(meta={"annotations": {"x": "2"}})),
        (thing("Node", {"labels": {"a": "b"}}), thing("Node")),
        (thing("Node", {}, spec={"taints": []}), thing("Node")),
    ],
)
def test_what_somebody_changed_counts(one: Object, other: Object) -> None:
    assert state._object(one)[0] == state._object(other)[0]
    assert state.digest(state._object(one)[1]) != state.digest(state._object(other)[1])


@pytest.mark.parametrize(
    ("item", "name"),
    [
        (thing("Pod"), "Pod shop/app"),
        (thing("Pod", OWNED), ""),
        (thing("ConfigMap", OWNED), "ConfigMap shop/app"),
        ({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}, "Namespace /shop"),
        ({**thing("Gateway"), "apiVersion": "example.org/v1"}, "Gateway.example.org shop/app"),
        (thing(meta={"name": "kube-apiserver-legacy-service-account-token-tracking"}), ""),
    ],
)
def test_names(item: Object, name: str) -> None:
    assert state._object(item)[0] == name


# It answers what is asked of it, with the objects of a file beside it.
KUBECTL = """#!/bin/sh
[ "$1 $2 $3" = "--kubeconfig mine --cache-dir" ] || { echo "no kubeconfig" >&2; exit 1; }
shift 4
case "$1 $2" in
"api-resources --verbs=list") echo configmaps pods events events.events.k8s.io leases.coordination.k8s.io ;;
"get configmaps,pods") cat "$(dirname "$0")/objects.json" ;;
*) echo "not known: $*" >&2; exit 1 ;;
esac
"""


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run state.py as molecule does."""
    command = [sys.executable, "tests/state.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_cluster_is_written_down_and_compared(tmp_path: Path) -> None:
    kubectl, file = tmp_path / "kubectl", tmp_path / "new/folder/cluster.json"
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)

    def look(action: str, *items: Object) -> tuple[int, list[str]]:
        (tmp_path / "objects.json").write_text(json.dumps({"items": items}))
        ran = program("cluster", action, str(file), "mine", str(kubectl))
        assert ran.stderr == ""
        return ran.returncode, ran.stdout.splitlines()

    assert look("write", thing(), thing("Pod")) == (0, [])
    assert list(json.loads(file.read_text())) == ["ConfigMap shop/app", "Pod shop/app"]
    assert look("compare", thing("Pod"), thing(meta=NEVER), thing("Pod", {**OWNED, "name": "b"}))[1][-1] == "equal"
    assert look("compare", thing("Pod"), thing())[0] == 0
    code, lines = look("compare", thing(data={"a": "1"}), thing(meta={"name": "left"}))
    assert code == 1
    changed = [line.partition(": ")[0] for line in lines[-3:]]
    assert changed == ["+ ConfigMap shop/left", "- Pod shop/app", "~ ConfigMap shop/app"]
    # A cluster that can't be asked is no cluster without objects.
    unasked = program("cluster", "write", str(file), "other", str(kubectl))
    assert unasked.returncode != 0
    assert unasked.stderr.endswith("ended with 1: no kubeconfig\n")


PARTS = ("mount", "network", "cgroup", "setting", "file", "process")


def test_a_machine_has_all_its_parts() -> None:
    seen = state.host()
    assert "mount / (" in " ".join(seen)
    assert seen["setting net.ipv4 ip_forward"] in ("0", "1")
    assert seen["file /etc/passwd"] == str(os.path.getsize("/etc/passwd"))
    assert any(name.startswith("network links: ") for name in seen) is (shutil.which("ip") is not None)
    assert {name.split()[0] for name in seen} <= set(PARTS)


@pytest.mark.parametrize("part", ["_mounts", "_cgroups", "_settings"])
def test_a_machine_where_nothing_happens_stays_equal(part: str) -> None:
    """Other work goes on here, so one quiet moment of five is enough."""
    read = getattr(state, part)
    assert any(list(read()) == list(read()) for _ in range(5))


def test_a_file_that_is_left_is_seen() -> None:
    with tempfile.NamedTemporaryFile(prefix="left-behind-", dir="/tmp") as file:
        there = dict(state._files())
    gone = dict(state._files())
    assert f"+ {file.name}: is there" in state.differences(gone, there)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("/tmp/ansible_objects_payload", False),
        (f"{state.HOME}/.ansible", False),
        ("/tmp/pytest-of-root", False),
        ("/run/systemd/transient/a.scope", False),
        ("/tmp/lab", True),
        ("/tmp/tmpab12_x9z", True),
        ("/run/netns/lab", True),
        ("/etc/hosts", True),
        ("/etc/ansible-lab", True),
        ("/etc/bash_completion.d/lab", True),
        (f"{state.HOME}/.cache/helm", True),
    ],
)
def test_whose_files_count(name: str, counts: bool) -> None:
    assert (state.OWN_FILES.match(name) is None) is counts


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[int]:
    """A process named "stray" whose parent has ended; its number."""
    stray = tmp_path / "stray"
    stray.symlink_to(shutil.which("sleep") or "")
    ran = subprocess.run(["sh", "-c", f"{stray} 60 >&- 2>&- & echo $!"], capture_output=True, text=True, check=True)
    yield int(ran.stdout)
    os.kill(int(ran.stdout), signal.SIGKILL)


def test_a_process_that_is_left_is_seen(orphan: int) -> None:
    def parent() -> str:
        return Path(f"/proc/{orphan}/status").read_text().partition("PPid:\t")[2].partition("\n")[0]

    assert parent() == "1"
    assert ("stray (child of PID 1)", "1 run") in list(state._processes())


def test_who_looks_is_not_left_behind(tmp_path: Path) -> None:
    looker = tmp_path / "looker"
    looker.symlink_to(Path(sys.executable).resolve())
    script = tmp_path / "look.py"
    script.write_text(
        f"import os, sys, time\nsys.path.insert(0, {str(ROOT / 'tests')!r})\nimport state\n"
        "while os.getppid() != 1:\n    time.sleep(0.01)\n"
        "print(*dict(state._processes()), 'end', sep='\\n')\n"
    )
    ran = subprocess.run(["sh", "-c", f"{looker} {script} &"], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.splitlines()[-1] == "end"
    assert "looker (child of PID 1)" not in ran.stdout.splitlines()


def test_a_port_that_somebody_opened_is_seen() -> None:
    if shutil.which("ss") is None:
        pytest.skip("no ss here")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        there = dict(state._network())
    assert f"network listening: 127.0.0.1:{port}" in {f"network {name}" for name in there}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (":INPUT ACCEPT [1:60]", ":INPUT ACCEPT [2:120]"),
        (
            "ip daddr 10.0.0.1 counter packets 3 bytes 180 accept",
            "ip daddr 10.0.0.1 counter packets 4 bytes 240 accept",
        ),
        ("# Generated on Monday", "# Generated on Tuesday"),
        ("inet6 fe80::1 valid_lft 59sec", "inet6 fe80::1 valid_lft 58sec"),
    ],
)
def test_counters_and_times_are_no_state(one: str, other: str) -> None:
    assert state.MOVING.sub("", one) == state.MOVING.sub("", other)


def test_a_question_that_is_refused_is_no_empty_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nft").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "nft").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert ("nft: exit code", "1") in list(state._network())


def test_a_cgroup_that_is_left_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, processes in (("left", ""), ("left/inner", ""), ("tool", ""), ("tool/job", "7\n"), ("a.scope", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").write_text(processes)
    monkeypatch.setattr(state, "CGROUPS", str(tmp_path))
    assert [name for name, _ in state._cgroups()] == [f"{tmp_path}/left", f"{tmp_path}/left/inner"]
