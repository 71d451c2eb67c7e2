"""The checks of `doctor`: each looks at one thing, changes nothing, and says what to do."""

from __future__ import annotations

import importlib.util
import os
import platform
import resource
import shlex
import shutil
import socket
import sqlite3
import stat
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cloned_proxy.cli.place.context import proxy_of, wrong_proxy
from cloned_proxy.cli.place.live import live_proxy
from cloned_proxy.cli.place.open_files import open_to_others
from cloned_proxy.cli.show.errors import CommandError
from cloned_proxy.policy.hints.breadth import findings
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.secrets.secret import filled, references
from cloned_proxy.proxy.plane.choice import PlaneMode, choose
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.store.settings.config import SandboxSettings
from cloned_proxy.store.vault.live_vault import ENVIRONMENT, LiveVault
from cloned_proxy.store.vault.vault import Vault
from cloned_proxy.store.workspaces.keys import load_key
from cloned_proxy.store.workspaces.workspace import Workspace

type Status = Literal["ok", "warn", "fail"]

_OPEN_FILES: Final = 65_536
_NAMED: Final = 5
_NEEDED_PYTHON: Final = (3, 12)
_PORTS: Final = {"proxy": 8081, "control": 8082, "metrics": 8083}
_OTHER: Final = {
    "proxy": "--listen 127.0.0.1:0",
    "control": "--control 127.0.0.1:0",
    "metrics": "--metrics 127.0.0.1:0",
}


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    status: Status
    detail: str
    fix: str = ""


def run_checks(directory: Path | None, policy_flag: Path | None) -> list[Check]:
    """Every check, in the order in which `serve` would meet them."""
    workspace = Workspace.find(directory)
    checks = [_python(), _platform(), _open_files(), _event_loop(), _plane(workspace), _workspace(workspace)]
    if workspace.root.is_dir():
        checks += [
            _files(workspace),
            guarded("settings", lambda: _settings(workspace)),
            guarded("policy", lambda: _policy(workspace, policy_flag)),
            guarded("identity", lambda: _identity(workspace)),
            guarded("vault", lambda: _vault(workspace, policy_flag)),
            guarded("notify", lambda: _notify(workspace)),
            guarded("upstream", lambda: _upstream(workspace)),
            _state(workspace),
            guarded("proxy", lambda: _proxy(workspace)),
        ]
    return checks + _ports(workspace)


def guarded(name: str, check: Callable[[], Check]) -> Check:
    """The check, or the first line of the error that `serve` would stop with: those carry their fix after a `;`."""
    try:
        return check()
    except (StoreError, PolicyError, CommandError) as error:
        detail, _, fix = str(error).partition("\n")[0].rpartition("; ")
        return Check(name, "fail", detail or fix, fix if detail else "see the message")


def _python() -> Check:
    found = platform.python_version()
    if sys.version_info >= _NEEDED_PYTHON:
        return Check("python", "ok", found)
    return Check("python", "fail", found, "use Python 3.12 or newer; `make setup` brings 3.13")


def _platform() -> Check:
    if sys.platform == "linux":
        return Check("platform", "ok", f"Linux {platform.release()}")
    return Check("platform", "warn", sys.platform, "run on Linux: nothing else is tested")


def _open_files() -> Check:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= _OPEN_FILES:
        return Check("open files", "ok", f"up to {hard}" if hard != resource.RLIM_INFINITY else "unlimited")
    return Check("open files", "warn", f"at most {hard}; each tunnel takes two", f"raise it: ulimit -Hn {_OPEN_FILES}")


def _event_loop() -> Check:
    if importlib.util.find_spec("uvloop") is not None:
        return Check("event loop", "ok", "uvloop")
    return Check("event loop", "warn", "the standard one, which is slower", "install uvloop")


def _plane(workspace: Workspace) -> Check:
    """What serves tunnels: of the proxy that runs, else what `serve` would take. Python is slower, and no fault."""
    live = live_proxy(workspace)
    if live is None:
        said = choose(PlaneMode.AUTO).as_data(behind_balancer=_is_behind_balancer(workspace))
    else:
        said = live.plane
    serving, why = said["serving"], said["why"]
    if serving == "native":
        return Check("plane", "ok", f"{serving}: {why}")
    detail, _, fix = why.partition("; ")
    return Check("plane", "ok", f"{serving}: {detail}", fix)


def _is_behind_balancer(workspace: Workspace) -> bool:
    """Whether the settings name load balancers; not where they are not valid, which is a check of its own."""
    try:
        return bool(workspace.config().listen.networks)
    except StoreError:
        return False


def _workspace(workspace: Workspace) -> Check:
    root = workspace.root
    if not root.is_dir():
        return Check("workspace", "warn", f"{root} does not exist", "`cloned-proxy serve` makes it")
    info = root.stat()
    if info.st_uid != os.geteuid():
        return Check("workspace", "fail", f"{root} belongs to user {info.st_uid}", "run as that user")
    if stat.S_IMODE(info.st_mode) & 0o077:
        return Check("workspace", "fail", f"{root} is open to other users", f"chmod 700 {root}")
    if not os.access(root, os.W_OK | os.X_OK):
        return Check("workspace", "fail", f"{root} is read-only", "mount it writable, or use --workspace DIR")
    return Check("workspace", "ok", str(root))


def _files(workspace: Workspace) -> Check:
    """Files of the workspace that other users can read; the directory's mode protects them, until it does not."""
    found = sorted(open_to_others(workspace.root))
    if not found:
        return Check("permissions", "ok", "files are private")
    names = ", ".join(str(path.relative_to(workspace.root)) for path in found[:_NAMED])
    fix = f"chmod go= {shlex.join(map(str, found[:_NAMED]))}"
    return Check("permissions", "warn", f"{len(found)} open to other users: {names}", fix)


def _settings(workspace: Workspace) -> Check:
    workspace.config()
    found = "config.yaml" if workspace.config_file.exists() else "defaults"
    return Check("settings", "ok", found)


def _policy(workspace: Workspace, flag: Path | None) -> Check:
    path = workspace.policy_path(flag)
    if not path.exists() and path == workspace.policy_file:
        if workspace.config().fleet is not None:  # the check `fleet policy` says whether one has come, and the fix
            return Check("policy", "ok", "the fleet's, and none has come yet")
        return Check("policy", "warn", f"{path} does not exist", "`cloned-proxy serve` puts the shipped default there")
    policy = load_policy(path, time.time(), workspace.presets_for(path))
    detail = f"{path}: version {policy.version}, {len(policy.rules)} rules, mode {policy.mode}"
    if policy.mode == "report":
        return Check("policy", "warn", detail, "report lets everything pass; set `mode: enforce` to protect")
    if policy.reporting:
        what = f"{detail}; report for {', '.join(policy.reporting)}"
        return Check(
            "policy", "warn", what, "report lets everything pass; take `mode: report` out of the tool to protect"
        )
    if wide := findings(policy):
        more = f", and {len(wide) - 1} more" if len(wide) > 1 else ""
        return Check("policy", "warn", f"{wide[0]}{more}", "`cloned-proxy policy check` has all of them")
    return Check("policy", "ok", detail)


def _identity(workspace: Workspace) -> Check:
    if not workspace.identity_key.exists():
        return Check("identity", "ok", "no key yet; made on first use")
    load_key(workspace.identity_key)
    return Check("identity", "ok", "the key is private")


def _vault(workspace: Workspace, flag: Path | None) -> Check:
    vault = Vault(workspace, workspace.config().vault.key)
    held = vault.secrets()
    path = workspace.policy_path(flag)
    rules = load_policy(path, time.time(), workspace.presets_for(path)).rules if path.exists() else ()
    injecting = [(rule, rule.inject) for rule in rules if rule.inject is not None]
    given = {name for name, variable in ENVIRONMENT.items() if os.environ.get(variable)}
    for rule, inject in injecting:
        missing = [name for name in references(inject.value) if name not in held and name not in given]
        if missing:
            detail = f"{rule.origin} injects {missing[0]}, which is not there: its calls are refused"
            return Check("vault", "warn", detail, f"`cloned-proxy vault set {missing[0]}`")
    return Check("vault", "ok", f"secrets: {len(held)}, rules that inject: {len(injecting)}")


def _notify(workspace: Workspace) -> Check:
    config = workspace.config()
    settings = config.notify
    if not settings.wanted:
        return Check("notify", "ok", "off")
    if settings.desktop and shutil.which("notify-send") is None:
        return Check("notify", "warn", "notify-send is not installed", "install libnotify-bin")
    if settings.webhook is not None:
        from cloned_proxy.notify.webhook import WebhookError, signer
        from cloned_proxy.store.settings.notify_settings import check_webhook_url

        value_of = LiveVault(Vault(workspace, config.vault.key), os.environ).value_of
        try:
            check_webhook_url(filled(settings.webhook.url, value_of))
            signer(filled(settings.webhook.secret, value_of))
        except (WebhookError, ValueError) as error:
            return Check("notify", "warn", f"the webhook: {error}", "put it right; until then nothing is sent")
    channels = " and ".join(
        name for name, wanted in (("desktop", settings.desktop), ("webhook", settings.webhook)) if wanted
    )
    return Check("notify", "ok", f"{channels}, on {' and '.join(settings.events)}")


def _upstream(workspace: Workspace) -> Check:
    from cloned_proxy.cli.commands.doctor.upstream_check import upstream_check

    return upstream_check(workspace)


def _state(workspace: Workspace) -> Check:
    path = workspace.state_db
    if not path.exists():
        return Check("state", "ok", "no log yet; made on first use")
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as state:
            verdict = state.execute("PRAGMA quick_check(1)").fetchone()[0]
            gone = state.execute("SELECT value FROM meta WHERE key = 'anchor_seq'").fetchone()
    except sqlite3.Error as error:
        return Check("state", "fail", f"{path}: {error}", f"move it away (mv {path} {path}.broken); a new one is made")
    if verdict != "ok":
        return Check(
            "state", "fail", f"{path}: {verdict}", f"move it away (mv {path} {path}.broken); a new one is made"
        )
    return Check("state", "ok", f"{path}, {_size_of_log(workspace)}{_what_is_gone(gone)}")


def _size_of_log(workspace: Workspace) -> str:
    size = f"{workspace.state_db.stat().st_size / 2**20:.1f} MiB"
    try:
        return f"{size} of {workspace.config().audit.max_mib} MiB (audit.max_mib)"
    except StoreError:  # a check of its own
        return size


def _what_is_gone(anchor: tuple[str] | None) -> str:
    """What retention has removed. The chain begins behind it, and holds from there on."""
    gone = int(anchor[0]) if anchor is not None else 0
    return f"; the oldest {gone} entries have gone by age or size" if gone else ""


def _proxy(workspace: Workspace) -> Check:
    found = proxy_of(workspace)
    if problem := wrong_proxy(workspace, found):
        return Check("proxy", "warn", problem, "take back what names it; `token` gives no credential for it")
    if found.known is None:
        return Check("proxy", "ok", f"none serves this workspace; `serve` would listen on {found.authority}")
    return Check("proxy", "ok", found.effective)


def configured_images(workspace: Workspace) -> list[str]:
    """Images that the settings give to tools; none where those are not valid, which is a check of its own."""
    try:
        sandbox = workspace.config().sandbox
    except StoreError:
        return []
    return [*([sandbox.image] if sandbox.image else []), *sandbox.images.values()]


def configured_names(workspace: Workspace) -> str:
    """`sandbox.name_addresses`; its default where the settings are not valid."""
    try:
        return workspace.config().sandbox.name_addresses
    except StoreError:
        return SandboxSettings().name_addresses


def _ports(workspace: Workspace) -> list[Check]:
    """The ports of the proxy that serves this workspace; while none does, whether the usual ones are free."""
    live = live_proxy(workspace)
    if live is None:
        return [_port(name, port) for name, port in _PORTS.items()]
    if live.problems:
        detail = f"not ready: {live.problems[0]}"
        return [Check("proxy port", "warn", detail, "`cloned-proxy status` has all of it")]
    held = [(f"{name} port", live.addresses[name]) for name in _PORTS]
    return [Check(name, "ok", f"{at}: our own serve" if at is not None else "off") for name, at in held]


def _port(name: str, port: int) -> Check:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            detail = f"127.0.0.1:{port}: {error.strerror}, and not by a proxy of this workspace"
            return Check(
                f"{name} port", "warn", detail, f"stop what listens there, or `cloned-proxy serve {_OTHER[name]}`"
            )
    return Check(f"{name} port", "ok", f"127.0.0.1:{port} is free")
