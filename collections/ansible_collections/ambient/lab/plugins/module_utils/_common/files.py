# Puts a text into a file where it differs: for check mode, for diff mode, and without ever leaving half a file.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import typing as t

from .errors import LabError

MODE = 0o644


def put(option: str, path: str, content: str, check_mode: bool, mode: int = MODE) -> str | None:
    """Make a file have this content; one that has it is not touched. A link stays a link, a mode stays as it is.

    Args:
        option: of the module, for messages.
        check_mode: write nothing.
        mode: of a file that is new.

    Returns:
        What was there before, None where nothing was.

    Raises:
        LabError: when its folder is missing, and when it can't be read or written.
    """
    real = os.path.realpath(path)
    old = read_text(option, real, check_mode)
    if old != content and not check_mode:
        try:
            replace_file(real, content, stat.S_IMODE(os.stat(real).st_mode) if os.path.exists(real) else mode)
        except OSError as error:
            raise LabError(f"{option}: {real} can't be written ({error})") from error
    return old


def replace_file(path: str, content: str, mode: int) -> None:
    """Put a text in the place of a file: whoever reads it finds the old one or the new one, never a part.

    Raises:
        OSError: when it can't be written; the old file is still there then.
    """
    handle, temporary = tempfile.mkstemp(prefix=".ambient-lab-", dir=os.path.dirname(path) or ".")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        # Also when the program is ended; it may have its place already then.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def diff_of(path: str, old: str | None, content: str) -> dict[str, t.Any]:
    """What diff mode shows of one file."""
    return {"before": old or "", "after": content, "before_header": path, "after_header": path}


def read_text(option: str, path: str, check_mode: bool = False, errors: str = "replace") -> str | None:
    """Content of a file, None where there is none. Arguments as of put; errors: as of open().

    Raises:
        LabError: when it, or its folder, can't be read.
    """
    if not os.path.isdir(os.path.dirname(path) or "."):
        if check_mode:
            # An earlier task may be the one that makes it.
            return None
        raise LabError(f"{option}: the folder of {path} does not exist: create it first")
    try:
        with open(path, encoding="utf-8", errors=errors) as file:
            return file.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{option}: {path} can't be read ({error})") from error
