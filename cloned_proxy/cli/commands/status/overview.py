"""The state of a workspace at a glance: data for `status --json`, lines for people."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloned_proxy.cli.place.live import LiveProxy, live_proxy
from cloned_proxy.cli.show.entries import lines as entry_lines
from cloned_proxy.cli.show.output import paint, short_path, visible
from cloned_proxy.cli.show.retries import together
from cloned_proxy.cli.show.tables import when
from cloned_proxy.cli.show.waiting import waited_for
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.program_name import in_this_shell
from cloned_proxy.runner.namespaces.netns import may_enter
from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.audit.audit_log import AuditLog, LogEntry
from cloned_proxy.store.audit.tally import Tally
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.store.workspaces.workspace import Workspace

_HOUR: Final = 3600
_LOOKED_AT: Final = 200
"""How many of the newest denials are read; retries of one call are shown as one."""
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Overview:
    workspace: Path
    live: LiveProxy | None
    """None: nothing serves it."""
    policy: dict[str, Any]
    """In force; while nothing serves, what the file says. Keys as in `LiveProxy.policy`."""
    denied_last_hour: int
    denials: tuple[tuple[LogEntry, int], ...]
    """The newest, each with how often; the newest last."""
    pending: int
    """Requests that wait for a person."""
    engine: str | None
    """Name and version of the container engine; None: none answers."""
    probe: dict[str, Any] | None
    """The newest escape probe on record."""
    model: bool
    """Whether the local model of this workspace runs and answers."""
    upstream: dict[str, Any] | None
    """The proxy in front: `proxy`, `resolve`, and the `problem` with it. None: there is none."""

    def as_data(self) -> dict[str, Any]:
        """For JSON, with times in Unix seconds."""
        live = self.live
        return {
            "workspace": str(self.workspace),
            "serving": live is not None,
            "ready": live is not None and not live.problems,
            "problems": list(live.problems) if live is not None else [],
            "addresses": live.addresses if live is not None else None,
            "workers": live.workers if live is not None else 0,
            "tunnels": live.tunnels if live is not None else 0,
            "plane": live.plane if live is not None else None,
            "waiting": list(live.waiting) if live is not None else [],
            "policy": self.policy,
            "denied_last_hour": self.denied_last_hour,
            "denials": [{"times": times, **entry.body} for entry, times in self.denials],
            "pending": self.pending,
            "sandbox": {"engine": self.engine, "probe": self.probe},
            "model": {"healthy": self.model},
            "upstream": self.upstream,
        }


def look(workspace: Workspace, policy_flag: Path | None) -> Overview:
    """Asks what runs, and reads what is on record; writes nothing. Raises StoreError for a state that is broken."""
    live = live_proxy(workspace)
    hour, denials, pending, probe = _on_record(workspace, policy_flag)
    return Overview(
        workspace=workspace.root,
        live=live,
        policy=live.policy if live is not None else _in_file(workspace, policy_flag),
        denied_last_hour=hour,
        denials=denials,
        pending=pending,
        engine=_engine(),
        probe=probe,
        model=_model(workspace),
        upstream=_upstream(workspace),
    )


def _on_record(
    workspace: Workspace, policy_flag: Path | None
) -> tuple[int, tuple[tuple[LogEntry, int], ...], int, dict[str, Any] | None]:
    if not workspace.state_db.exists():
        return 0, (), 0, None
    with AuditLog(workspace.state_db) as audit:
        newest = tuple(together(audit.entries(denied=True, last=_LOOKED_AT)))[-_SHOWN:]
        probe = next(audit.entries(types=("probe",), last=1), None)
    with Tally(workspace.state_db) as tally:
        hour = tally.count(since=time.time() - _HOUR, verdict="deny")
    pending = len(ApprovalService(workspace, policy_flag).list("pending"))
    return hour, newest, pending, probe.body if probe is not None else None


def _in_file(workspace: Workspace, flag: Path | None) -> dict[str, Any]:
    path = workspace.policy_path(flag)
    try:
        policy = load_policy(path, time.time(), workspace.presets)
    except (PolicyError, StoreError) as error:
        return {"source": str(path), "version": "", "mode": "", "rules": 0, "error": str(error)}
    rules, mode = len(policy.rules), policy.mode.value
    return {"source": str(path), "version": policy.version, "mode": mode, "rules": rules, "error": None}


def _engine() -> str | None:
    from cloned_proxy.runner.docker.engine import Engine
    from cloned_proxy.runner.values.errors import SandboxError

    try:
        engine = Engine.connect()
    except SandboxError:
        return None
    try:
        facts = engine.facts()
    except SandboxError:
        return None
    finally:
        engine.close()
    return f"{facts.name} {facts.version}"


def _model(workspace: Workspace) -> bool:
    import os

    from cloned_proxy.runner.llm.health import Health, ask_health
    from cloned_proxy.runner.llm.state import PORT, read_state
    from cloned_proxy.runner.values.errors import SandboxError

    try:
        state = read_state(workspace.root)
    except SandboxError:
        return False
    if state is None or not state.relay_alive:
        return False
    return ask_health(PORT, state.health, os.environ.get("LLM_API_KEY", "")).health is Health.READY


def _upstream(workspace: Workspace) -> dict[str, Any] | None:
    from cloned_proxy.cli.commands.doctor.upstream_check import UpstreamProblemError, ask_upstream

    try:
        settings = workspace.config().upstream
    except StoreError:  # `doctor` says what is wrong with them
        return None
    if not settings.wanted:
        return None
    problem = None
    try:
        ask_upstream(workspace, settings)
    except (UpstreamProblemError, StoreError) as error:
        problem = str(error)
    return {"proxy": settings.proxy or settings.pac, "resolve": settings.resolve, "problem": problem}


def lines(found: Overview) -> Iterator[str]:
    """For people: what serves first, then what it refused."""
    live = found.live
    if live is None:
        yield _line("proxy", paint("nothing serves this workspace", "red") + "; start it: cloned-proxy serve")
    else:
        state = paint("ready", "green") if not live.problems else paint("not ready", "red")
        workers = "" if live.workers == 1 else f", {live.workers} workers"
        yield _line("proxy", f"{live.url('proxy')}  {state}{workers}, open tunnels: {live.tunnels}")
        yield from (_line("", visible(problem)) for problem in live.problems)
        yield _line("plane", f"{live.plane['serving']}: {visible(live.plane['why'])}")
        if live.waiting:
            yield _line("waiting", paint(waited_for(live.waiting), "yellow"))
        yield _line("control", live.url("control") or "off")
        metrics = live.url("metrics")
        yield _line("metrics", f"{metrics}/metrics" if metrics is not None else "off")
    if (upstream := found.upstream) is not None:
        from cloned_proxy.cli.commands.doctor.upstream_check import what_is_known

        problem = upstream["problem"]
        state = what_is_known(upstream["proxy"]) if problem is None else paint(visible(problem), "red")
        names = ", looks names up: no address class is checked" if upstream["resolve"] == "upstream" else ""
        yield _line("upstream", f"{upstream['proxy']}  {state}{names}")
    yield from _policy(found.policy)
    yield _line("denied", f"in the last hour: {found.denied_last_hour}")
    for entry, times in found.denials:
        yield from (f"  {line}" for line in entry_lines(entry.body, times=times))
    if found.pending:
        yield _line("requests", f"{found.pending} wait for a person: cloned-proxy approvals list")
    yield _line("sandbox", f"{found.engine or 'no container engine answers'}, {_probe(found.probe)}")
    yield _line("model", _model_line(found))


def _model_line(found: Overview) -> str:
    if found.model:
        return "answers on 127.0.0.1:8080"
    if found.engine is None:
        return "none; one would run in a container"
    # The model's relay enters its slot, so `llm up` refuses everybody else.
    return "none; start it: cloned-proxy llm up" if may_enter() else "none; root starts it: cloned-proxy llm up"


def _line(name: str, text: str) -> str:
    return f"{name:<9} {in_this_shell(text)}"


def _policy(policy: dict[str, Any]) -> Iterator[str]:
    if policy["version"]:
        mode = paint(policy["mode"], "green" if policy["mode"] == "enforce" else "yellow")
        yield _line("policy", f"{visible(short_path(policy['source']))}, mode {mode}, rules: {policy['rules']}")
        yield _line("", f"version {policy['version']}")
    if policy["error"]:
        kept = "the file is not valid; the version above stays in force" if policy["version"] else "not valid"
        yield _line("" if policy["version"] else "policy", paint(kept, "red"))
        yield from (_line("", visible(short_path(line))) for line in policy["error"].splitlines())


def _probe(probe: dict[str, Any] | None) -> str:
    if probe is None:
        return "never probed: cloned-proxy verify"
    return f"{'sealed' if probe['sealed'] else paint('NOT SEALED', 'red')}, probed {when(probe['at'])}"
