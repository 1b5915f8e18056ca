# A way to an API: its address, what proves the user and the API to each other, and the proxy between them.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import socket
import ssl
import tempfile
import threading
import typing as t
import urllib.parse

from .._common.errors import LabError
from .login import Credential, Login
from .proxy import Proxy, open_connection


@dataclasses.dataclass(frozen=True)
class Server:
    """An API, and how it is reached.

    Attributes:
        url: without a slash at its end.
        name: that its certificate must have in place of the URL's host; "" for the host.
        authority: certificates that it may be signed with, PEM; None for those that the machine trusts.
        is_verified: whether its certificate is looked at.
        proxy: on the way to it; None for none.
    """

    url: str
    name: str
    authority: bytes | None
    is_verified: bool
    proxy: Proxy | None


@dataclasses.dataclass(frozen=True)
class Identity:
    """As whom the API is asked.

    Attributes:
        headers: that prove the user, and name the one to act as; a name may stand in it more than once.
        tls: with the client's certificate, where there is one; None for an API without TLS.
        credential: both are made of.
    """

    headers: tuple[tuple[str, str], ...]
    tls: ssl.SSLContext | None
    credential: Credential


class Access:
    """A way to an API. Its methods may be called from several threads at once.

    impersonation: headers that name the user to act as.

    Raises:
        LabError: when the user can't log in, or a certificate is none.
    """

    def __init__(self, server: Server, login: Login, impersonation: t.Sequence[tuple[str, str]]) -> None:
        self.server = server
        self._login = login
        self._impersonation = tuple(impersonation)
        self._lock = threading.Lock()
        self._identity = self._identity_of(login.credential(), None)

    def identity(self) -> Identity:
        """As whom to ask now.

        Raises:
            LabError: when the login has ended, and can't be renewed.
        """
        with self._lock:
            credential = self._login.credential()
            if credential != self._identity.credential:
                self._identity = self._identity_of(credential, self._identity)
            return self._identity

    def renew(self, refused: Identity) -> bool:
        """Whether there is another identity in place of one that the API refuses with 401.

        Raises:
            LabError: when the login can't be renewed.
        """
        with self._lock:
            # Another thread may have been first.
            if self._identity is refused and self._login.renew():
                self._identity = self._identity_of(self._login.credential(), refused)
            return self._identity is not refused

    def connect(self, identity: Identity, timeout: float) -> socket.socket:
        """A connection to the API, with TLS where it has that; timeout: seconds, which the socket keeps.

        Raises:
            OSError: when there is no way, or the certificate does not fit.
            http.client.HTTPException: when the proxy is none.
        """
        host, port = address(self.server.url)
        connection = open_connection(self.server.proxy, host, port, timeout)
        if identity.tls is None:
            return connection
        try:
            return identity.tls.wrap_socket(connection, server_hostname=self.server.name or host)
        except BaseException:
            connection.close()
            raise

    def _identity_of(self, credential: Credential, before: Identity | None) -> Identity:
        headers = list(self._impersonation)
        if credential.authorization:
            headers.append(("Authorization", credential.authorization))
        if not self.server.url.startswith("https:"):
            context = None
        elif before and before.credential.certificate == credential.certificate:
            context = before.tls
        else:
            context = tls_context(self.server.authority, self.server.is_verified, credential.certificate)
        return Identity(tuple(headers), context, credential)


def tls_context(authority: bytes | None = None, is_verified: bool = True, certificate: bytes = b"") -> ssl.SSLContext:
    """TLS as Go checks it (crypto/x509).

    A CA may lack key identifiers: VERIFY_X509_STRICT, which ssl.create_default_context and urllib3 set since Python
    3.13, is no part of PROTOCOL_TLS_CLIENT. It may be an intermediate one, and a common name is no host's name.

    Args:
        authority: certificates to trust, PEM; None for those that the machine trusts.
        is_verified: whether the server's certificate is looked at.
        certificate: the client's, with its key, PEM; b"" for none.

    Raises:
        LabError: when a certificate is none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.hostname_checks_common_name = False
    what = "certificate-authority holds no certificate"
    try:
        if not is_verified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif authority is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cadata=authority.decode("ascii", "ignore"))
        if certificate:
            what = "user has a client certificate and a key that are no pair"
            # OpenSSL reads a key from a file alone. It is there for that moment, and for its owner.
            with tempfile.NamedTemporaryFile(prefix="ambient-lab-") as file:
                file.write(certificate)
                file.flush()
                # The password keeps OpenSSL from asking for one on a terminal.
                context.load_cert_chain(file.name, password="")
    except (OSError, ValueError) as error:
        raise LabError(f"The kubeconfig's {what} ({error}); correct it, or use another kubeconfig") from error
    return context


def address(url: str) -> tuple[str, int]:
    """Host and port of an API's URL."""
    parts = urllib.parse.urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
