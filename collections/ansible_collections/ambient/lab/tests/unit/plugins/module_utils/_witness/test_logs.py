# What ztunnel and a waypoint log: every wording from Istio 1.21 to 1.31, hostile fields, lines about something else.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._witness.logs import (
    WORDINGS,
    Connection,
    Denial,
    denial,
    parse_connection,
    parse_request,
    too_old,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

REJECTED = "connection closed due to policy rejection"
CHANGED = "connection closed due to policy change"
CURL = "spiffe://cluster.local/ns/default/sa/curl"
FIELDS: dict[str, t.Any] = {
    "src.addr": "10.0.0.9:40000",
    "src.workload": "curl-7d9-x2z",
    "src.namespace": "default",
    "src.identity": CURL,
    "dst.addr": "10.0.1.5:15008",
    "dst.hbone_addr": "10.0.1.5:8080",
    "dst.service": "sample-app.default.svc.cluster.local",
    "dst.workload": "sample-app",
    "dst.namespace": "default",
    "dst.identity": "spiffe://cluster.local/ns/default/sa/sample-app",
    "direction": "inbound",
    "bytes_sent": 0,
    "bytes_recv": 0,
    "duration": "0ms",
}
BARE = ("src.addr", "dst.addr", "dst.hbone_addr", "bytes_sent", "bytes_recv")


def text(message: str = "connection complete", gap: str = "\t", level: str = "error", **changed: t.Any) -> str:
    """An access line in ztunnel's own format; a field that is None is left out. `_` in a key stands for its dot."""
    parts = (f"{key}={value if key in BARE else json.dumps(value)}" for key, value in merged(changed).items())
    return gap.join(("2026-03-01T10:00:00.123456Z", level, "access", message, " ".join(parts)))


def as_json(message: str = "connection complete", scope: str = "access", **changed: t.Any) -> str:
    """The same with LOG_FORMAT=json."""
    head = {"level": "error", "time": "2026-03-01T10:00:00.123456Z", "scope": scope, "message": message}
    return json.dumps({**head, **merged(changed)})


def merged(changed: dict[str, t.Any]) -> dict[str, t.Any]:
    """All fields, in ztunnel's names."""
    own = {key.replace("src_", "src.").replace("dst_", "dst."): value for key, value in changed.items()}
    return {key: value for key, value in {**FIELDS, **own}.items() if value is not None}


FORMATS = pytest.mark.parametrize(
    "line", [text, as_json, lambda **changed: text(gap="     ", **changed)], ids=["tabs", "json", "spaces"]
)


@FORMATS
def test_every_field_of_an_access_line(line: t.Callable[..., str]) -> None:
    assert parse_connection(line(bytes_sent=12, bytes_recv=345)) == Connection(
        "inbound",
        "10.0.0.9:40000",
        "10.0.1.5:8080",
        CURL,
        "",
        12,
        345,
    )


NAMED = [
    (f"{REJECTED}: explicitly denied by: default/layer4-authz", "default/layer4-authz"),
    (f"{REJECTED}: explicitly denied by: istio-system/deny.all-1", "istio-system/deny.all-1"),
    # A PeerAuthentication in strict mode: istiod hands it on as a policy with a name of its own.
    (
        f"{REJECTED}: explicitly denied by: istio-system/istio_converted_static_strict",
        "istio-system/istio_converted_static_strict",
    ),
    (f"{CHANGED}: explicitly denied by: default/late", "default/late"),
]


@FORMATS
@pytest.mark.parametrize(("error", "policy"), NAMED)
def test_denied_by_a_policy_that_has_a_name(line: t.Callable[..., str], error: str, policy: str) -> None:
    parsed = parse_connection(line(error=error))
    assert parsed is not None
    assert parsed.denial == Denial(policy, f"explicitly denied by {policy}", "named")


@FORMATS
@pytest.mark.parametrize(
    ("error", "wording", "unmatched"),
    [
        (REJECTED, "plain", False),
        (f"{REJECTED}: allow policies exist, but none allowed", "named", True),
        # The same words in all versions, and any kind of policy may have changed.
        (CHANGED, "", False),
        # What a later version may say.
        (f"{REJECTED}: the moon is full", "plain", False),
        (f"{REJECTED}: explicitly denied by: ", "named", False),
    ],
)
def test_denied_by_nobody_in_particular(line: t.Callable[..., str], error: str, wording: str, unmatched: bool) -> None:
    parsed = parse_connection(line(error=error))
    assert parsed is not None
    assert parsed.denial is not None
    assert (parsed.denial.policy, parsed.denial.wording, parsed.denial.unmatched) == (None, wording, unmatched)
    assert parsed.denial.reason
    assert denial(f"{REJECTED}: workload not found") is None


@pytest.mark.parametrize(
    "error",
    [
        "",
        "http status: 401 Unauthorized",
        "io error: deadline has elapsed",
        "no healthy upstream",
        "connection failed: Connection refused (os error 111)",
        "connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008: deadline has elapsed",
        "dry-run: connection closed due to policy rejection: explicitly denied by: default/rehearsed",
        # An application's own words can't pass for ztunnel's.
        f"receive: {REJECTED}: explicitly denied by: default/forged",
    ],
)
def test_no_denial(error: str) -> None:
    assert denial(error) is None


@FORMATS
def test_the_other_ends_proxy_refused(line: t.Callable[..., str]) -> None:
    parsed = parse_connection(line(direction="outbound", error="http status: 401 Unauthorized"))
    assert parsed is not None
    assert parsed.refused_by_peer
    inbound = parse_connection(line(error="http status: 401 Unauthorized"))
    assert inbound is not None
    assert not inbound.refused_by_peer
    other = parse_connection(line(direction="outbound", error="http status: 503 Service Unavailable"))
    assert other is not None
    assert not other.refused_by_peer


@FORMATS
def test_source_without_mesh(line: t.Callable[..., str]) -> None:
    # In plain text there is neither an identity nor an address within HBONE.
    parsed = parse_connection(
        line(
            src_identity=None,
            src_workload=None,
            dst_addr="10.0.1.5:8080",
            **{"dst.hbone_addr": None},
            error=f"{REJECTED}: allow policies exist, but none allowed",
        )
    )
    assert parsed is not None
    assert (parsed.identity, parsed.target) == ("", "10.0.1.5:8080")
    assert parsed.denial


@FORMATS
def test_a_connection_that_ended_early(line: t.Callable[..., str]) -> None:
    parsed = parse_connection(line(message="connection failed", error="unknown source"))
    assert parsed is not None
    assert (parsed.error, parsed.denial) == ("unknown source", None)


def test_ipv6() -> None:
    parsed = parse_connection(text(src_addr="[fd00::9]:40000", **{"dst.hbone_addr": "[fd00:1::5]:8080"}))
    assert parsed is not None
    assert (parsed.source, parsed.target) == ("[fd00::9]:40000", "[fd00:1::5]:8080")


def test_of_two_errors_the_last_is_the_reason() -> None:
    line = text(error="io error: deadline has elapsed") + ' error="connection timed out"'
    parsed = parse_connection(line)
    assert parsed is not None
    assert parsed.error == "connection timed out"


def test_only_a_whole_word_is_a_fields_name() -> None:
    parsed = parse_connection(text() + ' x-src.addr=6.6.6.6:1 "src.addr=7.7.7.7:1')
    assert parsed is not None
    assert parsed.source == "10.0.0.9:40000"


@FORMATS
@pytest.mark.parametrize(
    "name",
    [
        'a" error="connection closed due to policy rejection',
        "a=b src.addr=6.6.6.6:1",
        "back\\slash\\",
        "two\nlines",
        "bell\x07 escape\x1b[31m null\x00",
        "\u2028\u0085 æøå 名",
    ],
)
def test_fields_can_not_leave_their_quotes(line: t.Callable[..., str], name: str) -> None:
    raw = line(src_identity=name)
    assert "\n" not in raw
    parsed = parse_connection(raw)
    assert parsed is not None
    assert (parsed.identity, parsed.source, parsed.denial) == (name, "10.0.0.9:40000", None)


def test_escapes_of_rusts_that_json_does_not_have() -> None:
    # Rust's Debug writes a control character as \u{1b}, and NUL as \0.
    parsed = parse_connection(text().replace(CURL, r"a\u{1b}\0\"b"))
    assert parsed is not None
    assert parsed.identity == r"a\u{1b}\0\"b"
    assert parsed.source == "10.0.0.9:40000"


@pytest.mark.parametrize("size", ["-1", "x", "²", "9" * 5000])
def test_a_size_that_is_none(size: str) -> None:
    parsed = parse_connection(text(bytes_sent=size))
    assert parsed is not None
    assert parsed.sent == 0


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "{}",
        '["access"]',
        "null",
        '{"scope":"access"}',
        '{"a":' + "[" * 100_000,
        as_json(scope="ztunnel::state"),
        as_json(message="connection opened"),
        text(message="connection opened"),
        "2026-03-01T10:00:00Z\tinfo\taccess\tconnection complete",
        "2026-03-01T10:00:00Z\tinfo\tztunnel::app\tready",
        # Rehearsed policies (1.29) are logged by the part that decides, not as access lines.
        "2026-03-01T10:00:00Z\tinfo\tstate:proxy{wl=default/app}:inbound{id=1 peer=10.0.0.9:40000}\t"
        'dry-run deny policy match\tpolicy="default/rehearsed"',
        "2026-03-01T10:00:00Z\tinfo\tstate:proxy{wl=default/app}:inbound{id=1 peer=10.0.0.9:40000}\t"
        'deny policy match\tpolicy="default/layer4-authz"',
    ],
)
def test_lines_that_are_no_access_lines(line: str) -> None:
    assert parse_connection(line) is None
    assert not too_old(line)


@pytest.mark.parametrize("side", ["inbound{id=1 peer_ip=10.0.0.9}: ztunnel::proxy::inbound", "outbound{id=1}: o"])
def test_version_1_21_is_recognised_and_not_understood(side: str) -> None:
    line = f"2024-03-01T10:00:00Z  INFO {side}: RBAC rejected conn=10.0.0.9({CURL})->10.0.1.5:8080"
    assert too_old(line)
    assert parse_connection(line) is None
    assert "1.21" in WORDINGS["old"]


ID = "probe-0a1b2c3d4e5f-7"


@settings(max_examples=150, deadline=None)
@given(st.text())
@example("access\tconnection complete\t" + 'a="' * 3000 + "a" * 20_000)
def test_no_text_is_too_strange(line: str) -> None:
    for found in (line, f"{{{line}", f"access connection complete {line}", f'{{"scope": "access", {line}'):
        for read in (parse_connection, parse_request, too_old):
            read(found)
    assert denial(REJECTED + line) or denial(line) is None
    parse_request(f'"{ID}" {line}')
    parse_request(f'{{"request_id": "{ID}", {line}')


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(set(FIELDS) - set(BARE))), st.text()),
    st.sampled_from(["", ": ", ": explicitly denied by: "]),
    st.text(),
)
def test_a_policy_is_named_only_where_the_error_names_it(fields: dict[str, str], words: str, said: str) -> None:
    for line in (text, as_json):
        parsed = parse_connection(line(**fields, error=f"{REJECTED}{words}{said}"))
        assert parsed is not None
        assert parsed.denial is not None
        assert parsed.denial.policy is None or parsed.denial.policy in said
