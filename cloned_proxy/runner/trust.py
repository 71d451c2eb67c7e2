"""The roots that a tool trusts when a rule of its policy opens TLS."""

from __future__ import annotations

from pathlib import Path

from cloned_proxy.runner.spec import CA_FILE


def write_ca(scratch: Path, workspace_ca: str) -> Path:
    """The public roots and the workspace's own, in one file that every client's variable can name."""
    import certifi  # noqa: PLC0415  most runs open no TLS

    path = scratch / Path(CA_FILE).name
    path.write_text(Path(certifi.where()).read_text(encoding="ascii") + "\n" + workspace_ca, encoding="ascii")
    path.chmod(0o444)
    return path
