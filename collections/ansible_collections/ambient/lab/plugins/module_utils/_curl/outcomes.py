# Says in mesh words what a probe has seen, from curl's own report.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._results import model as results
from .script import Record

# curl(1), EXIT CODES.
_DNS = frozenset({5, 6})
_CUT_OFF = frozenset({52, 55, 56})
_TLS = frozenset({35, 53, 54, 58, 59, 60, 64, 66, 77, 80, 82, 83, 90, 91, 98})
# What TLS libraries that curl is built with say of a peer that went away in the handshake: OpenSSL, GnuTLS, mbedTLS,
# rustls.
_TLS_CUT_OFF = (
    "reset by peer", "SSL_ERROR_SYSCALL", "unexpected eof", "non-properly terminated", "Error in the pull function",
    "indicated an EOF", "connection closed", "unexpected end of file",
)  # fmt: skip
# response_code_details of a response that the upstream's end cut off (Envoy, source/common/http/utility.cc).
_CUT = ("upstream_reset_before_response_started", "upstream_reset_after_response_started")
# Envoy's local reply when the connection to the upstream could not be used (source/common/router/router.cc).
_UPSTREAM_RESET = "upstream connect error or disconnect/reset before headers"
# Envoy's local replies of its filters for RBAC and JWT (source/extensions/filters/http/{rbac,jwt_authn}).
_REFUSALS = ("RBAC: access denied", "Jwt ")
_ENVOY_SERVERS = frozenset({"envoy", "istio-envoy"})
# Envoy adds it to every response that an upstream gave, never to its own replies.
_UPSTREAM_TIME = "x-envoy-upstream-service-time"
# Status PERMISSION_DENIED of gRPC, which Envoy's RBAC filter answers in a header (source/common/grpc/common.cc).
_GRPC_DENIED = "7"
HIDDEN = "nobody can tell who wrote the answer: this mesh hides Envoy's headers, and no access log says it"


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one probe saw: the outcome, and the raw evidence beside it. elapsed is in seconds.

    sender: `ip:port` of the client's end of the connection. request_id: the header x-request-id that it sent.
    writer: who wrote the HTTP answer, by what it looks like: "application" or "proxy" where it says so itself,
    "envoy-like" where only the server header does, "unmarked" where nothing does; "" without an answer. unclear: why
    nobody can tell, so that it proves nothing. document: the body, as far as it was read.
    """

    outcome: str
    http_code: int = 0
    exit_code: int | None = None
    errormsg: str = ""
    elapsed: float = 0.0
    headers: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: str = ""
    sender: str = ""
    request_id: str = ""
    writer: str = ""
    unclear: str = ""
    document: str = ""

    def __str__(self) -> str:
        if self.outcome == "probe_error":
            return f"probe_error ({self.errormsg})"
        return f"{self.outcome} {self.http_code:03d}/{self.exit_code}"

    def kept(self) -> results.Seen:
        """As results have it."""
        text = self.outcome if self.exit_code is None else f"{self.outcome} {self.http_code:03d}/{self.exit_code}"
        same = {key: getattr(self, key) for key in ("outcome", "http_code", "exit_code", "errormsg")}
        return results.Seen(text=text, **same)

    def answer(self) -> dict[str, t.Any]:
        """What a module returns beside that; the first bytes of the body are enough for people."""
        keys = ("elapsed", "body", "sender", "request_id", "writer", "unclear")
        return {**{key: getattr(self, key) for key in keys}, "headers": dict(self.headers)}


def probe_error(reason: str) -> Seen:
    """A probe that proves nothing, and why."""
    return Seen("probe_error", errormsg=reason)


def classify(record: Record | str) -> Seen:
    """Outcome of one record; a text in its place says why there is no record."""
    if isinstance(record, str) or record.again:
        return probe_error(record if isinstance(record, str) else record.again)
    outcome, writer = _outcome(record)
    message = record.errormsg
    if outcome == "probe_error" and not message:
        message = f"curl ended with {record.exit_code} and HTTP {record.http_code:03d}"
    return Seen(
        outcome,
        record.http_code,
        record.exit_code,
        message,
        record.elapsed,
        record.headers,
        record.body,
        record.sender,
        writer=writer,
        document=record.document,
    )


def on_the_way(seen: Seen, envoys: bool, hides: bool) -> Seen:
    """What an answer is, with what is known of the way.

    envoys: a waypoint or a gateway is on it. hides: the mesh may hide Envoy's headers.
    """
    if not envoys or seen.writer in ("", "application", "proxy"):
        return seen
    if seen.writer == "envoy-like" and not hides:
        return seen
    return dataclasses.replace(seen, unclear=HIDDEN)


def by_log(seen: Seen, code: int, details: str, refused: bool) -> Seen:
    """What an answer is, by a proxy's access log: the code that it sent, and Envoy's response_code_details.

    refused: one of its policies refused the request.
    """
    if not seen.http_code or code != seen.http_code:
        return seen
    if details == "via_upstream":
        return dataclasses.replace(seen, outcome="allowed", writer="application", unclear="")
    if seen.outcome == "denied_upstream":
        return dataclasses.replace(seen, unclear="")
    outcome = "denied_l7" if refused else "denied_upstream" if details.startswith(_CUT) else _own(code)
    return dataclasses.replace(seen, outcome=outcome, writer="proxy", unclear="")


def _outcome(record: Record) -> tuple[str, str]:
    """The outcome, and who wrote the answer by its looks."""
    answered = _answered(record) if record.http_code else None
    # A response that began was let through, even if the time was over before its end.
    if answered and (record.exit_code == 0 or (record.exit_code == 28 and answered[0] == "allowed")):
        return answered
    return _unanswered(record), ""


def _unanswered(record: Record) -> str:
    if record.exit_code == 0:
        return "probe_error"
    if record.exit_code == 28:
        return "probe_error" if record.http_code else "timeout"
    if record.exit_code in _DNS:
        return "dns"
    if record.exit_code == 7:
        routeless = ("No route to host", "unreachable")
        return "unroutable" if any(text in record.errormsg for text in routeless) else "refused"
    # ztunnel accepts the connection before it asks the policy, so a denial comes after the request was sent:
    # without a connection it is no denial, and with a single byte of answer neither.
    silent = record.connected and record.received == 0 and record.http_code == 0
    if record.exit_code in _CUT_OFF:
        # An end in good order (52) counts as a read; there curl tells nothing of a status line that is not whole.
        whole = record.exit_code == 52 or not record.began
        return "denied_l4" if silent and whole else "probe_error"
    if record.exit_code in _TLS:
        cut_off = record.exit_code == 35 and any(text in record.errormsg for text in _TLS_CUT_OFF)
        return "denied_l4" if silent and cut_off else "tls"
    return "probe_error"


def _answered(record: Record) -> tuple[str, str]:
    """Outcome of an HTTP response, and who wrote it: the application, or a proxy on the way?"""
    if _UPSTREAM_TIME in record.headers:
        return "allowed", "application"
    server = record.headers.get("server", "").lower()
    # Envoy can be told to leave `server` out (ProxyHeaders.server.disabled); its own words remain.
    if server in ("", *_ENVOY_SERVERS):
        if record.body.startswith(_REFUSALS) and record.http_code in (401, 403):
            return "denied_l7", "proxy"
        if record.http_code == 503 and record.body.startswith(_UPSTREAM_RESET):
            return "denied_upstream", "proxy"
    if server not in _ENVOY_SERVERS:
        return "allowed", "unmarked"
    refused = record.http_code in (401, 403) or record.headers.get("grpc-status") == _GRPC_DENIED
    return "denied_l7" if refused else _own(record.http_code), "envoy-like"


def _own(code: int) -> str:
    """Outcome of an answer of a proxy's own that is no refusal: it had nowhere to send the request, or answered it."""
    return "unroutable" if code == 404 or code >= 500 else "local_reply"
