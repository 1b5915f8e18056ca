"""The cluster's certificates: proven by real TLS handshakes as strict as the newest Python's."""

from __future__ import annotations

import base64
import datetime
import io
import json
import os
import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest
from ambient_embedded import pki
from ambient_embedded.tools import write_atomically
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NODE, NODE_IP, SERVICE_IP = "lab-control-plane", "10.87.9.2", "10.96.0.1"
LEAVES = {leaf.name: leaf for leaf in (*pki.control_plane_leaves(NODE_IP, SERVICE_IP), *pki.node_leaves(NODE, NODE_IP))}
SERVERS = [leaf for leaf in LEAVES.values() if leaf.is_server]
EVERY_LEAF = pytest.mark.parametrize("leaf", LEAVES.values(), ids=lambda leaf: leaf.name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster's keys and certificates."""
    folder = tmp_path_factory.mktemp("pki") / "pki"
    pki.ensure(folder, NODE, NODE_IP, SERVICE_IP)
    return folder


def authority(leaf: pki.Leaf) -> str:
    return "front-proxy-ca" if leaf.name == "front-proxy-client" else "ca"


def certificate(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())


def context(folder: Path, purpose: ssl.Purpose, own: str, trusted: str) -> ssl.SSLContext:
    """One end of a connection that asks for the other's certificate."""
    made = ssl.create_default_context(purpose, cafile=str(folder / f"{trusted}.crt"))
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT  # Python's default from 3.13 on
    made.load_cert_chain(folder / f"{own}.crt", folder / f"{own}.key")
    return made


def shake_hands(folder: Path, server: str, client: str, name: str, clients: str = "ca") -> str:
    """A handshake in memory; returns the common name that the server sees. Raises ssl.SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = context(folder, ssl.Purpose.SERVER_AUTH, client, "ca").wrap_bio(down, up, server_hostname=name)
    far = context(folder, ssl.Purpose.CLIENT_AUTH, server, clients).wrap_bio(up, down, server_side=True)
    for end in (near, far, near, far):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    subject = (far.getpeercert() or {})["subject"]
    return str(next(value for ((key, value),) in subject if key == "commonName"))  # type: ignore[misc, str-unpack]


@EVERY_LEAF
def test_every_leaf_is_accepted_as_a_client_of_its_ca(folder: Path, leaf: pki.Leaf) -> None:
    seen = shake_hands(folder, "apiserver", leaf.name, "localhost", authority(leaf))
    assert seen == leaf.common_name


@pytest.mark.parametrize(
    ("server", "name"), [(leaf.name, name) for leaf in SERVERS for name in leaf.sans], ids=lambda text: text
)
def test_every_server_is_accepted_under_each_of_its_names(folder: Path, server: str, name: str) -> None:
    assert shake_hands(folder, server, "admin", name) == "kubernetes-admin"


def test_another_name_is_refused(folder: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"etcd\.example"):
        shake_hands(folder, "apiserver", "admin", "etcd.example")


def test_another_cluster_is_refused(folder: Path, tmp_path: Path) -> None:
    pki.ensure(tmp_path / "pki", NODE, NODE_IP, SERVICE_IP)
    for end in ("crt", "key"):
        (folder / f"stranger.{end}").write_bytes((tmp_path / f"pki/admin.{end}").read_bytes())
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(folder, "apiserver", "stranger", "localhost")


def test_the_front_proxy_is_no_user_of_the_api(folder: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(folder, "apiserver", "front-proxy-client", "localhost")


@EVERY_LEAF
def test_subject_usages_and_names(folder: Path, leaf: pki.Leaf) -> None:
    made = certificate(folder, leaf.name)
    made.verify_directly_issued_by(certificate(folder, authority(leaf)))
    organizations = [name.value for name in made.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    assert organizations == [leaf.organization] * bool(leaf.organization)
    extensions = made.extensions
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_cert_sign, usage.crl_sign) == (True, False, False)
    usages = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    servers = {ExtendedKeyUsageOID.SERVER_AUTH} if leaf.is_server else set()
    assert usages == {ExtendedKeyUsageOID.CLIENT_AUTH} | servers
    if leaf.is_server:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert sorted(str(name.value) for name in names) == sorted(leaf.sans)


@pytest.mark.parametrize("name", ["ca", "front-proxy-ca"])
def test_a_ca_signs_leaves_and_no_further_cas(folder: Path, name: str) -> None:
    made = certificate(folder, name)
    constraints = made.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert made.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_keys_are_readable_by_root_alone_and_match(folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    keys = sorted(folder.glob("*.key"))
    assert {*LEAVES, "ca", "front-proxy-ca", "service-account"} <= {key.stem for key in keys}
    assert {oct(key.stat().st_mode & 0o777) for key in keys if key.stem != "stranger"} == {"0o600"}
    for name in LEAVES:
        key = serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), None)
        assert key.public_key() == certificate(folder, name).public_key()


def test_a_second_call_changes_nothing(folder: Path) -> None:
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}
    pki.ensure(folder, NODE, NODE_IP, SERVICE_IP)
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()} == before


def test_a_worker_joins_as_itself_and_never_sees_the_cas_key(folder: Path, tmp_path: Path) -> None:
    worker = tmp_path / "worker"
    for _ in range(2):
        pki.join(worker, folder, "lab-worker", "10.87.9.3")
    assert {key.stem for key in worker.glob("*.key")} == {"kubelet", "kubelet-server", "kube-proxy"}
    (folder / "worker.crt").write_bytes((worker / "kubelet.crt").read_bytes())
    (folder / "worker.key").write_bytes((worker / "kubelet.key").read_bytes())
    assert shake_hands(folder, "apiserver", "worker", NODE_IP) == "system:node:lab-worker"
    for end in ("crt", "key"):
        (folder / f"worker.{end}").write_bytes((worker / f"kubelet-server.{end}").read_bytes())
    assert shake_hands(folder, "worker", "apiserver-kubelet-client", "10.87.9.3") == "kube-apiserver-kubelet-client"
    for end in ("crt", "key"):
        (folder / f"worker.{end}").unlink()


def test_what_is_missing_is_made_again_by_the_same_ca(folder: Path) -> None:
    root = (folder / "ca.crt").read_bytes()
    (folder / "scheduler.crt").unlink()
    pki.ensure(folder, NODE, NODE_IP, SERVICE_IP)
    assert (folder / "ca.crt").read_bytes() == root
    assert shake_hands(folder, "apiserver", "scheduler", "localhost") == "system:kube-scheduler"


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the disk is full: half of the new text has been written."""
    path = tmp_path / "kubeconfig"
    pki.write_kubeconfig(path, "whole")

    def fdopen(descriptor: int, mode: str) -> io.BufferedIOBase:
        os.write(descriptor, b"ha")
        os.close(descriptor)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", fdopen)
        with pytest.raises(OSError, match="No space left"):
            pki.write_kubeconfig(path, "half of another one")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_a_certificate_never_stands_beside_another_ones_key(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key was lost, and the run that makes a new one ends between key and certificate."""
    made = tmp_path / "pki"
    shutil.copytree(folder, made)
    (made / "scheduler.key").unlink()

    def interrupted(path: Path, *rest: Any) -> None:
        write_atomically(path, *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pki, "write_atomically", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pki.ensure(made, NODE, NODE_IP, SERVICE_IP)
    pki.ensure(made, NODE, NODE_IP, SERVICE_IP)
    assert shake_hands(made, "apiserver", "scheduler", "localhost") == "system:kube-scheduler"


def test_a_kubeconfig_is_complete_without_other_files(folder: Path, tmp_path: Path) -> None:
    text = pki.kubeconfig(folder, "admin", "https://10.87.9.2:6443", "lab")
    assert str(folder) not in text
    config = json.loads(text)
    (cluster,), (user,), (entry,) = (config[name] for name in ("clusters", "users", "contexts"))
    assert config["current-context"] == entry["name"]
    assert (entry["context"]["cluster"], entry["context"]["user"]) == (cluster["name"], user["name"])
    assert cluster["cluster"]["server"] == "https://10.87.9.2:6443"
    for name, holder, key in (
        ("ca.crt", cluster["cluster"], "certificate-authority-data"),
        ("admin.crt", user["user"], "client-certificate-data"),
        ("admin.key", user["user"], "client-key-data"),
    ):
        assert base64.b64decode(holder[key]) == (folder / name).read_bytes()


def test_a_kubeconfig_is_private_and_written_once(tmp_path: Path) -> None:
    path = tmp_path / "lab/kubeconfig"
    assert pki.write_kubeconfig(path, "one")
    assert path.stat().st_mode & 0o777 == 0o600
    assert not pki.write_kubeconfig(path, "one")
    path.chmod(0o644)
    assert pki.write_kubeconfig(path, "two")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("two", 0o600)


@pytest.mark.parametrize("days", [-400, 3640], ids=["a clock that was ahead", "ten years later"])
def test_certificates_that_do_not_hold_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """All of them, for the CA is another one then; the keys of tokens stay."""
    pki.ensure(tmp_path / "pki", NODE, NODE_IP, SERVICE_IP)
    pki.join(tmp_path / "worker", tmp_path / "pki", "worker", "10.87.9.3")
    folders = [tmp_path / "pki", tmp_path / "worker"]
    before = {file: file.read_bytes() for folder in folders for file in folder.iterdir()}
    assert not any(pki.is_over(folder) for folder in folders)

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Later:
            return super().now(tz) + datetime.timedelta(days=days)

    monkeypatch.setattr(datetime, "datetime", Later)
    assert all(pki.is_over(folder) for folder in folders)
    pki.ensure(tmp_path / "pki", NODE, NODE_IP, SERVICE_IP)
    pki.join(tmp_path / "worker", tmp_path / "pki", "worker", "10.87.9.3")
    assert not any(pki.is_over(folder) for folder in folders)
    kept = {file.name for file, content in before.items() if file.read_bytes() == content}
    assert kept == {"service-account.key", "service-account.pub"}
    ca = certificate(tmp_path / "pki", "ca")
    for folder in folders:
        certificate(folder, "kubelet").verify_directly_issued_by(ca)
