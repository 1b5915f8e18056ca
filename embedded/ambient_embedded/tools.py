"""Small helpers: run a program, install packages, name the files that decide a result, write a file at once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .errors import LabError

EMBEDDED = Path(__file__).resolve().parents[1]
DOCUMENTATION = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
PIP_REMEDY = (
    "Is PyPI within reach? PIP_INDEX_URL=ADDRESS names a mirror, HTTPS_PROXY=ADDRESS a proxy. Then run the build again."
)
STOPPED = "was not started: another part of the build has failed"


class _Programs:
    """The programs under way. One call ends them all, and starts no more until it is taken back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = set[subprocess.Popen[str]]()
        self._stopped = False

    @contextlib.contextmanager
    def start(self, arguments: Sequence[str], env: dict[str, str], stdout: int) -> Iterator[subprocess.Popen[str]]:
        with self._lock:
            if self._stopped:
                raise LabError(f"{arguments[0]} {STOPPED}")
            process = subprocess.Popen(
                arguments, env={**os.environ, **env}, stdin=subprocess.DEVNULL,
                stdout=stdout, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            self._running.add(process)
        try:
            with process:
                yield process
        finally:
            with self._lock:
                self._running.discard(process)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """End every program with SIGTERM, and start none while the block runs."""
        with self._lock:
            self._stopped = True
            for process in list(self._running):
                process.terminate()
        try:
            yield
        finally:
            self._stopped = False


_programs = _Programs()
started, stopped = _programs.start, _programs.stopped


def run(arguments: Sequence[str], *, env: dict[str, str] | None = None, remedy: str = "") -> str:
    """Run a program and return its output.

    Raises :class:`LabError` with its last words and the remedy when it fails.
    """
    with started(arguments, env or {}, subprocess.PIPE) as process:
        output, errors = process.communicate()
    if process.returncode != 0:
        first = f"{' '.join(arguments[:3])} ... failed with status {process.returncode}:"
        words = (errors or output).strip().splitlines()[-8:]
        raise LabError("\n".join([first, *words, remedy]).rstrip())
    return output


def lock_of(*requirements: str) -> Path:
    """The file that names all that a requirement, or ``-r FILE``, brings along, with the digests of every wheel."""
    name = Path(requirements[1]).parent.name if requirements[0] == "-r" else requirements[0].partition("==")[0]
    return EMBEDDED / "locks" / f"{name}.txt"


def pip_install(target: Path, *requirements: str, platforms: Iterable[str] = (), python: str = "") -> None:
    """Install wheels into a folder, for this Python, or for another one on the given platforms.

    What is installed is what the lock of the requirements names: other bytes are refused.
    """
    options = [option for platform in platforms for option in ("--platform", platform)]
    if python:
        options += ["--python-version", python, "--implementation", "cp"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    locked = ["--require-hashes", "-r", str(lock_of(*requirements))]
    run([*command, "--only-binary=:all:", "--target", str(target), *options, *locked], remedy=PIP_REMEDY)


def debian_release() -> dict[str, str]:
    """The release that is installed: a derivative names the one that it is made of, os-release(5) of Mint and LMDE.

    One that is no Debian's (Fedora's ``VERSION_CODENAME`` is empty) counts as Debian's stable one.
    """
    release = platform.freedesktop_os_release()
    names = ("UBUNTU_CODENAME", "DEBIAN_CODENAME", "VERSION_CODENAME")
    codename = next((release[name] for name in names if release.get(name)), "stable")
    return {"ID": release.get("ID", "linux"), "VERSION_CODENAME": codename}


def debian_install(target: Path, suite: str, packages: Iterable[str]) -> None:
    """A small Debian-family system of one release, without documentation: a folder, or a .tar by its name."""
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in DOCUMENTATION]
    command = ["mmdebstrap", "--variant=essential", f"--include={','.join(packages)}", *options, suite, str(target)]
    remedy = f"Is the public mirror of {suite} within reach? http_proxy=ADDRESS names a proxy. Then build again."
    run(command, remedy=remedy)


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file that is whole wherever it is seen, and has its mode from the start."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file, a folder with what is in it, or a link, whose goal stays. Nothing happens where nothing is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def fingerprints(*paths: str) -> list[str]:
    """Names and digests of files of this folder's project; of folders, of every file in depth."""
    lines = []
    for top in (EMBEDDED / path for path in paths):
        for file in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if file.is_file() and "__pycache__" not in file.parts:
                lines.append(f"{file.relative_to(EMBEDDED)} {hashlib.sha256(file.read_bytes()).hexdigest()}")
    return lines


def available_memory_bytes() -> int:
    """What programs can have without swapping; proc(5), /proc/meminfo."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024
