# Writes the report as JUnit XML, which CI systems read: a suite per cluster and section, a test case per claim.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import re
import typing as t
import xml.etree.ElementTree as ET

from ansible_collections.ambient.lab.plugins.plugin_utils._report.model import PHASES, Object, beyond_its_pairs, current

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


def junit(report: Object) -> str:
    """The whole document.

    Shape: the one that Jenkins (junit-10.xsd of its xunit plugin) and GitLab read, with properties of test
    cases as pytest and Surefire write them. There is no other specification.
    """
    root = ET.Element("testsuites", {"name": legal(report["title"])})
    suites = [
        (section, column, cases(report, section, column["cluster"]))
        for section in report["sections"]
        for column in section["clusters"]
    ]
    _count(root, [case for _section, _column, found in suites for case in found])
    root.set("time", _seconds(sum(column["elapsed"] or 0 for _section, column, _found in suites)))
    for section, column, found in suites:
        _suite(root, section, column, found)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def legal(text: str) -> str:
    """The text without characters that XML has no way to write."""
    return _ILLEGAL.sub("", text)


def cases(report: Object, section: Object, cluster: str) -> list[Case]:
    """The test cases of a section on one cluster."""
    found = []
    for claim in section["claims"]:
        row = next((row for row in claim["clusters"] if row["cluster"] == cluster), None)
        found.append(_claim(claim, row) if row else Case(claim["name"], "skipped", f"not checked on {cluster}", ""))
    for measured in section["convergence"]:
        if measured["cluster"] == cluster:
            found += [_pair(measured, pair) for pair in measured["pairs"]]
            if beyond_its_pairs(measured):
                message = measured["reason"] or "nothing was measured"
                found.append(Case(f"{measured['policy']} takes hold", measured["verdict"], message, message))
    column = next(one for one in section["clusters"] if one["cluster"] == cluster)
    if column["unstable"]:
        message = "each claim held in the last round, but they did not hold long enough together"
        found.append(Case("all claims hold together", column["verdict"], message, message))
    return found


def _claim(claim: Object, row: Object) -> Case:
    bad = next((phase for phase in reversed(PHASES) if row[phase] and row[phase]["verdict"] != "pass"), None)
    entry = (row[bad] if bad else current(row)) or {}
    message = f"expected {entry['expected']}, seen {entry['seen']}" if entry else "not looked at"
    why = entry.get("likely_cause") or entry.get("reason")
    if bad:
        message += f" {bad} the policy" + (f": {why}" if why else "")
    changes = [change["at"] or 0 for phase in PHASES for change in (row[phase] or {}).get("history") or []]
    properties = [
        ("from", row["from"]), ("to", row["to"]), ("path", row["path"] or ""), ("decided_by", row["decided_by"]),
        ("policy", row["policy"] or ""), ("by", row["by"] or ""), ("change", row["change"] or ""),
    ]  # fmt: skip
    properties += [("witness", _witness(one)) for one in entry.get("witnesses") or []]
    lines = [f"{row['from']} -> {row['to']}", *(line for phase in PHASES for line in _evidence(phase, row[phase]))]
    shown = tuple((name, value) for name, value in properties if value)
    return Case(claim["name"], row["verdict"], message, "\n".join(lines), max(changes, default=0.0), shown)


def _evidence(phase: str, entry: Object | None) -> list[str]:
    """What is known of one phase, in lines."""
    if not entry:
        return [f"{phase} the policy: not looked at"]
    lines = [f"{phase} the policy: {entry['verdict']}, expected {entry['expected']}, seen {entry['seen']}"]
    lines += [f"  {word}: {entry[key]}" for key, word in _WORDS.items() if entry[key] and entry[key] != "-"]
    lines += [f"  {change['outcome']} at {change['at']} s" for change in entry["history"]]
    return lines + [f"  {_witness(one)}" for one in entry["witnesses"]]


_WORDS = {
    "errormsg": "curl",
    "decided_by": "decided by",
    "policy": "policy",
    "reason": "why",
    "likely_cause": "likely cause",
}


def _witness(one: Object) -> str:
    worth = {True: "supports", False: "contradicts", None: "silent"}[one["supports"]]
    where = f" {one['where']}" if one["where"] else ""
    return f"{one['witness']}{where} ({worth}): {one['said']}"


def _pair(measured: Object, pair: Object) -> Case:
    word = "leaks" if pair["leaks"] else "old answers"
    lines = [
        f"{pair['from']} -> {pair['to']}: {pair['old']} -> {pair['new']}",
        *(f"{key.replace('_', ' ')}: {_quantiles(pair[key])}" for key in ("first_new", "last_old")),
        f"{word}: {pair['stale_after_accepted']} after the API accepted the change, "
        f"{pair['stale_after_ready']} after every proxy had it",
        f"flaps: {pair['flaps']}, requests: {pair['requests']}",
    ]
    message = pair["reason"] or f"{pair['stale_after_ready']} {word} after every proxy had the policy"
    name = f"{measured['policy']} {pair['direction']}: {pair['name']}"
    seconds = (pair["last_old"] or {}).get("max") or 0.0
    return Case(name, pair["verdict"], message, "\n".join(lines), seconds, (("policy", measured["policy"]),))


def _quantiles(measured: Object | None) -> str:
    return ", ".join(f"{key} {value} s" for key, value in measured.items()) if measured else "never"


def _suite(root: ET.Element, section: Object, column: Object, found: t.Sequence[Case]) -> None:
    cluster = column["cluster"]
    suite = ET.SubElement(root, "testsuite", {"name": legal(f"{cluster}: {section['name']}")})
    _count(suite, found)
    suite.set("time", _seconds(column["elapsed"] or 0))
    # The schemas want a date without a zone; the results are in UTC.
    if column["at"]:
        suite.set("timestamp", legal(column["at"])[:19])
    suite.set("hostname", legal(cluster))
    _properties(suite, (("cluster", cluster), ("phase", column["phase"] or "")))
    for case in found:
        names = {"classname": legal(f"{cluster}.{section['name']}"), "name": legal(case.name)}
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
