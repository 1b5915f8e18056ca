# Certificates for servers and clients on the loopback.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import datetime
import ipaddress
import pathlib
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Pair:
    """A certificate and its key, signed by another one or by itself. None has key identifiers, as old CAs have none.

    Args:
        name: its common name, and its DNS name.
        issuer: that signs it; None for itself.
        is_ca: whether it may sign others.
    """

    def __init__(self, name: str, issuer: Pair | None = None, is_ca: bool = False) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer, now = issuer or self, datetime.datetime.now(datetime.UTC)
        names: list[x509.GeneralName] = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(self._subject)
            .issuer_name(signer._subject)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if not is_ca:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(signer._key, hashes.SHA256())
        self.certificate = certificate.public_bytes(serialization.Encoding.PEM).decode()
        self.key = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    def server(self, folder: pathlib.Path, clients: Pair | None = None) -> ssl.SSLContext:
        """What a server with this certificate needs.

        Args:
            folder: for its key.
            clients: a CA; clients are asked for a certificate of it, and may have none.
        """
        path = folder / "server.pem"
        path.write_text(self.certificate + self.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        if clients:
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(cadata=clients.certificate)
        return context


def encoded(text: str) -> str:
    """As a kubeconfig has it in its ...-data."""
    return base64.b64encode(text.encode()).decode()
