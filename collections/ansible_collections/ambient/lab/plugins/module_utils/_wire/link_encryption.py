# What the module link_encryption does: parse, send, capture, judge, write down.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from .._check.curl_outcomes import KubeEdge
from .._check.rounds import read
from .._cluster.kube import kubectl
from .._common.errors import LabError
from .._common.rounds import Clock, Ended, Wait, repeat, require_seconds
from .._common.text import Row, printable, screen
from .._curl.script import row_seconds
from .._results.codec import plain
from .._results.measured import Verdict
from .._results.model import Check, ClaimResult, Seen
from .._results.store import checked, keep, now, require_writable
from .capture import Capture
from .check import WireRun, left, look, parse_wire_claims

Values = dict[str, t.Any]


def prove_encryption(params: t.Mapping[str, t.Any], check_mode: bool) -> Values:
    """Check the claims in the module's parameters.

    Args:
        params: of the module link_encryption.
        check_mode: look, but write no results file.

    Raises:
        LabError: on wrong input, an API that does not answer, a link that can't be seen, and claims that do not hold.
    """
    require_seconds(params, timeout=0.0, probe_timeout=0.1)
    claims = parse_wire_claims(params["claims"], params["namespace"])
    path, section, seconds = params["results_file"], params["section"], params["probe_timeout"]
    require_writable(path, section)
    edge = KubeEdge(params["kubeconfig"], params["context"])

    def capturing() -> Capture:
        return Capture(params["interface"], params["network_namespace"], 2 * row_seconds(2, seconds))

    def one_round() -> list[WireRun]:
        mesh = read((one for claim in claims for one in (claim.encrypted, claim.control)), edge)
        return look(claims, mesh, edge, capturing, seconds)

    ended = repeat(one_round, Wait(params["timeout"], left), Clock(), interval=0.5)
    check = _kept(ended)
    values = _values(ended, check)
    if path and not check_mode:
        keep(path, section, lambda old: checked(old, "after", check))
    bad = [run for run in ended.last if not run.verdict.passed]
    if bad:
        head = f"{len(bad)} of {len(claims)} claims on what passes between the nodes did not hold"
        raise LabError(screen(head, "FROM", [_row(run, kubectl(params)) for run in bad]), **values)
    return values


def _kept(ended: Ended[t.Sequence[WireRun]]) -> Check:
    """The check as results have it."""
    verdicts: set[Verdict] = {run.verdict.verdict for run in ended.last}
    order: tuple[Verdict, ...] = ("error", "fail", "pass")
    worst = next(verdict for verdict in order if verdict in verdicts)
    elapsed = round(ended.elapsed, 2)
    claims = [
        ClaimResult(
            name=run.claim.name,
            from_=str(run.own.found),
            source=str(run.claim.encrypted.source),
            to=str(run.claim.encrypted.request),
            # Where nothing of it was seen, nobody knows that it went from node to node.
            path=None if run.outcome == "not seen" else "cross node",
            expected="encrypted",
            seen=Seen(outcome=run.outcome, text=run.outcome),
            control=str(run.control.found),
            verdict=run.verdict.verdict,
            reason=run.verdict.reason,
        )
        for run in ended.last
    ]
    after = elapsed if worst == "pass" else None
    return Check(at=now(), verdict=worst, rounds=ended.rounds, elapsed=elapsed, converged_after=after, claims=claims)


def _values(ended: Ended[t.Sequence[WireRun]], check: Check) -> Values:
    """The module's return values: the check, and of each claim what passed the link."""
    values: Values = plain(check)
    for run, claim in zip(ended.last, values["claims"], strict=True):
        claim["identity"] = run.identity or None
        claim["flows"] = [
            {"source": flow.source, "target": f"{flow.target}:{flow.target_port}", "bytes": count}
            for flow, count in run.hbone.items()
        ]
    return values


def _row(run: WireRun, command: str) -> Row:
    namespace = run.claim.encrypted.source.namespace
    return Row(
        run.claim.name, "encrypted", run.outcome, str(run.own.found), printable(run.verdict.reason),
        f"{command} -n {namespace} get pods -o wide",
    )  # fmt: skip
