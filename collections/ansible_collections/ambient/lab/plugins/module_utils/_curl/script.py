# Builds the shell script that runs a source's whole row of probes with real curl, and reads what it printed.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import json
import math
import typing as t
import zlib

from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Request

PARALLEL = 4
BODY_BYTES = 256
# Linux takes at most 128 KiB in one argument (MAX_ARG_STRLEN), and the script is one.
MAX_SCRIPT = 100_000
_KEPT_HEADERS = ("server", "x-envoy-upstream-service-time", "content-type", "www-authenticate")
# Below Linux' range of ports for outgoing connections (ip_local_port_range), so that probes meet only probes.
_FIRST_PORT, _PORTS, _TRIES = 16_384, 16_384, 64
_BIND_FAILED = 45
NO_RECORD = "the output ends before this probe's record"

# What is read of curl's report. All of it (%{json}) would be four times as much for the API server to pass on.
_REPORTED = (
    "http_code", "exitcode", "num_connects", "size_header", "size_download", "time_total", "time_starttransfer",
    "local_ip", "local_port",
)  # fmt: skip

# A few curl processes share the row: starting one costs more than twenty requests. Each `s` function writes the
# config of one process, each `p` a section of it (`next` forgets all options, so that each section has them all).
# curl writes each body and then its report to the same stream; the filter keeps what is printable, and of a body the
# first lines, which sed counts in its hold space. `row` starts its processes at once and prints one after the other:
# each output waits in a shell's memory, because a full pipe would stop curl and look like a slow server.
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
printf '%s\n%s\nwrite-out = "\\n%s meta %s {report}\\n%s why %s %%{{errormsg}}\\n' "$S" "$O" "$N" "$1" "$N" "$1"
printf '%s head %s %%{{header_json}}\\n%s end %s\\n"\n%s\n' "$N" "$1" "$N" "$1" "$2"
S=next
}}
{streams}
stream() {{
out=$({{ "s$1" | curl -q --config -; printf '\n%s exit %s %s\n' "$N" "$1" "$?"; }} \
| LC_ALL=C tr -dc '\n -~' | fold -w {body} \
| sed -e "/^$N exit /b" -e "/^$N meta /,/^$N end /{{" -e 'x;s/.*//;x;b' -e '}}' -e 'x;/......../{{x;d' -e '}};s/$/./;x')
printf '%s\n' "$out"
}}
row() {{
if [ $# -gt 1 ]; then stream "$1" | {{ shift; row "$@" </dev/null; cat; }}; else stream "$1"; fi
}}
for tool in curl cat tr fold sed; do
command -v "$tool" >/dev/null || {{ printf '\n%s missing %s\n' "$N" "$tool"; exit; }}
done
{rows}"""


@dataclasses.dataclass(frozen=True)
class Record:
    """What curl reported of one probe (curl(1), `--write-out`; its `%{header_json}` came with 7.83).

    Times are in seconds, sizes in bytes. http_code is 0 where no status line came. sender: `ip:port` of the client's
    end of the connection, "" where there was none. began: curl read something before the peer's reset, though not a
    whole line. again: why it is no result, and the probe must be asked alone.
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


def build_script(nonce: str, probes: t.Mapping[int, Request], probe_timeout: float, *, alone: bool = False) -> str:
    """Script for `sh -c` that runs every probe once, at most PARALLEL at a time.

    Args:
        nonce: marks this run's records; a response can't forge what it doesn't know.
        probes: request per number; the numbers come back in the records.
        probe_timeout: seconds that one probe may take.
        alone: give every probe a curl process of its own.
    """
    numbers = list(probes)
    configs = {
        number: config_of(request) + ("" if alone else _fresh(nonce, index, len(numbers)))
        for index, (number, request) in enumerate(probes.items())
    }
    streams = [[number] for number in numbers] if alone else [numbers[start::PARALLEL] for start in range(PARALLEL)]
    functions = "\n".join(
        f"s{stream[0]}() {{\n" + "\n".join(f"p {number} {word(configs[number])}" for number in stream) + "\n}"
        for stream in streams
        if stream
    )
    names = [str(stream[0]) for stream in streams if stream]
    rows = "".join(f"row {' '.join(names[start : start + PARALLEL])}\n" for start in range(0, len(names), PARALLEL))
    # Doubled, because the shell's printf takes it as a part of its format.
    report = "".join(f"%%{{{name}}}," for name in _REPORTED)
    return _SCRIPT.format(
        nonce=nonce, timeout=f"{probe_timeout:g}", body=BODY_BYTES, report=report, streams=functions, rows=rows
    )


def split_row(probes: t.Mapping[int, Request]) -> list[dict[int, Request]]:
    """Cut a row into parts whose scripts fit into one argument."""
    parts: list[dict[int, Request]] = [{}]
    size = 0
    for number, request in probes.items():
        cost = len(word(config_of(request) + _fresh("", 0, 1)).encode()) + 20
        if parts[-1] and size + cost > MAX_SCRIPT:
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
    for char, escaped in (
        ("\\", "\\\\"),
        ('"', '\\"'),
        ("\t", "\\t"),
        ("\n", "\\n"),
        ("\r", "\\r"),
        ("\v", "\\v"),
    ):
        text = text.replace(char, escaped)
    return f'"{text}"'


def word(text: str) -> str:
    """The text as one word of the shell."""
    return "'" + text.replace("'", "'\\''") + "'"


def parse_output(nonce: str, stdout: str, numbers: t.Iterable[int]) -> dict[int, Record | str]:
    """Read the script's output: a record per probe, or a text that says why there is none.

    Args:
        nonce: as given to build_script.
        stdout: all that came back; may be cut anywhere.
        numbers: the probes that must be in it, in the order in which they were given to build_script.
    """
    found: dict[str, Record | str] = {}
    exits: dict[str, str] = {}
    why = NO_RECORD
    parts: dict[str, list[str]] = {"body": []}
    part = parts["body"]
    for line in stdout.split("\n"):
        if not line.startswith(f"{nonce} "):
            part.append(line)
            continue
        _nonce, mark, number, rest = [*line.split(" ", 3), "", ""][:4]
        if mark in ("meta", "why", "head"):
            part = parts[f"{mark} {number}"] = [rest]
            continue
        if mark == "missing":
            why = f"the container has no {number}"
        elif mark == "end":
            found[number] = _record(parts, number)
        elif mark == "exit":
            exits[number] = rest
        parts = {"body": []}
        part = parts["body"]
    expected = [str(number) for number in numbers]
    streams = expected[:PARALLEL]
    return {
        int(number): found.get(number) or _ended(exits.get(number) or exits.get(streams[index % PARALLEL])) or why
        for index, number in enumerate(expected)
    }


def _ended(code: str | None) -> str:
    """What the exit code says that the shell saw of a curl process which left probes without a record."""
    if code is None or not code.isdecimal():
        return ""
    if int(code) > 128:
        return f"signal {int(code) - 128} ended curl before this probe's record"
    return f"curl ended with {code} before this probe's record"


def _record(parts: t.Mapping[str, t.Sequence[str]], number: str) -> Record | str:
    if any(f"{part} {number}" not in parts for part in ("meta", "why", "head")):
        return "the probe's record is cut"
    try:
        # A comma ends each value, so that an empty one is one, too.
        values = "".join(parts[f"meta {number}"]).removesuffix(",").split(",")
        fields = dict(zip(_REPORTED, values, strict=True))
        sender = _sender(fields)
        record = Record(
            http_code=int(fields["http_code"]),
            exit_code=int(fields["exitcode"]),
            errormsg=" ".join(parts[f"why {number}"]).strip(),
            connected=fields["num_connects"] != "0",
            received=int(fields["size_header"]) + int(fields["size_download"]),
            elapsed=float(fields["time_total"]),
            headers=kept_headers("".join(parts[f"head {number}"])),
            body="".join(parts["body"])[:BODY_BYTES],
            sender=sender,
            began=float(fields["time_starttransfer"]) > 0,
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        return f"curl's report can't be read ({error}); curl 7.83 or newer is needed"
    if sender and not record.connected:
        return dataclasses.replace(record, again="curl used an open connection again")
    if record.exit_code == _BIND_FAILED:
        return dataclasses.replace(record, again=f"curl found no local port: {record.errormsg}")
    return record


def kept_headers(said: str) -> dict[str, str]:
    """The headers that matter, in lower case, of curl's %{header_json}.

    Raises:
        ValueError, TypeError, AttributeError: when it is something else.
    """
    found = {key.lower(): ", ".join(values) for key, values in json.loads(said, strict=False).items()}
    return {key: found[key] for key in _KEPT_HEADERS if key in found}


def _sender(fields: t.Mapping[str, str]) -> str:
    """The client's end of the connection, written like an address in ztunnel's log."""
    address, port = fields["local_ip"], int(fields["local_port"] or 0)
    if not address or port <= 0:
        return ""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
