"""`vault set|list|remove`: secrets that rules inject. A value is read from a prompt or stdin, never from argv."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from cloned_proxy.cli.options import JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from pathlib import Path

    from cloned_proxy.store.vault import Vault

app = typer.Typer(help="Secrets that the proxy injects.", no_args_is_help=True, rich_markup_mode=None)

_MAX_INPUT: Final = 65_536
"""Characters of stdin that are looked at; no secret is as long."""
_NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Such as llm.api_key.")]


@app.command("set")
def set_secret(name: _NameArgument, *, workspace: WorkspaceOption = None) -> None:
    """Store or replace a secret. It is asked for at the prompt, or read from stdin."""
    from cloned_proxy.cli.errors import CommandError, say
    from cloned_proxy.policy.secret import valid_secret_name

    if not valid_secret_name(name):
        raise CommandError(f"{name!r} is not the name of a secret; write lower-case words such as llm.api_key")
    vault = _vault(workspace, create=True)
    vault.set(name, _value_of(name))
    say(f"{name} is in {vault.path}; a running proxy uses it from now on")


@app.command("list")
def list_secrets(*, workspace: WorkspaceOption = None, json_output: JsonOption = False) -> None:
    """Print the names of the secrets and when each was set."""
    from cloned_proxy.cli.errors import say
    from cloned_proxy.cli.output import iso_time, put_json
    from cloned_proxy.cli.tables import ago, show_table

    secrets = _vault(workspace).secrets().values()
    if json_output:
        put_json([{"name": secret.name, "set": iso_time(secret.since)} for secret in secrets])
        return
    if not secrets:
        say("the vault is empty; `cloned-proxy vault set NAME` puts a secret into it")
        return
    show_table([(secret.name, ago(secret.since)) for secret in secrets], ("NAME", "SET"))


@app.command("remove")
def remove_secret(name: _NameArgument, *, workspace: WorkspaceOption = None) -> None:
    """Remove a secret; rules that inject it refuse from then on."""
    from cloned_proxy.cli.errors import say

    vault = _vault(workspace)
    vault.remove(name)
    say(f"{name} is no longer in {vault.path}")


def _vault(directory: Path | None, *, create: bool = False) -> Vault:
    from cloned_proxy.cli.context import existing_workspace
    from cloned_proxy.cli.place import workspace_to_write
    from cloned_proxy.store.vault import Vault

    place = workspace_to_write(directory) if create else existing_workspace(directory)
    return Vault(place, place.config().vault.key)


def _value_of(name: str) -> str:
    """One line, without its end. Raises CommandError for a prompt that was left."""
    import getpass
    import sys

    from cloned_proxy.cli.errors import CommandError

    try:
        if sys.stdin.isatty():
            return getpass.getpass(f"value of {name} (not shown): ")
        text = sys.stdin.read(_MAX_INPUT)
    except (EOFError, KeyboardInterrupt) as error:
        raise CommandError("nothing was set") from error
    except UnicodeDecodeError:
        raise CommandError(f"{name}: the value is not text; give one line of ASCII") from None
    return text.removesuffix("\n").removesuffix("\r")
