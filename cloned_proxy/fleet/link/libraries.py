"""The libraries of the extra `fleet`, asked for only where a fleet is set up."""

from __future__ import annotations

import importlib

from cloned_proxy.fleet.signed.errors import FleetError


def need_libraries() -> None:
    """Raises FleetError with the command that installs what is missing."""
    for name in ("redis.asyncio", "securesystemslib.dsse", "jwt"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise FleetError(f"`fleet` needs {error.name}: pip install 'cloned-proxy[fleet]'") from error
