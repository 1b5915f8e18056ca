"""Streams and their connection without TLS: windows, ends, resets, late frames (embedded provider alone)."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc

import hpack
import pytest
from ambient_ztunnel.frames import MAX_ID, Codes
from ambient_ztunnel.hbone import Connection
from ambient_ztunnel.identity import Identity
from ambient_ztunnel.relay import Relay, TcpEnd
from ambient_ztunnel.stream import Stream, TunnelError
from test_security import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE,
    RST,
    SETTINGS,
    START,
    WINDOW,
    ask,
    bare,
    frame,
)
from test_tunnels import NoCounter
from zt_lab import MIB, go, until

CONNECT = [(":method", "CONNECT"), (":authority", "x:1")]
OK = b"\x88"  # :status 200 (RFC 7541, appendix A)


async def heard(reader: asyncio.StreamReader, *kinds: int) -> tuple[int, int, int, bytes]:
    """The next frame of one of these kinds: kind, flags, stream, payload."""
    while True:
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
        if head[3] in kinds:
            return head[3], head[4], int.from_bytes(head[5:], "big"), payload


async def relayed(stream: Stream) -> tuple[Relay, socket.socket]:
    """Couple a stream with an application, whose socket comes back."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    relay = Relay(stream, await TcpEnd.open(ours), NoCounter())
    relay.start()
    return relay, theirs


async def served() -> tuple[Connection, Stream, asyncio.StreamReader, asyncio.StreamWriter]:
    """A server's connection with one stream that was asked for, and its peer."""
    streams: list[Stream] = []
    conn, peer = await bare(streams.append)
    reader, writer = await asyncio.open_connection(sock=peer)
    writer.write(START + ask(1))
    await until(lambda: streams)
    return conn, streams[0], reader, writer


async def calling(count: int = 1) -> tuple[Connection, list[Stream], asyncio.StreamReader, asyncio.StreamWriter]:
    """A client's connection with streams that wait for an answer, and its peer."""
    conn, peer = await bare()
    reader, writer = await asyncio.open_connection(sock=peer, limit=MIB)
    writer.write(frame(SETTINGS))
    await reader.readexactly(len(PREFACE))
    return conn, [conn.connect(CONNECT) for _ in range(count)], reader, writer


# -- windows -----------------------------------------------------------------------------------------------


def test_streams_that_nobody_reads_leave_a_window_to_the_others() -> None:
    """Less than a quarter of the connection's window is left, so credit has to come in smaller portions."""
    streams: list[Stream] = []
    size = 65536

    async def body() -> None:
        _, peer = await bare(streams.append)
        reader, writer = await asyncio.open_connection(sock=peer)
        writer.write(START + b"".join(map(ask, (1, 3, 5, 7, 9))))
        for number in (1, 3, 5, 7):
            writer.write(frame(DATA, bytes(802_000), number) * 4)
        await until(lambda: len(streams) == 5)
        _, app = await relayed(streams[4])
        app_reader, app_writer = await asyncio.open_connection(sock=app)
        reading = asyncio.create_task(app_reader.readexactly(8 * MIB))
        windows, left = {0: 65535 - 16 * 802_000, 9: 4 * MIB}, 8 * MIB
        while left:
            while left and min(windows.values()) >= size:
                writer.write(frame(DATA, bytes(size), 9))
                windows = {key: window - size for key, window in windows.items()}
                left -= size
            if left:
                _, _, number, payload = await heard(reader, WINDOW)
                windows[number] += int.from_bytes(payload, "big")
        await reading
        for each in (writer, app_writer):
            each.close()

    go(body(), 10)


def test_more_data_than_the_window_of_a_stream() -> None:
    async def body() -> None:
        _, _, reader, writer = await served()
        writer.write(frame(DATA, bytes(MIB), 1) * 5)
        assert (await heard(reader, RST))[3] == Codes.FLOW_CONTROL_ERROR.to_bytes(4, "big")
        writer.transport.abort()

    go(body(), 10)


@pytest.mark.parametrize("attached", [True, False])
def test_small_frames_cost_what_they_hold(attached: bool) -> None:
    """Bytes that wait are one buffer, however many frames they came in; the end comes after them."""
    size = 20_000

    async def body() -> None:
        conn, stream, _, writer = await served()
        if attached:
            _, app = await relayed(stream)
            stream.pause()
        tracemalloc.start()
        sent = frame(DATA, b"x", 1) * size + frame(DATA, b"", 1, END_STREAM)
        for at in range(0, len(sent), 16384):
            conn.data_received(sent[at : at + 16384])
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        if attached:
            stream.resume()
        else:
            _, app = await relayed(stream)
        reader, app_writer = await asyncio.open_connection(sock=app)
        assert await reader.read() == b"x" * size
        assert held < 25 * size
        app_writer.close()
        writer.close()

    go(body(), 20)


def test_a_reset_after_the_end_loses_nothing_that_waits() -> None:
    """A server that has answered in full resets what its client still sends (RFC 9113, section 8.1)."""

    async def body() -> None:
        conn, stream, _, writer = await served()
        _, app = await relayed(stream)
        stream.pause()
        sent = frame(DATA, bytes(100_000), 1, END_STREAM) + frame(RST, bytes(4), 1)
        conn.data_received(sent)
        reader, app_writer = await asyncio.open_connection(sock=app)
        assert len(await reader.read()) == 100_000
        app_writer.close()
        writer.close()

    go(body(), 10)


# -- ends --------------------------------------------------------------------------------------------------


def test_an_answer_in_full_comes_before_the_reset() -> None:
    """The application has answered and gone while its client still sends, and has read nothing yet."""

    async def body() -> None:
        conn, stream, reader, writer = await served()
        conn.respond(stream, 200)
        relay, app = await relayed(stream)
        await asyncio.get_running_loop().sock_sendall(app, bytes(300_000))
        app.close()
        await until(lambda: stream._out_eof)
        while not relay.done.done():
            writer.write(frame(DATA, b"x", 1))
            await asyncio.sleep(0.01)
        more = (300_000).to_bytes(4, "big")
        writer.write(frame(WINDOW, more) + frame(WINDOW, more, 1))
        got, flags, kind = 0, 0, DATA
        while kind != RST:
            last = flags
            kind, flags, _, payload = await heard(reader, DATA, RST)
            got += len(payload) if kind == DATA else 0
        assert (got, last & END_STREAM, int.from_bytes(payload, "big")) == (300_000, END_STREAM, Codes.NO_ERROR)
        assert not conn.streams
        writer.close()

    go(body(), 10)


@pytest.mark.parametrize(
    "early",
    [
        frame(DATA, b"x", 1),
        frame(DATA, b"", 1, END_STREAM),
        frame(HEADERS, hpack.Encoder().encode([(":status", "100")]), 1, END_HEADERS | END_STREAM),
    ],
    ids=["DATA", "its end", "HEADERS"],
)
def test_nothing_comes_before_an_answer(early: bytes) -> None:
    async def body() -> None:
        _, (stream,), reader, writer = await calling()
        writer.write(early)
        with pytest.raises(TunnelError):
            await stream.response
        assert (await heard(reader, RST))[3] == Codes.PROTOCOL_ERROR.to_bytes(4, "big")
        writer.close()

    go(body(), 10)


def test_an_answer_to_a_stream_that_was_reset_here() -> None:
    """It was on its way (RFC 9113, section 5.1): the others go on."""

    async def body() -> None:
        conn, (given_up, other), _, writer = await calling(2)
        conn.reset_stream(given_up)
        writer.write(frame(HEADERS, OK, given_up.id, END_HEADERS) + frame(HEADERS, OK, other.id, END_HEADERS))
        assert await other.response == 200
        writer.close()

    go(body(), 10)


# -- connections -------------------------------------------------------------------------------------------


def test_nothing_is_heard_after_the_end() -> None:
    """Of a peer that was refused, or has failed."""
    streams: list[Stream] = []

    def refuse(_tls: object) -> Identity:
        raise ValueError("nobody")

    class Eager(Connection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            for part in (START, ask(1)):  # as uvloop does, when it has come with the handshake
                self.data_received(part)

    async def body() -> None:
        ours, theirs = socket.socketpair()
        await asyncio.get_running_loop().connect_accepted_socket(lambda: Eager(refuse, streams.append), ours)
        theirs.close()

    go(body(), 10)
    assert not streams


def test_goaway_of_a_client_names_no_stream_of_its_own() -> None:
    """RFC 9113, section 6.8: the last stream is one of the receiver's; nghttp2 insists."""

    async def body() -> None:
        conn, _, reader, writer = await calling()
        conn.drain()
        assert (await heard(reader, GOAWAY))[3] == bytes(8)
        writer.close()

    go(body(), 10)


def test_a_connection_out_of_numbers_takes_no_more_streams() -> None:
    async def body() -> None:
        conn, peer = await bare()
        conn._last_id = MAX_ID - 2
        assert conn.alive
        assert conn.connect(CONNECT).id == MAX_ID
        assert not conn.alive
        conn.abort("done")
        peer.close()

    go(body(), 10)
