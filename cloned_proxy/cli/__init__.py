"""The command line. `main` is the entry point of the installed program."""

from __future__ import annotations

from cloned_proxy.cli.errors import main

__all__ = ["main"]
