# Whatever a container prints, and whatever a server answers: no exception, and never a denial that nobody saw.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses

from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import DENIALS, OUTCOMES
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import classify, probe_error
from ansible_collections.ambient.lab.plugins.module_utils._curl.script import KEPT_HEADERS, Record, parse_output
from ansible_collections.ambient.lab.tests.unit.fakes.objects import FORBIDDEN, OK, RESET, record
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

# The same examples in each run, no folder of earlier ones, and no limit of time on a busy machine.
settings.register_profile(
    "outcomes", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("outcomes")

NONCE = "probe-0123456789abcdef"
WHOLE = record(NONCE, "0", OK) + record(NONCE, "1", RESET) + record(NONCE, "2", FORBIDDEN)
WHAT = ["allowed", "denied_l4", "denied_l7"]

BODIES = st.sampled_from(["", "RBAC: access denied", "upstream connect error or disconnect/reset before headers"])
SERVERS = st.sampled_from([{}, {"server": "istio-envoy"}, {"server": "envoy"}, {"server": "SimpleHTTP"}])
RECORDS = st.builds(
    Record,
    http_code=st.sampled_from([0, 100, 200, 401, 403, 404, 500, 503]) | st.integers(0, 999),
    exit_code=st.sampled_from([0, 7, 28, 35, 52, 55, 56]) | st.integers(0, 100),
    errormsg=st.text(max_size=20) | st.sampled_from(["Connection reset by peer", "unexpected eof while reading"]),
    connected=st.booleans(),
    received=st.integers(0, 5),
    elapsed=st.floats(0, 10),
    headers=SERVERS,
    body=st.text(max_size=20) | BODIES,
    sender=st.sampled_from(["", "10.0.0.9:40000"]),
    began=st.booleans(),
    again=st.sampled_from(["", "", "curl used an open connection again"]),
)
# Text in which the script's own words are frequent, with another run's marker or a part of this one's.
MARKS = st.sampled_from(
    [f"{NONCE[:-1]}0", NONCE[:10], "probe-", "\n", " ", "meta", "head", "end", "exit", "missing", "0", "1", "{}"]
)
TALK = st.lists(MARKS | st.text(max_size=5), max_size=30).map("".join).filter(lambda text: NONCE not in text)


def outcomes(stdout: str) -> list[str]:
    """Outcomes of three probes."""
    return [classify(found).outcome for found in parse_output(NONCE, stdout, range(3)).values()]


@given(st.binary(max_size=400), st.integers(0, len(WHOLE)), st.integers(0, len(WHOLE)))
def test_any_bytes_are_read_without_an_exception(noise: bytes, start: int, end: int) -> None:
    for stdout in (noise.decode("utf-8", "replace"), WHOLE[:start] + noise.decode("latin-1") + WHOLE[end:]):
        assert all(outcome in OUTCOMES for outcome in outcomes(stdout))


@given(st.lists(st.text(max_size=12) | st.integers().map(str), max_size=11), st.text(max_size=30), st.text(max_size=30))
def test_any_report_of_curl_is_read_without_an_exception(values: list[str], why: str, header: str) -> None:
    for report in (
        ",".join(values),
        "000,56,1,0,0,0.1,0,,0,",
        *(f"000,56,1,0,0,0.1,0,{text},{text}," for text in values),
    ):
        marks = [f"meta 0 {report}", f"why 0 {why}", *(f"head 0 {name} {header}" for name in KEPT_HEADERS), "end 0"]
        stdout = "".join(f"{NONCE} {mark}\n" for mark in marks)
        assert outcomes(stdout)[0] in OUTCOMES


@given(RECORDS)
def test_every_record_has_an_outcome(found: Record) -> None:
    assert classify(found).outcome in OUTCOMES


@given(RECORDS, st.integers(1, 2**40))
def test_a_single_byte_of_response_is_never_cut_off_by_l4(found: Record, received: int) -> None:
    assert classify(dataclasses.replace(found, received=received)).outcome != "denied_l4"
    if found.http_code:
        assert classify(found).outcome != "denied_l4"


@given(RECORDS)
def test_no_denial_without_a_connection_or_a_complete_response(found: Record) -> None:
    outcome = classify(found).outcome
    if found.again:
        assert outcome == "probe_error"
    if outcome == "denied_l4":
        assert found.connected
        assert found.exit_code != 0
    if outcome in ("denied_l7", "denied_upstream"):
        assert found.exit_code == 0
        assert found.http_code in (401, 403, 503)


@given(st.text(max_size=50))
def test_an_error_of_the_probe_is_no_denial(reason: str) -> None:
    assert {classify(reason).outcome, probe_error(reason).outcome} == {"probe_error"}
    assert "probe_error" not in DENIALS


@given(TALK, TALK, TALK)
@example(f"{NONCE[:-1]}0 end 0\n", f"\n{NONCE[:-1]}0 meta 1 {{}}\n", "")
def test_a_body_that_talks_like_the_script_makes_no_record(before: str, between: str, after: str) -> None:
    first, second, third = (record(NONCE, str(number), what) for number, what in enumerate((OK, RESET, FORBIDDEN)))
    read = outcomes(f"{before}\n{first}{between}\n{second}{after}\n{third}")
    # The words of a proxy count only at the beginning of a body, so these may hide a refusal, but never make one.
    assert read[:2] == WHAT[:2]
    assert outcomes(f"{before}\n{between}\n{after}") == ["probe_error"] * 3


@given(st.integers(0, len(WHOLE)))
def test_cut_anywhere_a_missing_record_is_no_verdict(length: int) -> None:
    for seen, whole in zip(outcomes(WHOLE[:length]), WHAT, strict=True):
        assert seen in (whole, "probe_error")


@settings(max_examples=300)
@given(st.integers(0, len(WHOLE)), st.integers(0, len(WHOLE)))
def test_a_gap_anywhere_gives_nobody_the_verdict_of_another(start: int, end: int) -> None:
    # What is left of two reports must not become one.
    kept = WHOLE[:start] + WHOLE[max(start, end) :]
    for seen, whole in zip(outcomes(kept)[:2], WHAT[:2], strict=True):
        assert seen in (whole, "probe_error")
