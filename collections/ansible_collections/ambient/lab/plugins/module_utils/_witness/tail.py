# Follows what one proxy logs and counts from round to round, so that each round's evidence is its own.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import datetime
import re
import typing as t

from .._cluster.api import Asker
from .._cluster.channel import status_message
from .._common.errors import LabError
from .counters import METRICS_PATH, METRICS_PORT, Counters, parse_counters
from .proxies import Proxy

# A log that grows by more than this within one round is somebody else's.
MAX_LOG = 16 * 1024 * 1024
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d) ")


class Tail:
    """One proxy's log and counters since somebody last read them.

    The log's own timestamps (kubelet writes them, on the node's clock) mark the place: no clock is compared.
    """

    def __init__(self, asker: Asker, proxy: Proxy) -> None:
        self.proxy = proxy
        self.counters = Counters()
        # Why the log or the counters can't be read, "" where they can.
        self.log_problem = ""
        self.counter_problem = ""
        # Whether lines may be missing: the file was rotated, or the container began anew.
        self.gap = False
        # The counters as they were before the round, None where they could not be asked then.
        self.before: Counters | None = None
        self._asker = asker
        self._last: tuple[str, str] | None = None
        # Whether the end of what was logged before is known.
        self._placed = False
        # Bytes of the last answer.
        self._size = 0

    def begin(self) -> None:
        """Take in what is there already, so that it is not taken for evidence."""
        self._place()
        self.count()

    def begin_round(self) -> None:
        """Forget that lines of an earlier round may be missing, and count from here on."""
        self.gap = False
        self.before = None if self.counter_problem else self.counters

    def _place(self) -> None:
        """Go to the end of the log."""
        lines = self._log(tailLines="1")
        self._last = max(filter(None, map(_stamp, lines)), default=None)
        self._placed = not self.log_problem and (self._last is not None or not lines)

    def read(self) -> list[str]:
        """The lines since the last read, without kubelet's timestamps."""
        if not self._placed:
            # What it has logged since the round began can't be told from what was there before.
            self.gap = True
            self._place()
            return []
        last = self._last
        # The API takes full seconds only.
        lines = self._log(limitBytes=str(MAX_LOG), **({"sinceTime": f"{last[0]}Z"} if last else {}))
        if self._size >= MAX_LOG:
            # The rest can't be asked for, so this round is lost, and the next one begins at the end.
            self.gap = True
            self._place()
            self.log_problem = self.log_problem or f"it logs more than {MAX_LOG // 1024**2} MiB in one round"
            return []
        # kubelet's own complaints come without a timestamp.
        stamped = [(stamp, line) for line in lines if (stamp := _stamp(line))]
        # The last line that is known would be among them, because the API takes full seconds only. Without one (a
        # log that was empty, though proxies log their start) nobody can tell.
        if not self.log_problem and all(stamp != last for stamp, _line in stamped):
            self.gap = True
        fresh = [(stamp, line) for stamp, line in stamped if last is None or stamp > last]
        if fresh:
            self._last = max(stamp for stamp, _line in fresh)
        return [line.partition(" ")[2] for _stamp, line in fresh]

    def count(self) -> Counters:
        """What it has counted by now; what was known before stays where it can't be asked."""
        path = f"{self.proxy.path}:{METRICS_PORT}/proxy{METRICS_PATH[self.proxy.kind]}"
        text, self.counter_problem = self._text(path, {})
        if not self.counter_problem:
            self.counters = parse_counters(text, self.proxy.kind)
        return self.counters

    def _log(self, **query: str) -> list[str]:
        wanted = {"container": self.proxy.container, "timestamps": "true", **query}
        text, self.log_problem = self._text(f"{self.proxy.path}/log", wanted)
        # Only "\n" ends a line of kubelet's: what a client sent may hold any other of Unicode's.
        return [line for line in text.split("\n") if line]

    def _text(self, path: str, query: t.Mapping[str, str]) -> tuple[str, str]:
        try:
            answer = self._asker.ask(path, **query)
        except LabError as error:
            return "", error.message
        self._size = len(answer.body)
        text = answer.body.decode("utf-8", "replace")
        refusal = f"HTTP {answer.status}: {(status_message(text) or 'no reason given')[:200]}"
        return (text, "") if answer.status == 200 else ("", refusal)


def _stamp(line: str) -> tuple[str, str] | None:
    """A line's timestamp in a form that sorts: RFC 3339 in UTC, and nine digits (the runtime leaves out zeros).

    None where the line has none.
    """
    match = _TIME.match(line)
    if match is None:
        return None
    try:
        moment = datetime.datetime.fromisoformat(match[1] + match[3]).astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        return None
    return f"{moment:%Y-%m-%dT%H:%M:%S}", (match[2] or "").ljust(9, "0")
