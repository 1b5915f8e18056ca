# The proxy on the way to a cluster's API, by Go's rules, so that kubectl and this collection take the same one.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import dataclasses
import http.client
import importlib
import ipaddress
import os
import re
import socket
import typing as t
import urllib.parse

from .._common.errors import LabError

# Schemes, with the port of a proxy that names none (Go, net/http, transport.go: portMap; no SOCKS 4).
_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


@dataclasses.dataclass(frozen=True)
class Proxy:
    """One proxy.

    Attributes:
        scheme: http, https, socks5 or socks5h.
        user: "" where it asks for none.
        source: what names the proxy, for messages.
    """

    scheme: str
    host: str
    port: int
    user: str
    password: str
    source: str

    def __str__(self) -> str:
        """Its URL without the password."""
        return f"{self.scheme}://{_bracketed(self.host)}:{self.port}"

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS, not HTTP."""
        return self.scheme.startswith("socks")

    def headers(self) -> dict[str, str]:
        """What proves the user to an HTTP proxy (RFC 7617: Basic, in UTF-8)."""
        if not self.user:
            return {}
        proof = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Proxy-Authorization": f"Basic {proof}"}


def parse_proxy(text: str, source: str) -> Proxy:
    """A proxy by its URL. User and password are percent-encoded in it.

    Raises:
        LabError: when the URL is none, or Python can't use such a proxy.
    """
    try:
        parts = urllib.parse.urlsplit(text)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        scheme, host, port = "", None, None
    if scheme not in _PORTS or not host:
        # The text itself is not shown: it may hold a password.
        raise LabError(f"There is no proxy that can be used in {source}: give it as http://HOST:PORT")
    user, password = (urllib.parse.unquote(part or "") for part in (parts.username, parts.password))
    proxy = Proxy(scheme, host, port or _PORTS[scheme], user, password, source)
    if proxy.is_socks:
        _socks(proxy)
    return proxy


def environment_proxy(scheme: str, host: str, port: int) -> Proxy | None:
    """The proxy that HTTPS_PROXY or HTTP_PROXY name for an address; None for a direct connection.

    The rules are Go's (golang.org/x/net/http/httpproxy): upper case goes before lower case, localhost and loopback
    addresses are always direct.

    Raises:
        LabError: when the variable names no proxy that can be used.
    """
    name = f"{scheme}_proxy"
    variable = name.upper() if os.environ.get(name.upper()) else name
    text = os.environ.get(variable)
    host, address = host.lower(), _address(host)
    entries = (os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or "").split(",")
    direct = host == "localhost" or (address and address.is_loopback)
    if not text or direct or any(_matches(entry.strip().lower(), host, address, port) for entry in entries):
        return None
    return parse_proxy(text if "://" in text else f"http://{text}", variable)


def open_connection(proxy: Proxy | None, host: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection to an address, through a proxy where there is one.

    Args:
        host: name or address, without brackets.
        timeout: seconds, which the socket keeps.

    Raises:
        OSError: when there is no way.
        http.client.HTTPException: when the proxy is none.
    """
    if proxy is None:
        return socket.create_connection((host, port), timeout)
    if proxy.is_socks:
        socks = _socks(proxy)
        connected: socket.socket = socks.create_connection(
            (host, port),
            timeout,
            proxy_type=socks.SOCKS5,
            proxy_addr=proxy.host,
            proxy_port=proxy.port,
            # As in Go, the proxy looks the name up.
            proxy_rdns=True,
            proxy_username=proxy.user or None,
            proxy_password=proxy.password or None,
        )
        return connected
    connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=timeout)
    connection.set_tunnel(_bracketed(host), port, proxy.headers())
    connection.connect()
    return connection.sock


def _socks(proxy: Proxy) -> t.Any:
    try:
        return importlib.import_module("socks")
    except ImportError as error:
        advice = "install it (pip install PySocks), or give a proxy by http://"
        raise LabError(f"The proxy {proxy} of {proxy.source} needs the package PySocks: {advice}") from error


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _matches(entry: str, host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None, port: int) -> bool:
    """Whether an entry of NO_PROXY means this address: `*`, CIDR, an IP, or a domain, the last two with a port."""
    if entry == "*":
        return True
    if "/" in entry:
        try:
            network = ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
        return address is not None and address in network
    with_port = re.fullmatch(r"(\[.*\]|[^:]*):([^:]*)", entry)
    name, only = with_port.groups() if with_port else (entry, "")
    name = name.strip("[]")
    if not name or (only and only != str(port)):
        return False
    if wanted := _address(name):
        return wanted == address
    # A domain with a dot in front (or with `*.`) means what is below it, and one without itself as well.
    return host == name or host.endswith("." + re.sub(r"^\*?\.", "", name))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
