"""The one error type of the embedded provider: a line for the user that names the fix."""

from __future__ import annotations


class LabError(Exception):
    """Something the user can act on. ``str(error)`` is the whole message."""
