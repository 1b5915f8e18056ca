# Parses claims (who calls whom, and what must happen) strictly: whatever is wrong is said before any traffic.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import re
import typing as t
import urllib.parse

from .._mesh.destinations import Request
from .._mesh.mesh import is_ip
from .document import problem_of
from .fields import TOKEN, Problem, codes_of, dns_name, kind_of, label_of, mapping, name_of, parse_list, scalar, text_of

OUTCOMES = (
    "allowed",
    "denied_l4",
    "denied_l7",
    "denied_upstream",
    "refused",
    "timeout",
    "dns",
    "unroutable",
    "local_reply",
    "tls",
    "probe_error",
)
# A probe that failed proves nothing, so nobody can expect it.
EXPECTABLE = OUTCOMES[:-1]
DENIALS = ("denied_l4", "denied_l7", "denied_upstream")
# Outcomes that come with an HTTP status, and the statuses they have unless the claim says otherwise.
DEFAULT_CODES = {
    "allowed": frozenset(range(200, 300)),
    "denied_l7": frozenset({403}),
    "denied_upstream": frozenset({503}),
}
# Outcomes that come with an HTTP answer.
ANSWERED = (*DEFAULT_CODES, "local_reply")
ANY_CODE = frozenset(range(200, 600))
# In bytes; of a request's headers together. curl 7.83 reads lines of at most 100 KiB (tool_parsecfg.c), and what is
# quoted may take twice its length.
MAX_BODY = 16_384
MAX_HEADERS = 32_768
MAX_URL = 8_192

REQUIRED_KEYS = ("name", "from", "to", "expect")
CLAIM_KEYS = (*REQUIRED_KEYS, "before", "by")
FROM_KEYS = ("pod", "labels", "service_account", "namespace", "container")
TO_KEYS = ("url", "method", "headers", "body")
EXPECT_KEYS = ("outcome", "http_code", "exit_code", "json")

_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_HOST = re.compile(r"[a-z0-9_]([-a-z0-9_.]*[a-z0-9_.])?")


@dataclasses.dataclass(frozen=True)
class Source:
    """Which pod calls: named, or any ready pod with these labels or this ServiceAccount."""

    namespace: str
    pod: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    service_account: str | None = None
    container: str | None = None

    def __str__(self) -> str:
        if self.pod:
            return f"pod {self.namespace}/{self.pod}"
        if self.service_account:
            return f"a pod with ServiceAccount {self.namespace}/{self.service_account}"
        labels = ",".join(f"{key}={value}" for key, value in self.labels)
        return f"a pod with labels {labels} in namespace {self.namespace}"


@dataclasses.dataclass(frozen=True)
class Expectation:
    """What must be seen; None for codes means the outcome's own default.

    json: a JMESPath expression that must be true of the answer, "" for none.
    """

    outcome: str
    http_codes: frozenset[int] | None = None
    exit_codes: frozenset[int] | None = None
    json: str = ""

    @property
    def accepted_codes(self) -> frozenset[int] | None:
        """HTTP statuses that satisfy the expectation, None where the outcome has no status."""
        return self.http_codes if self.http_codes is not None else DEFAULT_CODES.get(self.outcome)

    def __str__(self) -> str:
        parts = [self.outcome]
        if self.http_codes is not None and self.http_codes != ANY_CODE:
            parts.append("HTTP " + "|".join(str(code) for code in sorted(self.http_codes)))
        if self.exit_codes is not None:
            parts.append("exit " + "|".join(str(code) for code in sorted(self.exit_codes)))
        if self.json:
            parts.append(f"json {self.json}")
        return " ".join(parts)


@dataclasses.dataclass(frozen=True)
class PolicyRef:
    """An AuthorizationPolicy by name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclasses.dataclass(frozen=True)
class Claim:
    """Who calls whom, how, and what must happen before and after the policy."""

    name: str
    source: Source
    request: Request
    after: Expectation
    before: Expectation
    by: PolicyRef | None = None

    def expected(self, phase: str) -> Expectation:
        """Expectation of the phase before or after."""
        return self.before if phase == "before" else self.after


def parse_claims(raw: object, namespace: str) -> tuple[Claim, ...]:
    """Turn the user's list into claims; namespace: of sources that name none.

    Raises:
        LabError: with one line per problem, naming the claim, the key and what is allowed.
    """
    return parse_list(raw, lambda item, number: parse_claim(item, label_of(item, number), namespace))


def parse_claim(item: object, label: str, namespace: str) -> Claim:
    """One claim of a list; label: what it is called in messages. Raises Problem."""
    fields = mapping(item, label, "claim", CLAIM_KEYS, required=REQUIRED_KEYS)
    name = text_of(fields["name"], label, "name")
    by = fields.get("by")
    return Claim(
        name=name,
        source=_source(fields["from"], label, namespace),
        request=_request(fields["to"], label),
        after=_expectation(fields["expect"], label, "expect"),
        before=_expectation(fields.get("before", "allowed"), label, "before"),
        by=None if by is None else _policy(by, label),
    )


def _source(value: object, label: str, namespace: str) -> Source:
    fields = mapping(value, label, "from", FROM_KEYS)
    chosen = [key for key in ("pod", "labels", "service_account") if key in fields]
    if len(chosen) != 1:
        raise Problem(label, "from", "needs exactly one of pod, labels, service_account")
    raw = fields.get("labels", {})
    if not isinstance(raw, dict) or ("labels" in fields and not raw):
        raise Problem(label, "from.labels", f"must be a mapping that is not empty, not {kind_of(raw)}")
    labels = [
        (scalar(key, label, "from.labels"), scalar(text, label, f"from.labels.{key}")) for key, text in raw.items()
    ]

    def optional(key: str) -> str | None:
        return dns_name(fields[key], label, f"from.{key}") if key in fields else None

    return Source(
        namespace=optional("namespace") or namespace,
        pod=optional("pod"),
        labels=tuple(sorted(labels)),
        service_account=optional("service_account"),
        container=optional("container"),
    )


def _request(value: object, label: str) -> Request:
    if isinstance(value, str):
        return Request(url=_url(value, label, "to"))
    fields = mapping(value, label, "to", TO_KEYS)
    if "url" not in fields:
        raise Problem(label, "to.url", "is missing")
    method = text_of(fields.get("method", "GET"), label, "to.method")
    if not TOKEN.fullmatch(method):
        raise Problem(label, "to.method", f"{method!r} is not an HTTP method")
    if method == "HEAD" and fields.get("body") is not None:
        raise Problem(label, "to.body", "a HEAD request has none")
    body = fields.get("body")
    if body is not None and (not isinstance(body, str) or "\x00" in body or len(body.encode()) > MAX_BODY):
        raise Problem(label, "to.body", f"must be a text of at most {MAX_BODY} bytes")
    return Request(url=_url(fields["url"], label, "to.url"), method=method, headers=_headers(fields, label), body=body)


def _headers(fields: dict[str, t.Any], label: str) -> tuple[tuple[str, str], ...]:
    headers = fields.get("headers", {})
    if not isinstance(headers, dict):
        raise Problem(label, "to.headers", f"must be a mapping, not {kind_of(headers)}")
    pairs = []
    for key, value in headers.items():
        if not isinstance(key, str) or not TOKEN.fullmatch(key):
            raise Problem(label, "to.headers", f"{name_of(key)} is not a header's name")
        text = scalar(value, label, f"to.headers.{key}")
        if any(char in text for char in "\r\n\x00"):
            raise Problem(label, f"to.headers.{key}", "must be one line of text")
        pairs.append((key, text))
    if sum(len(f"{key}: {text}".encode()) for key, text in pairs) > MAX_HEADERS:
        raise Problem(label, "to.headers", f"must be at most {MAX_HEADERS} bytes together")
    return tuple(pairs)


def _url(value: object, label: str, key: str) -> str:
    url = text_of(value, label, key)
    if len(url.encode()) > MAX_URL:
        raise Problem(label, key, f"must be at most {MAX_URL} bytes")
    try:
        parts = urllib.parse.urlsplit(url)
        port_ok = parts.port is None or parts.port > 0
        host = parts.hostname or ""
    except ValueError:
        port_ok, parts, host = False, urllib.parse.urlsplit(""), ""
    # Where a URL is wrong, what stands before an @ may be a password.
    shown = "it" if "@" in url else repr(url)
    if "@" in parts.netloc:
        raise Problem(label, key, "must have no user and no password; send them in a header (Authorization)")
    if parts.scheme not in ("http", "https") or not port_ok or _CONTROL.search(url):
        raise Problem(label, key, f"{shown} is not a URL like http://sample-app:8080/ (http or https)")
    if not is_ip(host) and not (len(host) <= 253 and _HOST.fullmatch(host)):
        raise Problem(label, key, f"{shown} has no valid host")
    return url


def _expectation(value: object, label: str, key: str) -> Expectation:
    fields = {"outcome": value} if isinstance(value, str) else mapping(value, label, key, EXPECT_KEYS)
    outcome = fields.get("outcome")
    if outcome == "probe_error":
        raise Problem(label, key, "probe_error can't be expected: a probe that failed proves nothing")
    if outcome not in EXPECTABLE:
        raise Problem(label, key, f"unknown outcome {outcome!r}; allowed are {', '.join(EXPECTABLE)}")
    http_codes = codes_of(fields, "http_code", range(200, 600), label, key)
    if http_codes is not None and outcome not in ANSWERED:
        raise Problem(label, f"{key}.http_code", f"{outcome} has no HTTP answer, leave http_code out")
    exit_codes = codes_of(fields, "exit_code", range(256), label, key)
    expression = text_of(fields["json"], label, f"{key}.json") if "json" in fields else ""
    problem = problem_of(expression) if expression else ""
    if expression and outcome not in ANSWERED:
        problem = f"{outcome} has no HTTP answer, leave json out"
    if problem:
        raise Problem(label, f"{key}.json", problem)
    return Expectation(outcome, http_codes, exit_codes, expression)


def _policy(value: object, label: str) -> PolicyRef:
    namespace, slash, name = text_of(value, label, "by").partition("/")
    if not slash:
        raise Problem(label, "by", f"{value!r} must be namespace/name of an AuthorizationPolicy")
    return PolicyRef(dns_name(namespace, label, "by"), dns_name(name, label, "by"))
