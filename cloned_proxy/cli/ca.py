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
    from cloned_proxy.proxy.inspection.ca import ensure_ca
    from cloned_proxy.store.workspace import Workspace

    place = Workspace.find(workspace)
    place.create()
    certificate = ensure_ca(place.ca_directory)
    if what is What.PATH:
        put(str(certificate))
        return
    say("Only hosts with `methods`, `paths` or `inject` on port 443 are opened; give their clients this CA, no one else.")
    put(f"curl      curl --cacert {certificate} ...")
    put(f"Python    export SSL_CERT_FILE={certificate} REQUESTS_CA_BUNDLE={certificate}")
    put(f"Node      export NODE_EXTRA_CA_CERTS={certificate}")
    put(f"git       git -c http.sslCAInfo={certificate} ...")
    put(f"pip       export PIP_CERT={certificate}")
