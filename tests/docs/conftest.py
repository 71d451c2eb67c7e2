"""The documents are tested with the same real processes as the command line."""

from tests.cli.conftest import origin, workspace

__all__ = ["origin", "workspace"]
