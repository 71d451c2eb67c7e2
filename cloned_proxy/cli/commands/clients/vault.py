"""`vault set|canary|list|remove`: secrets that rules inject, and values that are made to be stolen.

A value is read from a prompt or stdin, never from argv.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cloned_proxy.cli.place.options import JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from cloned_proxy.store.vault.vault import Vault

app = typer.Typer(help="Secrets that the proxy injects.", no_args_is_help=True, rich_markup_mode=None)

_MAX_INPUT: Final = 65_536
"""Characters of stdin that are looked at; no secret is as long."""
_CANARY_CHARACTERS: Final = 40
_NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Such as llm.api_key.")]


@app.command("set")
def set_secret(name: _NameArgument, *, workspace: WorkspaceOption = None) -> None:
    """Store or replace a secret. It is asked for at the prompt, or read from stdin."""
    from cloned_proxy.cli.show.errors import CommandError, say
    from cloned_proxy.policy.secrets.secret import valid_secret_name
    from cloned_proxy.policy.secrets.spelling import why_not_watched

    if not valid_secret_name(name):
        raise CommandError(f"{name!r} is not the name of a secret; write lower-case words such as llm.api_key")
    vault, value = _vault(workspace, create=True), _value_of(name)
    vault.set(name, value)
    say(f"{name} is in {vault.path}; a running proxy uses it from now on")
    if why := why_not_watched(value):
        say(f"requests are not searched for it on its way to other hosts: {why}")


@app.command("canary")
def make_canary(
    name: _NameArgument,
    *,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="FILE", help="Put it into this new file instead of showing it.")
    ] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Make bait: a request that carries it is refused and alarms."""
    from cloned_proxy.cli.show.errors import CommandError, say
    from cloned_proxy.policy.secrets.secret import valid_secret_name

    if not valid_secret_name(name):
        raise CommandError(f"{name!r} is not the name of a secret; write lower-case words such as bait.github")
    vault = _vault(workspace, create=True)
    if name in vault.secrets():
        raise CommandError(f"{vault.path}: holds {name!r} already; `cloned-proxy vault remove {name}` takes it out")
    value = _new_canary()
    if write is not None:
        _write_new(write, value)
    try:
        vault.set(name, value, canary=True)
    except BaseException:
        if write is not None:
            write.unlink(missing_ok=True)
        raise
    if write is None:
        typer.echo(value)
    place = f"in {write}" if write is not None else "above, and is not shown again"
    say(f"the canary {name} is {place}; put it where no tool has to read, such as a decoy .env or ~/.netrc")
    say("a running proxy refuses each plain or opened request that carries it: reason secret_leak")


@app.command("list")
def list_secrets(*, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Print the names of the secrets and when each was set."""
    from cloned_proxy.cli.show.errors import say
    from cloned_proxy.cli.show.output import iso_time, put_json
    from cloned_proxy.cli.show.tables import ago, show_table

    secrets = _vault(workspace).secrets().values()
    if as_json:
        put_json([{"name": each.name, "set": iso_time(each.since), "canary": each.canary} for each in secrets])
        return
    if not secrets:
        say("the vault is empty; `cloned-proxy vault set NAME` puts a secret into it")
        return
    rows = [(secret.name, ago(secret.since), "canary" if secret.canary else "secret") for secret in secrets]
    show_table(rows, ("NAME", "SET", "KIND"))


@app.command("remove")
def remove_secret(name: _NameArgument, *, workspace: WorkspaceOption = None) -> None:
    """Remove a secret; rules that inject it refuse from then on."""
    from cloned_proxy.cli.show.errors import say

    vault = _vault(workspace)
    vault.remove(name)
    say(f"{name} is no longer in {vault.path}")


def _new_canary() -> str:
    """Looks like a key, of no service in particular."""
    import secrets
    import string

    return "sk-" + "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(_CANARY_CHARACTERS))


def _write_new(path: Path, value: str) -> None:
    """Makes the file, for its owner alone. Raises CommandError where there is one, or where none can be made."""
    import os

    from cloned_proxy.cli.show.errors import CommandError

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise CommandError(f"{path}: is there already; name a new file, or leave --write out and paste it") from None
    except OSError as error:
        raise CommandError(f"{path}: cannot be made: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{value}\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise CommandError(f"{path}: cannot be written: {error.strerror}") from None


def _vault(directory: Path | None, *, create: bool = False) -> Vault:
    from cloned_proxy.cli.place.context import existing_workspace
    from cloned_proxy.cli.place.place import workspace_to_write
    from cloned_proxy.store.vault.vault import Vault

    place = workspace_to_write(directory) if create else existing_workspace(directory)
    return Vault(place, place.config().vault.key)


def _value_of(name: str) -> str:
    """One line, without its end. Raises CommandError for a prompt that was left."""
    import getpass
    import sys

    from cloned_proxy.cli.show.errors import CommandError

    try:
        if sys.stdin.isatty():
            return getpass.getpass(f"value of {name} (not shown): ")
        text = sys.stdin.read(_MAX_INPUT)
    except (EOFError, KeyboardInterrupt) as error:
        raise CommandError("nothing was set") from error
    except UnicodeDecodeError:
        raise CommandError(f"{name}: the value is not text; give one line of ASCII") from None
    return text.removesuffix("\n").removesuffix("\r")
