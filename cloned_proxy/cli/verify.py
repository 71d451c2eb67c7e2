"""`verify`: tries to escape from a real sandbox, and says what came of each attempt."""

from __future__ import annotations

from typing import Annotated

import typer

from cloned_proxy.cli.options import JsonOption


def verify(
    *,
    json_output: JsonOption = False,
    watch: Annotated[
        str | None, typer.Option("--watch", metavar="INTERVAL", help="Again and again, such as every 60s.")
    ] = None,
    forwarder: Annotated[
        bool, typer.Option("--forwarder", help="Probe the variant for engines whose namespaces cannot be entered.")
    ] = False,
) -> None:
    """Try to escape from a real sandbox; exit 1 on any leak. Also 1 when a control shows that the probe is blind."""
    import time

    from cloned_proxy.cli.durations import parse_duration
    from cloned_proxy.cli.errors import FAILED, CommandError
    from cloned_proxy.cli.interruption import interruptible
    from cloned_proxy.cli.probe_report import show
    from cloned_proxy.runner.errors import SandboxError
    from cloned_proxy.runner.probe.run import ProbeOptions, run_probe

    options = ProbeOptions(enter_namespaces=False if forwarder else None)
    try:
        pause = parse_duration(watch) if watch is not None else None
    except ValueError as error:
        raise CommandError(f"--watch: {error}") from error
    while True:
        try:
            with interruptible():
                report = run_probe(lambda _message: None, options)
        except SandboxError as error:
            raise CommandError(str(error), code=FAILED) from error
        show(report, as_json=json_output, one_line=pause is not None)
        if not report.sealed:
            raise typer.Exit(FAILED)
        if pause is None:
            return
        time.sleep(pause)
