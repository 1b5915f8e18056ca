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


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (thing(), thing(meta=NEVER)),
        (thing(status={"seen": 1}), thing(status={"seen": 2})),
        (thing(meta={"annotations": {state.LEADER: "a"}}), thing(meta={"annotations": {state.LEADER: "b"}})),
    ],
)
def test_what_moves_by_itself_does_not_count(one: Object, other: Object) -> None:
    assert state._object(one) == state._object(other)
    assert state._object(one)[0] == "ConfigMap shop/app"


CRD = "CustomResourceDefinition"


@pytest.mark.parametrize(
    ("item", "name"),
    [
        (thing("Pod"), "Pod shop/app"),
        (thing("Pod", OWNED), ""),
        (thing("ConfigMap", OWNED), "ConfigMap shop/app"),
        ({**thing("Gateway"), "apiVersion": "example.org/v1"}, "Gateway.example.org shop/app"),
        # Clean-up leaves the lab's CRDs. Somebody else's count, and so does all else with these labels.
        (thing(CRD, {"labels": {"app.kubernetes.io/part-of": "istio", "a": "b"}}), ""),
        (thing(CRD, {"labels": {"app.kubernetes.io/managed-by": "ambient-lab"}}), ""),
        (thing(CRD, {"labels": {"app.kubernetes.io/managed-by": "Helm"}}), f"{CRD} shop/app"),
        (thing(CRD), f"{CRD} shop/app"),
        (thing(meta={"labels": {"app.kubernetes.io/managed-by": "ambient-lab"}}), "ConfigMap shop/app"),
        (thing("APIService", {"labels": {"kube-aggregator.kubernetes.io/automanaged": "true"}}), ""),
        (
            thing("APIService", {"labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"}}),
            "APIService shop/app",
        ),
    ],
)
def test_what_counts(item: Object, name: str) -> None:
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


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[int]:
    """A process named "stray" whose parent has ended; its number."""
    stray = tmp_path / "stray"
    stray.symlink_to(shutil.which("sleep") or "")
    ran = subprocess.run(["sh", "-c", f"{stray} 60 >&- 2>&- & echo $!"], capture_output=True, text=True, check=True)
    yield int(ran.stdout)
    os.kill(int(ran.stdout), signal.SIGKILL)


def test_what_is_left_on_the_machine_is_seen(orphan: int) -> None:
    """A process whose parent has ended, a file, and a port."""
    status = Path(f"/proc/{orphan}/status")
    assert "PPid:\t1\n" in status.read_text()
    with socket.create_server(("127.0.0.1", 0)) as server, tempfile.NamedTemporaryFile(dir="/tmp") as file:
        port = server.getsockname()[1]
        there = state.host()
    found = {line.rpartition(": ")[0] for line in state.differences(state.host(), there)}
    ports = {f"+ network listening: 127.0.0.1:{port}"} if shutil.which("ss") else set()
    assert found >= {f"+ file {file.name}"} | ports
    assert there["process stray (child of PID 1)"] == "1 run"
