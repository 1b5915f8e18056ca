# Sends a round's probes: one exec per source with its whole row.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import dataclasses
import secrets
import typing as t

from .._claims.parse import Source
from .._claims.sources import Target, Unusable
from .._mesh.destinations import Request
from .control import Probe
from .outcomes import Seen, classify, probe_error
from .script import NO_RECORD, Record, build_script, parse_output, row_seconds, split_row

REQUEST_ID = "x-request-id"


class Runner(t.Protocol):
    """Runs scripts in containers."""

    def run(self, namespace: str, pod: str, container: str, script: str, timeout: float) -> tuple[str, str]:
        """Run a shell script in a container: its output, and what went wrong. Raises nothing."""


def probe_all(
    probes: t.Sequence[Probe],
    targets: t.Mapping[Source, Target | Unusable],
    probe_timeout: float,
    edge: Runner,
    pool: concurrent.futures.Executor,
) -> list[Seen]:
    """What every probe of a round saw: one exec per source with its whole row, the sources in parallel.

    Args:
        probes: of all sources.
        targets: the pod of each source, or why it can't probe.
        probe_timeout: seconds that one probe may take.
    """
    rows: dict[Target, list[int]] = {}
    seen: list[Seen] = []
    for number, probe in enumerate(probes):
        target = targets[probe.source]
        seen.append(probe_error(target.reason if isinstance(target, Unusable) else "not run"))
        if isinstance(target, Target):
            rows.setdefault(target, []).append(number)
    # Not the script's own marker: servers read it, and could write records with it.
    name = secrets.token_hex(6)
    requests = [_named(probe.request, f"probe-{name}-{number}") for number, probe in enumerate(probes)]
    runs = [
        pool.submit(_row, target, part, probe_timeout, edge)
        for target, row in rows.items()
        for part in split_row({number: requests[number] for number in row})
    ]
    for run in runs:
        for number, answer in run.result().items():
            seen[number] = answer
    return seen


def _named(request: Request, name: str) -> Request:
    """The request with a header by which proxies' logs name it; a claim's own value stays.

    It has not the form of a UUID, in which Envoy would mark its tracing decision (uuid_request_id extension).
    """
    if any(key.lower() == REQUEST_ID for key, _value in request.headers):
        return request
    return dataclasses.replace(request, headers=(*request.headers, (REQUEST_ID, name)))


def _name_of(request: Request) -> str:
    return next((value for key, value in request.headers if key.lower() == REQUEST_ID), "")


def _row(target: Target, requests: t.Mapping[int, Request], probe_timeout: float, edge: Runner) -> dict[int, Seen]:
    """One exec: a source's row, or a part of it where the row is very long."""
    records = _run(target, requests, probe_timeout, edge)
    used = [number for number, record in records.items() if isinstance(record, Record) and record.again]
    again = {number: requests[number] for number in used}
    if again:
        # There each probe has a curl process of its own, so that there is no connection to use again.
        records |= _run(target, again, probe_timeout, edge, alone=True)
    return {
        number: dataclasses.replace(classify(record), request_id=_name_of(requests[number]))
        for number, record in records.items()
    }


def _run(
    target: Target, requests: t.Mapping[int, Request], probe_timeout: float, edge: Runner, *, alone: bool = False
) -> dict[int, Record | str]:
    nonce = f"probe-{secrets.token_hex(8)}"
    script = build_script(nonce, requests, probe_timeout, alone=alone)
    timeout = row_seconds(len(requests), probe_timeout)
    stdout, problem = edge.run(target.namespace, target.pod, target.container, script, timeout)
    records = parse_output(nonce, stdout, requests)
    for number, record in records.items():
        if isinstance(record, str) and problem:
            records[number] = f"exec in {target} failed: {problem}" if record == NO_RECORD else f"{record}: {problem}"
        elif isinstance(record, Record) and alone:
            records[number] = dataclasses.replace(record, again="")
    return records
