"""No file names a machine, a person, or the place where packages come from."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT, tracked

URL = re.compile(r"https?://(?:[^/@\s]*@)?([A-Za-z0-9.-]*[A-Za-z0-9])")
# Endings of names that mean something outside of a cluster; app.default is a Service.
PUBLIC = re.compile(r"\.(ai|app|cloud|co|com|dev|edu|gov|info|io|net|org|sh)$")
# Standards and projects that the texts refer to, and upstream's charts; RFC 2606 keeps the domains of examples.
KNOWN = {
    "example.com",
    "example.org",
    "github.com",
    "helm.sh",
    "istio-release.storage.googleapis.com",
    "json-schema.org",
    "kiali.org",
    "kind.sigs.k8s.io",
    "kubernetes.io",
    "www.example.com",
    "www.gnu.org",
    "www.w3.org",
}
ADDRESS = re.compile(r"\b[\w.+-]+@(?!example\.)[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:com|net|org|io|dev|de)\b", re.IGNORECASE)
HOME = re.compile(r"/(?:home|Users)/(?!me/)\w+")


def texts() -> dict[str, str]:
    """Every text file that git knows; checksums of modules name thousands of places, and none by choice."""
    found = {}
    for path in tracked():
        if Path(path).name not in {"go.sum", "LICENSE"}:
            data = (ROOT / path).read_bytes()
            if b"\0" not in data:
                found[path] = data.decode("utf-8")
    return found


def settings() -> str:
    """What this machine says of where packages come from."""
    pip = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, text=True, capture_output=True)
    words = ("index", "proxy", "registry", "mirror")
    given = [value for name, value in os.environ.items() if any(word in name.lower() for word in words)]
    return "\n".join([pip.stdout, *given])


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return texts()


def test_only_known_hosts_are_named(files: dict[str, str]) -> None:
    found = {(path, host) for path, text in files.items() for host in URL.findall(text) if PUBLIC.search(host)}
    assert not {pair for pair in found if pair[1] not in KNOWN}


def test_nothing_of_this_machine_is_named(files: dict[str, str]) -> None:
    hosts = {host for host in URL.findall(settings()) if not host.startswith(("127.", "localhost"))}
    words = (hosts | {str(ROOT)}) - KNOWN
    assert not {(path, word) for path, text in files.items() for word in words if word in text}


def test_nobody_is_named(files: dict[str, str]) -> None:
    found = {(path, name) for path, text in files.items() for rule in (ADDRESS, HOME) for name in rule.findall(text)}
    assert not found
