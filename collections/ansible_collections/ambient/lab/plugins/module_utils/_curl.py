# Builds the shell script that runs a source's whole row of probes with real curl, and reads what it printed.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import json
import math
import re
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims import Request

PARALLEL = 8
BODY_BYTES = 256
# Linux takes at most 128 KiB in one argument (MAX_ARG_STRLEN), and the script is one.
MAX_SCRIPT = 100_000
KEPT_HEADERS = ("server", "x-envoy-upstream-service-time", "content-type", "www-authenticate")

# One curl process per probe: no connection is shared, and a probe that hangs or dies takes no other with it.
# `row` starts its probes at once and prints them one after the other: each output waits in its own pipe.
# The body is drained to the end, else curl would report a write error instead of what the peer did.
_SCRIPT = r"""N={nonce}
config() {{
case $1 in
{configs}esac
}}
probe() {{
printf '\n%s begin %s\n' "$N" "$1"
{{
body=$(config "$1" | curl -q -s -g --path-as-is --proto =http,https --noproxy '*' \
--connect-timeout {timeout} --max-time {timeout} \
-w '%{{stderr}}\n{nonce} meta %{{json}}\n{nonce} head %{{header_json}}\n' --config - 2>&3 \
| {{ head -c {body} | LC_ALL=C tr -dc ' -~'; cat >/dev/null; }})
printf '\n%s body %s\n%s end %s\n' "$N" "$body" "$N" "$1"
}} 3>&1
}}
row() {{
if [ $# -gt 1 ]; then probe "$1" | {{ shift; row "$@" </dev/null; cat; }}; else probe "$1"; fi
}}
{rows}"""


@dataclasses.dataclass(frozen=True)
class Record:
    """What curl reported of one probe (`--write-out %{json}` and `%{header_json}`, curl >= 7.83).

    Times are in seconds, sizes in bytes. http_code is 0 where no status line came. sender: `ip:port` of the client's
    end of the connection, "" where there was none.
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


def build_script(nonce: str, probes: t.Mapping[int, Request], probe_timeout: float) -> str:
    """Script for `sh -c` that runs every probe once, at most PARALLEL at a time.

    Args:
        nonce: marks this run's records; a response can't forge what it doesn't know.
        probes: request per number; the numbers come back in the records.
        probe_timeout: seconds that one probe may take.
    """
    configs = "".join(
        f"{number}) cat <<'{nonce}'\n{_config(request)}{nonce}\n;;\n"
        for number, request in probes.items()
    )
    numbers = list(probes)
    rows = "".join(
        "row " + " ".join(str(number) for number in numbers[start : start + PARALLEL]) + "\n"
        for start in range(0, len(numbers), PARALLEL)
    )
    return _SCRIPT.format(nonce=nonce, configs=configs, timeout=f"{probe_timeout:g}", body=BODY_BYTES, rows=rows)


def split_row(probes: t.Mapping[int, Request]) -> list[dict[int, Request]]:
    """Cut a row into parts whose scripts fit into one argument."""
    parts: list[dict[int, Request]] = [{}]
    size = 0
    for number, request in probes.items():
        cost = len(_config(request).encode()) + 160
        if parts[-1] and size + cost > MAX_SCRIPT:
            parts.append({})
            size = 0
        parts[-1][number] = request
        size += cost
    return parts


def row_seconds(count: int, probe_timeout: float) -> float:
    """Longest time in seconds that a script with so many probes can take, start of the exec included."""
    return math.ceil(count / PARALLEL) * (probe_timeout + 1) + 10


def _config(request: Request) -> str:
    """The request in curl's config syntax (curl(1), --config)."""
    lines = [f"url = {_quote(request.url)}"]
    # curl would wait for a body after `request = HEAD`.
    lines.append("head" if request.method == "HEAD" else f"request = {_quote(request.method)}")
    # A header without a value is sent only when it is written with a semicolon.
    lines += [f"header = {_quote(f'{key}: {value}' if value else f'{key};')}" for key, value in request.headers]
    if request.body is not None:
        lines.append(f"data-raw = {_quote(request.body)}")
    if request.insecure:
        lines.append("insecure")
    return "\n".join(lines) + "\n"


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


def parse_output(nonce: str, stdout: str, numbers: t.Iterable[int]) -> dict[int, Record | str]:
    """Read the script's output: a record per probe, or a text that says why there is none.

    Args:
        nonce: as given to build_script.
        stdout: all that came back; may be cut anywhere.
        numbers: the probes that must be in it.
    """
    found: dict[int, Record | str] = {}
    pattern = re.compile(
        rf"^{nonce} begin (\d+)\n(.*?)^{nonce} meta (.*?)^{nonce} head (.*?)"
        rf"^{nonce} body ([^\n]*)\n{nonce} end \1$",
        re.DOTALL | re.MULTILINE,
    )
    blocks = re.split(rf"^(?={nonce} begin )", stdout, flags=re.MULTILINE)
    for block in blocks[1:]:
        number = re.match(rf"{nonce} begin (\d+)", block)
        if number is None:
            continue
        match = pattern.match(block)
        found[int(number[1])] = _record(match[3], match[4], match[5]) if match else _broken(nonce, block)
    return {number: found.get(number, "the output ends before this probe's record") for number in numbers}


def _broken(nonce: str, block: str) -> str:
    noise = " ".join(line for line in block.splitlines() if line and not line.startswith(nonce))
    if "curl: not found" in noise or "curl: inaccessible" in noise:
        return "the container has no curl"
    return "the probe's record is cut" + (f": {noise[:160]}" if noise else "")


def _record(meta: str, head: str, body: str) -> Record | str:
    try:
        fields = json.loads(meta, strict=False)
        headers = {key.lower(): ", ".join(values) for key, values in json.loads(head, strict=False).items()}
        return Record(
            http_code=int(fields["http_code"]),
            exit_code=int(fields["exitcode"]),
            errormsg=fields["errormsg"] or "",
            connected=bool(fields["num_connects"]),
            received=int(fields["size_header"]) + int(fields["size_download"]),
            elapsed=float(fields["time_total"]),
            headers={key: headers[key] for key in KEPT_HEADERS if key in headers},
            body=body,
            sender=_sender(fields),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        return f"curl's report can't be read ({error}); curl 7.83 or newer is needed"


def _sender(fields: t.Mapping[str, t.Any]) -> str:
    """The client's end of the connection, written like an address in ztunnel's log."""
    address, port = str(fields.get("local_ip") or ""), int(fields.get("local_port") or 0)
    if not address or port <= 0:
        return ""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
