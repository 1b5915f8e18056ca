# The picture: well-formed, the same for the same answer, everything in it that the graph says, and written with care.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import pathlib
import re
import typing as t
import xml.etree.ElementTree as ET

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._graph.graph_picture import picture
from ansible_collections.ambient.lab.plugins.module_utils._graph.model import parse_graph
from ansible_collections.ambient.lab.plugins.module_utils._graph.parse import End
from ansible_collections.ambient.lab.plugins.module_utils._graph.svg import LINE, Box, draw
from ansible_collections.ambient.lab.plugins.modules import graph_picture
from ansible_collections.ambient.lab.tests.unit.fakes import report as fakes
from ansible_collections.ambient.lab.tests.unit.fakes.graph import Flow, raw_graph
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object

SVG = "{http://www.w3.org/2000/svg}"
APP = "service:sample-app"
DENY = (End("workload", "default", "curl-deny"), End("service", "default", "sample-app"))
LAYER4 = raw_graph(Flow("curl-allow", APP, mtls=100), Flow(APP, "sample-app-blue"))
LAYER7 = raw_graph(
    Flow("curl", APP, "http", 1.9, ("200", "403"), 100),
    Flow("curl", "waypoint", rate=310),
    Flow(APP, "sample-app-blue", "http", 0.9, ("200",)),
)


def drawn(answer: Object, *absent: tuple[End, End], title: str = "A title") -> ET.Element:
    """The picture, read back."""
    return ET.fromstring(draw(parse_graph(answer), absent, title))


def texts(svg: ET.Element) -> list[str]:
    """All that is written in it."""
    return [item.text or "" for item in svg.iter(f"{SVG}text")]


def dashes(svg: ET.Element, kind: str) -> list[str | None]:
    """Dashes of the lines between nodes in a kind's colour, the legend's left out."""
    lines = [item for item in svg.iter(f"{SVG}path") if "C" in item.attrib["d"]]
    return [item.get("stroke-dasharray") for item in lines if item.get("stroke") == LINE[kind][0]]


def test_bytes_and_an_edge_that_is_not_there() -> None:
    svg = drawn(LAYER4, DENY)
    written = texts(svg)
    assert written[:2] == ["A title", "Kiali's graph of the 5 s before 2027-01-15 08:00:10 UTC"]
    assert {"curl-allow", "curl-deny", "sample-app", "sample-app-blue", "no traffic"} <= set(written)
    assert {"tcp 92 B/s mTLS", "tcp 92 B/s"} <= set(written)
    assert {"workload, default", "service, default"} <= set(written)
    assert (dashes(svg, "tcp"), dashes(svg, "absent")) == (["7 4", "7 4"], ["2 6"])
    told = svg.findtext(f"{SVG}desc") or ""
    assert "curl-deny to sample-app: no traffic" in told
    assert "curl-allow to sample-app: tcp 92 B/s mTLS" in told


def test_requests_some_of_them_refused() -> None:
    svg = drawn(LAYER7)
    assert "http 1.9/s 200 403 mTLS (50% errors)" in texts(svg)
    assert (dashes(svg, "refused"), dashes(svg, "http"), dashes(svg, "tcp")) == ([None], [None], ["7 4"])
    assert "waypoint, default" in texts(svg)
    assert "some answered 4xx or 5xx" in texts(svg)
    assert "no traffic" not in texts(svg)


def test_every_kind_of_line_looks_different_without_colour_too() -> None:
    assert len({line[1:] for line in LINE.values()}) == len(LINE)


@pytest.mark.parametrize(
    ("flow", "kind"),
    [
        (Flow("a", "b", "http", 1, ("200",)), "http"),
        (Flow("a", "b", "http", 1, ("302",)), "http"),
        (Flow("a", "b", "http", 1, ("404",)), "refused"),
        (Flow("a", "b", "http", 1, ("-", "200")), "http"),
        # Of gRPC only Kiali's share of errors says it; 5 is a status of its own.
        (Flow("a", "b", "grpc", 1, ("0",)), "http"),
    ],
)
def test_which_line(flow: Flow, kind: str) -> None:
    svg = drawn(raw_graph(flow))
    assert {name: len(dashes(svg, name)) for name in LINE} == {**dict.fromkeys(LINE, 0), kind: 1}


def test_an_edge_with_errors_is_drawn_so_whatever_the_codes() -> None:
    answer = raw_graph(Flow("a", "b", "grpc", 1, ("13",)))
    answer["elements"]["edges"][0]["data"]["traffic"]["rates"]["grpcPercentErr"] = "12.0"
    svg = drawn(answer)
    assert (dashes(svg, "refused"), "grpc 1/s 13 (12% errors)" in texts(svg)) == ([None], True)


def test_several_protocols_share_a_line() -> None:
    both = raw_graph(Flow("a", "b", "tcp", mtls=100), Flow("a", "b", "http", 2, ("200",)))
    svg = drawn(both)
    assert (dashes(svg, "http"), dashes(svg, "tcp")) == ([None], [])
    assert {"http 2/s 200", "tcp 92 B/s mTLS"} <= set(texts(svg)), "mTLS protects only one of them"


def test_traffic_that_is_there_is_not_drawn_as_absent() -> None:
    svg = drawn(raw_graph(Flow("curl-deny", APP)), DENY)
    assert (dashes(svg, "absent"), dashes(svg, "tcp")) == ([], ["7 4"])


def test_nodes_from_outside_have_a_dashed_border() -> None:
    answer = raw_graph(Flow("unknown:unknown/unknown", APP))
    (unknown,) = [item for item in drawn(answer).iter(f"{SVG}rect") if item.get("stroke-dasharray")]
    assert unknown.get("stroke-dasharray") == "4 3"
    answer["elements"]["nodes"][1]["data"]["isOutside"] = True
    assert "service, default (outside)" in texts(drawn(answer))


def test_it_is_the_same_for_the_same_answer_in_any_order() -> None:
    turned = json.loads(json.dumps(LAYER7))
    for part in ("nodes", "edges"):
        turned["elements"][part].reverse()
    assert draw(parse_graph(turned), [], "x") == draw(parse_graph(LAYER7), [], "x")


def test_it_stands_on_light_and_dark_pages() -> None:
    svg = drawn(LAYER4)
    background = svg.find(f"{SVG}rect")
    assert background is not None
    assert background.get("fill") == "#ffffff"
    assert float(background.attrib["width"]) == float(svg.attrib["width"]) - 1
    assert all(item.get("fill") for item in svg.iter(f"{SVG}text"))


def test_names_do_not_break_it() -> None:
    answer = raw_graph(Flow('a<b>&"c"', "x\x00y\ud800z", "http", 1, ("<200>",)))
    svg = drawn(answer, title="<script>alert('x')</script>\x1b")
    assert {'a<b>&"c"', "x y z", "http 1/s <200> (100% errors)"} <= set(texts(svg))
    assert svg.findtext(f"{SVG}title") == "<script>alert('x')</script>"


def test_nothing_to_draw() -> None:
    svg = drawn(raw_graph())
    assert texts(svg) == ["A title", "Kiali's graph of the 5 s before 2027-01-15 08:00:10 UTC: no traffic"]


def test_labels_cover_no_other() -> None:
    answer = raw_graph(*[Flow(source, target) for source in "abcd" for target in ("x", "y", "z")], Flow("x", "a"))
    svg = drawn(answer)
    labels = [item.attrib for item in svg.iter(f"{SVG}rect") if item.attrib["rx"] == "4"]
    boxes = [Box(*(float(item[key]) for key in ("x", "y", "width", "height"))) for item in labels]
    assert len(boxes) == 13
    overlapping = [
        (one, other) for number, one in enumerate(boxes) for other in boxes[number + 1 :] if one.overlaps(other)
    ]
    assert len(overlapping) <= 1
    width = float(svg.attrib["width"])
    assert all(0 <= float(value) <= width for value in re.findall(r'<rect x="(-?[\d.]+)"', ET.tostring(svg).decode()))


def params(folder: pathlib.Path, **changed: t.Any) -> dict[str, t.Any]:
    """Parameters of graph_picture with their defaults."""
    defaults = {name: option.get("default") for name, option in graph_picture.SPEC.items()}
    return {**defaults, "answer": LAYER4, "path": str(folder / "a.svg"), "title": "A title", **changed}


def test_it_is_written_once(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.svg"
    planned = picture(params(tmp_path), check_mode=True, diff=True)
    assert (planned["changed"], path.exists()) == (True, False)
    assert planned["diff"]["before"] == ""
    returned = picture(params(tmp_path), check_mode=False, diff=False)
    assert returned == {"changed": True, "path": str(path), "nodes": 3, "edges": 2}
    assert path.read_text() == planned["diff"]["after"]
    assert path.stat().st_mode & 0o777 == 0o644
    again = picture(params(tmp_path), check_mode=False, diff=True)
    assert (again["changed"], again["diff"]["before"]) == (False, again["diff"]["after"])
    path.chmod(0o600)
    old = path.read_text()
    other = picture(params(tmp_path, title="Another"), check_mode=False, diff=True)
    assert (other["changed"], other["diff"]["before"]) == (True, old)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["a.svg"]


def test_a_link_stays_a_link(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "real.svg"
    (tmp_path / "a.svg").symlink_to(target)
    picture(params(tmp_path), check_mode=False, diff=False)
    assert (tmp_path / "a.svg").is_symlink()
    assert target.read_text().startswith("<svg ")


def kept(verdict: str = "pass") -> Object:
    """What kiali_graph keeps in a results file."""
    part = fakes.l4()["graph"]
    part["after"]["claims"][0]["verdict"] = verdict
    part["before"]["graph"], part["after"]["graph"] = LAYER7, LAYER4
    return {"l4": {"graph": part}}


@pytest.mark.parametrize(
    ("phase", "verdict", "absent"), [("after", "pass", 1), ("after", "error", 0), ("before", "pass", 0)]
)
def test_from_a_results_file(tmp_path: pathlib.Path, phase: str, verdict: str, absent: int) -> None:
    results = tmp_path / "results.json"
    results.write_text(json.dumps(kept(verdict)))
    changed = {"answer": None, "results_file": str(results), "section": "l4", "phase": phase}
    picture(params(tmp_path, **changed), check_mode=False, diff=False)
    svg = ET.fromstring((tmp_path / "a.svg").read_text())
    assert len(dashes(svg, "absent")) == absent
    assert ("waypoint" in texts(svg)) == (phase == "before")


def test_absent_edges_that_the_user_names(tmp_path: pathlib.Path) -> None:
    further = [{"from": "curl-deny", "to": {"service": "sample-app"}}, {"from": "far", "to": "curl-allow"}]
    picture(params(tmp_path, absent=further, namespace="default"), check_mode=False, diff=False)
    svg = ET.fromstring((tmp_path / "a.svg").read_text())
    assert len(dashes(svg, "absent")) == 2
    assert "far" in texts(svg)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"answer": None}, "exactly one of results_file and answer"),
        ({"results_file": "/nowhere/x.json", "section": "l4"}, "exactly one of results_file and answer"),
        ({"answer": None, "results_file": "/nowhere/x.json"}, "results_file needs section"),
        ({"answer": None, "results_file": "/nowhere/x.json", "section": "l4"}, "the folder of /nowhere/x.json"),
        ({"answer": {"x": 1}}, "this is no graph of Kiali"),
        ({"absent": [{"from": "a"}]}, "absent 1: to: must be a mapping"),
        ({"path": "/nowhere/a.svg"}, "path: the folder of /nowhere/a.svg does not exist"),
        ({"path": "/"}, "path: / can't be read"),
    ],
)
def test_what_is_refused(tmp_path: pathlib.Path, changed: dict[str, t.Any], words: str) -> None:
    with pytest.raises(LabError) as caught:
        picture(params(tmp_path, **changed), check_mode=False, diff=False)
    assert words in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_phase_that_was_not_checked(tmp_path: pathlib.Path) -> None:
    results = tmp_path / "results.json"
    found = kept()
    found["l4"]["graph"]["after"] = None
    results.write_text(json.dumps(found))
    changed = {"answer": None, "results_file": str(results), "section": "l4"}
    with pytest.raises(LabError, match="has no graph of l4 after the policy: run kiali_graph with results_file first"):
        picture(params(tmp_path, **changed), check_mode=False, diff=False)
