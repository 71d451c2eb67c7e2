"""`ca`: the workspace's own certificate authority, which clients of inspected hosts must trust."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from cloned_proxy.cli.place.options import JsonOption, WorkspaceOption


class What(StrEnum):
    PATH = "path"
    INSTALL_HINT = "install-hint"


def ca(
    what: Annotated[What, typer.Argument(help="path prints the certificate's file, install-hint how to trust it.")],
    *,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print where the workspace CA is, or how clients trust it."""
    from cloned_proxy.cli.place.place import workspace_to_write
    from cloned_proxy.cli.show.errors import say
    from cloned_proxy.cli.show.output import put, put_json
    from cloned_proxy.proxy.inspection.certificates.bundle import refresh_bundle
    from cloned_proxy.proxy.inspection.certificates.ca import bundle_path, certificate_path, install_hint
    from cloned_proxy.proxy.inspection.certificates.certificate_authority import CertificateAuthority

    place = workspace_to_write(workspace)
    CertificateAuthority.open(place.ca_directory)
    certificate = str(certificate_path(place.ca_directory))
    if what is What.PATH:
        if as_json:
            put_json({"certificate": certificate})
        else:
            put(certificate)
        return
    refresh_bundle(place.ca_directory)
    hint = install_hint(place.ca_directory)
    if as_json:
        put_json({"certificate": certificate, "bundle": str(bundle_path(place.ca_directory)), "hint": hint})
        return
    say("Only hosts with `methods`, `paths`, `inject` or `registry` are opened with it; trust it for their clients.")
    put(hint)
