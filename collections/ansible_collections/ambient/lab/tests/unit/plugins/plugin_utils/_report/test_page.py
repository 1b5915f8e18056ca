# The report's page as text: complete, escaped, self-contained, and the same each time.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import hashlib
import html.parser
import re

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.plugin_utils._report.page import effects_of, moment, page, said, seconds
from ansible_collections.ambient.lab.tests.unit.fakes import report as fakes
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object
from ansible_collections.ambient.lab.tests.unit.fakes.reported import claims, report

VOID = {"meta", "link", "input", "br"}


class Reader(html.parser.HTMLParser):
    """Reads a page: every tag with its attributes, and whether all that was opened was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " "
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["script"] and self._open[-1:] != ["style"]:
            self.text += data

    def close(self) -> None:
        super().close()
        assert not self._open


def written(**clusters: Object) -> str:
    """The page of these clusters."""
    return page(report(**clusters))


def read(text: str) -> Reader:
    """The page, read back; each tag must be closed where it belongs."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    reader.text = " ".join(reader.text.split())
    return reader


PAGES = {
    "one": {"lab": fakes.lab()},
    "broken": {"lab": fakes.lab(True)},
    "fleet": {"a": fakes.lab(), "b": fakes.lab(True), "c": {"l4_authz": fakes.l4()}},
    "many": {"shop": fakes.many(200)},
    "matrix": {"lab": {"everything": {"matrix": fakes.matrix(12, 9)}}},
    "hostile": {
        fakes.HOSTILE: {
            fakes.HOSTILE: fakes.section(
                fakes.claim(
                    fakes.HOSTILE, fakes.entry("timeout", "allowed", likely_cause=fakes.HOSTILE),
                    fakes.denial(fakes.HOSTILE, fakes.HOSTILE, reason=fakes.HOSTILE, errormsg=fakes.HOSTILE),
                    source=fakes.HOSTILE, to=fakes.HOSTILE, by=fakes.HOSTILE,
                ),
                convergence=fakes.convergence(fakes.pair(fakes.HOSTILE, reason=fakes.HOSTILE), policy=fakes.HOSTILE),
                matrix={**fakes.matrix(), "unprobed": [{"source": fakes.HOSTILE, "reason": fakes.HOSTILE}]},
                checks={"proxies": [dict.fromkeys(("proxy", "kind", "version", "wording"), fakes.HOSTILE)]},
            )
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_whole_and_load_nothing(name: str) -> None:
    text = written(**PAGES[name])
    text.encode()
    reader = read(text)
    assert {"script", "img", "iframe", "object", "link"} & {tag for tag, _attributes in reader.tags} == {
        "script",
        "link",
    }
    assert len([tag for tag, _attributes in reader.tags if tag == "script"]) == 1
    for tag, attributes in reader.tags:
        assert not [key for key in attributes if key.startswith("on") or key in ("style", "src")], (tag, attributes)
        if "href" in attributes:
            assert (attributes["href"] or "").startswith("data:," if tag == "link" else "#")
    ids = [attributes["id"] for _tag, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {(attributes["href"] or "")[1:] for tag, attributes in reader.tags if tag in ("a", "use")}
    assert links <= set(ids)
    assert written(**PAGES[name]) == text


def test_the_policy_allows_what_is_in_the_page_and_nothing_else() -> None:
    text = written(**PAGES["one"])
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_names_of_a_cluster_are_never_markup() -> None:
    reader = read(written(**PAGES["hostile"]))
    assert reader.text.count("<script>alert(1)</script><img src=x onerror=alert(2)>") > 12


def test_everything_is_told() -> None:
    text = read(written(**PAGES["broken"])).text
    for words in (
        "2 of 12 checks do not hold.",
        "closed 1 by default/layer4-authz",
        "ztunnel istio-system/ztunnel-x7k2p, version 1.29.1, wording 1.24",
        'istio_tcp_connections_failed_total{response_flags="DENY"} rose by 3',
        "contradicts client layer7/curl HTTP 200 from the application",
        "silent waypoint log no waypoint is on the way",
        "likely cause Service layer7/sample-app is not enrolled with a waypoint",
        "history denied_l7 at 0.1 s, then allowed at 0.9 s",
        "claimed to be decided by default/layer4-authz",
        "How fast default/layer4-authz took hold",
        "0.248 s 0.301 s 0.31 s 4 leaks 0 0 600",
        "client-1 GET service-0: allowed \u2192 denied_l4 by shop/no-client-1",
        "1 sources could not be probed shop/distroless: its container has no curl",
        "client-2 GET service-1: not there \u2192 allowed (new)",
        "client-9 GET service-1: denied_l4 \u2192 gone by shop/old",
        "1 left out shop/redis port 6379: it does not speak HTTP",
        "Kiali's graph of the 5 s before",
    ):
        assert words in text, words


def test_clusters_that_are_alike_are_one_and_what_differs_is_marked() -> None:
    text = written(**PAGES["fleet"])
    told = read(text).text
    assert "POST is refused by the waypoint \u2260 clusters differ a: denied_l7 403/0 b: allowed 200/0 fail" in told
    assert "c: not checked" in told
    assert "curl-allow reaches sample-app all: allowed 200/0" in told
    assert "only where clusters differ" in told
    assert "only where clusters differ" not in written(**PAGES["one"])


def test_thirty_clusters_are_no_thirty_pages() -> None:
    one, many = len(written(a=fakes.lab())), {f"c{number}": fakes.lab() for number in range(30)}
    text = written(**many)
    assert len(text) < 2 * one + 30 * 15_000, "but for the pictures and figures of each"
    told = read(text).text
    assert "30 clusters" in told
    assert told.count("Claims and their witnesses") == 2
    assert text.count('<table class="grid') == 3


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (fakes.section(fakes.claim("c", None, fakes.entry("timeout", "allowed"))), "1 of 1 checks does not hold."),
        (
            fakes.section(fakes.claim("c", None, fakes.entry("allowed")), checks={"verdict": "fail"}),
            "All 1 checks hold in the last round, but not for long enough.",
        ),
        ({"matrix": fakes.matrix()}, "Nothing was claimed; this is what was observed."),
    ],
)
def test_the_head_says_what_counts(part: Object, words: str) -> None:
    assert words in read(written(lab={"s": part})).text


def test_a_damaged_graph_is_named() -> None:
    results = fakes.lab()
    results["l4_authz"]["graph"]["after"]["graph"] = {"elements": 1}
    with pytest.raises(
        LabError, match=r"^results of lab \(section l4_authz\) have a damaged graph: .*; run kiali_graph again$"
    ):
        written(lab=results)


def test_effects_are_put_together_by_policy() -> None:
    names = [fakes.claim(name, fakes.entry("allowed"), fakes.denial(policy="ns/p")) for name in ("one", "two")]
    nameless = fakes.claim("two", fakes.entry("allowed"), fakes.denial())
    open_ = fakes.claim("one", fakes.entry("allowed"), fakes.entry("allowed"))
    found = report(a={"s": fakes.section(*names)}, b={"s": fakes.section(open_, nameless)}, c={"s": fakes.l4()})
    told = {key: [(claim.name, on) for claim, on in places] for key, places in effects_of(claims(found)).items()}
    assert told[("closed", "ns/p")] == [("one", ["a"]), ("two", ["a"])]
    assert told[("closed", "default/layer4-authz")] == [
        ("two", ["b"]),
        ("curl-deny is cut off by ztunnel", ["c"]),
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(None, "never"), (0.0, "0 s"), (0.1234, "0.123 s"), (12.34, "12.3 s"), (1234.5, "1234 s")]
)
def test_seconds(value: float | None, text: str) -> None:
    assert seconds(value) == text


def test_words_for_people() -> None:
    assert [said(value) for value in (True, False, None)] == ["supports", "contradicts", "silent"]
    assert moment(fakes.AT) == "2026-11-23 16:18:31 UTC"
    assert [moment(""), moment("Today"), moment("2026-11-23T16:18:31+01:00")] == [
        "",
        "Today",
        "2026-11-23T16:18:31+01:00",
    ]


def test_the_page_has_what_the_model_says_of_the_claims() -> None:
    found = read(written(a={"s": {**fakes.l4(), **fakes.strength()}}))
    assert "By the model: score 50 %" in found.text
    assert "survives: shop/get: removed warning: shop/get" in " ".join(found.text.split())
    assert "By the model" not in read(written(a={"s": fakes.l4()})).text
