# Builds the shell script that sends requests with real curl, once or again and again, and reads what it prints.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import math
import typing as t
import zlib

from .._cluster.channel import MAX_OUTPUT
from .._mesh.destinations import Request
from .._mesh.endpoints import logged

PARALLEL = 4
BODY_BYTES = 256
# The headers of a response that are read; a longer list makes each record longer.
KEPT_HEADERS = ("server", "x-envoy-upstream-service-time", "content-type", "www-authenticate", "grpc-status")
TICK = "tick"
# Below Linux' range of ports for outgoing connections (ip_local_port_range), so that probes meet only probes.
_FIRST_PORT, _PORTS, _TRIES = 16_384, 16_384, 64
_BIND_FAILED = 45
NO_RECORD = "the output ends before this probe's record"

# What is read of curl's report. All of it (%{json}) would be four times as much for the API server to pass on.
_REPORTED = (
    "http_code", "exitcode", "num_connects", "size_header", "size_download", "time_total", "time_starttransfer",
    "local_ip", "local_port",
)  # fmt: skip
# %header{} came with curl 7.83 (https://curl.se/ch/7.83.0.html); an older one writes it as it stands.
_MARKS = (
    "meta $1 " + "".join(f"%{{{name}}}," for name in _REPORTED),
    "why $1 %{errormsg}",
    *(f"head $1 {name} %header{{{name}}}" for name in KEPT_HEADERS),
    "end $1",
)
# In double quotes of the shell, in which two backslashes are one.
_RECORD = "".join(rf"\\n$N {mark}" for mark in _MARKS) + r"\\n"
_BODY_LINES = 16
# The most that one probe prints: its body, its record, and the end of its curl, in lines of fold's width.
PROBE_BYTES = (_BODY_LINES + len(_MARKS) + 2) * (BODY_BYTES + 1)

# Requests stay out of arguments, of variables (one that the pod's environment has is passed on to every program),
# and of here-documents (bash may want a file for them): they go from a printf of the shell's own into curl's pipe.
# A few curl processes share the row: starting one costs more than twenty requests. Each `s` function writes the
# config of one process, each `p` a section of it (`next` forgets all options, so that each section has them all).
# curl writes each body and then its report to the same stream. The filter keeps what is printable; of a body the
# first lines, which sed counts in its hold space; of a report what stands on a line behind its mark.
_SCRIPT = r"""N={nonce}
O='silent
globoff
path-as-is
no-buffer
no-sessionid
proto = "=http,https"
noproxy = "*"
connect-timeout = {timeout}
max-time = {timeout}'
p() {{
printf '%s\n' "$O" "write-out = \"{record}\"" "$2"
}}
{streams}
run() {{
{{ "s$1" | curl -q --config -; printf '\n%s exit %s %s\n' "$N" "$1" "$?"; }} \
| LC_ALL=C tr -dc '\n -~' | LC_ALL=C fold -w {body} \
| LC_ALL=C sed -e "/^$N exit /b" -e "/^$N meta /,/^$N end /{{" -e 'x;s/.*//;x' -e "/^$N /!d" -e b -e '}}' \
-e 'x;/{lines}/{{x;d' -e '}};s/$/./;x'
}}
missing() {{
printf '\n%s missing %s\n' "$N" "$1"
exit
}}
[ "$(command -v printf)" = printf ] || missing 'printf in its shell'
for tool in curl tr fold sed {tools}; do
command -v "$tool" >/dev/null || missing "$tool"
done
{main}"""
# `row` starts its processes at once and prints one after the other: each output waits in a shell's memory, because a
# full pipe would stop curl and look like a slow server.
_ROWS = r"""stream() {{
printf '%s\n' "$(run "$1")"
}}
row() {{
if [ $# -gt 1 ]; then stream "$1" | {{ shift; row "$@" </dev/null; cat; }}; else stream "$1"; fi
}}
{rows}"""
# A tick is one new curl process for all requests, so that none of them finds an open connection, which may keep an
# old verdict. The shell itself reads the clock and says so before curl starts. The loop ends by its count, by its own
# time, and when nobody listens any more.
_TICKS = r"""now() {{ read up rest </proc/uptime || exit; up=${{up%.*}}${{up#*.}}; up=${{up#0}}; up=${{up#0}}; }}
n=0
now
begin=$up
next=$((up * 10))
while [ "$n" -lt {ticks} ] && [ $((up - begin)) -lt {limit} ]; do
printf '\n%s {tick} %s\n' "$N" "$up" || exit
run {first} 2>/dev/null
n=$((n + 1))
next=$((next + {period}))
now
wait=$((next - up * 10))
if [ "$wait" -gt 0 ]; then sleep "$((wait / 1000)).$(printf '%03d' $((wait % 1000)))" || sleep 1; now
else next=$((up * 10)); fi
done"""


_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\t": r"\t", "\n": r"\n", "\r": r"\r", "\v": r"\v"})


@dataclasses.dataclass(frozen=True)
class Loop:
    """To send every request `rate` times a second, for so many seconds at most."""

    rate: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Record:
    """What curl reported of one probe (curl(1), `--write-out`).

    Times are in seconds, sizes in bytes. http_code is 0 where no status line came. headers: those of KEPT_HEADERS that
    have a value, as much of it as fits on a line. sender: `ip:port` of the client's end of the connection, "" where
    there was none. began: curl read something before the peer's reset, though not a whole line. again: why it is no
    result, and the probe must be asked alone. document: as much of the body as was printed, without its lines' ends.
    """

    http_code: int
    exit_code: int
    errormsg: str
    connected: bool
    received: int
    elapsed: float
    headers: dict[str, str]
    body: str
    sender: str = ""
    began: bool = False
    again: str = ""
    document: str = ""


@dataclasses.dataclass(frozen=True)
class Mark:
    """One line of the script's own.

    kind: tick, end (of a probe), exit (of a curl process) or missing (a tool). about: the pod's clock, the probe, the
    first probe of the process, the tool. at: when the line was heard, in seconds. record: of a probe, or why there is
    none. text: the exit code.
    """

    kind: str
    about: str
    text: str
    at: float
    record: Record | str = ""


def build_script(
    nonce: str,
    probes: t.Mapping[int, Request],
    probe_timeout: float,
    *,
    alone: bool = False,
    loop: Loop | None = None,
) -> str:
    """Script for `sh` that runs every probe once, at most PARALLEL at a time, or all of them in each tick of a loop.

    Args:
        nonce: marks this run's records; a response can't forge what it doesn't know.
        probes: request per number; the numbers come back in the records.
        probe_timeout: seconds that one probe may take.
        alone: give every probe a curl process of its own.
        loop: how often and how long; None for once.
    """
    numbers = list(probes)
    shared = not alone and loop is None
    configs = {
        number: config_of(request) + (_fresh(nonce, index, len(numbers)) if shared else "")
        for index, (number, request) in enumerate(probes.items())
    }
    if loop:
        streams = [numbers]
        # /proc/uptime goes in hundredths of a second (proc(5)).
        limit, period = round(loop.seconds * 100), max(1, round(1000 / loop.rate))
        ticks = max(1, round(loop.rate * loop.seconds))
        main = _TICKS.format(tick=TICK, ticks=ticks, limit=limit, first=numbers[0], period=period)
    else:
        streams = [[number] for number in numbers] if alone else [numbers[start::PARALLEL] for start in range(PARALLEL)]
        names = [str(stream[0]) for stream in streams if stream]
        parts = [names[start : start + PARALLEL] for start in range(0, len(names), PARALLEL)]
        main = _ROWS.format(rows="\n".join(f"row {' '.join(part)}" for part in parts))
    return _SCRIPT.format(
        nonce=nonce,
        timeout=f"{probe_timeout:g}",
        record=_RECORD,
        streams="\n".join(_stream(stream, configs) for stream in streams if stream),
        body=BODY_BYTES,
        lines="." * _BODY_LINES,
        tools="sleep" if loop else "cat",
        main=main,
    )


def _stream(numbers: t.Sequence[int], configs: t.Mapping[int, str]) -> str:
    """The function that writes the config of one curl process."""
    sections = "\necho next\n".join(f"p {number} {_word(configs[number])}" for number in numbers)
    return f"s{numbers[0]}() {{\n{sections}\n}}"


def split_row(probes: t.Mapping[int, Request]) -> list[dict[int, Request]]:
    """Cut a row into parts, so that no exec prints more than is taken of one, nor is sent more."""
    parts: list[dict[int, Request]] = [{}]
    size = 0
    for number, request in probes.items():
        cost = PROBE_BYTES + len(_word(config_of(request)).encode())
        if parts[-1] and size + cost > MAX_OUTPUT:
            parts.append({})
            size = 0
        parts[-1][number] = request
        size += cost
    return parts


def row_seconds(count: int, probe_timeout: float) -> float:
    """Longest time in seconds that a script with so many probes can take, start of the exec included."""
    return math.ceil(count / PARALLEL) * (probe_timeout + 1) + 10


def _fresh(nonce: str, index: int, count: int) -> str:
    """What keeps curl from using an open connection again, which may keep an old verdict.

    curl uses a connection again only for a transfer with the same --local-port (lib/url.c, ConnectionExists), so each
    probe has a range of its own, and curl takes the first port of it that is free.
    """
    step = _PORTS // count
    port = _FIRST_PORT + (zlib.crc32(nonce.encode()) + index * step) % (_PORTS - _TRIES)
    return f"\nlocal-port = {port}-{port + min(step, _TRIES) - 1}"


def config_of(request: Request) -> str:
    """The request in curl's config syntax (curl(1), --config)."""
    lines = [f"url = {_quote(request.url)}"]
    # curl would wait for a body after `request = HEAD`.
    lines.append("head" if request.method == "HEAD" else f"request = {_quote(request.method)}")
    if not any(key.lower() == "connection" for key, _value in request.headers):
        # An idle connection would hold a thread of the server until curl ends.
        lines.append('header = "Connection: close"')
    # A header without a value is sent only when it is written with a semicolon.
    lines += [f"header = {_quote(f'{key}: {value}' if value else f'{key};')}" for key, value in request.headers]
    if request.body is not None:
        lines.append(f"data-raw = {_quote(request.body)}")
    if request.insecure:
        lines.append("insecure")
    return "\n".join(lines)


def _quote(text: str) -> str:
    return f'"{text.translate(_ESCAPES)}"'


def _word(text: str) -> str:
    """The text as one word of the shell."""
    return "'" + text.replace("'", "'\\''") + "'"


def read_marks(nonce: str, pieces: t.Iterable[tuple[float, bytes]]) -> t.Iterator[Mark]:
    """Read what the script prints, as far as it has come.

    pieces: of the output, each with the time in seconds when it was heard; may be cut anywhere.
    """
    body: list[str] = []
    said: dict[str, str] = {}
    for at, line in _lines(pieces):
        if not line.startswith(f"{nonce} "):
            body.append(line)
            continue
        _nonce, kind, about, text = [*line.split(" ", 3), "", ""][:4]
        if kind in ("meta", "why"):
            said[f"{kind} {about}"] = text
        elif kind == "head":
            name, _space, value = text.partition(" ")
            said[f"{kind} {about} {name}"] = value
        else:
            yield Mark(kind, about, text, at, _record(said, body, about) if kind == "end" else "")
            body, said = [], {}


def _lines(pieces: t.Iterable[tuple[float, bytes]]) -> t.Iterator[tuple[float, str]]:
    """Whole lines, each with the time when its end was heard."""
    rest = b""
    for at, piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield at, line.decode("utf-8", "replace")


def parse_output(nonce: str, stdout: str, numbers: t.Iterable[int]) -> dict[int, Record | str]:
    """A record per probe of a script that runs each once, or a text that says why there is none.

    stdout: all that came back; may be cut anywhere. numbers: the probes that must be in it, in build_script's order.
    """
    found: dict[str, Record | str] = {}
    exits: dict[str, str] = {}
    why = NO_RECORD
    for mark in read_marks(nonce, [(0.0, stdout.encode("utf-8", "replace"))]):
        if mark.kind == "end":
            found[mark.about] = mark.record
        elif mark.kind == "exit":
            exits[mark.about] = mark.text
        elif mark.kind == "missing":
            why = lacks(mark)
    expected = [str(number) for number in numbers]
    streams = expected[:PARALLEL]
    return {
        int(number): found.get(number) or _ended(exits.get(number) or exits.get(streams[index % PARALLEL])) or why
        for index, number in enumerate(expected)
    }


def lacks(mark: Mark) -> str:
    """What a mark of the kind missing says."""
    return f"the container has no {mark.about} {mark.text}".rstrip()


def _ended(code: str | None) -> str:
    """What the exit code says that the shell saw of a curl process which left probes without a record."""
    if code is None or not code.isdecimal():
        return ""
    if int(code) > 128:
        return f"signal {int(code) - 128} ended curl before this probe's record"
    return f"curl ended with {code} before this probe's record"


def _record(said: t.Mapping[str, str], body: t.Sequence[str], number: str) -> Record | str:
    wanted = (f"meta {number}", f"why {number}", *(f"head {number} {name}" for name in KEPT_HEADERS))
    if any(mark not in said for mark in wanted):
        return "the probe's record is cut"
    try:
        # A comma ends each value, so that an empty one is one, too.
        values = said[f"meta {number}"].removesuffix(",").split(",")
        fields = dict(zip(_REPORTED, values, strict=True))
        sender = _sender(fields)
        record = Record(
            http_code=int(fields["http_code"]),
            exit_code=int(fields["exitcode"]),
            errormsg=said[f"why {number}"].strip(),
            connected=fields["num_connects"] != "0",
            received=int(fields["size_header"]) + int(fields["size_download"]),
            elapsed=float(fields["time_total"]),
            headers=_headers(said, number),
            body="".join(body)[:BODY_BYTES],
            document="".join(body),
            sender=sender,
            began=float(fields["time_starttransfer"]) > 0,
        )
    except ValueError as error:
        return f"curl's report can't be read ({error}); curl 7.83 or newer is needed"
    if sender and not record.connected:
        return dataclasses.replace(record, again="curl used an open connection again")
    if record.exit_code == _BIND_FAILED:
        return dataclasses.replace(record, again=f"curl found no local port: {record.errormsg}")
    return record


def _headers(said: t.Mapping[str, str], number: str) -> dict[str, str]:
    """The headers of KEPT_HEADERS that have a value; ValueError when curl has no way to report them."""
    found = {name: said[f"head {number} {name}"].strip() for name in KEPT_HEADERS}
    if any(value == f"%header{{{name}}}" for name, value in found.items()):
        raise ValueError("it has no %header")
    return {name: value for name, value in found.items() if value}


def _sender(fields: t.Mapping[str, str]) -> str:
    """The client's end of the connection, written like an address in ztunnel's log."""
    address, port = fields["local_ip"], int(fields["local_port"] or 0)
    if not address or port <= 0:
        return ""
    return logged(address, port)
