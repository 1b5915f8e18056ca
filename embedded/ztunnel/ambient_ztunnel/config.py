"""Settings from the environment the ztunnel chart sets (embedded provider alone)."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# What upstream reads (src/config.rs, src/tls.rs), this program does not, and the chart does not set by itself.
_IGNORED = re.compile(
    r"(?:XDS|CA)_HEADER_\w+|ALT_(?:XDS|CA)_HOSTNAME|CA_ROOT_CA|COMPLIANCE_POLICY|CRL_PATH|ENABLE_PROXY"
    r"|ENABLE_RESPONSE_BAGGAGE|FAKE_CA"
    r"|HTTP2_(?:STREAM_WINDOW|CONNECTION_WINDOW|FRAME)_SIZE|INPOD_PORT_REUSE|IPV6_ENABLED"
    r"|ISTIO_META_DNS_PROXY_ADDR|LOCALHOST_APP_TUNNEL|LOCAL_XDS(?:_PATH)?|PACKET_MARK"
    r"|POOL_(?:MAX_STREAMS_PER_CONNECTION|UNUSED_RELEASE_TIMEOUT)|PREFERED_SERVICE_NAMESPACE|PROXY_CONFIG|PROXY_MODE"
    r"|PROXY_WORKLOAD_INFO|TLS12_ENABLED|TRUST_DOMAIN|UNSTABLE_ENABLE_SOCKS5|USER_TIMEOUT_ENABLED|XDS_ON_DEMAND"
    r"|ZTUNNEL_WORKER_THREADS"
)


class ConfigError(Exception):
    """A setting that cannot be used."""


@dataclass(frozen=True)
class Keepalive:
    """Probes of TCP connections that are silent: the time before the first and between two, in seconds."""

    time: int = 180
    interval: int = 180
    retries: int = 9
    enabled: bool = True

    def set(self, sock: socket.socket) -> None:
        """Switch them on, if they are; raises OSError."""
        if self.enabled:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, self.time)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, self.interval)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, self.retries)


@dataclass(frozen=True)
class Config:
    """All settings; names of the variables are upstream ztunnel's."""

    xds_address: str
    ca_address: str
    root_cert: Path
    token: Path
    cluster_id: str
    cluster_domain: str
    network: str
    local_node: str
    zds_socket: Path
    secret_ttl: int  # seconds
    drain_timeout: float  # seconds
    keepalive: Keepalive
    policy_log_level: int  # of what policies decide, as logging has it
    ignored: tuple[str, ...]  # settings of upstream's that are set, and mean nothing here
    dns_proxy: bool
    original_source: bool
    log_level: str
    log_json: bool
    admin_port: int = 15000
    stats_port: int = 15020
    readiness_port: int = 15021

    def dump(self) -> dict[str, object]:
        """For /config_dump, with camel-case keys as upstream has them."""

        def camel(name: str) -> str:
            first, *rest = name.split("_")
            return first + "".join(part.title() for part in rest)

        plain = dataclasses.asdict(self)
        return {camel(key): str(value) if isinstance(value, Path) else value for key, value in plain.items()}


def _address(text: str) -> str:
    """`host:port` without a scheme."""
    address = text.removeprefix("https://").rstrip("/")
    if ":" not in address:
        raise ConfigError(f"expected host:port, got {text!r}")
    return address


def _flag(env: Mapping[str, str], name: str, default: bool) -> bool:
    text = env.get(name, "").strip().lower()
    if text in ("", "true", "false"):
        return default if not text else text == "true"
    raise ConfigError(f"invalid env var {name}={text}: expected true or false")


def _seconds(env: Mapping[str, str], name: str, default: int) -> int:
    """A number of seconds, plain or as `90s`, `24h`, `5m`."""
    text = env.get(name, "").strip() or str(default)
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], units[text[-1]]) if text[-1] in units else (text, 1)
    if not number.isdigit():
        raise ConfigError(f"invalid env var {name}={text}: expected seconds")
    return int(number) * unit


def load(env: Mapping[str, str] = os.environ) -> Config:
    """Read the settings; raises ConfigError."""
    default_istiod = "istiod.istio-system.svc:15012"
    grace = _seconds(env, "TERMINATION_GRACE_PERIOD_SECONDS", 6)
    # Kubernetes kills the process after the grace period: connections end a little before, in good order.
    deadline = max(1, grace - (5 if grace > 10 else 1))
    say_policies = env.get("AUTHZ_POLICY_INFO_LOGGING") == "true"
    return Config(
        xds_address=_address(env.get("XDS_ADDRESS") or default_istiod),
        ca_address=_address(env.get("CA_ADDRESS") or default_istiod),
        root_cert=Path(env.get("XDS_ROOT_CA", "/var/run/secrets/istio/root-cert.pem")),
        token=Path(env.get("AUTH_TOKEN", "/var/run/secrets/tokens/istio-token")),
        cluster_id=env.get("ISTIO_META_CLUSTER_ID") or env.get("CLUSTER_ID") or "Kubernetes",
        cluster_domain=env.get("CLUSTER_DOMAIN") or "cluster.local",
        network=env.get("NETWORK", ""),
        local_node=env.get("NODE_NAME", ""),
        zds_socket=Path(env.get("INPOD_UDS", "/var/run/ztunnel/ztunnel.sock")),
        secret_ttl=_seconds(env, "SECRET_TTL", 24 * 3600),
        drain_timeout=_seconds(env, "CONNECTION_TERMINATION_DEADLINE", deadline),
        keepalive=Keepalive(
            _seconds(env, "KEEPALIVE_TIME", Keepalive.time),
            _seconds(env, "KEEPALIVE_INTERVAL", Keepalive.interval),
            _seconds(env, "KEEPALIVE_RETRIES", Keepalive.retries),
            _flag(env, "KEEPALIVE_ENABLED", True),
        ),
        policy_log_level=logging.INFO if say_policies else logging.DEBUG,
        ignored=tuple(sorted(name for name in env if _IGNORED.fullmatch(name) and env[name])),
        dns_proxy=_flag(env, "ISTIO_META_DNS_CAPTURE", True),
        original_source=_flag(env, "ENABLE_ORIG_SRC", True),
        log_level=env.get("RUST_LOG") or "info",
        log_json=env.get("LOG_FORMAT", "").lower() == "json",
    )
