# Following a proxy's log and counters: nothing of the past is evidence, and what may be missing is said.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import datetime
import json

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._witness import tail as tail_module
from ansible_collections.ambient.lab.plugins.module_utils._witness.proxies import Proxy
from ansible_collections.ambient.lab.plugins.module_utils._witness.tail import Tail
from hypothesis import given, settings
from hypothesis import strategies as st

PROXY = Proxy("ztunnel", "istio-system", "ztunnel-1", node="n1")
DAY = "2026-03-01T"
FORBIDDEN = json.dumps({"message": 'pods "ztunnel-1" is forbidden:\n cannot get resource "pods/log"'})
COUNTED = 'istio_tcp_connections_failed_total{reporter="destination",response_flags="DENY"} '


class Api:
    """The two paths of one proxy; `lines` are what kubelet has of its log, with timestamps."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)
        self.counted = "0"
        self.status = 200
        self.counter_status = 200
        self.silent = False
        self.asked: list[tuple[str, dict[str, str]]] = []

    def ask(self, path: str, **query: str) -> Answer:
        """Answer as the API does: sinceTime in full seconds, its second included; limitBytes cuts anywhere."""
        self.asked.append((path, query))
        if self.silent:
            raise LabError("nobody answers")
        if path.endswith("/metrics"):
            return Answer(self.counter_status, {}, f"{COUNTED}{self.counted}\n".encode())
        assert (path, query["container"], query["timestamps"]) == (f"{PROXY.path}/log", PROXY.container, "true")
        if self.status != 200:
            return Answer(self.status, {}, FORBIDDEN.encode() if self.status == 403 else b"<html>")
        lines = self.lines[-int(query["tailLines"]) :] if "tailLines" in query else self.lines
        if "sinceTime" in query:
            since = datetime.datetime.fromisoformat(query["sinceTime"])
            lines = [line for line in lines if (_moment(line) or since) >= since]
        text = "".join(f"{line}\n" for line in lines).encode()
        return Answer(200, {}, text[: int(query.get("limitBytes", len(text)))])


def _moment(line: str) -> datetime.datetime | None:
    stamp = line.partition(" ")[0]
    try:
        return datetime.datetime.fromisoformat(stamp[:19] + (stamp[-6:] if stamp[-6] in "+-" else "Z"))
    except (ValueError, IndexError):
        return None


def begun(api: Api) -> Tail:
    """A tail in its first round."""
    tail = Tail(api, PROXY)
    tail.begin()
    tail.begin_round()
    return tail


def test_nothing_of_the_past_is_evidence() -> None:
    api = Api(f"{DAY}10:00:00.1Z old", f"{DAY}10:00:00.2Z older than the round")
    tail = begun(api)
    assert tail.read() == []
    api.lines.append(f"{DAY}10:00:00.3Z new line, with spaces")
    assert tail.read() == ["new line, with spaces"]
    assert tail.read() == []
    assert (tail.gap, tail.log_problem) == (False, "")


def test_an_empty_log_has_been_rotated() -> None:
    # Proxies log their start, so there must have been lines.
    api = Api()
    tail = begun(api)
    assert tail.read() == []
    api.lines.append(f"{DAY}10:00:00Z first")
    assert tail.read() == ["first"]
    assert tail.gap
    tail.begin_round()
    assert tail.read() == []
    assert not tail.gap


@pytest.mark.parametrize(
    ("last", "following"),
    [
        # containerd leaves out zeros at the end of the fraction, and the fraction of a full second.
        ("10:00:00.1Z", "10:00:00.10000001Z"),
        ("10:00:00.9Z", "10:00:00.91Z"),
        ("10:00:00Z", "10:00:00.000000001Z"),
        ("10:00:00.123456789Z", "10:00:01Z"),
        # A node in another time zone.
        ("10:00:00.5+05:30", "10:00:00.6+05:30"),
        ("23:59:59.5-08:00", "23:59:59.50001-08:00"),
        # The hour that comes twice when summer ends.
        ("02:59:59.9+02:00", "02:00:00.1+01:00"),
        ("10:00:00.2Z", "12:00:00.3+02:00"),
    ],
)
def test_the_place_in_the_log(last: str, following: str) -> None:
    api = Api(f"{DAY}{last} last")
    tail = begun(api)
    api.lines.append(f"{DAY}{following} next")
    assert tail.read() == ["next"]
    assert tail.read() == []
    assert not tail.gap


def test_several_lines_in_one_second() -> None:
    api = Api(f"{DAY}10:00:00.000000001Z old")
    tail = begun(api)
    seen = []
    for number in range(1, 5):
        api.lines += [f"{DAY}10:00:00.{number}Z a{number}", f"{DAY}10:00:00.{number}5Z b{number}"]
        seen += tail.read()
    assert seen == [f"{name}{number}" for number in range(1, 5) for name in "ab"]


def test_lines_that_the_runtime_has_mixed_up_are_read_once() -> None:
    api = Api(f"{DAY}10:00:00Z old")
    tail = begun(api)
    api.lines += [f"{DAY}10:00:03Z c", f"{DAY}10:00:02Z b"]
    assert tail.read() == ["c", "b"]
    assert tail.read() == []


def test_asks_from_the_full_second_of_the_last_line() -> None:
    api = Api(f"{DAY}12:00:00.987654321+02:00 old")
    tail = begun(api)
    tail.read()
    assert api.asked[-1][1]["sinceTime"] == f"{DAY}10:00:00Z"


@pytest.mark.parametrize("left", [[], [f"{DAY}10:00:09Z of the new file"]])
def test_a_rotated_log_has_a_gap(left: list[str]) -> None:
    api = Api(f"{DAY}10:00:00Z old")
    tail = begun(api)
    api.lines = left
    assert tail.read() == [line.partition(" ")[2] for line in left]
    assert tail.gap
    tail.begin_round()
    api.lines.append(f"{DAY}10:00:10Z new")
    tail.read()
    tail.begin_round()
    api.lines.append(f"{DAY}10:00:11Z newer")
    assert tail.read() == ["newer"]
    assert not tail.gap


def test_a_gap_lasts_to_the_end_of_its_round() -> None:
    api = Api(f"{DAY}10:00:00Z old")
    tail = begun(api)
    api.lines = [f"{DAY}10:00:09Z a"]
    tail.read()
    api.lines.append(f"{DAY}10:00:10Z b")
    assert tail.read() == ["b"]
    assert tail.gap


def test_a_container_that_has_begun_anew_has_a_gap_and_counts_from_nothing() -> None:
    api = Api(f"{DAY}10:00:00Z old")
    api.counted = "50"
    tail = begun(api)
    api.lines, api.counted = [f"{DAY}10:00:05Z started"], "1"
    assert tail.read() == ["started"]
    assert tail.gap
    assert tail.before
    assert [added for _labels, added in tail.count().since(tail.before)] == [1.0]


def test_what_the_api_refuses() -> None:
    api = Api(f"{DAY}10:00:00Z old")
    api.status = api.counter_status = 403
    tail = begun(api)
    assert tail.read() == []
    assert tail.log_problem == 'HTTP 403: pods "ztunnel-1" is forbidden: cannot get resource "pods/log"'
    assert tail.counter_problem == "HTTP 403: no reason given"


def test_what_the_api_says_without_json() -> None:
    api = Api()
    api.status = 502
    tail = begun(api)
    tail.read()
    assert tail.log_problem == "HTTP 502: no reason given"


def test_an_api_that_does_not_answer() -> None:
    api = Api(f"{DAY}10:00:00Z old")
    api.silent = True
    tail = begun(api)
    assert tail.read() == []
    assert (tail.log_problem, tail.counter_problem) == ("nobody answers", "nobody answers")


def test_a_log_that_could_not_be_read_at_first_is_no_evidence_later() -> None:
    api = Api(f"{DAY}10:00:00Z a denial of the past")
    api.silent = True
    tail = begun(api)
    api.silent = False
    assert tail.read() == []
    assert (tail.gap, tail.log_problem) == (True, "")
    assert tail.read() == []
    tail.begin_round()
    api.lines.append(f"{DAY}10:00:01Z new")
    assert tail.read() == ["new"]
    assert not tail.gap


def test_a_log_that_can_not_be_read_for_a_while_goes_on_where_it_was() -> None:
    api = Api(f"{DAY}10:00:00Z old")
    tail = begun(api)
    api.status = 500
    api.lines.append(f"{DAY}10:00:01Z meanwhile")
    assert tail.read() == []
    assert not tail.gap
    api.status = 200
    assert tail.read() == ["meanwhile"]
    assert not tail.gap


def test_counters_that_could_not_be_asked_before_the_round_say_nothing_of_it() -> None:
    api = Api()
    api.counted, api.counter_status = "7", 503
    tail = begun(api)
    assert tail.before is None
    api.counter_status = 200
    assert tail.count().known
    tail.begin_round()
    assert tail.before == tail.counters


def test_counters_that_fail_within_a_round_keep_what_was_known() -> None:
    api = Api()
    api.counted = "7"
    tail = begun(api)
    api.counter_status = 503
    assert tail.count() == tail.before
    assert tail.counter_problem == "HTTP 503: no reason given"


def test_kubelets_own_complaint_is_no_line() -> None:
    complaint = 'unable to retrieve container logs for containerd://"x"'
    api = Api(complaint)
    tail = begun(api)
    api.lines = [f"{DAY}10:00:00Z old", complaint]
    assert tail.read() == []
    assert tail.gap
    api.lines = [f"{DAY}10:00:00Z old"]
    tail = begun(api)
    api.lines += [f"{DAY}10:00:01Z new", complaint]
    assert tail.read() == ["new"]


@pytest.mark.parametrize("line", ["x" * 40, "é" * 20, "\u2028"])
def test_a_log_over_the_bound(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(tail_module, "MAX_LOG", 2000)
    api = Api(f"{DAY}10:00:00Z old")
    tail = begun(api)
    api.lines += [f"{DAY}10:00:{number // 10:02}.{number % 10}1Z {line}" for number in range(300)]
    assert tail.read() == []
    assert "in one round" in tail.log_problem
    # What could be read again later in the round is not all of it.
    api.lines.append(f"{DAY}10:00:30Z more")
    assert tail.read() == ["more"]
    assert tail.gap
    tail.begin_round()
    api.lines.append(f"{DAY}10:00:31Z new")
    assert (tail.read(), tail.gap, tail.log_problem) == (["new"], False, "")


def test_only_a_line_feed_ends_a_line() -> None:
    api = Api(f"{DAY}10:00:00Z old")
    tail = begun(api)
    api.lines.append(f"{DAY}10:00:01Z a\rb\x0bc\u2028d\x85e")
    assert tail.read() == ["a\rb\x0bc\u2028d\x85e"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text()), st.lists(st.text()), st.sampled_from([200, 403, 500]))
def test_no_text_is_too_strange(past: list[str], new: list[str], status: int) -> None:
    api = Api(*past)
    api.status, api.counted = status, "".join(new)
    tail = begun(api)
    api.lines += [f"2026-99-99T99:99:99Z {line}" for line in new] + [
        f"0001-01-01T00:00:00+14:00 {line}" for line in new
    ]
    assert tail.read() == []
    tail.count()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 10**10), unique=True, min_size=1, max_size=30), st.data())
def test_every_line_is_read_once_wherever_reads_fall(moments: list[int], data: st.DataObject) -> None:
    # Nanoseconds since ten o'clock, written without zeros at the end.
    lines = [
        f"{DAY}10:00:{moment // 10**9:02}.{moment % 10**9:09}".rstrip("0").rstrip(".") + f"Z {moment}"
        for moment in sorted(moments)
    ]
    past = data.draw(st.integers(1, len(lines)))
    api = Api(*lines[:past])
    tail = begun(api)
    seen: list[str] = []
    for line in lines[past:]:
        api.lines.append(line)
        if data.draw(st.booleans()):
            seen += tail.read()
    seen += tail.read()
    assert seen == [line.partition(" ")[2] for line in lines[past:]]
    assert not tail.gap
