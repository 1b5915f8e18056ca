"""Certificates of the workloads on this node, one per ServiceAccount (embedded provider alone).

istiod's CA signs for another identity when the caller is a trusted node proxy and a pod with that identity
runs on its node (istio.io/istio security/pkg/server/ca, metadata key `ImpersonatedIdentity`).
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import os
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .identity import Identity

log = logging.getLogger("identity.manager")

CONCURRENCY = 8
RETRY_FIRST = 0.2  # seconds
RETRY_MAX = 15.0
CLOCK_CHECK = 60.0  # seconds; timers stand still while a machine is suspended, validity does not

# Given the identity and a CSR in PEM: the chain in PEM, leaf first, root last.
Signer = Callable[[Identity, str], Awaitable[list[str]]]


class CertificateError(Exception):
    """No certificate could be had for an identity."""


@dataclass
class Certificate:
    """A key, its certificate chain, and the TLS contexts made of them."""

    identity: Identity
    chain: list[x509.Certificate]
    roots: list[x509.Certificate]
    server: ssl.SSLContext = field(repr=False)
    client: ssl.SSLContext = field(repr=False)

    @property
    def not_after(self) -> float:
        """End of validity, seconds since the epoch."""
        return self.chain[0].not_valid_after_utc.timestamp()

    @property
    def not_before(self) -> float:
        """Start of validity, seconds since the epoch."""
        return self.chain[0].not_valid_before_utc.timestamp()

    @property
    def refresh_at(self) -> float:
        """Half of the certificate's life, seconds since the epoch."""
        return (self.not_before + self.not_after) / 2

    @property
    def valid(self) -> bool:
        """True while a peer takes it, by the clock of this machine."""
        return self.not_before <= time.time() < self.not_after


def new_key_and_request(identity: Identity) -> tuple[str, str]:
    """A fresh P-256 key and a CSR with the SPIFFE ID as its only name, both in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))]), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode(), request.public_bytes(serialization.Encoding.PEM).decode()


def build(identity: Identity, key: str, chain: list[str]) -> Certificate:
    """Make the TLS contexts; raises ValueError or ssl.SSLError for unusable input."""
    if len(chain) < 2:
        raise ValueError(f"expected a certificate and a root, got {len(chain)} certificates")
    own = x509.load_pem_x509_certificates("".join(chain[:-1]).encode())
    roots = x509.load_pem_x509_certificates(chain[-1].encode())
    contexts = []
    for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # peers are named by SPIFFE IDs, checked after the handshake
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=chain[-1])
        context.set_alpn_protocols(["h2"])
        _load_chain(context, key + "".join(chain[:-1]))
        contexts.append(context)
    contexts[0].num_tickets = 0  # sessions are long-lived and pooled; resumption would skip the peer's certificate
    return Certificate(identity, own, roots, server=contexts[0], client=contexts[1])


def _load_chain(context: ssl.SSLContext, pem: str) -> None:
    """Python loads keys from files only; a memory file keeps the key off every disk."""
    fd = os.memfd_create("key", os.MFD_CLOEXEC)
    try:
        os.write(fd, pem.encode())
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def peer_identity(tls: ssl.SSLObject) -> Identity:
    """The SPIFFE identity of the verified peer; raises ValueError if its certificate has none."""
    raw = tls.getpeercert(binary_form=True)
    if raw is None:
        raise ValueError("the peer has no certificate")
    try:
        names = x509.load_der_x509_certificate(raw).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound as error:
        raise ValueError("the peer's certificate names nobody") from error
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise ValueError(f"expected one URI in the peer's certificate, got {len(uris)}")
    return Identity.parse(uris[0])


@dataclass
class _Entry:
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    renew: asyncio.Event = field(default_factory=asyncio.Event)
    certificate: Certificate | None = None
    error: str = ""
    users: int = 0
    task: asyncio.Task[None] | None = None


class CertificateManager:
    """Fetches, caches and rotates certificates; one background task per identity."""

    def __init__(self, sign: Signer) -> None:
        self._sign = sign
        self._entries: dict[Identity, _Entry] = {}
        self._slots = asyncio.Semaphore(CONCURRENCY)

    def acquire(self, identity: Identity) -> None:
        """Count one more pod of an identity and start to fetch its certificate."""
        self._entry(identity).users += 1

    def release(self, identity: Identity) -> None:
        """Count one pod less; with the last one the certificate is forgotten."""
        entry = self._entries.get(identity)
        if entry is not None:
            entry.users -= 1
            if entry.users <= 0:
                del self._entries[identity]
                if entry.task is not None:
                    entry.task.cancel()
                entry.error = entry.error or f"no pod of this node has the identity {identity} any more"
                entry.ready.set()  # who waits for it need not

    async def fetch(self, identity: Identity) -> Certificate:
        """The current certificate, waiting for one if there is none that is valid; raises CertificateError."""
        entry = self._entry(identity)
        if entry.certificate is not None and not entry.certificate.valid and not entry.error:
            entry.ready.clear()
            entry.renew.set()
        await entry.ready.wait()
        certificate = entry.certificate
        if certificate is None or not certificate.valid:
            raise CertificateError(entry.error or f"certificate of {identity} has expired")
        return certificate

    def entries(self) -> list[tuple[Identity, str, Certificate | None]]:
        """Every identity with its state in ztunnel's words, for /config_dump."""
        found = []
        for identity, entry in sorted(self._entries.items(), key=lambda item: str(item[0])):
            if entry.certificate is not None:
                state = "Available"
            else:
                state = f"Unavailable: {entry.error}" if entry.error else "Initializing"
            found.append((identity, state, entry.certificate))
        return found

    async def close(self) -> None:
        """Stop all rotation."""
        for entry in list(self._entries.values()):
            if entry.task is not None:
                entry.task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await entry.task

    def _entry(self, identity: Identity) -> _Entry:
        entry = self._entries.get(identity)
        if entry is None:
            entry = self._entries[identity] = _Entry()
            entry.task = asyncio.create_task(self._keep(identity, entry), name=f"certificate {identity}")
        return entry

    async def _keep(self, identity: Identity, entry: _Entry) -> None:
        """Fetch, wait for half the life, fetch again; retry failures with growing pauses.

        Ends when no pod of this node has the identity.
        """
        pause = RETRY_FIRST
        while True:
            try:
                async with self._slots:
                    key, request = await asyncio.to_thread(new_key_and_request, identity)
                    chain = await self._sign(identity, request)
                    certificate = await asyncio.to_thread(build, identity, key, chain)
            except Exception as error:  # the CA, the network or the answer: all of them are tried again
                entry.error = str(error)
                log.warning("failed to fetch certificate for %s: %s, retrying in %.1fs", identity, error, pause)
                entry.ready.set()
                if entry.users <= 0:
                    break  # nobody's pod: whoever asks again starts anew
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_MAX)
                continue
            entry.certificate, entry.error, pause = certificate, "", RETRY_FIRST
            entry.ready.set()
            until = datetime.datetime.fromtimestamp(certificate.refresh_at, datetime.UTC).isoformat()
            log.debug("certificate for %s, next refresh at %s", identity, until)
            await self._until_due(certificate, entry.renew)
            if entry.users <= 0 and entry.ready.is_set():
                break
        self._entries.pop(identity, None)

    async def _until_due(self, certificate: Certificate, renew: asyncio.Event) -> None:
        """Wait for half of the certificate's life, or until the clock has left it behind."""
        renew.clear()
        pause = 1.0  # at least: a CA that signs for no time at all is not asked in a loop
        while pause > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(renew.wait(), min(pause, CLOCK_CHECK))
            pause = certificate.refresh_at - time.time() if certificate.valid and not renew.is_set() else 0
