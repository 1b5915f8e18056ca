"""A mesh of two pods without a cluster: network namespaces, a CA, plain state (embedded provider alone)."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest
import uvloop
from ambient_ztunnel.certs import CertificateManager
from ambient_ztunnel.config import load
from ambient_ztunnel.connections import ConnectionManager
from ambient_ztunnel.context import Context
from ambient_ztunnel.identity import Identity
from ambient_ztunnel.metrics import Metrics
from ambient_ztunnel.model import (
    IP,
    Action,
    HostAddress,
    Match,
    MatchKind,
    NetworkAddress,
    Policy,
    Scope,
    Service,
    StringMatch,
    Tunnel,
    Workload,
)  # fmt: skip
from ambient_ztunnel.pods import PodManager
from ambient_ztunnel.state import State, WorkloadInfo
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

CLIENT_IP = ip_address("10.77.0.1")
SERVER_IP = ip_address("10.77.0.2")
VIP = ip_address("10.78.0.1")
APP_PORT = 8080
MIB = 1024 * 1024
CLIENT = Identity("cluster.local", "default", "client")
STRICT = Policy(
    "strict",
    "default",
    Scope.NAMESPACE,
    Action.DENY,
    (((Match(not_principals=(StringMatch(MatchKind.PRESENCE),)),),),),
)


DENY_CLIENT = Policy(
    "deny-client",
    "default",
    Scope.NAMESPACE,
    Action.DENY,
    (((Match(principals=(StringMatch(MatchKind.EXACT, "cluster.local/ns/default/sa/client"),)),),),),
)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The error field of every access line that has one."""
    found = [getattr(record, "fields", {}).get("error") for record in caplog.records]
    return [str(error) for error in found if error]


def go(test: Coroutine[None, None, None], limit: float = 60) -> None:
    """Run one test's coroutine with a time limit in seconds."""

    async def limited() -> None:
        async with asyncio.timeout(limit):
            await test

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(limited())


async def ended(reader: asyncio.StreamReader) -> bytes:
    """All that still comes, to the end: FIN or RST, whichever it is."""
    with contextlib.suppress(ConnectionResetError):
        return await reader.read()
    return b""


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, until it ends."""
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.close()


async def until(condition: Callable[[], object], limit: float = 30) -> None:
    """Poll every 10 ms until `condition()` holds."""
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.01)


class Ca:
    """A root that signs whatever it is asked for, as istiod does for a trusted node."""

    def __init__(self, life: datetime.timedelta = datetime.timedelta(hours=1)) -> None:
        self.life = life
        self.clock = datetime.timedelta()  # how far from the machine's
        self.uris: list[str] | None = None  # the names that a certificate gets, if they are not those asked for
        self.signed = 0
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "test")])
        self.root = self._builder(name, name, self._key.public_key(), ca=True).sign(self._key, hashes.SHA256())
        self._name = name
        self.root_pem = self.root.public_bytes(serialization.Encoding.PEM).decode()

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC) + self.clock
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(seconds=1))
            .not_valid_after(now + (datetime.timedelta(days=1) if ca else self.life))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )

    async def sign(self, identity: Identity, request: str) -> list[str]:
        """The leaf and the root in PEM."""
        self.signed += 1
        csr = x509.load_pem_x509_csr(request.encode())
        key = csr.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        names = [str(identity)] if self.uris is None else self.uris
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name) for name in names])
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        leaf = (
            self._builder(x509.Name([]), self._name, key, ca=False)
            .add_extension(san, critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return [leaf.public_bytes(serialization.Encoding.PEM).decode(), self.root_pem]


def run(*command: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, check=True, capture_output=True, timeout=20)


@contextlib.contextmanager
def namespace() -> Iterator[int]:
    """The pid of a process that holds a new network namespace; it ends with the block."""
    # `cat` waits on its input, so it ends with this process too.
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()
        for pipe in (holder.stdin, holder.stdout):
            if pipe is not None:
                pipe.close()


@contextlib.contextmanager
def two_namespaces() -> Iterator[tuple[int, int]]:
    """Two namespaces with a cable between them: (client pid, server pid)."""
    with namespace() as client, namespace() as server:
        enter = ["nsenter", f"--net=/proc/{client}/ns/net"]
        run(*enter, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(server))
        for pid, ip in ((client, CLIENT_IP), (server, SERVER_IP)):
            inside = ["nsenter", f"--net=/proc/{pid}/ns/net", "ip"]
            run(*inside, "addr", "add", f"{ip}/24", "dev", "eth0")
            run(*inside, "link", "set", "eth0", "up")
            run(*inside, "route", "add", "default", "dev", "eth0")
        yield client, server


def workload(name: str, ip: object, **fields: object) -> Workload:
    """A pod in the namespace `default`, reachable by HBONE."""
    base = Workload(
        uid=f"cluster//Pod/default/{name}",
        name=name,
        namespace="default",
        addresses=(ip,),  # type: ignore[arg-type]
        protocol=Tunnel.HBONE,
        service_account=name,
        workload_name=name,
        canonical_name=name,
        node="node",
        cluster_id="Kubernetes",
    )
    return replace(base, **fields)  # type: ignore[arg-type]


SERVICE = Service(
    "app", "default", "app.default.svc.cluster.local", vips=(NetworkAddress("", VIP),), ports={80: APP_PORT}
)


class Mesh:
    """Two pods served by one ztunnel."""

    def __init__(self, client_pid: int, server_pid: int, ca: Ca, **env: str) -> None:
        config = load({"ENABLE_ORIG_SRC": "false", "TERMINATION_GRACE_PERIOD_SECONDS": "2", **env})
        self.client_pid = client_pid
        self.server_pid = server_pid
        self.state = State()
        self.servers: list[asyncio.Server] = []
        self.metrics = Metrics()
        certs = CertificateManager(ca.sign)
        self.context = Context(config, self.state, certs, self.metrics, ConnectionManager(self.state))
        self.pods = PodManager(self.context)
        self.client = workload("client", CLIENT_IP)
        key = HostAddress("default", SERVICE.hostname)
        self.server = workload("server", SERVER_IP, services={key: {80: APP_PORT}})
        self.state.put_workload(self.client)
        self.state.put_workload(self.server)
        self.state.put_service(SERVICE)

    async def start(self) -> None:
        """Hand both pods over, as istio-cni does."""
        for uid, name, pid in (("1", "client", self.client_pid), ("2", "server", self.server_pid)):
            fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
            await self.pods.add(uid, WorkloadInfo(name, "default", name), fd)
        self.pods.snapshot_received()

    async def serve(
        self, handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], ip: IP = SERVER_IP
    ) -> asyncio.Server:
        """An application in the server's pod."""
        sock = await self.pods.proxies["2"].pod.netns.listen(ip, APP_PORT, transparent=False)
        server = await asyncio.start_server(handler, sock=sock, backlog=1024)
        self.servers.append(server)
        return server

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of the client's application, as if it had been captured."""
        netns = self.pods.proxies["1"].pod.netns
        sock = await netns.connect(CLIENT_IP, 15001)
        return await asyncio.open_connection(sock=sock, limit=4 * 1024 * 1024)

    def count(self, name: str, **labels: str) -> float:
        """The sum of a metric over all label sets that contain `labels`."""
        return sum(
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@contextlib.asynccontextmanager
async def mesh(ca: Ca | None = None, **env: str) -> AsyncIterator[Mesh]:
    """A running mesh."""
    with two_namespaces() as (client, server):
        made = Mesh(client, server, ca or Ca(), **env)
        await made.start()
        try:
            yield made
        finally:
            for listener in made.servers:
                listener.close()
            await made.pods.shutdown(0)
            await made.context.certs.close()


def captured(target: tuple[object, int]) -> Callable[[socket.socket], tuple[object, int]]:
    """A stand-in for SO_ORIGINAL_DST where no netfilter rules exist."""
    return lambda _sock: target
