# Puts the results of one cluster or of many into one report: plain data, from which every format is written.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._common.results import understood
from ansible_collections.ambient.lab.plugins.module_utils._common.text import printable
from ansible_collections.ambient.lab.plugins.plugin_utils._report.measured import convergence_of, matrix_of

Object = dict[str, t.Any]
# What docs/report.schema.json describes; a change that readers must know of raises it.
FORMAT = 1
WORST = ("pass", "fail", "error")
PHASES = ("before", "after")
SHUT = ("denied_l4", "denied_l7", "denied_upstream", "no_edge")
OPEN = ("allowed", "edge")


@dataclasses.dataclass(frozen=True)
class Given:
    """One cluster's results: its name, the file they come from, and what is in it.

    All that a cluster has said is made single lines without control characters here, so that no format need care.
    """

    cluster: str
    path: str
    results: Object

    def __post_init__(self) -> None:
        object.__setattr__(self, "cluster", printable(self.cluster))
        object.__setattr__(self, "results", _clean(self.results))


def report_of(title: str, given: t.Sequence[Given]) -> Object:
    """The report, as docs/report.schema.json describes it.

    Raises:
        LabError: when results are not what the modules of this collection write.
    """
    parts: list[tuple[str, Object]] = []
    for one in given:
        with understood(f"{one.path} (cluster {one.cluster})"):
            parts.append((one.cluster, {key: _section(part) for key, part in one.results.items()}))
    sections = [_joined(key, parts) for key in dict.fromkeys(key for _name, part in parts for key in part)]
    clusters = [_cluster(name, part, sections) for name, part in parts]
    return {
        "format": FORMAT,
        "title": printable(title),
        "verdict": worst([cluster["verdict"] for cluster in clusters]),
        "counts": _sum([cluster["counts"] for cluster in clusters]),
        "at": max((cluster["at"] for cluster in clusters), default=""),
        "clusters": clusters,
        "sections": sections,
    }


def worst(verdicts: t.Iterable[str]) -> str:
    """The one that counts: an error before a failure before a pass."""
    return max(verdicts, key=WORST.index, default="pass")


def beyond_its_pairs(measured: Object) -> bool:
    """Whether a measurement as a whole is worse than its pairs, for example because a proxy never had the policy."""
    pairs = worst(pair["verdict"] for pair in measured["pairs"])
    return WORST.index(measured["verdict"]) > WORST.index(pairs)


def current(row: Object) -> Object | None:
    """What holds of a claim now: after the policy, or before it where nobody has looked after it."""
    found: Object | None = row["after"] or row["before"]
    return found


def _clean(value: t.Any) -> t.Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): _clean(item) for key, item in value.items()}
    return value


def _section(part: Object) -> Object:
    """One part of one cluster's results: its summary, and rows by kind and name."""
    graph = part.get("graph") or {}
    rows = {("curl", claim["name"]): _row("curl", claim) for claim in part.get("claims") or []}
    rows |= {("graph", claim["name"]): _row("graph", claim) for claim in graph.get("claims") or []}
    convergence = part.get("convergence")
    measured = convergence_of(convergence) if convergence else None
    kept = [section for section in (part, graph) if section.get("verdict")]
    found = [row["verdict"] for row in rows.values()]
    if measured:
        found += [pair["verdict"] for pair in measured["pairs"]] + [measured["verdict"]] * beyond_its_pairs(measured)
    return {
        "rows": rows,
        "convergence": measured,
        "matrix": matrix_of(part["matrix"]) if part.get("matrix") else None,
        "strength": _strength(part),
        # A section may fail while each claim's last answer was as expected: they did not hold long enough.
        "unstable": worst([one["verdict"] for one in kept]) != "pass" and worst(found) == "pass",
        "verdict": worst([*(one["verdict"] for one in kept), *found]),
        "found": found,
        "phase": part.get("phase"),
        "at": max(
            [one["at"] for one in (part, graph, convergence or {}, part.get("matrix") or {}) if one.get("at")] or [""]
        ),
        "rounds": part.get("rounds"),
        "elapsed": part.get("elapsed"),
        "converged_after": part.get("converged_after"),
        "proxies": part.get("proxies") or [],
    }


def _strength(part: Object) -> Object | None:
    """What the model says of the claims, and of the policies they are about."""
    mutation, lint = part.get("mutation"), part.get("lint") or {}
    if not mutation:
        return None
    findings = [
        f"{one['severity']}: {one['policy']}: {one['effect']} [{one['rule']}]" for one in lint.get("findings", ())
    ]
    return {"at": mutation["at"], "score": mutation["score"], "summary": mutation["summary"], "findings": findings}


def _row(kind: str, claim: Object) -> Object:
    entries = {phase: _entry(claim[phase], claim, phase) for phase in PHASES}
    before, after = entries["before"], entries["after"]
    return {
        "from": _end(claim["from"]),
        "to": _end(claim["to"]),
        "path": claim.get("path"),
        "expected": claim["expected"],
        "by": claim.get("by"),
        "decided_by": claim.get("decided_by") or "-",
        "policy": claim.get("policy"),
        "verdict": worst(entry["verdict"] for entry in (before, after) if entry),
        "change": change(before, after),
        **entries,
    }


def _end(end: str | Object) -> str:
    """One side of a claim; the graph's are {workload or service: name, namespace: ...}."""
    if isinstance(end, str):
        return end
    kind = "service" if "service" in end else "workload"
    return f"{kind} {end.get('namespace', '')}/{end[kind]}"


def _entry(entry: Object | None, claim: Object, phase: str) -> Object | None:
    """What was seen in a phase. Older files say of the claim as a whole who decided, and have no witnesses."""
    if entry is None:
        return None
    whole = claim if phase == "after" else {}
    return {
        "expected": entry["expected"],
        "verdict": entry["verdict"],
        "outcome": entry["outcome"],
        "seen": entry.get("seen") or seen(entry),
        "http_code": entry.get("http_code"),
        "exit_code": entry.get("exit_code"),
        "errormsg": entry.get("errormsg") or "",
        "reason": entry.get("reason") or "",
        "likely_cause": entry.get("likely_cause") or "",
        "decided_by": entry.get("decided_by") or whole.get("decided_by") or "-",
        "policy": entry.get("policy") or whole.get("policy"),
        "history": [
            {key: change.get(key) for key in ("at", "outcome", "verdict")} for change in entry["history"] or []
        ],
        "witnesses": [
            {key: one.get(key) for key in ("witness", "where", "said", "supports")}
            for one in entry.get("witnesses") or []
        ],
    }


def seen(entry: Object) -> str:
    """An outcome with curl's HTTP code and exit code, where there are any."""
    if entry.get("exit_code") is None:
        return str(entry["outcome"])
    return f"{entry['outcome']} {entry['http_code'] or 0:03d}/{entry['exit_code']}"


def change(before: Object | None, after: Object | None) -> str | None:
    """What the policy did: closed, opened, changed; None where nothing, or where one side was not looked at."""
    if not before or not after or before["outcome"] == after["outcome"]:
        return None
    for word, was, now in (("closed", OPEN, SHUT), ("opened", SHUT, OPEN)):
        if before["outcome"] in was and after["outcome"] in now:
            return word
    return "changed"


def _joined(key: str, parts: t.Sequence[tuple[str, Object]]) -> Object:
    """A section of all clusters: a row per claim, with a column per cluster."""
    there = [(name, part[key]) for name, part in parts if key in part]
    ids = dict.fromkeys(claim for _name, section in there for claim in section["rows"])
    claims = []
    for kind, name in ids:
        found = [(cluster, section["rows"].get((kind, name))) for cluster, section in there]
        columns = [{"cluster": cluster, **row} for cluster, row in found if row]
        claims.append(
            {
                "kind": kind,
                "name": name,
                "verdict": worst(column["verdict"] for column in columns),
                "differs": len(columns) < len(parts) or len({_state(column) for column in columns}) > 1,
                "clusters": columns,
            }
        )
    keys = ("verdict", "unstable", "phase", "at", "rounds", "elapsed", "converged_after")
    return {
        "name": key,
        "verdict": worst(section["verdict"] for _name, section in there),
        "clusters": [{"cluster": name, **{key: section[key] for key in keys}} for name, section in there],
        "claims": claims,
        "convergence": [{"cluster": name, **one["convergence"]} for name, one in there if one["convergence"]],
        "matrix": [{"cluster": name, **section["matrix"]} for name, section in there if section["matrix"]],
        "strength": [{"cluster": name, **section["strength"]} for name, section in there if section["strength"]],
    }


def _state(row: Object) -> tuple[t.Any, ...]:
    """What must be the same on every cluster."""
    return (
        row["verdict"],
        row["change"],
        *((entry["outcome"], entry["http_code"]) for entry in [current(row)] if entry),
    )


def _cluster(name: str, part: Object, sections: t.Sequence[Object]) -> Object:
    found = [verdict for section in part.values() for verdict in section["found"]]
    proxies = {(one.get("proxy"), one.get("kind")): one for section in part.values() for one in section["proxies"]}
    claims = [claim for section in sections for claim in section["claims"]]
    here = [claim for claim in claims if any(column["cluster"] == name for column in claim["clusters"])]
    return {
        "name": name,
        "verdict": worst(section["verdict"] for section in part.values()),
        "counts": {
            **{verdict: found.count(verdict) for verdict in WORST},
            "unstable": sum(section["unstable"] for section in part.values()),
            "unchecked": len(claims) - len(here),
        },
        "at": max((section["at"] for section in part.values()), default=""),
        "proxies": [{key: one.get(key) for key in ("proxy", "kind", "version", "wording")} for one in proxies.values()],
    }


def _sum(counts: t.Sequence[Object]) -> Object:
    return {key: sum(one[key] for one in counts) for key in (*WORST, "unstable", "unchecked")}
