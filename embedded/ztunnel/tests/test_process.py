"""The whole process against a small istiod and istio-cni: gRPC, ZDS, readiness, dump, drain (embedded
provider alone).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import urllib.request
from collections.abc import Callable, Coroutine
from pathlib import Path
from resource import RLIMIT_NOFILE, getrlimit, setrlimit

import pytest

pytest.importorskip("ads_pb2", reason="generated classes are missing: set AMBIENT_ZTUNNEL_PROTOS, see conftest.py")

from workloadapi import workload_pb2 as wds
from workloadapi.security import authorization_pb2 as authz
from zdsapi import zds_pb2 as zds
from zt_istiod import ADDRESS_TYPE, AUTHORIZATION_TYPE, Cni, Istiod, resource
from zt_lab import CLIENT_IP, SERVER_IP, Ca, go, two_namespaces

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
DESCRIPTORS = getrlimit(RLIMIT_NOFILE)[1]
PACKAGE = Path(__file__).resolve().parents[1]


def pod(name: str, ip: object) -> wds.Address:
    """A workload as istiod sends it."""
    return wds.Address(
        workload=wds.Workload(
            uid=f"Kubernetes//Pod/default/{name}",
            name=name,
            namespace="default",
            addresses=[getattr(ip, "packed", b"")],
            tunnel_protocol=wds.HBONE,
            service_account=name,
            workload_name=name,
            canonical_name=name,
            node="node",
        )
    )


class Ztunnel:
    """The process under test, in the client's namespace so that its own ports are free."""

    def __init__(self, home: int, folder: Path, port: int, relay: str) -> None:
        self.home = home
        self.env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(PACKAGE), *sys.path]),
            "XDS_ADDRESS": relay,
            "CA_ADDRESS": relay,
            "XDS_ROOT_CA": str(folder / "root-cert.pem"),
            "AUTH_TOKEN": str(folder / "token"),
            "INPOD_UDS": str(folder / "zds.sock"),
            "POD_NAME": "ztunnel-x",
            "POD_NAMESPACE": "istio-system",
            "NODE_NAME": "node",
            "INSTANCE_IP": "10.0.0.9",
            "ENABLE_ORIG_SRC": "false",
            "TERMINATION_GRACE_PERIOD_SECONDS": "3",
            "LOG_FORMAT": "json",
            "XDS_ON_DEMAND": "true",
        }
        self.log = folder / "log"
        self.port = port

    async def start(self) -> asyncio.subprocess.Process:
        """Run it."""
        with self.log.open("wb") as out:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "ambient_ztunnel",
                "proxy",
                "ztunnel",
                env=self.env,
                stdout=out,
                stderr=out,
                preexec_fn=lambda: setrlimit(RLIMIT_NOFILE, (256, DESCRIPTORS)),
            )

    def lines(self) -> list[dict[str, object]]:
        """What it logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


async def get(url: str, method: str = "GET") -> tuple[int, str]:
    """Status and body of a local page; (0, "") if there is no server."""

    def fetch() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    return await asyncio.to_thread(fetch)


async def until(condition: Callable[[], Coroutine[None, None, bool]], limit: float = 30) -> None:
    """Poll every 50 ms until the condition holds."""
    async with asyncio.timeout(limit):
        while not await condition():
            await asyncio.sleep(0.05)


def test_life_of_a_ztunnel(tmp_path: Path) -> None:
    async def body() -> None:
        istiod = Istiod(Ca())
        istiod.addresses = {
            "Kubernetes//Pod/default/client": pod("client", CLIENT_IP),
            "Kubernetes//Pod/default/server": pod("server", SERVER_IP),
        }
        await istiod.start(tmp_path)
        cni = Cni(tmp_path / "zds.sock")
        with two_namespaces() as (client, server):
            ztunnel = Ztunnel(client, tmp_path, istiod.port, f"localhost:{istiod.port}")
            process = await ztunnel.start()
            try:
                await scenario(istiod, cni, ztunnel, client, server, tmp_path)
                process.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(process.wait(), 30) == 0
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
                cni.close()
                await istiod.stop()
        messages = [str(line["message"]) for line in ztunnel.lines()]
        assert "set, but without effect in this stand-in: XDS_ON_DEMAND" in messages
        assert f"set file descriptor limits from 256 to {DESCRIPTORS}" in messages
        assert messages[-1] == "shutdown complete", messages[-5:]

    go(body())


async def scenario(istiod: Istiod, cni: Cni, ztunnel: Ztunnel, client: int, server: int, folder: Path) -> None:
    """Readiness, pods, certificates, policies, reconnection."""
    ready = "http://127.0.0.1:15021/healthz/ready"
    hello = await asyncio.wait_for(cni.accept(), 30)
    assert hello.version == zds.V1
    assert await get(ready) == (500, "not ready, pending: workload proxy manager\n")
    assert (await get(ready, "POST"))[0] == 405
    assert await get("http://127.0.0.1:15000/logging?reset", "POST") == (200, "current log level is info\n")
    for uid, name, pid in (("1", "client", client), ("2", "server", server)):
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        info = zds.WorkloadInfo(name=name, namespace="default", service_account=name)
        assert await cni.send(zds.WorkloadRequest(add=zds.AddWorkload(uid=uid, workload_info=info)), (fd,)) == ""
        os.close(fd)
    assert "expected one network namespace" in await cni.send(
        zds.WorkloadRequest(add=zds.AddWorkload(uid="3", workload_info=info))
    )
    assert await cni.send(zds.WorkloadRequest(snapshot_sent=zds.SnapshotSent())) == ""
    assert await get(ready) == (200, "ready\n")

    async def certificates() -> bool:
        dump = json.loads((await get("http://127.0.0.1:15000/config_dump"))[1])
        return [entry["state"] for entry in dump["certificates"]] == ["Available"] * 2

    await until(certificates)
    assert sorted(istiod.impersonated) == [f"spiffe://cluster.local/ns/default/sa/{n}" for n in ("client", "server")]
    assert all(entry["authorization"] == "Bearer secret-token" for entry in istiod.metadata)
    assert all(entry["clusterid"] == "Kubernetes" for entry in istiod.metadata)
    first = istiod.requests[0].node
    assert first.id == "ztunnel~10.0.0.9~ztunnel-x.istio-system~istio-system.svc.cluster.local"
    assert first.metadata["NODE_NAME"] == "node"

    # A policy that cannot be understood is refused by name, the good one beside it is taken.
    good = authz.Authorization(name="good", namespace="default", scope=authz.NAMESPACE, action=authz.DENY)
    bad = authz.Authorization(name="bad", namespace="default", groups=[authz.Group(rules=[authz.Rules(matches=[
        authz.Match(principals=[authz.StringMatch()])])])])  # fmt: skip
    istiod.push(AUTHORIZATION_TYPE, [
        resource("default/good", AUTHORIZATION_TYPE, good), resource("default/bad", AUTHORIZATION_TYPE, bad)
    ])  # fmt: skip

    async def nack() -> bool:
        return any("default/bad" in request.error_detail.message for request in istiod.requests)

    await until(nack)
    policies = json.loads((await get("http://127.0.0.1:15000/config_dump"))[1])["policies"]
    assert [policy["name"] for policy in policies] == ["good"]

    # istiod comes back without one pod: ztunnel says what it knows, and forgets what has gone.
    port = istiod.port
    await istiod.stop()
    istiod.requests.clear()
    del istiod.addresses["Kubernetes//Pod/default/server"]
    await istiod.start(folder, port)

    async def forgotten() -> bool:
        dump = json.loads((await get("http://127.0.0.1:15000/config_dump"))[1])
        return [workload["name"] for workload in dump["workloads"]] == ["client"]

    await until(forgotten)
    known = next(request for request in istiod.requests if request.type_url == ADDRESS_TYPE)
    assert "Kubernetes//Pod/default/server" in known.initial_resource_versions
    assert (await get(ready))[0] == 200

    # istio-cni comes back with one pod kept and one gone.
    cni.hang_up()
    await asyncio.wait_for(cni.accept(), 30)
    assert await cni.send(zds.WorkloadRequest(keep=zds.KeepWorkload(uid="1"))) == ""
    assert await cni.send(zds.WorkloadRequest(snapshot_sent=zds.SnapshotSent())) == ""
    state = json.loads((await get("http://127.0.0.1:15000/config_dump"))[1])["workloadState"]
    assert list(state) == ["1"]
    deleted = zds.WorkloadRequest()
    getattr(deleted, "del").uid = "1"
    assert await cni.send(deleted) == ""
    metrics = (await get("http://127.0.0.1:15020/stats/prometheus"))[1]
    assert "workload_manager_active_proxy_count 0.0" in metrics
    assert 'istio_xds_message_total{url="type.googleapis.com/istio.workload.Address"}' in metrics
    assert (await get("http://127.0.0.1:15000/nothing"))[0] == 404
