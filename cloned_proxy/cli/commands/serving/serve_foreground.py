"""The life of `serve`: start, say what listens where, wait for a signal, stop gently or at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from cloned_proxy.cli.commands.serving.canary import probe_forever
from cloned_proxy.cli.commands.serving.control import Control
from cloned_proxy.cli.commands.serving.probe_apart import ProbeApart
from cloned_proxy.cli.commands.serving.serve_process import (
    new_event_loop,
    raise_open_files,
    signals_handled,
    tame_garbage_collector,
)
from cloned_proxy.cli.commands.serving.supervision import READY, STOPPING, notify, tell_watchdog
from cloned_proxy.cli.commands.serving.warm_starter import Starter
from cloned_proxy.cli.commands.serving.watch import denials_shown
from cloned_proxy.cli.show.errors import FAILED, CommandError
from cloned_proxy.cli.show.examples import allowed_example, denied_example
from cloned_proxy.cli.show.output import put, short_path
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.host_port import host_port
from cloned_proxy.policy.terms.vocabulary import Anonymous
from cloned_proxy.program_name import NAME, program_name
from cloned_proxy.proxy.serving.options import ServeOptions
from cloned_proxy.proxy.serving.server import Server
from cloned_proxy.proxy.serving.supervisor import Supervisor
from cloned_proxy.runner.slots.caretaker import Caretaker
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.private_memory import keep_memory_private
from cloned_proxy.store.workspaces.serving import Serving, announced
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.log import LogFormat

_log = structlog.get_logger(__name__)


def run_in_foreground(
    options: ServeOptions, *, directory: Path | None, workers: int, log_format: LogFormat = "console"
) -> None:
    """Serves until a signal. Raises StoreError, PolicyError, BindError or CommandError when it cannot start.

    `options.control` is where the control process is to listen.
    """
    raise_open_files()
    keep_memory_private()
    # Libraries that log by the standard way say what is wrong and nothing else: decisions are on record already.
    logging.getLogger().setLevel(logging.WARNING)
    workspace = Workspace.find(directory)
    warm = Starter(workspace.root)
    with contextlib.closing(warm), Control.bind(workspace, options, log_format) as control:
        options = replace(
            options,
            control=control.address,
            probe=ProbeApart(),
            log_format=log_format,
            caretaker=Caretaker(workspace.root, on_command=warm.want),
        )
        if workers > 1:
            _supervise(workspace, options, workers, control)
            return
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_serve(Server(workspace, options), control, warm))


def _supervise(workspace: Workspace, options: ServeOptions, workers: int, control: Control) -> None:
    supervisor = Supervisor(
        workspace, options, workers=workers, loop_factory=new_event_loop, companion=control.companion()
    )

    announcement = ExitStack()

    def ready() -> None:
        _tell_other_commands(announcement, supervisor, control)
        _announce(supervisor, control)
        _warn_of_exposure(supervisor)

    tame_garbage_collector()  # the workers inherit it
    with denials_shown(workspace.state_db, wanted=control.options.log_format == "console"), announcement:
        if not supervisor.run(on_ready=ready):
            raise CommandError("not every worker could start; see the messages above", code=FAILED)


async def _serve(server: Server, control: Control, warm: Starter) -> None:
    asked_to_stop = asyncio.Event()

    def stop() -> None:
        if asked_to_stop.is_set():
            server.cut()
        asked_to_stop.set()

    await server.start()
    unused = asyncio.create_task(_stop_when_unused(server, stop))
    interval, prober = server.workspace.config().sandbox.probe_interval, server.prober
    canary = asyncio.create_task(probe_forever(prober, interval)) if interval and prober is not None else None
    beside = asyncio.create_task(control.keep_running(server.address))
    tame_garbage_collector()
    with signals_handled(stop=stop, reload=server.reload_soon), ExitStack() as announcement:
        announcement.enter_context(
            denials_shown(server.workspace.state_db, wanted=control.options.log_format == "console")
        )
        _tell_other_commands(announcement, server, control)
        _announce(server, control)
        _warn_of_exposure(server)
        notify(READY)
        watchdog = asyncio.create_task(tell_watchdog())
        await asked_to_stop.wait()
        notify(STOPPING)
        if canary is not None:
            canary.cancel()
            await asyncio.gather(canary, return_exceptions=True)
        # While the proxy still hears that they have removed everything.
        await asyncio.to_thread(warm.close)
        _log.info("stopping: open flows may end by themselves, a second signal cuts them")
        await server.stop()
        for task in (watchdog, beside, unused):
            task.cancel()
        await asyncio.gather(beside, unused, return_exceptions=True)
        _log.info("stopped")


async def _stop_when_unused(server: Server, stop: Callable[[], None]) -> None:
    """The life of a borrowed proxy. Until the first one holds it, its standard input is the hold of who started it."""
    loop = asyncio.get_running_loop()

    def starter_left() -> None:
        loop.remove_reader(0)
        if not server.holders.holding:
            server.unused.set()

    if server.holders.standby:
        loop.add_reader(0, starter_left)
    await server.unused.wait()
    server.cut()  # what is still open belongs to nobody
    stop()


def _tell_other_commands(announcement: ExitStack, server: Server | Supervisor, control: Control) -> None:
    """Lets `allow` or `token` in another directory find this proxy. A failure is logged and costs nothing else."""
    serving = Serving(
        workspace=server.workspace.root,
        policy=Path(server.policy.source),
        proxy=server.address,
        control=host_port(*control.address) if control.address else None,
        metrics=server.metrics_address,
        pid=os.getpid(),
        since=time.time(),
    )
    try:
        announcement.enter_context(announced(serving))
    except StoreError as error:
        _log.warning("commands in other directories cannot find this proxy", reason=str(error))


def _warn_of_exposure(server: Server | Supervisor) -> None:
    host = urlsplit(f"//{server.address}").hostname or ""
    if not ip_address(host).is_loopback:
        whom = "nothing" if server.policy.anonymous is Anonymous.DENY else "the global rules"
        _log.warning("other machines can reach this proxy", listen=server.address, without_credential=whom)


def _announce(server: Server | Supervisor, control: Control) -> None:
    """The addresses, and two lines to try them with. On stdout: it is what the command was asked for."""
    policy = server.policy
    proxy = f"http://{server.address}"
    put(f"proxy    {proxy}")
    put(f"control  http://{host_port(*control.address)}" if control.address else "control  off")
    put(f"metrics  http://{server.metrics_address}/metrics" if server.metrics_address else "metrics  off")
    put(f"plane    {server.plane['serving']}: {server.plane['why']}")
    in_force = f"version {policy.version}, mode {policy.mode}, rules: {len(policy.rules)}"
    put(f"policy   {short_path(policy.source)} ({in_force})")
    put(f"log      {program_name()} log -f")
    if control.address:
        put(f"pair     {program_name()} pair")
    put("")
    now = time.time()
    allowed = allowed_example(policy, proxy, now)
    put(f"allowed  {allowed or f'nothing without a credential; try: {_what_opens(policy)}'}")
    put(f"denied   {denied_example(policy, proxy, now) or 'nothing: report mode records what it would deny'}")
    if program_name() != NAME:
        put(f"program  {program_name()} is what hints call {NAME}; in a checkout, `make install` puts it on the PATH")


def _what_opens(policy: Policy) -> str:
    """The next step where no example passes: under `anonymous: deny` no rule helps a caller without a credential."""
    if policy.anonymous is Anonymous.DENY:
        return f"{program_name()} token TOOL for one, or `anonymous: challenge` in the policy file"
    return f"{program_name()} allow HOST"
