"""What `fleet init|publish|rollback|rotate` do."""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cloned_proxy.cli.show.errors import FAILED, CommandError, say
from cloned_proxy.cli.show.output import put, put_json
from cloned_proxy.fleet.link.libraries import need_libraries

if TYPE_CHECKING:
    from cloned_proxy.cli.commands.fleet.fleet_place import FleetPlace
    from cloned_proxy.fleet.operating.publish import PublishedPolicy
    from cloned_proxy.fleet.signed.keys import SigningKey
    from cloned_proxy.fleet.signed.signing import KeyChoice


def make_fleet(directory: Path | None, name: str, store: str | None, key: str) -> None:
    """Makes the key, and shows the settings. Raises CommandError and StoreError."""
    need_libraries()
    from pydantic import ValidationError

    from cloned_proxy.fleet.signed.keys import SigningKey
    from cloned_proxy.fleet.signed.signing import store_key
    from cloned_proxy.store.settings.config_edit import set_fleet
    from cloned_proxy.store.settings.fleet_settings import FleetSettings
    from cloned_proxy.store.workspaces.workspace import Workspace

    made = SigningKey.generate()
    try:
        FleetSettings(name=name, store=store, trust=[made.public])
    except ValidationError as error:
        first = error.errors()[0]
        raise CommandError(f"{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}") from error
    if key not in ("file", "keyring"):
        raise CommandError("--key is file or keyring; a systemd credential is made outside (docs/fleet.md)")
    workspace = Workspace.find(directory)
    workspace.create()
    if workspace.config().fleet is not None:
        raise CommandError(f"{workspace.config_file}: has a `fleet` already; `fleet rotate` makes another key")
    if not store_key(workspace, cast("KeyChoice", key), made):
        raise CommandError(f"{workspace.fleet_key}: there is a key already; delete it if no fleet needs it")
    where = str(workspace.fleet_key) if key == "file" else "the keyring"
    say(f"the signing key is in {where}: keep a copy where you keep keys, and give it to no replica")
    section: dict[str, object] = {"name": name, "store": store, "trust": [made.public]}
    own = section if key == "file" else {**section, "key": key}
    if store is not None:
        set_fleet(workspace.config_file, own)
        say(f"{workspace.config_file} has the fleet now; every replica needs this in its own config.yaml:")
    else:
        say("without --store: `policy:` is the file or https:// of an envelope; into each config.yaml, here too:")
        put("policy: policy.dsse.json")
    put("fleet:")
    put(f"  name: {name}")
    if store is not None:
        put(f"  store: {store}")
    put(f"  trust: ['{made.public}']")


def publish_file(
    directory: Path | None,
    file: Path | None,
    reason: str,
    output: Path | None,
    *,
    new_epoch: bool,
    wait: float,
    json_output: bool,
) -> None:
    """Raises CommandError, PolicyError and StoreError."""
    need_libraries()
    from cloned_proxy.cli.commands.fleet.fleet_place import FleetPlace
    from cloned_proxy.policy.model.preset import used_names
    from cloned_proxy.store.files.policy_bytes import read_policy_bytes
    from cloned_proxy.store.files.yaml_reader import read_document
    from cloned_proxy.store.policyfile.policy_file import policy_from_bytes
    from cloned_proxy.store.workspaces.presets import PresetShelf

    place = FleetPlace.find(directory)
    path = file or place.workspace.own_policy_path(place.config)
    raw = read_policy_bytes(path)
    # The shelf of the replica's copy is not asked: what is published is what this workspace says.
    shelf = PresetShelf(place.workspace.root / "presets")
    policy_from_bytes(raw, source=str(path), now=time.time(), presets=shelf)
    presets = {name: shelf.text(name) for name in used_names(read_document(raw, str(path)).data)}
    keys = place.keys()
    if output is not None:
        _write_envelope(place, raw, presets, reason, output, keys, new_epoch=new_epoch)
        return
    published = place.with_store(
        lambda link, names: place.publisher(link, names, keys).publish(
            raw, presets, author=_author(), reason=reason, new_epoch=new_epoch, wait=wait
        )
    )
    _tell(published, json_output=json_output)


def roll_back(directory: Path | None, version: str, reason: str, *, wait: float, json_output: bool) -> None:
    """Raises CommandError and StoreError."""
    need_libraries()
    from cloned_proxy.cli.commands.fleet.fleet_place import FleetPlace
    from cloned_proxy.fleet.link.link import Link
    from cloned_proxy.fleet.link.names import Names
    from cloned_proxy.fleet.signed.statement import parse_number
    from cloned_proxy.store.policyfile.policy_file import policy_from_bytes
    from cloned_proxy.store.workspaces.presets import PresetShelf

    place, number = FleetPlace.find(directory), parse_number(version)
    keys = place.keys()

    async def work(link: Link, names: Names) -> PublishedPolicy:
        publisher = place.publisher(link, names, keys)
        old = await publisher.old(number)
        shelf = PresetShelf().with_pending(old.presets)
        policy_from_bytes(old.policy, source=f"version {number}", now=time.time(), presets=shelf)
        told = f"rollback to {number}: {reason}"
        return await publisher.publish(old.policy, dict(old.presets), author=_author(), reason=told, wait=wait)

    _tell(place.with_store(work), json_output=json_output)


def rotate_key(directory: Path | None, *, finish: bool, force: bool) -> None:
    """Raises CommandError and StoreError."""
    need_libraries()
    from cloned_proxy.cli.commands.fleet.fleet_place import FleetPlace
    from cloned_proxy.fleet.signed.keys import SigningKey, load_key
    from cloned_proxy.fleet.signed.signing import next_key_file
    from cloned_proxy.store.files.private_file import create_private

    place = FleetPlace.find(directory)
    if place.settings.key == "credential":
        raise CommandError("the key is a systemd credential: replace it there, once every replica trusts the new one")
    place.keys()  # who cannot publish has nothing to rotate
    waiting = next_key_file(place.workspace)
    if not finish:
        fresh = create_private(waiting, SigningKey.generate().pem())
        key = load_key(waiting, missing="")
        say("the next key is made; from now on both sign" if fresh else "the next key is there; both keys sign")
        say("add it to `trust:` of every replica and here, restart them, publish, then `fleet rotate --finish`:")
        put(key.public)
        _tell_who_trusts(place, key)
        return
    if not waiting.exists():
        raise CommandError("there is no next key; `cloned-proxy fleet rotate` makes it")
    key = load_key(waiting, missing="")
    if key.public not in place.settings.trust:
        raise CommandError(f"{place.workspace.config_file}: add {key.public} to `trust` first, here and everywhere")
    lacking = _not_trusting(place, key)
    if lacking and not force:
        raise CommandError(
            f"{', '.join(lacking)} would accept nothing more: add the new key to `trust` there, or say --force",
            code=FAILED,
        )
    _replace_key(place, key, waiting)
    say("the new key signs alone; publish once, then take the old one out of `trust:` everywhere")


def _replace_key(place: FleetPlace, key: SigningKey, waiting: Path) -> None:
    from cloned_proxy.fleet.signed.signing import replace_key

    replace_key(place.workspace, place.settings.key, key)
    waiting.unlink()


def _not_trusting(place: FleetPlace, key: SigningKey) -> list[str]:
    from cloned_proxy.fleet.members.roster import everybody

    if place.settings.store is None:
        return []
    seen = place.with_store(everybody)
    return sorted({each.report.replica for each in seen if each.live and key.id not in each.report.trust})


def _tell_who_trusts(place: FleetPlace, key: SigningKey) -> None:
    from cloned_proxy.fleet.signed.errors import StoreAwayError

    try:
        lacking = _not_trusting(place, key)
    except StoreAwayError as error:
        say(f"who trusts it is not known: {error}")
        return
    if lacking:
        say(f"not trusted yet by {', '.join(lacking)}")


def _write_envelope(  # noqa: PLR0917  what it signs
    place: FleetPlace,
    raw: bytes,
    presets: dict[str, bytes],
    reason: str,
    output: Path,
    keys: list[SigningKey],
    *,
    new_epoch: bool,
) -> None:
    from cloned_proxy.fleet.signed.statement import Number, Statement, seal_statement
    from cloned_proxy.store.files.atomic import write_atomically
    from cloned_proxy.store.files.files import read_regular_file

    epoch, version = 1, 0
    if place.record.exists():
        epoch, version = json.loads(read_regular_file(place.record, limit=1024, what="record of what was published"))
    number = Number(epoch + 1, 1) if new_epoch else Number(epoch, version + 1)
    statement = Statement(place.settings.name, number, raw, presets, time.time(), _author(), reason)
    envelope = seal_statement(statement, keys)
    write_atomically(place.record, json.dumps([number.epoch, number.version]).encode())
    write_atomically(output, envelope + b"\n")
    say(f"version {number} of the fleet {place.settings.name} is in {output}; commit it, or serve it by https://")


def _tell(published: PublishedPolicy, *, json_output: bool) -> None:
    """The outcome; exit 1 where a replica that is live has not got it."""
    if json_output:
        put_json(
            {
                "version": str(published.number),
                "sha256": published.sha256,
                "store_copies": published.copies,
                "in_force": list(published.in_force),
                "behind": list(published.behind),
                "milliseconds": round(published.milliseconds, 1),
            }
        )
    else:
        count = len(published.in_force)
        replicas = f"{count} replica{'' if count == 1 else 's'}"
        after = f" after {published.milliseconds:.0f} ms" if count else ""
        copies = f"; {published.copies} copies of the store have it" if published.copies else ""
        put(f"version {published.number} is published, and in force on {replicas}{after}{copies}")
    if published.behind:
        raise CommandError(f"not in force yet on {', '.join(published.behind)}; see `fleet status`", code=FAILED)


def _author() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
