"""The speed of the ztunnel stand-in beside a direct connection, and beside itself in other revisions.

Run as root: `.venv/bin/python benchmarks/ztunnel.py [revision ...]`. It needs no lab: two network namespaces with a
cable, a stand-in for both in a process of its own, client and application here. Revisions are checked out into
temporary worktrees; they and the working tree take turns, so that other work on the machine troubles all alike.
Prints Markdown: medians of the turns. Processor time is that of the stand-in alone, for both ends of a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "embedded/ztunnel"))

import uvloop
from ambient_ztunnel.config import Keepalive
from ambient_ztunnel.model import IP
from ambient_ztunnel.netns import Netns

ROOT = Path(__file__).resolve().parents[1]
TURNS = 3
SECONDS = 0.7  # of each measurement
STARTED = 3.0  # seconds at most until every client has heard something
CLIENTS = (1, 10, 100)
IDLE = 500  # connections, for the memory that each needs
SMALL = 64  # bytes of a request and of its answer
CHUNK = 256 * 1024
PORT = 8080
TICKS = os.sysconf("SC_CLK_TCK")

# Run by each stand-in, with a revision's sources and test helpers on its path.
SERVE = """
import asyncio, sys, os
from ambient_ztunnel import outbound
from ambient_ztunnel.accesslog import setup_logging
from zt_lab import CLIENT_IP, SERVER_IP, captured, go, mesh
setup_logging("info", False)
outbound.original_destination = captured((SERVER_IP, 8080))
async def body():
    async with mesh() as made:
        print("pods", made.client_pid, made.server_pid, CLIENT_IP, SERVER_IP, file=sys.stderr, flush=True)
        await asyncio.to_thread(sys.stdin.read)
go(body(), 36000)
"""


@dataclass
class Way:
    """How the client reaches the application: through a stand-in, or past it."""

    name: str
    pid: int
    client: Netns
    server: Netns
    target: tuple[IP, int]

    def processor(self) -> float:
        """Seconds that the stand-in has used so far."""
        stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / TICKS

    def memory(self) -> int:
        """Bytes of the stand-in that are in memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Application(asyncio.Protocol):
    """Answers a small request with as much; to a first byte of "b" with bytes without end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._size = 0
        self._flowing = True

    def data_received(self, data: bytes) -> None:
        if data[:1] == b"b":
            self.resume_writing()
            return
        self._size += len(data)
        while self._size >= SMALL:
            self._size -= SMALL
            self._transport.write(bytes(SMALL))

    def pause_writing(self) -> None:
        self._flowing = False

    def resume_writing(self) -> None:
        self._flowing = True
        while self._flowing and not self._transport.is_closing():
            self._transport.write(bytes(CHUNK))


@dataclass
class Figures:
    """What one measurement counted."""

    done: int = 0
    latencies: list[float] = field(default_factory=list)


class Client(asyncio.Protocol):
    """Asks as long as `figures` is measured."""

    def __init__(self, figures: Figures, ask: bytes, again: bool) -> None:
        self._figures, self._ask, self._again = figures, ask, again
        self._size = 0
        self.ended = asyncio.get_running_loop().create_future()
        self.heard = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.send()

    def send(self) -> None:
        """One request."""
        self._started = time.perf_counter()
        self._transport.write(self._ask)

    def data_received(self, data: bytes) -> None:
        self.heard.set()
        if self._ask[:1] == b"b":
            self._figures.done += len(data)
            return
        self._size += len(data)
        if self._size == SMALL:
            self._size = 0
            self._figures.done += 1
            self._figures.latencies.append(time.perf_counter() - self._started)
            if self._again:
                self.send()
            elif not self.ended.done():
                self.ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def close(self) -> None:
        """No more of it."""
        self._transport.abort()


async def dial(way: Way, figures: Figures, ask: bytes, again: bool) -> Client:
    """One connection, which asks at once."""
    sock = await way.client.connect(*way.target)
    client = Client(figures, ask, again)
    await asyncio.get_running_loop().create_connection(lambda: client, sock=sock)
    return client


async def new_connections(way: Way, clients: int) -> Figures:
    """One request on each of as many connections as can be had, by so many at a time."""
    figures = Figures()
    end = time.perf_counter() + SECONDS

    async def work() -> None:
        while time.perf_counter() < end:
            started = time.perf_counter()
            client = await dial(way, figures, b"r" * SMALL, False)
            await client.ended
            figures.latencies[-1] = time.perf_counter() - started
            client.close()

    await asyncio.gather(*(work() for _ in range(clients)))
    return figures


async def on_open_connections(way: Way, clients: int, ask: bytes) -> Figures:
    """Requests, or bytes, on so many connections that are open."""
    figures = Figures()
    opened = await asyncio.gather(*(dial(way, figures, ask, True) for _ in range(clients)))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STARTED):
            await asyncio.gather(*(client.heard.wait() for client in opened))
    figures.done = 0
    figures.latencies.clear()
    await asyncio.sleep(SECONDS)
    found = Figures(figures.done, list(figures.latencies))
    for client in opened:
        client.close()
    await asyncio.sleep(0.05)
    return found


async def memory(way: Way) -> float:
    """KiB for each connection that is open and has carried one request."""
    before = way.memory()
    figures = Figures()
    opened = [await dial(way, figures, b"r" * SMALL, False) for _ in range(IDLE)]
    await asyncio.gather(*(client.ended for client in opened))
    after = way.memory()
    for client in opened:
        client.close()
    return (after - before) / IDLE / 1024


KINDS: dict[str, Callable[[Way, int], object]] = {
    "new connections/s": new_connections,
    "requests/s": lambda way, clients: on_open_connections(way, clients, b"r" * SMALL),
    "MB/s": lambda way, clients: on_open_connections(way, clients, b"b"),
}


@contextlib.contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """The sources of a revision."""
    with tempfile.TemporaryDirectory(prefix="ztunnel-benchmark-") as scratch:
        folder = Path(scratch) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(folder), revision], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


@contextlib.contextmanager
def stand_in(name: str, tree: Path, log: Path) -> Iterator[tuple[Way, Way]]:
    """A stand-in of these sources: the way through it, and the one past it."""
    sources = tree / "embedded/ztunnel"
    env = {**os.environ, "PYTHONPATH": f"{sources}:{sources / 'tests'}"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE], env=env, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.PIPE, text=True
        )
    try:
        assert process.stderr is not None
        words = process.stderr.readline().split()
        if words[:1] != ["pods"]:
            raise SystemExit(f"the stand-in of {name} did not start: {' '.join(words)} {process.stderr.read()}")
        netns = [Netns(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY), Keepalive()) for pid in words[1:3]]
        through = Way(name, process.pid, netns[0], netns[1], (ip_address(words[3]), 15001))
        yield through, Way("direct", process.pid, netns[0], netns[1], (ip_address(words[4]), PORT))
    finally:
        process.communicate("")


def percentile(values: list[float], part: float) -> float:
    """In milliseconds."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] * 1000 if values else 0


async def measure(ways: list[Way]) -> None:
    """All figures, in turns, and their table."""
    for way in ways[1:]:
        listener = await way.server.listen(ways[0].target[0], PORT, transparent=False)
        await asyncio.get_running_loop().create_server(Application, sock=listener, backlog=1024)
    names = [way.name for way in ways]
    print("| figure | clients |", " | ".join(names), "|", "newest / oldest |", "newest / direct |")
    print("|---" * (len(names) + 4) + "|")
    held = [await memory(way) for way in ways[1:]]
    print(
        f"| KiB per connection | {IDLE} | 0 |",
        " | ".join(f"{one:.0f}" for one in held),
        f"| {held[-1] / held[0]:.2f} | |",
    )
    for kind, run in KINDS.items():
        for clients in CLIENTS:
            seen: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
            for _ in range(TURNS):
                for way in ways:
                    before, started = way.processor(), time.perf_counter()
                    figures: Figures = await run(way, clients)  # type: ignore[misc]
                    took, used = time.perf_counter() - started, way.processor() - before
                    per = 1024 * 1024 if kind == "MB/s" else 1
                    done = max(figures.done, 1) / per
                    rate = done / (took if run is new_connections else SECONDS)
                    times = [percentile(figures.latencies, part) for part in (0.5, 0.99)]
                    seen[way.name].append((rate, *times, used / done * 1000))
            rows = {
                name: [statistics.median(column) for column in zip(*turns, strict=True)] for name, turns in seen.items()
            }
            labels = [kind, "ms, p50", "ms, p99", f"processor ms per {'MB' if kind == 'MB/s' else 'one'}"]
            for column, label in enumerate(labels):
                if kind == "MB/s" and label.startswith("ms"):
                    continue
                values = [rows[name][column] for name in names]
                if label.startswith("processor"):
                    values[0] = 0
                shown = " | ".join(f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in values)
                newest, oldest, direct = values[-1], values[1], values[0]
                beside = f"{newest / direct:.2f}" if direct else ""
                print(f"| {label} | {clients} | {shown} | {newest / oldest:.2f} | {beside} |", flush=True)


def main() -> int:
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ztunnel-benchmark-")))
        trees = {revision: stack.enter_context(worktree(revision)) for revision in sys.argv[1:]}
        trees["now"] = ROOT
        ways = [stack.enter_context(stand_in(name, tree, scratch / "log")) for name, tree in trees.items()]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(measure([ways[-1][1], *(through for through, _ in ways)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
