"""`ca`: the workspace's own certificate authority, which clients of inspected hosts must trust."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from cloned_proxy.cli.options import WorkspaceOption


class What(StrEnum):
    PATH = "path"
    INSTALL_HINT = "install-hint"


def ca(
    what: Annotated[What, typer.Argument(help="path prints the certificate's file, install-hint how to trust it.")],
    *,
    workspace: WorkspaceOption = None,
) -> None:
    """Print where the workspace CA is, or how clients come to trust it."""
    from cloned_proxy.cli.errors import say
    from cloned_proxy.cli.output import put
    from cloned_proxy.proxy.inspection.authority import Authority
    from cloned_proxy.proxy.inspection.bundle import refresh_bundle
    from cloned_proxy.proxy.inspection.ca import certificate_path, install_hint
    from cloned_proxy.store.workspace import Workspace

    place = Workspace.find(workspace)
    place.create()
    Authority.open(place.ca_directory)
    if what is What.PATH:
        put(str(certificate_path(place.ca_directory)))
        return
    refresh_bundle(place.ca_directory)
    say("Only hosts with `methods`, `paths` or `inject` on port 443 are opened with it; trust it for their clients.")
    put(install_hint(place.ca_directory))
