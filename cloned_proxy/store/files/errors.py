"""The one error family of this package."""

from __future__ import annotations


class StoreError(Exception):
    """A file of the workspace that cannot be used. The message is one line: the path, what is wrong, and the fix."""


class ConflictError(StoreError):
    """The policy file is not the version that whoever asked for the edit has seen. Nothing was changed."""
