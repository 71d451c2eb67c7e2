"""`pair`, `devices`: who may use the control UI and API."""

from __future__ import annotations

from typing import Annotated

import typer

from cloned_proxy.cli.place.options import JsonOption, WorkspaceOption


def pair(
    *,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What the log will call the device.")] = "",
    api: Annotated[bool, typer.Option("--api", help="Print a bearer token for an API client instead.")] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="With --api: a token that changes nothing.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a one-time code and a link that pair a browser."""
    from cloned_proxy.cli.editing.editing import actor
    from cloned_proxy.cli.place.live import live_proxy
    from cloned_proxy.cli.place.place import workspace_to_write
    from cloned_proxy.cli.show.errors import FAILED, CommandError, say
    from cloned_proxy.cli.show.output import iso_time, put, put_json
    from cloned_proxy.cli.show.qr import show_qr
    from cloned_proxy.store.workspaces.devices import Devices, PairingLockedError, valid_device_name

    if name and not valid_device_name(name):
        raise CommandError(f"--name {name!r}: letters, digits, spaces and .()@+-_ only, at most 64, a letter first")
    if read_only and not api:
        raise CommandError("--read-only is for --api: a browser is paired to decide")
    place = workspace_to_write(workspace)
    devices = Devices(place.state_db)
    if api:
        paired = devices.issue(name, actor=actor(), read_only=read_only)
        if as_json:
            put_json({"id": paired.device.id, "name": paired.device.name, "token": paired.token})
            return
        put(paired.token)
        say(f"paired as {paired.device.name}; send it as `Authorization: Bearer …`; it is not shown again")
        return
    try:
        code = devices.new_code(name)
    except PairingLockedError as error:
        raise CommandError(str(error), code=FAILED) from error
    live = live_proxy(place)
    page = live.url("control") if live is not None else None
    link = f"{page}/pair#code={code.text}" if page is not None else None
    if as_json:
        put_json({"code": code.text, "expires": iso_time(code.expires), "page": page, "link": link})
        return
    put(code.text)
    if link is None:
        why = "the control UI is off" if live is not None else "nothing serves this workspace yet"
        say(f"type it into the page that `serve` names as control ({why}); it works once, for five minutes")
        return
    say(f"type it into {page}, or open")
    say(link)  # alone on its line, so that a narrow terminal does not break it
    say("it works once, for five minutes")
    show_qr(link)


app = typer.Typer(help="Devices that are paired with the control UI and API.", invoke_without_command=True)


@app.callback()
def devices(context: typer.Context, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Print the paired devices; `devices revoke ID` ends one."""
    from cloned_proxy.cli.place.context import existing_workspace
    from cloned_proxy.cli.show.errors import say
    from cloned_proxy.cli.show.output import iso_time, put_json
    from cloned_proxy.cli.show.tables import ago, show_table, until
    from cloned_proxy.store.workspaces.devices import Devices

    if context.invoked_subcommand is not None:
        return
    found = Devices(existing_workspace(workspace).state_db).list()
    if as_json:
        put_json(
            [
                {
                    "id": device.id,
                    "name": device.name,
                    "kind": device.kind,
                    "created": iso_time(device.created),
                    "expires": iso_time(device.expires),
                    "seen": iso_time(device.seen) if device.seen is not None else None,
                }
                for device in found
            ]
        )
        return
    if not found:
        say("no device is paired; `cloned-proxy pair` pairs one")
        return
    rows = [
        (
            device.id,
            device.name,
            device.kind,
            ago(device.created),
            ago(device.seen, never="never"),
            until(device.expires),
        )
        for device in found
    ]
    show_table(rows, ("ID", "NAME", "KIND", "PAIRED", "SEEN", "EXPIRES"))


@app.command("revoke")
def revoke(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="As `devices` prints it.")],
    *,
    workspace: WorkspaceOption = None,
) -> None:
    """End what a device may do, at once."""
    from cloned_proxy.cli.editing.editing import actor
    from cloned_proxy.cli.place.context import existing_workspace
    from cloned_proxy.cli.show.errors import FAILED, CommandError, say
    from cloned_proxy.store.workspaces.devices import Devices

    device = Devices(existing_workspace(workspace).state_db).revoke(identifier, actor=actor())
    if device is None:
        raise CommandError(f"no device {identifier!r}; `cloned-proxy devices` lists them", code=FAILED)
    say(f"done: {device.name} ({device.id}) may do nothing any more")
