# Applies and removes a policy while loops probe from every source, and never leaves anything of it behind.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import secrets
import threading
import typing as t

from .._claims.parse import Source
from .._claims.sources import Target, Unusable, find_target
from .._cluster.channel import Answer, status_message
from .._cluster.kept import Kept, as_new, differs
from .._cluster.kube import APPLY, Kube
from .._common.errors import LabError
from .._common.progress import Progress
from .._common.rounds import Clock
from .._curl.script import TICK, Loop, build_script
from .._mesh.mesh import Object
from .._ready.barrier import Barrier, Passed
from .figures import CLOCK_STEP, Moments, Run, Stream, Timed, analyse, clock_offset, parse_stream, spacing
from .options import BASELINE_TICKS, END_TICKS, START_SECONDS, Plan

FIELD_MANAGER = "ambient-lab"
DIRECTIONS = ("apply", "remove")
BARRIER_INTERVAL = 0.05
# Bytes that one loop may say; what it says beyond is a fault.
MAX_HEARD = 33_554_432
_AGAIN = "run again with a smaller rate, or with another source"


@dataclasses.dataclass(frozen=True)
class Measured:
    """One run in one direction: a figure per pair, by how many seconds its times may be off, and the barrier's end."""

    direction: str
    runs: list[Run]
    resolution: float
    passed: Passed


class StreamBuffer:
    """Collects one source's loop: keeps each piece with its time, knows when the loop has begun, and can end it."""

    def __init__(self, nonce: str, clock: Clock) -> None:
        self.nonce = nonce
        self.pieces: list[tuple[float, bytes]] = []
        self.enough = threading.Event()
        self.too_much = False
        self.ticks = 0
        self._clock = clock
        self._size = 0

    def take(self, piece: bytes) -> bool:
        """Take a piece of output; True when no more is wanted."""
        self.pieces.append((self._clock.now(), piece))
        self._size += len(piece)
        self.ticks += piece.count(f"{self.nonce} {TICK} ".encode())
        self.too_much = self._size > MAX_HEARD
        return self.too_much or self.enough.is_set()


class Runner:
    """Measures on a cluster.

    Args:
        plan: what to measure.
        kube: the cluster.
        clock: of the controller.
        kept: where the policy that is there is written down, before it is removed.

    Attributes:
        changed: whether the policy is not as it was before; while it comes and goes, it is not.
    """

    def __init__(self, plan: Plan, kube: Kube, clock: Clock, kept: Kept) -> None:
        self._plan = plan
        self._kube = kube
        self._clock = clock
        self._kept = kept
        self._before: Object | None = None
        self.changed = False

    def current(self) -> Object | None:
        """The policy as it is in the cluster, None where there is none.

        Raises:
            LabError: when the API does not answer, or refuses.
        """
        return self._kube.get(self._plan.path)

    def targets(self) -> dict[Source, Target]:
        """The pod of each source.

        Raises:
            LabError: when one can't probe.
        """
        found: dict[Source, Target] = {}
        pods = {
            namespace: self._kube.items(f"/api/v1/namespaces/{namespace}/pods")
            for namespace in {pair.claim.source.namespace for pair in self._plan.pairs}
        }
        for pair in self._plan.pairs:
            target = find_target(pair.claim.source, pods[pair.claim.source.namespace])
            if isinstance(target, Unusable):
                raise LabError(f"claim {pair.claim.name!r} can't be probed, nothing was changed: {target.reason}")
            found[pair.claim.source] = target
        return found

    def measure(self, targets: t.Mapping[Source, Target]) -> list[Measured]:
        """All runs, both directions in turn, up to the first that does not reach the barrier.

        The policy is left as the plan says, or as it was before, also after a failure.

        Raises:
            LabError: when the API does not answer or refuses, when a loop does not begin, and when the policy that is
                there can't be written down, or given back; says where it is kept then.
        """
        measured: list[Measured] = []
        try:
            self._before = self.current()
            if self._before is not None:
                self._kept.keep(self._before)
            self.changed = True
            if self._before is not None:
                _accepted_at, passed, _ready_at = self._change("remove")
                if passed.gaps:
                    gone = f"is not gone after it was removed: {passed.why_not}"
                    raise LabError(f"The policy was there already, and {gone}")
            runs = DIRECTIONS * self._plan.repeats
            progress, start = Progress(), self._clock.now()
            for number, direction in enumerate(runs, 1):
                progress.note(f"{self._plan.policy}: run {number} of {len(runs)}", self._clock.now() - start)
                measured.append(self._run(direction, targets))
                if measured[-1].passed.gaps:
                    break
        finally:
            self._restore()
        return measured

    def _restore(self) -> None:
        """Leave the policy as the plan says, or as it was before; LabError says where that one is kept."""
        if not self.changed:
            return
        wanted = self._plan.at_end(self._before)
        try:
            there = self.current()
            if differs(there, wanted):
                if there is not None:
                    self._delete()
                if wanted is not None and wanted is self._before:
                    parent = self._plan.path.rpartition("/")[0]
                    _object(self._kube.send("POST", parent, as_new(wanted)), "restore")
                elif wanted is not None:
                    self._apply()
        except LabError as error:
            if self._before is None:
                raise
            lost = f"{self._plan.policy} was not given back. {self._kept.way_back}"
            raise LabError(f"{error.message}\n{lost}") from error
        self._kept.drop()
        if wanted is not None:
            # Whoever goes on after this finds it in force; that it took too long is no news here.
            Barrier(self._kube, [self._plan.policy], "present", self._clock).wait(self._plan.timeout, BARRIER_INTERVAL)
        self.changed = differs(wanted, self._before)

    def _run(self, direction: str, targets: t.Mapping[Source, Target]) -> Measured:
        rows: dict[Target, list[int]] = {}
        for number, pair in enumerate(self._plan.pairs):
            rows.setdefault(targets[pair.claim.source], []).append(number)
        buffers = {target: StreamBuffer(f"loop-{secrets.token_hex(8)}", self._clock) for target in rows}
        with concurrent.futures.ThreadPoolExecutor(len(rows)) as pool:
            try:
                loops = {target: pool.submit(self._loop, target, row, buffers[target]) for target, row in rows.items()}
                self._await(buffers, loops, BASELINE_TICKS)
                sent = self._clock.now()
                accepted, passed, ready = self._change(direction)
                self._clock.sleep(self._plan.settle)
                # A busy machine must not end this before anybody was asked.
                self._await(buffers, loops, END_TICKS)
            finally:
                for buffer in buffers.values():
                    buffer.enough.set()
        streams = {}
        for target, loop in loops.items():
            problem = "it said more than can be kept" if buffers[target].too_much else loop.result()
            streams[target] = parse_stream(buffers[target].nonce, buffers[target].pieces)
            if problem or streams[target].problem:
                raise LabError(f"The loop in {target} failed: {streams[target].problem or problem}; {_AGAIN}")
        moments = Moments(sent - accepted, None if passed.gaps else ready - accepted)
        runs, resolution = self._analysed(direction, streams, moments, accepted)
        return Measured(direction, runs, resolution, passed)

    def _loop(self, target: Target, row: t.Sequence[int], buffer: StreamBuffer) -> str:
        """Run one source's loop to its end; what went wrong with it."""
        plan = self._plan
        requests = {number: plan.pairs[number].claim.request for number in row}
        script = build_script(buffer.nonce, requests, plan.probe_timeout, loop=Loop(plan.rate, plan.run_seconds))
        timeout = plan.run_seconds + len(row) * plan.probe_timeout
        return self._kube.run(target.namespace, target.pod, target.container, script, timeout, buffer.take)[1]

    def _await(
        self,
        buffers: t.Mapping[Target, StreamBuffer],
        loops: t.Mapping[Target, concurrent.futures.Future[str]],
        ticks: int,
    ) -> None:
        """Until every loop has made so many more ticks, and has begun another one; LabError where one does not."""
        end = self._clock.now() + START_SECONDS
        wanted = {target: buffer.ticks + ticks + 1 for target, buffer in buffers.items()}
        for target, buffer in buffers.items():
            while buffer.ticks < wanted[target]:
                if loops[target].done() or self._clock.now() > end:
                    said = parse_stream(buffer.nonce, buffer.pieces).problem
                    why = said or (loops[target].result() if loops[target].done() else "it is too slow")
                    raise LabError(f"The loop of probes in {target} stands still: {why or 'it has ended'}; {_AGAIN}")
                self._clock.sleep(0.02)

    def _change(self, direction: str) -> tuple[float, Passed, float]:
        """Apply or remove the policy: when the API accepted that, how the barrier ended, and when."""
        policy = self._apply() if direction == "apply" else self._delete()
        accepted = self._clock.now()
        state = "present" if direction == "apply" else "absent"
        # The proxies of a deleted policy are found by what it said.
        known = {str(self._plan.policy): policy} if policy and state == "absent" else None
        barrier = Barrier(self._kube, [self._plan.policy], state, self._clock, known)
        return accepted, barrier.wait(self._plan.timeout, BARRIER_INTERVAL), self._clock.now()

    def _apply(self) -> Object:
        body = self._plan.definition
        reply = self._kube.send("PATCH", self._plan.path, body, APPLY, fieldManager=FIELD_MANAGER, force="true")
        return _object(reply, "apply")

    def _delete(self) -> Object | None:
        policy = self.current()
        reply = self._kube.send("DELETE", self._plan.path)
        if reply.status != 404:
            _object(reply, "remove")
        return policy

    def _analysed(
        self, direction: str, streams: t.Mapping[Target, Stream], moments: Moments, accepted: float
    ) -> tuple[list[Run], float]:
        answers: dict[int, list[Timed]] = {number: [] for number in range(len(self._plan.pairs))}
        resolution = 0.0
        for stream in streams.values():
            offset = clock_offset(stream.ticks) - accepted
            resolution = max(resolution, spacing(stream.ticks) + CLOCK_STEP)
            for one in stream.answers:
                timed = dataclasses.replace(one, start=one.start + offset, end=one.end - accepted)
                answers[one.number].append(timed)
        changes = [pair.change(direction) for pair in self._plan.pairs]
        return [analyse(*change, answers[number], moments) for number, change in enumerate(changes)], resolution


def _object(reply: Answer, what: str) -> Object:
    if 200 <= reply.status < 300:
        return t.cast("Object", json.loads(reply.body))
    message = status_message(reply.body) or "no reason given"
    raise LabError(f"The API refused to {what} the policy with HTTP {reply.status}: {message}")
