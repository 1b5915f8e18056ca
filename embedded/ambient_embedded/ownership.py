"""Whether a folder is a lab's, and whose the lab is: what is not the run's own is neither stopped nor removed."""

from __future__ import annotations

import base64
import contextlib
import json
from pathlib import Path

from .errors import LabError
from .tools import remove

MARKS = ("launcher.json", "owner")  # what only a lab's folder has


def is_lab(folder: Path) -> bool:
    """Whether a folder is a lab's."""
    return any((folder / mark).is_file() for mark in MARKS)


def refuse_foreign(folder: Path) -> None:
    """Raise :class:`LabError` where something in the place of a lab's folder is not a lab's."""
    if folder.exists() and not is_lab(folder) and not _is_empty(folder):
        raise LabError(
            f"{folder} is not a lab's folder, it has none of {', '.join(MARKS)}: set <state_dir> to a folder of "
            "its own, or take another <name>"
        )


def _is_empty(folder: Path) -> bool:
    """Whether nothing is in it, or what a start has left that was interrupted at once."""
    return folder.is_dir() and all(entry.name == ".owner.draft" for entry in folder.iterdir())


def refuse_stranger(folder: Path, owner: Path, *, running: bool = False) -> None:
    """Raise :class:`LabError` where the lab was made from another checkout that is still there.

    :param running: the lab is, so it has a user, whose checkout may only seem gone (a disk that is not mounted): then
        it is the owner's if its kubeconfig lies there.
    """
    try:
        other: Path | None = Path((folder / "owner").read_text().strip())
    except FileNotFoundError:  # a new lab, or one of an older version
        other = None
    gone = other is None or _is_gone(other)
    same = other is not None and other.resolve() == owner.resolve()
    if not same and not (gone and (not running or _has_its_key(owner, folder))):
        raise LabError(
            f"The lab {folder.name} in {folder.parent} belongs to {other or 'a checkout that is not written down'}, "
            f"and this run's folder is {owner}: take another name for yours (<name>, and ports of its own in "
            f"<port>), or remove that lab first{'' if gone else ', from there'} (<absent>)"
        )


def _is_gone(path: Path) -> bool:
    """What cannot be looked at (another user's home, a server that does not answer) is still there."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _has_its_key(owner: Path, folder: Path) -> bool:
    """Whether the user's folder has the kubeconfig of this very lab: its checkout was moved, or an older version's."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        (cluster,) = json.loads((owner / "kubeconfig").read_text())["clusters"]
        authority = base64.b64decode(cluster["cluster"]["certificate-authority-data"])
        return any(file.read_bytes() == authority for file in folder.glob("nodes/*/kubernetes/pki/ca.crt"))
    return False


def refuse_removal(folder: Path, owner: Path | None) -> None:
    """Raise :class:`LabError` where a folder is not a lab's, or not of this owner's; None: of anybody's."""
    refuse_foreign(folder)
    if owner:
        refuse_stranger(folder, owner)


def remove_lab(folder: Path) -> None:
    """Remove a lab's folder. Its marks go last: what an interrupted removal leaves is a lab's still."""
    if folder.exists():
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name in MARKS):
            remove(entry)
        remove(folder)
