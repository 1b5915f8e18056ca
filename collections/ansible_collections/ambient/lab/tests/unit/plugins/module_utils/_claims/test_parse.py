# Claims: what is understood, and what is refused with which words.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import (
    MAX_BODY,
    MAX_URL,
    Expectation,
    PolicyRef,
    Source,
    parse_claims,
)
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._mesh.destinations import Request
from ansible_collections.ambient.lab.tests.unit.fakes.objects import claim, claims


@pytest.mark.parametrize(
    ("written", "source"),
    [
        ({"pod": "curl"}, Source("default", pod="curl")),
        ({"pod": "curl", "namespace": "layer7"}, Source("layer7", pod="curl")),
        ({"service_account": "sa", "container": "c"}, Source("default", service_account="sa", container="c")),
        ({"labels": {"b": "2", "a": 1}}, Source("default", labels=(("a", "1"), ("b", "2")))),
    ],
)
def test_sources(written: dict[str, t.Any], source: Source) -> None:
    assert claims(claim(source=written))[0].source == source


@pytest.mark.parametrize(
    ("written", "request_", "host", "port"),
    [
        ("http://app:8080/", Request("http://app:8080/"), "app", 8080),
        ("https://app", Request("https://app"), "app", 443),
        ("http://[fd00::1]:81/x", Request("http://[fd00::1]:81/x"), "fd00::1", 81),
        ({"url": "http://app/"}, Request("http://app/"), "app", 80),
        (
            {"url": "http://app/", "method": "POST", "headers": {"x": 1}, "body": "b"},
            Request("http://app/", "POST", (("x", "1"),), "b"),
            "app",
            80,
        ),
    ],
)
def test_requests(written: object, request_: Request, host: str, port: int) -> None:
    request = claims(claim(to=written))[0].request
    assert (request, request.host, request.port) == (request_, host, port)


@pytest.mark.parametrize(
    ("written", "expectation", "text"),
    [
        ("allowed", Expectation("allowed"), "allowed"),
        (
            {"outcome": "allowed", "http_code": 204},
            Expectation("allowed", frozenset({204})),
            "allowed HTTP 204",
        ),
        (
            {"outcome": "denied_l7", "http_code": ["401", 403]},
            Expectation("denied_l7", frozenset({401, 403})),
            "denied_l7 HTTP 401|403",
        ),
        (
            {"outcome": "denied_l4", "exit_code": 56},
            Expectation("denied_l4", None, frozenset({56})),
            "denied_l4 exit 56",
        ),
    ],
)
def test_expectations(written: object, expectation: Expectation, text: str) -> None:
    (parsed,) = claims(claim(expect=written, before=written))
    assert parsed.expected("after") == parsed.expected("before") == expectation
    assert str(expectation) == text


def test_before_is_allowed_unless_said_otherwise() -> None:
    assert claims(claim(expect="denied_l4"))[0].expected("before") == Expectation("allowed")


def test_policy() -> None:
    assert claims(claim(by="default/layer4-authz"))[0].by == PolicyRef("default", "layer4-authz")


@pytest.mark.parametrize("raw", [None, [], {}, "text"])
def test_a_list_that_checks_nothing(raw: object) -> None:
    with pytest.raises(LabError, match="claims is empty"):
        parse_claims(raw, "default")


WRONG: list[tuple[t.Any, list[str]]] = [
    (
        claim(expct="allowed"),
        ["claim 1 ('a claim')", "unknown key 'expct'", "name, from, to, expect, before, by"],
    ),
    ("text", ["claim 1: claim: must be a mapping"]),
    ({"name": "x"}, ["claim 1 ('x')", "from: is missing"]),
    (claim(name=""), ["claim 1: name", "not empty"]),
    (claim(source={}), ["from: needs exactly one of pod, labels, service_account"]),
    (claim(source={"pod": "a", "labels": {"a": "b"}}), ["needs exactly one of"]),
    (
        claim(source={"pods": "a"}),
        ["from: unknown key 'pods'", "pod, labels, service_account, namespace"],
    ),
    (claim(source={"pod": "Curl"}), ["from.pod", "'Curl' is not a Kubernetes name"]),
    (claim(source={"pod": None}), ["from.pod"]),
    (claim(source={"labels": {}}), ["from.labels"]),
    (claim(source="curl"), ["from: must be a mapping"]),
    (claim(to="app:8080"), ["to:", "is not a URL like"]),
    (claim(to="ftp://app/"), ["is not a URL like"]),
    (claim(to="http://app:99999/"), ["is not a URL like"]),
    (claim(to="http://user@app/"), ["to: must have no user and no password"]),
    (claim(to="http://:@app/"), ["to: must have no user and no password"]),
    (claim(to="http://" + "a" * MAX_URL), ["to: must be at most 8192 bytes"]),
    (claim(to="http://app/a b"), ["is not a URL like"]),
    (claim(to='http://app/\nurl = "http://evil/"'), ["is not a URL like"]),
    (claim(to="http:///x"), ["has no valid host"]),
    (claim(to="http://a$(id)/"), ["has no valid host"]),
    (claim(to={}), ["to.url: is missing"]),
    (claim(to={"url": "http://app/", "verb": "GET"}), ["to: unknown key 'verb'"]),
    (claim(to={"url": "http://app/", "method": "GE T"}), ["to.method"]),
    (
        claim(to={"url": "http://app/", "method": "HEAD", "body": "x"}),
        ["to.body: a HEAD request has none"],
    ),
    (claim(to={"url": "http://app/", "body": "x" * (MAX_BODY + 1)}), ["to.body", str(MAX_BODY)]),
    (claim(to={"url": "http://app/", "body": {"a": 1}}), ["to.body"]),
    (claim(to={"url": "http://app/", "headers": {"a": "b\r\nc: d"}}), ["to.headers.a: must be one line"]),
    (
        claim(to={"url": "http://app/", "headers": {"a b": "c"}}),
        ["to.headers: 'a'... is not a header's name"],
    ),
    (claim(to={"url": "http://app/", "headers": "a: b"}), ["to.headers: must be a mapping"]),
    (
        claim(to={"url": "http://app/", "headers": {"a": "x" * 20_000, "b": "y" * 20_000}}),
        ["to.headers: must be at most 32768 bytes together"],
    ),
    (claim(to={"url": "http://app/", "headers": {"a": True}}), ["headers.a: YAML makes a boolean of it: write"]),
    (claim(to={"url": "http://app/", "headers": {"a": 1.1}}), ["headers.a: YAML makes a number of it: write"]),
    (claim(to={"url": "http://app/", "headers": {"a": None}}), ["headers.a: must be a text, not nothing"]),
    (claim(to={"url": "http://app/", "headers": {True: "a"}}), ["headers: a boolean is not a header's name"]),
    (claim(source={"labels": {"a": True}}), ["from.labels.a: YAML makes a boolean of it: write it in quotes"]),
    (claim(source={"labels": {False: "a"}}), ["from.labels: YAML makes a boolean of it"]),
    (claim(source={"labels": {"a": ["x"]}}), ["from.labels.a: must be a text, not a list"]),
    # What no request and no result can hold.
    (claim(to={"url": "http://app/", "body": "\ud800"}), ["claim 1 ('a claim'): claim: can't be written as UTF-8"]),
    (claim(to="http://app/\ud800"), ["can't be written as UTF-8"]),
    (claim(expect={"outcome": "allowed", "http_code": 10**5000}), ["can't be written as UTF-8"]),
    (claim(expect={"outcome": "allowed", "http_code": "9" * 5000}), ["http_code: '999", "is not a number from"]),
    (claim(expect="denied"), ["expect: unknown outcome 'denied'", "allowed, denied_l4, denied_l7"]),
    (claim(expect="probe_error"), ["probe_error can't be expected"]),
    (claim(expect={"http_code": 200}), ["unknown outcome None"]),
    (
        claim(expect={"outcome": "allowed", "code": 200}),
        ["unknown key 'code'", "outcome, http_code, exit_code"],
    ),
    (
        claim(expect={"outcome": "allowed", "http_code": 99}),
        ["expect.http_code: 99 is not a number from 200 to 599"],
    ),
    (claim(expect={"outcome": "allowed", "http_code": []}), ["expect.http_code: is an empty list"]),
    (claim(expect={"outcome": "allowed", "http_code": True}), ["expect.http_code: True"]),
    (claim(expect={"outcome": "denied_l4", "http_code": 403}), ["denied_l4 has no HTTP answer"]),
    (claim(before="open"), ["before: unknown outcome 'open'"]),
    (claim(by="layer4-authz"), ["by: 'layer4-authz' must be namespace/name"]),
    (claim(by="a/b/c"), ["by: 'b/c' is not a Kubernetes name"]),
]


@pytest.mark.parametrize(("raw", "words"), WRONG)
def test_refused(raw: object, words: list[str]) -> None:
    with pytest.raises(LabError) as caught:
        parse_claims([raw], "default")
    assert "nothing was probed" in caught.value.message
    for word in words:
        assert word in caught.value.message


SECRET = "Bearer-abc"


@pytest.mark.parametrize(
    "raw",
    [
        SECRET,
        [SECRET],
        {**claim(), "name": [SECRET]},
        claim(source=SECRET),
        claim(source={"labels": SECRET}),
        claim(to=[{"url": "http://app/", "headers": {"authorization": SECRET}}]),
        claim(to={"url": {"headers": SECRET}}),
        claim(to={"url": "http://app/", f"authorization: {SECRET}": None}),
        claim(to={"url": "http://app/", "headers": SECRET}),
        claim(to={"url": "http://app/", "headers": {f"authorization: {SECRET}": None}}),
        claim(to=f"http://user:{SECRET}@app/"),
        claim(to=f"http://:{SECRET}@app/"),
        claim(to=f"http:/user:{SECRET}@app/"),
        claim(to=f"user:{SECRET}@app:8080"),
        claim(to=f"http://user:{SECRET}@app:99999/"),
    ],
)
def test_a_message_has_no_secret(raw: object) -> None:
    with pytest.raises(LabError, match="nothing was probed") as caught:
        parse_claims([raw], "default")
    assert SECRET not in caught.value.message


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(LabError) as caught:
        parse_claims([claim("a", by="x"), claim("b"), claim("b"), claim("c", to="x")], "default")
    assert [line.split(":")[0].strip() for line in caught.value.message.splitlines()[1:]] == [
        "claim 1 ('a')", "claim 3 ('b')", "claim 4 ('c')",
    ]  # fmt: skip
