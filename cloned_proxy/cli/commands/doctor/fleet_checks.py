"""The checks of `doctor` on a fleet: libraries, store, clock, keys, the last envelope, the policy that narrows."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloned_proxy.cli.commands.doctor.checks import Check, guarded
from cloned_proxy.fleet.link.libraries import need_libraries
from cloned_proxy.policy.reading.narrow import check_narrowing
from cloned_proxy.policy.terms.units import rounded_duration
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.leases.deadline import uptime
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.store.settings.fleet_settings import FleetSettings, is_url
from cloned_proxy.store.workspaces.workspace import Workspace

if TYPE_CHECKING:
    from cloned_proxy.cli.commands.fleet.fleet_place import FleetPlace
    from cloned_proxy.fleet.link.link import Link
    from cloned_proxy.fleet.link.names import Names
    from cloned_proxy.fleet.signed.statement import Number

_COPIES_MS: Final = 1000
_SECONDS: Final = 5.0
_NOBODY: Final = "doctor"
"""A field that no hash of a fleet has."""


@dataclass(frozen=True, slots=True)
class _Said:
    """What the store answered."""

    milliseconds: float
    """How long the store took for one question and its answer."""
    ahead: float
    """Seconds by which this machine's clock is ahead of the store's."""
    copies: int
    """Followers of the store that have acknowledged; 0 where none is asked for."""
    newest: Number
    no_uses: str
    """Why no use of a lease with `max_uses` is given; "" where they are."""


def fleet_checks(workspace: Workspace, policy_flag: Path | None) -> list[Check]:
    """Empty where no fleet is set, and where the settings cannot be read: another check says so."""
    try:
        config = workspace.config()
    except StoreError:
        return []
    settings = config.fleet
    if settings is None:
        return []
    try:
        need_libraries()
    except StoreError as error:
        detail, _, fix = str(error).partition(": ")
        return [Check("fleet", "fail", detail, fix)]
    from cloned_proxy.cli.commands.fleet.fleet_place import FleetPlace

    place = FleetPlace(workspace, config, settings)
    publishes = _publishes(place)
    checks = [Check("fleet", "ok", f"{settings.name}; this machine {'publishes' if publishes else 'is a replica'}")]
    said: _Said | None = None
    if settings.store is None:
        checks.append(guarded("fleet source", lambda: _source(workspace, config.policy)))
    else:
        try:
            said = _ask(place, publishes=publishes)
            checks += [_store(settings, said), _clock(said), _uses(said)]
        except StoreError as error:
            checks.append(Check("fleet store", "fail", *_trouble(settings, str(error))))
    checks.append(guarded("fleet key", lambda: _keys(place, publishes=publishes)))
    checks.append(guarded("fleet policy", lambda: _envelope(place, said, publishes=publishes)))
    if settings.local == "narrow":
        path = policy_flag or workspace.own_policy_path(config)
        checks.append(guarded("fleet local", lambda: _local(workspace, path)))
    return checks


def _publishes(place: FleetPlace) -> bool:
    """Whether a signing key is meant to be here; whether it can be used is a check of its own."""
    return place.settings.key in {"keyring", "credential"} or place.workspace.fleet_key.exists(follow_symlinks=False)


def _ask(place: FleetPlace, *, publishes: bool) -> _Said:
    """Asks the store for what the fleet needs of it. Raises StoreError.

    Nothing changes: the write takes away a field that nobody has. A store that takes no writes (its disk is full, it is
    a follower, its own followers are too few) or lets this user write nothing refuses even that.
    """
    from cloned_proxy.fleet.leases.uses import why_no_uses
    from cloned_proxy.fleet.signed.statement import NOTHING, Number

    async def work(link: Link, names: Names) -> _Said:
        written = names.policy_history if publishes else names.replicas

        async def questions(redis: Any) -> tuple[float, float, int, list[bytes | None]]:
            async with redis.client() as one:  # WAIT speaks of what the same connection wrote
                await one.ping()
                began, wall = time.monotonic(), time.time()
                seconds, micros = await one.time()
                took = time.monotonic() - began
                newest = await one.hmget(names.policy, ["epoch", "version"])
                await one.hdel(written, _NOBODY)
                wanted = place.settings.acknowledged_by
                copies = int(await one.wait(wanted, _COPIES_MS)) if wanted else 0
            return took, wall + took / 2 - (int(seconds) + int(micros) / 1e6), copies, newest

        took, ahead, copies, newest = await link.run(questions, within=_SECONDS)
        try:
            number = Number(int(newest[0] or 0), int(newest[1] or 0))
        except ValueError:
            number = NOTHING
        return _Said(took * 1000, ahead, copies, number, await why_no_uses(link, place.settings.name))

    return place.with_store(work)


def _store(settings: FleetSettings, said: _Said) -> Check:
    detail = f"{settings.store}: answers in {said.milliseconds:.1f} ms, and takes writes"
    wanted = settings.acknowledged_by
    if said.copies < wanted:
        detail = f"{detail}; {said.copies} of its followers acknowledge, `acknowledged_by` wants {wanted}"
        return Check("fleet store", "fail", detail, "start its followers again: until then no lease is given")
    return Check("fleet store", "ok", f"{detail}; {said.copies} followers acknowledge" if wanted else detail)


def _trouble(settings: FleetSettings, error: str) -> tuple[str, str]:
    """What to tell of a store that did not answer as it should, and the fix."""
    if "ACL" in error:
        return error, "give this user the line for it in docs/fleet.md: `ACL SETUSER …` in the store"
    if "credential" in error or "vault" in error:
        return error, "`cloned-proxy vault set fleet.store` (user:password), and `auth: ${vault:fleet.store}`"
    if "refuses" in error:
        return (
            error,
            "its log says why: a full disk, followers that are gone, or it is a follower itself",
        )
    if "certificate" in error.lower() or "CA" in error:
        return error, "name its CA in `fleet: {ca_files: …}`, and its own name in `store:`"
    where = "the socket" if (settings.store or "").startswith("unix:") else "its host and port"
    return error, f"see that it runs, and that {where} can be reached from here"


def _clock(said: _Said) -> Check:
    from cloned_proxy.fleet.tokens.tool_tokens import LEEWAY

    detail = f"{abs(said.ahead):.1f} s {'ahead of' if said.ahead > 0 else 'behind'} the store's"
    if abs(said.ahead) > LEEWAY:
        detail += f"; tokens are checked by this machine's clock, with {LEEWAY:.0f} s of leeway"
        return Check("fleet clock", "warn", detail, "set the clocks by NTP: `timedatectl set-ntp true`, here or there")
    return Check("fleet clock", "ok", detail)


def _uses(said: _Said) -> Check:
    if said.no_uses:
        detail = f"leases with `max_uses` are refused: {said.no_uses}"
        fix = "`cloned-proxy fleet resume` where an approver's key is, once all replicas are back"
        return Check("fleet uses", "warn", detail, fix)
    return Check("fleet uses", "ok", "the store counts the uses of leases")


def _source(workspace: Workspace, policy: str | None) -> Check:
    if policy is None:
        fix = "write one, or `policy:` with the file or https:// of an envelope"
        return Check("fleet source", "fail", "`fleet` has no `store`", fix)
    if is_url(policy):
        return Check("fleet source", "ok", f"{policy}; the line `fleet policy` says when it was last heard")
    path = workspace.root / Path(policy).expanduser()
    if not path.exists():
        return Check("fleet source", "fail", f"{path} does not exist", "put the envelope of `fleet publish` there")
    return Check("fleet source", "ok", str(path))


def _keys(place: FleetPlace, *, publishes: bool) -> Check:
    """The keys that are here can be used, by this user alone. Says public halves and places, nothing else."""
    from cloned_proxy.fleet.signed.keys import load_key

    private = [name for name in ("replica.key", "approver.key") if (place.workspace.fleet_directory / name).exists()]
    for name in private:
        load_key(place.workspace.fleet_directory / name, missing="")
    own = f"; {' and '.join(private)}: private" if private else ""
    if not publishes:
        return Check("fleet key", "ok", f"no signing key, and a replica needs none{own}")
    keys = place.keys()
    strange = [key for key in keys if key.public not in place.settings.trust]
    if strange:
        detail = f"{strange[0].public} signs here, and `trust:` does not name it"
        return Check(
            "fleet key", "warn", detail, f"add it to `trust:` in {place.workspace.config_file}, and everywhere"
        )
    return Check("fleet key", "ok", f"{', '.join(key.public for key in keys)}: private, and trusted here{own}")


def _envelope(place: FleetPlace, said: _Said | None, *, publishes: bool) -> Check:
    """The last policy that came, by its signature; how long ago it was confirmed; and whether there is a newer one."""
    from cloned_proxy.fleet.signed.envelope import Trust
    from cloned_proxy.fleet.signed.statement import open_statement
    from cloned_proxy.fleet.signed_policy.kept import Shelf

    settings, shelf = place.settings, Shelf(place.workspace)
    kept = shelf.load()
    if not kept.envelope:
        if publishes:
            return Check(
                "fleet policy", "ok", "none here: no `serve` has run in this workspace since it is in the fleet"
            )
        detail = "nothing was ever received: a proxy here denies everything"
        return Check(
            "fleet policy", "warn", detail, "`cloned-proxy fleet publish` where the key is; then start `serve`"
        )
    statement = open_statement(kept.envelope, settings.name, Trust(settings.trust))
    unheard = shelf.unheard_seconds(now=time.time(), up=uptime())
    age = rounded_duration(max(0.0, time.time() - statement.issued_at))
    detail = f"version {statement.number}, signed {age} ago by {statement.author}"
    if said is not None and said.newest == statement.number:
        return Check("fleet policy", "ok", f"{detail}; the store has the same")
    confirmed = math.isfinite(unheard)
    when = f"confirmed {rounded_duration(unheard)} ago" if confirmed else "no note of when it was confirmed"
    detail = f"{detail}; {when}"
    if settings.max_staleness is not None and unheard > settings.max_staleness:
        return Check(
            "fleet policy", "fail", f"{detail}: everything is denied", "start `serve`, and see its source above"
        )
    return _beside(said, statement.number, detail)


def _beside(said: _Said | None, number: Number, detail: str) -> Check:
    """The last policy that came, beside what the store names as the newest."""
    if said is None:
        return Check("fleet policy", "ok", detail)
    if said.newest > number:
        fix = "start `serve`; where it runs, its log says what it refuses, and why"
        return Check("fleet policy", "warn", f"{detail}; the store says that {said.newest} is the newest", fix)
    fix = "`cloned-proxy fleet publish --new-epoch` where the key is"
    return Check("fleet policy", "warn", f"{detail}; the store has lost it, and has {said.newest}", fix)


def _local(workspace: Workspace, path: Path) -> Check:
    """The file that `local: narrow` has each request pass as well."""
    if not path.exists(follow_symlinks=False):
        return Check("fleet local", "warn", f"{path} does not exist: nothing is narrowed", "write it, or `local: none`")
    policy = load_policy(path, time.time(), workspace.presets)
    check_narrowing(policy)
    return Check("fleet local", "ok", f"{path} narrows: {len(policy.rules)} rules")
