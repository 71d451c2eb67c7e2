"""`proxy`: where this workspace's clients find the proxy."""

from __future__ import annotations

from typing import Annotated

import typer

from cloned_proxy.cli.place.options import JsonOption, WorkspaceOption


def proxy(
    *,
    url: Annotated[str | None, typer.Option("--set", metavar="URL", help="Set the workspace's proxy.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Go back to the default.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print or set where this workspace finds its proxy."""
    from cloned_proxy.cli.place.context import check_proxy_url, proxy_of, wrong_proxy
    from cloned_proxy.cli.place.place import workspace_to_write
    from cloned_proxy.cli.show.errors import CommandError, say
    from cloned_proxy.cli.show.output import put, put_json
    from cloned_proxy.store.settings.config_edit import set_egress_proxy
    from cloned_proxy.store.workspaces.proxy_url import PROXY_VARIABLE
    from cloned_proxy.store.workspaces.workspace import Workspace

    if url is not None and clear:
        raise CommandError("--set and --clear exclude each other; use one of them")
    if url is not None:
        check_proxy_url(url, "--set")
    changes = url is not None or clear
    place = workspace_to_write(workspace) if changes else Workspace.find(workspace)
    if changes:
        set_egress_proxy(place.config_file, url)
    known = proxy_of(place)
    if as_json:
        put_json(
            {
                "workspace": known.workspace,
                "environment": known.environment,
                "serving": known.serving,
                "effective": known.effective,
            }
        )
        return
    put(f"workspace    {known.workspace or '(not set)'}")
    put(f"{PROXY_VARIABLE}  {known.environment or '(not set)'}")
    put(f"serving      {known.serving or '(nothing serves this workspace)'}")
    put(f"effective    {known.effective}")
    if problem := wrong_proxy(place, known):
        say(f"cloned-proxy: {problem}")
