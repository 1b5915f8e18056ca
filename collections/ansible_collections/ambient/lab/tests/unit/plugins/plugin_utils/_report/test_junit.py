# JUnit XML: read back as CI systems do, with the counts that they show, and nothing in it that XML cannot hold.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from ansible_collections.ambient.lab.plugins.plugin_utils._report.junit import junit, legal
from ansible_collections.ambient.lab.tests.unit.fakes import report as fakes
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object
from ansible_collections.ambient.lab.tests.unit.fakes.reported import report

# The common shape: what an element may hold, in this order, and the attributes that it has.
SHAPE = {
    "testsuites": (("testsuite",), {"name", "tests", "failures", "errors", "skipped", "time"}),
    "testsuite": (
        ("properties", "testcase"),
        {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname"},
    ),
    "testcase": (("properties", "skipped", "failure", "error", "system-out"), {"classname", "name", "time"}),
    "properties": (("property",), set()),
    "property": ((), {"name", "value"}),
    "failure": ((), {"message", "type"}),
    "error": ((), {"message", "type"}),
    "skipped": ((), {"message"}),
    "system-out": ((), set()),
}  # fmt: skip


def read(**clusters: Object) -> ET.Element:
    """The document, read back."""
    return ET.fromstring(junit(report(**clusters)))


def case(root: ET.Element, name: str) -> ET.Element:
    """A test case."""
    (found,) = [one for one in root.iter("testcase") if one.get("name") == name]
    return found


def properties(element: ET.Element) -> list[tuple[str | None, str | None]]:
    """Of an element, in their order."""
    return [(one.get("name"), one.get("value")) for one in element.findall("properties/property")]


@pytest.mark.parametrize(
    "clusters",
    [
        {"a": fakes.lab()},
        {"a": fakes.lab(True), "b": fakes.lab(), "c": {"l4_authz": fakes.l4()}},
        {"a": fakes.many(30)},
    ],
)
def test_the_shape_is_the_common_one(clusters: dict[str, Object]) -> None:
    for element in read(**clusters).iter():
        inner, attributes = SHAPE[element.tag]
        assert set(element.attrib) == attributes - ({"timestamp"} if not element.get("timestamp") else set())
        order = [inner.index(child.tag) for child in element]
        assert order == sorted(order), element.tag
        if element.tag != "properties":
            continue
        assert len(element)


def test_counts_are_those_of_the_test_cases() -> None:
    root = read(a=fakes.lab(True), b={"l4_authz": fakes.l4()})
    for element in [root, *root]:
        found = list(element.iter("testcase"))
        assert int(element.attrib["tests"]) == len(found)
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(element.attrib[attribute]) == len([one for one in found if one.find(tag) is not None])
    assert [suite.attrib["name"] for suite in root] == ["a: l4_authz", "b: l4_authz", "a: l7_waypoint", "a: everything"]
    assert (root.attrib["failures"], root.attrib["errors"]) == ("1", "1")
    assert root[0].attrib["timestamp"] == "2026-11-23T16:18:31"


def test_a_failure_says_what_was_expected_what_was_seen_and_why() -> None:
    root = read(a=fakes.lab(True))
    found = case(root, "POST is refused by the waypoint")
    assert found.attrib["classname"] == "a.l7_waypoint"
    assert found.attrib["time"] == "0.900", "when the answer changed for the last time"
    failure = found.find("failure")
    assert failure is not None
    assert failure.attrib["type"] == "fail"
    message = failure.attrib["message"]
    assert message.startswith(
        "expected denied_l7 HTTP 403, seen allowed 200/0 after the policy: Service layer7/sample-app"
    )
    assert message in (failure.text or "")
    assert "  client layer7/curl (contradicts): HTTP 200 from the application" in (failure.text or "")


def test_an_error_is_no_failure() -> None:
    found = case(read(a=fakes.lab(True)), "PUT is refused by the waypoint")
    assert found.find("failure") is None
    assert found.find("error") is not None
    witnesses = [value for name, value in properties(found) if name == "witness"]
    assert witnesses[-1] == "waypoint counter layer7/waypoint-5d9c7 (contradicts): 403s did not rise"


def test_a_pass_has_its_evidence_too() -> None:
    found = case(read(a=fakes.lab()), "curl-deny is cut off by ztunnel")
    assert [child.tag for child in found] == ["properties", "system-out"]
    assert properties(found)[:7] == [
        ("from", "default/curl-deny"),
        ("to", fakes.APP),
        ("path", "cross node"),
        ("decided_by", "ztunnel"),
        ("policy", "default/layer4-authz"),
        ("by", "default/layer4-authz"),
        ("change", "closed"),
    ]
    text = found.findtext("system-out") or ""
    assert "before the policy: pass, expected allowed, seen allowed 200/0" in text
    assert "  waypoint log (silent): no waypoint is on the way" in text


def test_a_claim_of_another_cluster_is_skipped() -> None:
    one = {"s": fakes.section(fakes.claim("c", None, fakes.denial()))}
    root = read(a=one, b={"s": fakes.section()})
    skipped = [found.find("skipped") for found in root.iter("testcase")]
    assert [element is None for element in skipped] == [True, False]
    assert properties(root[1]) == [("cluster", "b"), ("phase", "after")]


def test_each_cluster_has_the_evidence_of_its_own() -> None:
    """Also where clusters are alike."""
    parts = {name: {"s": fakes.section(fakes.claim("c", None, fakes.denial(policy=f"{name}/p")))} for name in "ab"}
    root = read(**parts)
    assert [dict(properties(found))["policy"] for found in root.iter("testcase")] == ["a/p", "b/p"]


def test_a_graph_that_nobody_has_looked_at_again_is_skipped() -> None:
    part = fakes.l4()
    part["graph"]["after"] = None
    found = case(read(a={"s": part}), "curl-deny is not in the graph").find("skipped")
    assert found is not None
    assert found.attrib["message"] == "not checked after the policy"


def test_leaks_fail() -> None:
    root = read(a={"s": {"convergence": fakes.convergence(fakes.pair("p", 0.4, (12, 3)))}})
    failed = case(root, "default/layer4-authz apply: p").find("failure")
    assert failed is not None
    assert failed.attrib["message"] == "3 requests got through after every proxy had the policy"
    assert "leaks: 12 after the API accepted the change, 3 after every proxy had it" in (failed.text or "")
    late = case(root, "default/layer4-authz remove: p")
    assert "old answers: 4 after" in (late.findtext("system-out") or "")


def test_a_section_that_was_not_stable_is_a_case_of_its_own() -> None:
    part = fakes.section(fakes.claim("c", None, fakes.entry("allowed")), checks={"verdict": "fail"})
    assert case(read(a={"s": part}), "all claims hold together").find("failure") is not None


def test_a_measurement_that_came_to_nothing() -> None:
    nothing = fakes.convergence(verdict="error", reason="no pod", directions={})
    failed = case(read(a={"s": {"convergence": nothing}}), "default/layer4-authz takes hold").find("error")
    assert failed is not None
    assert failed.attrib["message"] == "no pod"
    stuck = fakes.convergence(verdict="error", reason="the barrier was not reached")
    root = read(a={"s": {"convergence": stuck}})
    assert (root.attrib["tests"], root.attrib["errors"]) == ("5", "1")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("plain <b> & \"'", "plain <b> & \"'"),
        ("a\x00b\x08c\x0bd\x1fe", "abcde"),
        ("tab\tline\nend\r", "tab\tline\nend\r"),
        ("\ud800\udfff\ufffe\uffff", ""),
        ("\x7f\u0085\u202e\U0001f600", "\x7f\u0085\u202e\U0001f600"),
    ],
)
def test_what_xml_can_hold(text: str, kept: str) -> None:
    assert legal(text) == kept
    element = ET.Element("a", {"b": legal(text)})
    assert ET.fromstring(ET.tostring(element, encoding="unicode")).get("b") == kept


def test_hostile_names_stay_text() -> None:
    hostile = fakes.claim(
        fakes.HOSTILE, None, fakes.denial(fakes.HOSTILE, errormsg=fakes.HOSTILE), source=fakes.HOSTILE
    )
    text = junit(report(**{fakes.HOSTILE: {fakes.HOSTILE: fakes.section(hostile)}}))
    text.encode()
    (found,) = ET.fromstring(text).iter("testcase")
    assert found.attrib["name"].startswith("<script>alert(1)</script><img src=x")
