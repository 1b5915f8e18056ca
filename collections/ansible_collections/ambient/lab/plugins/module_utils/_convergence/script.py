# Builds the loop that probes from inside of a pod at a set rate, and reads the stream that comes back.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Request
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen, classify
from ansible_collections.ambient.lab.plugins.module_utils._curl.script import (
    BODY_BYTES,
    Record,
    config_of,
    kept_headers,
    word,
)

# The clock of /proc/uptime goes in steps of a hundredth of a second (proc(5)).
CLOCK_STEP = 0.01

# A tick is one new curl process for all requests, so that none of them finds an open connection, which may keep an
# old verdict. The shell itself reads the clock and says so before curl starts. The loop ends by its count, by its own
# time, and when nobody listens any more. sed lets 8 lines of each body through, counted in its hold space.
_SCRIPT = r"""N={nonce}
C={config}
for tool in curl fold sed sleep; do
command -v "$tool" >/dev/null || {{ printf '\n%s missing %s\n' "$N" "$tool"; exit; }}
done
now() {{ read up rest </proc/uptime || exit; up=${{up%.*}}${{up#*.}}; up=${{up#0}}; up=${{up#0}}; }}
n=0
now
begin=$up
next=$((up * 10))
while [ "$n" -lt {ticks} ] && [ $((up - begin)) -lt {limit} ]; do
printf '\n%s t %s\n' "$N" "$up" || exit
printf '%s\n' "$C" | curl -q --config - 2>/dev/null | LC_ALL=C fold -b -w {body} \
| LC_ALL=C sed -e "/^$N e /b" -e "/^$N r /,/^$N e /{{" -e 'x;s/.*//;x;b' -e '}}' -e 'x;/......../{{x;d' -e '}};s/$/./;x'
n=$((n + 1))
next=$((next + {period}))
now
wait=$((next - up * 10))
if [ "$wait" -gt 0 ]; then sleep "$((wait / 1000)).$(printf '%03d' $((wait % 1000)))" || sleep 1; now
else next=$((up * 10)); fi
done
printf '\n%s done\n' "$N"
"""
_WRITE_OUT = (
    r"\n{nonce} r {number} %{{http_code}} %{{exitcode}} %{{num_connects}} %{{size_header}} %{{size_download}} "
    r"%{{time_total}} %{{errormsg}}\n{nonce} h %{{header_json}}\n{nonce} e {number}\n"
)
_OPTIONS = r"""silent
globoff
path-as-is
no-sessionid
proto = "=http,https"
noproxy = "*"
connect-timeout = {timeout}
max-time = {timeout}
write-out = "{write_out}"
"""


@dataclasses.dataclass(frozen=True)
class Heard:
    """One answer of the loop: to which request, and what it saw.

    start: when the request began, by the pod's clock; at: when the answer was heard, by ours. In seconds.
    """

    number: int
    start: float
    at: float
    seen: Seen


@dataclasses.dataclass(frozen=True)
class Stream:
    """What a loop said. ticks: of each, when it began by the pod's clock, and when that was heard by ours."""

    ticks: list[tuple[float, float]]
    answers: list[Heard]
    problem: str = ""


def build_loop(nonce: str, requests: t.Mapping[int, Request], rate: float, seconds: float, probe_timeout: float) -> str:
    """Script for `sh -c` that sends every request again and again.

    Args:
        nonce: marks this run's lines.
        requests: request per number; the numbers come back with the answers.
        rate: ticks per second; each sends every request once.
        seconds: after which the loop ends by itself.
        probe_timeout: seconds that one request may take.
    """
    sections = []
    for number, request in requests.items():
        write_out = _WRITE_OUT.format(nonce=nonce, number=number)
        sections.append(_OPTIONS.format(timeout=f"{probe_timeout:g}", write_out=write_out) + config_of(request))
    return _SCRIPT.format(
        nonce=nonce,
        config=word("\nnext\n".join(sections)),
        ticks=max(1, round(rate * seconds)),
        limit=round(seconds * 100),
        period=max(1, round(1000 / rate)),
        body=BODY_BYTES,
    )


def parse_stream(nonce: str, pieces: t.Sequence[tuple[float, bytes]]) -> Stream:
    """Read what a loop said.

    Of the requests of a tick, one starts when the one before it is through: its start is the tick's, plus the times
    that those before it took. That leaves out what curl itself needs, so that no start is too late.

    Args:
        nonce: as given to build_loop.
        pieces: of its output, each with the time of our clock when it was heard; the last line may be cut.
    """
    ticks: list[tuple[float, float]] = []
    answers: list[Heard] = []
    problem = ""
    body: list[str] = []
    record: list[str] = []
    head: list[str] = []
    into = body
    start = 0.0
    for at, line in _lines(pieces):
        if not line.startswith(f"{nonce} "):
            into.append(line)
            continue
        _nonce, kind, rest = [*line.split(" ", 2), ""][:3]
        if kind == "t" and rest.isdecimal():
            start = int(rest) * CLOCK_STEP
            ticks.append((start, at))
            body = into = []
        elif kind == "missing":
            problem = f"the container has no {rest}"
        elif kind == "r":
            record = into = [rest]
        elif kind == "h":
            head = into = [rest]
        elif kind == "e" and rest.isdecimal() and ticks:
            read = _record("".join(record), "".join(head), "".join(body))
            answers.append(Heard(int(rest), start, at, classify(read)))
            start += read.elapsed if isinstance(read, Record) else 0.0
            record, head, body = [], [], []
            into = body
    return Stream(ticks, answers, problem)


def _lines(pieces: t.Sequence[tuple[float, bytes]]) -> t.Iterator[tuple[float, str]]:
    """Whole lines, each with the time when its end was heard."""
    rest = b""
    for at, piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield at, line.decode("utf-8", "replace")


def _record(said: str, head: str, body: str) -> Record | str:
    fields = said.split(" ", 7)
    try:
        _number, code, exit_code, connects, header_bytes, body_bytes, elapsed = fields[:7]
        return Record(
            http_code=int(code),
            exit_code=int(exit_code),
            errormsg=fields[7] if len(fields) > 7 else "",
            connected=bool(int(connects)),
            received=int(header_bytes) + int(body_bytes),
            elapsed=float(elapsed),
            headers=kept_headers(head or "{}"),
            body=body[:BODY_BYTES],
            # Without a connection of its own, and an answer: over an open one.
            again="curl used an open connection again" if not int(connects) and int(code) else "",
        )
    except (ValueError, TypeError, AttributeError) as error:
        return f"curl's report can't be read ({error}); curl 7.83 or newer is needed"
