# Writes the report as JUnit XML, which CI systems read: a suite per cluster and section, a test case per claim.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import re
import typing as t
import xml.etree.ElementTree as ET

from ansible_collections.ambient.lab.plugins.module_utils._results.measured import Convergence, Pair, Quantiles
from ansible_collections.ambient.lab.plugins.module_utils._results.model import (
    Check,
    ClaimResult,
    Cluster,
    Report,
    Section,
    Statement,
)
from ansible_collections.ambient.lab.plugins.plugin_utils._report.view import (
    Claim,
    Row,
    beyond_its_pairs,
    claims_of,
    is_unstable,
    phases_of,
    verdict_of,
)

# XML 1.0, section 2.2: what a document may hold. Nothing can escape the rest.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# The element that says that a test case does not hold.
_ELEMENT = {"fail": "failure", "error": "error"}
_COUNTED = {"failures": "fail", "errors": "error", "skipped": "skipped"}


@dataclasses.dataclass(frozen=True)
class Case:
    """A test case. verdict: also "skipped", where a cluster was not asked. text: what a person reads of it.

    seconds: until the answer changed for the last time.
    """

    name: str
    verdict: str
    message: str
    text: str
    seconds: float = 0.0
    properties: tuple[tuple[str, str], ...] = ()


def junit(report: Report) -> str:
    """The whole document.

    Shape: the one that Jenkins (junit-10.xsd of its xunit plugin) and GitLab read, with properties of test
    cases as pytest and Surefire write them. There is no other specification.
    """
    root = ET.Element("testsuites", {"name": legal(report.title)})
    claims = claims_of({cluster.name: cluster.sections for cluster in report.clusters})
    names = dict.fromkeys(name for cluster in report.clusters for name in cluster.sections)
    suites = [
        (name, cluster, cases([claim for claim in claims if claim.section == name], cluster, cluster.sections[name]))
        for name in names
        for cluster in report.clusters
        if name in cluster.sections
    ]
    _count(root, [case for _name, _cluster, found in suites for case in found])
    for name, cluster, found in suites:
        _suite(root, name, cluster, found)
    root.set("time", _seconds(sum(float(suite.attrib["time"]) for suite in root)))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def legal(text: str) -> str:
    """The text without characters that XML has no way to write."""
    return _ILLEGAL.sub("", text)


def cases(claims: list[Claim], cluster: Cluster, section: Section) -> list[Case]:
    """The test cases of a section on one cluster."""
    found = []
    for claim in claims:
        row = claim.on(cluster.name)
        if row and not row.unchecked:
            found.append(_claim(claim.name, row))
        else:
            when = "after the policy" if row else f"on {cluster.name}"
            found.append(Case(claim.name, "skipped", f"not checked {when}", ""))
    measured = section.convergence
    for direction, listed in (measured.directions if measured else {}).items():
        found += [_pair(measured, direction, pair) for pair in listed.pairs if measured]
    if measured and beyond_its_pairs(measured):
        message = measured.reason or "nothing was measured"
        found.append(Case(f"{measured.policy} takes hold", measured.verdict, message, message))
    if is_unstable(section):
        message = "each claim held in the last round, but they did not hold long enough together"
        found.append(Case("all claims hold together", verdict_of(section), message, message))
    return found


def _claim(name: str, row: Row) -> Case:
    phases = phases_of(row)
    bad = next(((phase, one) for phase, one in reversed(phases) if one and one.verdict != "pass"), None)
    entry = bad[1] if bad else row.current
    message = f"expected {entry.expected}, seen {entry.seen.text}"
    if bad:
        why = entry.likely_cause or entry.reason
        message += f" {bad[0]} the policy" + (f": {why}" if why else "")
    now = row.current
    decided_by, policy = row.decided
    properties = [
        ("from", now.from_), ("to", now.to), ("path", now.path or ""), ("decided_by", decided_by),
        ("policy", policy or ""), ("by", now.by or ""), ("change", row.change or ""),
    ]  # fmt: skip
    properties += [("witness", _witness(one)) for one in entry.witnesses]
    lines = [f"{now.from_} -> {now.to}", *(line for phase, one in phases for line in _evidence(phase, one))]
    changes = [change.at for _phase, one in phases if one for change in one.history]
    shown = tuple((key, value) for key, value in properties if value)
    return Case(name, row.verdict, message, "\n".join(lines), max(changes, default=0.0), shown)


def _evidence(phase: str, claim: ClaimResult | None) -> list[str]:
    """What is known of one phase, in lines."""
    if not claim:
        return [f"{phase} the policy: not looked at"]
    lines = [f"{phase} the policy: {claim.verdict}, expected {claim.expected}, seen {claim.seen.text}"]
    words = {
        "curl": claim.seen.errormsg, "decided by": claim.decided_by, "policy": claim.policy, "why": claim.reason,
        "likely cause": claim.likely_cause,
    }  # fmt: skip
    lines += [f"  {word}: {text}" for word, text in words.items() if text and text != "-"]
    lines += [f"  {change.outcome} at {change.at} s" for change in claim.history]
    return lines + [f"  {_witness(one)}" for one in claim.witnesses]


def _witness(one: Statement) -> str:
    worth = {True: "supports", False: "contradicts", None: "silent"}[one.supports]
    return f"{one.witness}{f' {one.where}' if one.where else ''} ({worth}): {one.said}"


def _pair(measured: Convergence, direction: str, pair: Pair) -> Case:
    word = "leaks" if pair.leaks else "old answers"
    lines = [
        f"{pair.from_} -> {pair.to}: {pair.old} -> {pair.new}",
        f"first new: {_quantiles(pair.first_new)}",
        f"last old: {_quantiles(pair.last_old)}",
        f"{word}: {pair.stale_after_accepted} after the API accepted the change, "
        f"{pair.stale_after_ready} after every proxy had it",
        f"flaps: {pair.flaps}, requests: {pair.requests}",
    ]
    message = pair.reason or f"{pair.stale_after_ready} {word} after every proxy had the policy"
    name = f"{measured.policy} {direction}: {pair.name}"
    seconds = pair.last_old.max if pair.last_old else 0.0
    return Case(name, pair.verdict, message, "\n".join(lines), seconds, (("policy", measured.policy),))


def _quantiles(measured: Quantiles | None) -> str:
    return f"p50 {measured.p50} s, p99 {measured.p99} s, max {measured.max} s" if measured else "never"


def _suite(root: ET.Element, name: str, cluster: Cluster, found: t.Sequence[Case]) -> None:
    section = cluster.sections[name]
    check: Check | None = section.after or section.before
    suite = ET.SubElement(root, "testsuite", {"name": legal(f"{cluster.name}: {name}")})
    _count(suite, found)
    suite.set("time", _seconds(check.elapsed if check else 0))
    # The schemas want a date without a zone; the results are in UTC.
    if check:
        suite.set("timestamp", legal(check.at)[:19])
    suite.set("hostname", legal(cluster.name))
    phase = "after" if section.after else "before" if check else ""
    _properties(suite, (("cluster", cluster.name), ("phase", phase)))
    for case in found:
        names = {"classname": legal(f"{cluster.name}.{name}"), "name": legal(case.name)}
        element = ET.SubElement(suite, "testcase", {**names, "time": _seconds(case.seconds)})
        _properties(element, case.properties)
        if case.verdict == "skipped":
            ET.SubElement(element, "skipped", {"message": legal(case.message)})
        elif case.verdict in _ELEMENT:
            # The text says it too: some readers show only the one or the other.
            details = {"message": legal(case.message), "type": case.verdict}
            ET.SubElement(element, _ELEMENT[case.verdict], details).text = legal(f"{case.message}\n\n{case.text}")
        if case.text:
            ET.SubElement(element, "system-out").text = legal(case.text)


def _properties(parent: ET.Element, found: t.Sequence[tuple[str, str]]) -> None:
    if found:
        properties = ET.SubElement(parent, "properties")
        for name, value in found:
            ET.SubElement(properties, "property", {"name": name, "value": legal(value)})


def _count(element: ET.Element, found: t.Sequence[Case]) -> None:
    element.set("tests", str(len(found)))
    for name, verdict in _COUNTED.items():
        element.set(name, str(sum(case.verdict == verdict for case in found)))


def _seconds(value: float) -> str:
    return f"{value:.3f}"
