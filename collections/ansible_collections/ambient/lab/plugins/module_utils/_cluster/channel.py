# Speaks to containers over websockets: exec, and GET through a port-forward. Both are bounded in time and size.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import io
import json
import re
import time
import traceback
import typing as t

from .._common.errors import LabError
from .._common.text import printable
from .access import Access, Identity

try:
    import websocket
except ImportError:
    WEBSOCKET_IMPORT_ERROR: str | None = traceback.format_exc()
else:
    WEBSOCKET_IMPORT_ERROR = None

# A frame's first byte is its channel: of an exec stdin, stdout, stderr, status; of a forwarded port data, errors
# (kubernetes/kubernetes, staging/src/k8s.io/kubelet/pkg/cri/streaming: remotecommand and portforward).
PROTOCOL = "v4.channel.k8s.io"
MAX_OUTPUT = 8_388_608
MAX_ANSWER = 67_108_864
_STDIN, _STDOUT, _STDERR, _STATUS = 0, 1, 2, 3
_DATA, _ERROR = 0, 1
# Bytes of standard input in one frame; a server may refuse long ones (32 MiB in golang.org/x/net/websocket).
_PIECE = 32_768
_SHOWN = 300

# In quotes it is not evaluated: ansible-test holds modules against the oldest Python that Ansible reaches.
Heard = t.Callable[[bytes], "bool | None"]


class ChannelError(Exception):
    """Why a channel could not be opened, or what ended it early; one line."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """An HTTP answer as it came, whatever its status. Names of headers are in lower case."""

    status: int
    headers: t.Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, t.Any] | None:
        """The JSON object that the body is; None where it is something else."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None


def status_message(body: str | bytes) -> str:
    """The message of the API's Status object, in one line; "" where there is none."""
    try:
        return " ".join(str(json.loads(body)["message"]).split())
    except (ValueError, KeyError, TypeError):
        return ""


def open_channel(access: Access, path: str, timeout: float) -> t.Any:
    """A connected websocket to a path of the API, on the same way and as the same user as other requests.

    Args:
        access: to the API.
        path: with its query.
        timeout: seconds until it must be open.

    Raises:
        ChannelError: with the API's own reason where it gives one.
    """
    proxy = access.server.proxy
    if proxy and proxy.scheme == "https":
        raise ChannelError(f"a proxy by https:// can't carry it: give {proxy.source} as http://")
    try:
        identity = access.identity()
        try:
            return _connected(access, identity, path, timeout)
        except websocket.WebSocketBadStatusException as error:
            if error.status_code != 401 or not access.renew(identity):
                raise
        return _connected(access, access.identity(), path, timeout)
    except websocket.WebSocketBadStatusException as error:
        raise ChannelError(_refusal(error)) from error
    except LabError as error:
        raise ChannelError(error.message) from error
    except (websocket.WebSocketException, http.client.HTTPException, OSError) as error:
        raise ChannelError(_one_line(error)) from error


def _connected(access: Access, identity: Identity, path: str, timeout: float) -> t.Any:
    # kubernetes.stream would do this without any timeout, and not from several threads. The library itself would
    # choose the proxy by rules of its own, and follow a redirect with the user's credential.
    return websocket.create_connection(
        re.sub("^http", "ws", access.server.url) + path,
        timeout=timeout,
        header=[f"{name}: {value}" for name, value in identity.headers],
        subprotocols=[PROTOCOL],
        socket=access.connect(identity, timeout),
        redirect_limit=0,
    )


def feed(channel: t.Any, data: bytes, deadline: float) -> None:
    """Write to an exec's standard input, which stays open: the protocol can't close it (kubernetes/kubernetes#89899).

    What keeps it from being written shows when the exec is read. Raises nothing.

    Args:
        data: must let the program end without an end of its input.
        deadline: of the monotonic clock.
    """
    with contextlib.suppress(websocket.WebSocketException, OSError):
        for start in range(0, len(data), _PIECE):
            channel.settimeout(max(0.001, deadline - time.monotonic()))
            channel.send_binary(bytes([_STDIN]) + data[start : start + _PIECE])


def drain(channel: t.Any, deadline: float, heard: Heard | None = None) -> tuple[str, str]:
    """Read an exec to its end, and close it.

    Args:
        deadline: of the monotonic clock.
        heard: is given each piece of standard output when it arrives, which is not kept then; True from it ends the
            reading.

    Returns:
        Standard output, and what went wrong ("" where nothing did). Raises only what `heard` raises.
    """
    read = {_STDOUT: bytearray(), _STDERR: bytearray(), _STATUS: bytearray()}
    problem = ""
    try:
        for number, data in _frames(channel, deadline):
            if number not in read:
                continue
            if heard and number == _STDOUT:
                if data and heard(data):
                    return "", ""
                continue
            read[number] += data
            if sum(len(part) for part in read.values()) > MAX_OUTPUT:
                return "", f"more than {MAX_OUTPUT} bytes of output"
    except ChannelError as error:
        problem = str(error)
    finally:
        channel.shutdown()
    said = printable(_text(read[_STDERR]))[:_SHOWN]
    problem = ": ".join(part for part in (problem, said) if part)
    # The exec's own status explains output that is missing, never a verdict; a success has no message.
    return _text(read[_STDOUT]), problem or printable(status_message(_text(read[_STATUS])))[:_SHOWN]


def ask_through(channel: t.Any, host: str, path: str, deadline: float) -> Answer:
    """GET a path, with its query, over a forwarded port, and close it; deadline: of the monotonic clock.

    Raises:
        ChannelError: when no whole HTTP answer comes.
    """
    stream = _Stream(channel, deadline)
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    try:
        channel.send_binary(bytes([_DATA]) + request.encode())
        response = http.client.HTTPResponse(t.cast("t.Any", stream), method="GET")
        response.begin()
        body = response.read(MAX_ANSWER + 1)
        if response.length:
            raise ChannelError(f"the answer ends {response.length} bytes early")
    except (http.client.HTTPException, ValueError, websocket.WebSocketException, OSError) as error:
        raise ChannelError(stream.reason() or f"no HTTP answer ({_one_line(error) or type(error).__name__})") from error
    finally:
        channel.shutdown()
    if len(body) > MAX_ANSWER:
        raise ChannelError(f"more than {MAX_ANSWER} bytes of answer")
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


class _Stream(io.RawIOBase):
    """What comes back on a forwarded port, as the file that http.client's parser reads.

    The first frame of each channel repeats the port's number (portforward/websocket.go) and is left out.
    """

    def __init__(self, channel: t.Any, deadline: float) -> None:
        super().__init__()
        self._frames = _frames(channel, deadline)
        self._begun: set[int] = set()
        self._data = b""
        self._errors = bytearray()

    def makefile(self, _mode: str) -> io.BufferedReader:
        """As a socket's."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        """It is for reading alone."""
        return True

    def readinto(self, buffer: t.Any) -> int:
        """Fill a part of the buffer; 0 at the end.

        Raises:
            OSError: when the connection is cut, or the time is over.
        """
        while not self._data:
            try:
                number, data = next(self._frames)
            except StopIteration:
                return 0
            except ChannelError as error:
                self._errors += b"" if self._errors else str(error).encode()
                raise OSError(str(error)) from error
            if number not in self._begun:
                self._begun.add(number)
            elif number == _DATA:
                self._data = data
            elif number == _ERROR:
                self._errors += data
        size = min(len(buffer), len(self._data))
        buffer[:size] = self._data[:size]
        self._data = self._data[size:]
        return size

    def reason(self) -> str:
        """What the kubelet wrote about a port that it could not reach."""
        return printable(_text(self._errors))[:_SHOWN]


def _frames(channel: t.Any, deadline: float) -> t.Iterator[tuple[int, bytes]]:
    """Channel and data of each frame until the other end closes."""
    while True:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise ChannelError("it did not end in time")
        channel.settimeout(remaining)
        try:
            opcode, frame = channel.recv_data()
        except websocket.WebSocketTimeoutException:
            continue
        except websocket.WebSocketConnectionClosedException as error:
            raise ChannelError("the connection was cut") from error
        except (websocket.WebSocketException, OSError) as error:
            raise ChannelError(_one_line(error)) from error
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return
        if frame:
            yield frame[0], frame[1:]


def _text(data: bytearray) -> str:
    return data.decode("utf-8", "replace")


def _refusal(error: t.Any) -> str:
    """Why the API refused a channel: its own message where it gives one."""
    said = f"HTTP {error.status_code}: {(status_message(error.resp_body) or 'no reason given')[:_SHOWN]}"
    # Since Kubernetes 1.35 a channel by get needs the right to create as well, and the refusal does not say so.
    if error.status_code == 403 and said.endswith("is forbidden:"):
        said += " the kubeconfig's user needs the rights to get and to create pods/exec and pods/portforward"
    return said


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_SHOWN]
