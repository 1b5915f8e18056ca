"""The cluster's certificates: one CA, short-named leaf certificates, kubeconfigs that carry them.

Names and organisations follow the Kubernetes document "PKI certificates and requirements": the CN is the
user, the O the group that RBAC binds (``system:masters``, ``system:nodes``).
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .tools import write_atomically

VALIDITY = datetime.timedelta(days=3650)
# A clock that is a little behind must not reject a certificate made a second ago.
BACKDATE = datetime.timedelta(hours=1)
# One that ends sooner is made anew, and so is one that a wrong clock has dated into the future.
RENEWAL = datetime.timedelta(days=30)
PRIVATE = 0o600


@dataclass(frozen=True)
class Leaf:
    """A certificate to issue: file name, subject, and for servers the names it answers to."""

    name: str
    common_name: str
    organization: str = ""
    sans: tuple[str, ...] = ()

    @property
    def is_server(self) -> bool:
        return bool(self.sans)


def node_leaves(name: str, address: str) -> list[Leaf]:
    """The leaf certificates that every node has."""
    return [
        Leaf("kube-proxy", "system:kube-proxy"),
        Leaf("kubelet", f"system:node:{name}", "system:nodes"),
        Leaf("kubelet-server", f"system:node:{name}", "system:nodes", sans=(name, address)),
    ]


def control_plane_leaves(address: str, service_ip: str) -> list[Leaf]:
    """Those that the control plane has besides.

    :param service_ip: ClusterIP of the Service ``kubernetes``, the first address of the service range.
    """
    internal = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    api_names = (*internal, "localhost", "127.0.0.1", address, service_ip)
    return [
        Leaf("apiserver", "kube-apiserver", sans=api_names),
        Leaf("etcd", "etcd", sans=("localhost", "127.0.0.1")),
        Leaf("apiserver-etcd-client", "kube-apiserver-etcd-client"),
        Leaf("apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters"),
        Leaf("front-proxy-client", "front-proxy-client"),
        Leaf("controller-manager", "system:kube-controller-manager"),
        Leaf("scheduler", "system:kube-scheduler"),
        Leaf("admin", "kubernetes-admin", "system:masters"),
    ]


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_pair(folder: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    """Write ``<name>.key`` and ``<name>.crt``: no moment has a certificate beside another one's key."""
    certificate_path = folder / f"{name}.crt"
    certificate_path.unlink(missing_ok=True)
    write_atomically(folder / f"{name}.key", _pem_key(key), PRIVATE)
    write_atomically(certificate_path, certificate.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, signer: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + VALIDITY)
        # RFC 5280, 4.2.1: Python 3.13 and newer refuse certificates without the key identifiers.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=signs, crl_sign=signs, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _alternative_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def is_valid(certificate: x509.Certificate) -> bool:
    """Whether a certificate holds now, and for a while yet."""
    now = datetime.datetime.now(datetime.UTC)
    return certificate.not_valid_before_utc <= now and now + RENEWAL < certificate.not_valid_after_utc


class Authority:
    """A CA whose key and certificate are ``<name>.key`` and ``<name>.crt`` in a folder; made when absent or over."""

    def __init__(self, folder: Path, name: str, common_name: str) -> None:
        certificate_path, key_path = (folder / f"{name}{end}" for end in (".crt", ".key"))
        if certificate_path.exists() and key_path.exists():
            key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            self.key = key
            self.certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
            if is_valid(self.certificate):
                return
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        self.certificate = (
            _builder(subject, subject, self.key.public_key(), self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        _write_pair(folder, name, self.key, self.certificate)

    def _has_issued(self, certificate: x509.Certificate) -> bool:
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (InvalidSignature, ValueError):  # of the CA that was here before
            return False
        return True

    def issue(self, leaf: Leaf, folder: Path) -> None:
        """Write ``<leaf.name>.crt`` and ``.key`` into a folder, unless they are there and valid."""
        certificate_path, key_path = (folder / f"{leaf.name}{end}" for end in (".crt", ".key"))
        if certificate_path.exists() and key_path.exists():
            there = x509.load_pem_x509_certificate(certificate_path.read_bytes())
            if is_valid(there) and self._has_issued(there):
                return
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.NameAttribute(NameOID.COMMON_NAME, leaf.common_name)]
        if leaf.organization:
            names.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, leaf.organization))
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if leaf.is_server:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        builder = (
            _builder(x509.Name(names), self.certificate.subject, key.public_key(), self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        )
        if leaf.is_server:
            alternatives = x509.SubjectAlternativeName([_alternative_name(name) for name in leaf.sans])
            builder = builder.add_extension(alternatives, critical=False)
        _write_pair(folder, leaf.name, key, builder.sign(self.key, hashes.SHA256()))


def is_over(folder: Path) -> bool:
    """Whether a certificate in a folder does not hold, or not for long any more: what uses it must start anew."""
    return not all(is_valid(x509.load_pem_x509_certificate(file.read_bytes())) for file in folder.glob("*.crt"))


def ensure(folder: Path, name: str, address: str, service_ip: str) -> None:
    """Make what is missing of a control plane's keys and certificates; keys are readable by root alone."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    cluster = Authority(folder, "ca", "ambient-lab-ca")
    front_proxy = Authority(folder, "front-proxy-ca", "ambient-lab-front-proxy-ca")
    for leaf in [*control_plane_leaves(address, service_ip), *node_leaves(name, address)]:
        (front_proxy if leaf.name == "front-proxy-client" else cluster).issue(leaf, folder)
    tokens = folder / "service-account.key"
    if not tokens.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        write_atomically(folder / "service-account.pub", public)
        write_atomically(tokens, _pem_key(key), PRIVATE)


def join(folder: Path, control_plane: Path, name: str, address: str) -> None:
    """Make what is missing of a worker's: certificates of its own, of the control plane's CA, whose key stays there."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(folder / "ca.crt", (control_plane / "ca.crt").read_bytes())
    cluster = Authority(control_plane, "ca", "ambient-lab-ca")
    for leaf in node_leaves(name, address):
        cluster.issue(leaf, folder)


def kubeconfig(folder: Path, leaf_name: str, server: str, cluster_name: str) -> str:
    """A self-contained kubeconfig (JSON, which is YAML) for one of the client certificates."""

    def embed(path: str) -> str:
        return base64.b64encode((folder / path).read_bytes()).decode()

    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": cluster_name,
            "clusters": [
                {
                    "name": cluster_name,
                    "cluster": {"server": server, "certificate-authority-data": embed("ca.crt")},
                }
            ],
            "users": [
                {
                    "name": leaf_name,
                    "user": {
                        "client-certificate-data": embed(f"{leaf_name}.crt"),
                        "client-key-data": embed(f"{leaf_name}.key"),
                    },
                }
            ],
            "contexts": [{"name": cluster_name, "context": {"cluster": cluster_name, "user": leaf_name}}],
        },
        indent=2,
    )


def write_kubeconfig(path: Path, text: str) -> bool:
    """Write a kubeconfig with mode 0600. Returns whether the file changed."""
    if path.exists() and path.read_text() == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode(), PRIVATE)
    return True
