"""The collection as others get it: built, installed into an empty folder, and used there with Ansible alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from project import COLLECTION


def build(folder: Path, source: Path = COLLECTION) -> Path:
    """Build the collection's tarball in a folder; returns its path.

    Raises:
        RuntimeError: when ansible-galaxy fails, with its words.
    """
    _galaxy(folder, "build", "--output-path", ".", str(source))
    (tarball,) = folder.glob("ambient-lab-*.tar.gz")
    return tarball


def install(folder: Path) -> Path:
    """Build the collection and install it below an empty folder; returns where it then is.

    Raises:
        RuntimeError: when ansible-galaxy fails, with its words.
    """
    tarball = build(folder)
    _galaxy(folder, "install", "--offline", "-p", ".", tarball.name)
    return folder / "ansible_collections/ambient/lab"


def _galaxy(folder: Path, *arguments: str) -> None:
    ran = used(folder, "ansible-galaxy", "collection", *arguments)
    if ran.returncode:
        raise RuntimeError(f"ansible-galaxy collection {' '.join(arguments)}: {ran.stdout}{ran.stderr}")


def used(folder: Path, *command: str, at: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program of Ansible that knows the collections of a folder and none besides.

    Args:
        at: where it runs, the folder itself by default; no ansible.cfg may be there.
    """
    own = {name: text for name, text in os.environ.items() if not name.startswith("ANSIBLE_")}
    settings = {"COLLECTIONS_PATH": str(folder), "NOCOLOR": "1", "LOCALHOST_WARNING": "0"}
    # The collection's own output, with `ansible` too.
    settings |= {"STDOUT_CALLBACK": "ambient.lab.brief", "LOAD_CALLBACK_PLUGINS": "1"}
    environment = own | {f"ANSIBLE_{name}": value for name, value in settings.items()}
    program = str(Path(sys.executable).with_name(command[0]))
    return subprocess.run(
        [program, *command[1:]],
        cwd=at or folder, env=environment, text=True, capture_output=True, check=False,
    )  # fmt: skip
