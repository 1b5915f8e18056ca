# The script's output: whatever is cut, missing or odd is an error of the probe.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import MAX_BODY
from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import MAX_OUTPUT
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import classify
from ansible_collections.ambient.lab.plugins.module_utils._curl.script import (
    PROBE_BYTES,
    Record,
    build_script,
    parse_output,
    row_seconds,
    split_row,
)
from ansible_collections.ambient.lab.plugins.module_utils._mesh.destinations import Request
from ansible_collections.ambient.lab.tests.unit.fakes.objects import FORBIDDEN, OK, RESET, record

NONCE = "probe-0123456789abcdef"
WHOLE = record(NONCE, "0", OK) + record(NONCE, "1", RESET) + record(NONCE, "2", FORBIDDEN)


def outcomes(stdout: str) -> list[str]:
    """Outcomes of three probes."""
    return [classify(found).outcome for found in parse_output(NONCE, stdout, range(3)).values()]


def test_whole() -> None:
    assert outcomes(WHOLE) == ["allowed", "denied_l4", "denied_l7"]


def test_cut_anywhere_is_never_a_denial() -> None:
    last = WHOLE.rindex(f"{NONCE} end 1\n") + len(f"{NONCE} end 1\n")
    for length in range(last, len(WHOLE.rstrip())):
        assert outcomes(WHOLE[:length]) == ["allowed", "denied_l4", "probe_error"], length


@pytest.mark.parametrize("stdout", ["", "sh: 1: syntax error\n", WHOLE.replace(NONCE, "probe-ffffffffffffffff")])
def test_no_record(stdout: str) -> None:
    assert outcomes(stdout) == ["probe_error"] * 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # Exit code, a value less, no connection of its own, bytes of an answer.
        ("000,56,1,0,0,", "000,?,1,0,0,"),
        ("000,56,1,0,0,", "56,1,0,0,"),
        ("000,56,1,0,0,", "000,56,0,0,0,"),
        ("000,56,1,0,0,", "000,56,1,0,4,"),
        ("end 1", "end 2"),
        ("why 1", "why 2"),
        ("head 1 server", "head 2 server"),
    ],
)  # fmt: skip
def test_a_record_that_is_no_proof_of_a_denial(old: str, new: str) -> None:
    assert (
        outcomes(WHOLE.replace(record(NONCE, "1", RESET), record(NONCE, "1", RESET).replace(old, new)))[1]
        == "probe_error"
    )


def test_old_curl_without_headers() -> None:
    (found,) = parse_output(NONCE, record(NONCE, "0", (200, 0, {"server": "%header{server}"}, "")), [0]).values()
    assert "curl 7.83 or newer is needed" in str(found)


def test_only_headers_with_a_value_are_kept() -> None:
    (found,) = parse_output(NONCE, record(NONCE, "0", (200, 0, {"server": "x"}, "")), [0]).values()
    assert isinstance(found, Record)
    assert found.headers == {"server": "x"}


def test_a_long_row_is_split_so_that_what_an_exec_prints_and_is_sent_is_bounded() -> None:
    row = {number: Request("http://app/", "POST", (), '"' * MAX_BODY) for number in range(300)}
    parts = split_row(row)
    assert {number: request for part in parts for number, request in part.items()} == row
    assert len(parts) > 1
    for part in parts:
        assert PROBE_BYTES * len(part) + len(build_script(NONCE, part, 5)) < MAX_OUTPUT + 100 * len(part)


def test_a_short_row_is_not_split() -> None:
    assert len(split_row({number: Request(f"http://app-{number}:8080/path") for number in range(800)})) == 1


@pytest.mark.parametrize(("count", "seconds"), [(1, 16), (4, 16), (5, 22)])
def test_row_seconds(count: int, seconds: float) -> None:
    assert row_seconds(count, 5) == seconds
