"""`--version`."""

from __future__ import annotations

from cloned_proxy import __version__


def print_version() -> None:
    """`cloned-proxy 1.2.3` on stdout."""
    print(f"cloned-proxy {__version__}")  # noqa: T201  this is what it was asked for
