# Reads what ztunnel and a waypoint log of a connection or a request: who called, what was refused, by which policy.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import typing as t

# ztunnel's own words (istio/ztunnel src/proxy.rs and src/rbac.rs; the suffix came with 1.24, ztunnel#1273).
_REJECTED = "connection closed due to policy rejection"
_CHANGED = "connection closed due to policy change"
_DENIED_BY = "explicitly denied by:"
_NONE_ALLOWED = "allow policies exist, but none allowed"
# Of 1.22 and 1.23: in the same words, and yet no policy refused.
_NO_POLICY = ("workload not found", "workload mismatch")
# What the source's ztunnel says when the other end's refused its CONNECT.
_UNAUTHORIZED = "401 Unauthorized"
# Until 1.21, which had no access lines; no denial is read from it, but the user is told why.
_OLD = ": RBAC rejected conn="
WORDINGS = {
    "named": "as of Istio 1.24 to 1.31, which name the policy",
    "plain": "as of Istio 1.22 and 1.23, which do not name the policy",
    "old": "as of Istio 1.21 or older, which is not understood",
}

_ENDS = ("connection complete", "connection failed")
_ACCESS = re.compile(r"\baccess:?\s+connection (?:complete|failed)\s+(.*)")
_FIELD = re.compile(r'(?<!\S)([\w.]+)=("(?:[^"\\]|\\.)*"|\S+)')
# Python refuses to read a number with thousands of digits; no byte count needs more than these.
_MAX_DIGITS = 18
# Envoy, RBAC::responseDetail: the policy's name is the one that istiod gave it (pilot/pkg/security/authz/builder,
# policyName). Of a CUSTOM policy whose provider it can't use istiod makes a DENY rule (getBadCustomDenyRules).
BAD_CUSTOM = "-deny-due-to-bad-CUSTOM-action"
_NAME = rf"(?:istio-ext-authz-.*?)?ns\[([^\]]*)\]-policy\[([^\]]*)\]-rule\[\d+\](?:{BAD_CUSTOM})?"
_MATCHED = re.compile(rf"rbac_access_denied_matched_policy\[(none|{_NAME})\]")
# Envoy's refusals by a policy: AuthorizationPolicy, RequestAuthentication, an external authorizer.
_REFUSED = ("rbac_access_denied", "jwt_authn_access_denied", "ext_authz_denied")
# The x-request-id of our own probes (_curl/probing.py), as a field of its own: a path or a name may hold one as well.
_REQUEST_ID = re.compile(r'(?<![^\s"])probe-[0-9a-f]+-\d+(?![^\s"])')
# Istio's text format (telemetry_logging.go, EnvoyTextLogFormat): "METHOD PATH PROTOCOL" CODE FLAGS DETAILS ...
_ANSWERED = re.compile(r'" (\d{1,3}) (\S+) (\S+) ')


@dataclasses.dataclass(frozen=True)
class Denial:
    """A policy's refusal. policy: namespace/name, None where no policy in particular refused or none was named.

    wording: in WORDINGS, "" where all versions say the same. unmatched: there are ALLOW policies, and none allowed it.
    """

    policy: str | None
    reason: str
    wording: str
    unmatched: bool = False


@dataclasses.dataclass(frozen=True)
class Connection:
    """One access line of ztunnel. Addresses are `ip:port`; sent and received are bytes, seen from the proxy."""

    direction: str
    source: str
    target: str
    identity: str = ""
    error: str = ""
    sent: int = 0
    received: int = 0

    @property
    def denial(self) -> Denial | None:
        """The policy's refusal that the line reports, None where it reports none."""
        return denial(self.error)

    @property
    def refused_by_peer(self) -> bool:
        """Whether the proxy at the other end refused the connection by its policies."""
        return self.direction == "outbound" and _UNAUTHORIZED in self.error


@dataclasses.dataclass(frozen=True)
class Request:
    """One access line of a waypoint. policy and unmatched as in Denial.

    rejected: one of its policies refused it; None where the line does not say who answered.
    """

    request_id: str
    code: int
    details: str
    policy: str | None
    rejected: bool | None
    unmatched: bool = False


def parse_connection(line: str) -> Connection | None:
    """An access line of ztunnel, as text or as JSON (LOG_FORMAT=json); None for every other line."""
    if line.startswith("{"):
        found = _json(line)
        is_access = found.get("scope") == "access" and found.get("message") in _ENDS
        fields = {key: str(value) for key, value in found.items()} if is_access else {}
    else:
        match = _ACCESS.search(line)
        fields = {key: _unquoted(value) for key, value in _FIELD.findall(match[1])} if match else {}
    if not fields:
        return None

    def number(key: str) -> int:
        text = fields.get(key, "")
        return int(text) if text.isdecimal() and len(text) <= _MAX_DIGITS else 0

    return Connection(
        direction=fields.get("direction", ""),
        source=fields.get("src.addr", ""),
        target=fields.get("dst.hbone_addr") or fields.get("dst.addr", ""),
        identity=fields.get("src.identity", ""),
        error=fields.get("error", ""),
        sent=number("bytes_sent"),
        received=number("bytes_recv"),
    )


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    if "\\" not in value:
        return value[1:-1]
    try:
        return str(json.loads(value, strict=False))
    except ValueError:
        return value[1:-1]


def _json(line: str) -> dict[str, t.Any]:
    try:
        fields = json.loads(line, strict=False)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def denial(error: str) -> Denial | None:
    """What an `error` of ztunnel's says of a policy; None where it is about something else."""
    for words in (_REJECTED, _CHANGED):
        if not error.startswith(words):
            continue
        said = error[len(words) :].removeprefix(":").strip()
        if said.startswith(_DENIED_BY):
            policy = said.removeprefix(_DENIED_BY).strip()
            return Denial(policy or None, f"explicitly denied by {policy}", "named")
        if said == _NONE_ALLOWED:
            return Denial(None, "there are ALLOW policies, and none allowed it", "named", unmatched=True)
        if words == _CHANGED:
            return Denial(None, "cut off when the policy changed", "")
        if said in _NO_POLICY:
            return None
        return Denial(None, said or "rejected by a policy that this version does not name", "plain")
    return None


def is_access(line: str) -> bool:
    """Whether a line of ztunnel's is about a connection, whoever's."""
    return any(end in line for end in _ENDS)


def too_old(line: str) -> bool:
    """Whether a line of ztunnel's reports a refusal in words that are not understood."""
    return _OLD in line


def parse_request(line: str) -> Request | None:
    """An access line of a waypoint about one of our probes, in Istio's text format or as JSON; None for all others."""
    found = _REQUEST_ID.search(line)
    if found is None:
        return None
    code, details = 0, ""
    if line.startswith("{"):
        fields = _json(line)
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            code, details = int(fields.get("response_code") or 0), str(fields.get("response_code_details") or "")
    elif match := _ANSWERED.search(line):
        code, details = int(match[1]), match[3]
    matched = _MATCHED.fullmatch(details)
    policy = f"{matched[2]}/{matched[3]}" if matched and matched[2] else None
    rejected = details.startswith(_REFUSED) if details not in ("", "-") else None
    return Request(found[0], code, details, policy, rejected, matched is not None and matched[1] == "none")
