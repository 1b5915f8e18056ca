# Says in mesh words what a probe has seen, from curl's own report.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._curl.script import Record

# curl(1), EXIT CODES.
_DNS = frozenset({5, 6})
_CUT_OFF = frozenset({52, 55, 56})
_TLS = frozenset({35, 53, 54, 58, 59, 60, 64, 66, 77, 80, 82, 83, 90, 91, 98})
# OpenSSL's words for a peer that went away in the handshake.
_TLS_CUT_OFF = ("reset by peer", "SSL_ERROR_SYSCALL", "unexpected eof")
# Envoy's local reply when the connection to the upstream could not be used (source/common/router/router.cc).
_UPSTREAM_RESET = "upstream connect error or disconnect/reset before headers"
# Envoy's local reply of the RBAC filter (source/extensions/filters/http/rbac/rbac_filter.cc).
_RBAC_DENIED = "RBAC: access denied"
_ENVOY_SERVERS = frozenset({"envoy", "istio-envoy"})


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one probe saw: the outcome, and the raw evidence beside it. elapsed is in seconds.

    sender: `ip:port` of the client's end of the connection. request_id: the header x-request-id that it sent.
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

    def __str__(self) -> str:
        if self.outcome == "probe_error":
            return f"probe_error ({self.errormsg})"
        return f"{self.outcome} {self.http_code:03d}/{self.exit_code}"

    def as_dict(self) -> dict[str, t.Any]:
        """The same as plain data for the module's result."""
        return {**dataclasses.asdict(self), "headers": dict(self.headers)}


def probe_error(reason: str) -> Seen:
    """A probe that proves nothing, and why."""
    return Seen("probe_error", errormsg=reason)


def classify(record: Record | str) -> Seen:
    """Outcome of one record; a text in its place says why there is no record."""
    if isinstance(record, str):
        return probe_error(record)
    if record.again:
        return probe_error(record.again)
    outcome = _outcome(record)
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
    )


def _outcome(record: Record) -> str:
    if record.exit_code == 0:
        return _answered(record) if record.http_code else "probe_error"
    if record.exit_code == 28:
        return "timeout"
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


def _answered(record: Record) -> str:
    """Outcome of a complete HTTP response: did the application write it, or a proxy on the way?"""
    if not _from_proxy(record):
        return "allowed"
    if record.http_code in (401, 403):
        return "denied_l7"
    if record.http_code == 503 and record.body.startswith(_UPSTREAM_RESET):
        return "denied_upstream"
    return "unroutable"


def _from_proxy(record: Record) -> bool:
    # Envoy adds this header to every response that an upstream gave, never to its own replies.
    if "x-envoy-upstream-service-time" in record.headers:
        return False
    server = record.headers.get("server")
    if server is None:
        # Envoy can be told to leave `server` out (ProxyHeaders.server.disabled); its own words remain.
        return record.body.startswith((_RBAC_DENIED, _UPSTREAM_RESET))
    return server.lower() in _ENVOY_SERVERS
