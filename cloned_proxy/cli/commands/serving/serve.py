"""`serve`: the proxy in the foreground, until a signal ends it."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from cloned_proxy.cli.place.options import PolicyOption, WorkspaceOption


def serve(
    *,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where clients connect; port 0 takes a free one.")
    ] = "127.0.0.1:8081",
    control: Annotated[
        str, typer.Option("--control", metavar="HOST:PORT|off", help="The control UI and API, on loopback only.")
    ] = "127.0.0.1:8082",
    metrics: Annotated[
        str, typer.Option("--metrics", metavar="HOST:PORT|off", help="/metrics, /healthz and /readyz.")
    ] = "127.0.0.1:8083",
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=64, help="Processes that serve; more than one for more processors.")
    ] = 1,
    plane: Annotated[
        Literal["auto", "off", "require"],
        typer.Option(
            "--plane",
            help="The native plane: auto uses it where it is built.",
        ),
    ] = "auto",
    slot: Annotated[
        list[str] | None,
        typer.Option(
            "--slot", metavar="TOOL=SOCKET", help="A unix socket whose callers are that tool; may be repeated."
        ),
    ] = None,
    standby: Annotated[bool, typer.Option("--standby", hidden=True, help="End with the last sandbox.")] = False,
    policy: PolicyOption = None,
    workspace: WorkspaceOption = None,
    log_format: Annotated[
        Literal["console", "json"], typer.Option("--log-format", help="How messages on stderr are written.")
    ] = "console",
) -> None:
    """Start the proxy. SIGTERM stops it gently, a second one at once; SIGHUP reads the policy again."""
    import sys

    from cloned_proxy.cli.place.listen_option import parse_listen
    from cloned_proxy.cli.show.errors import CommandError, say

    if sys.stderr.isatty() and log_format == "console":
        say("starting; the first time takes some seconds")  # said before what takes them is imported
    from cloned_proxy.cli.commands.serving.serve_foreground import run_in_foreground
    from cloned_proxy.cli.commands.serving.slots import parse_slot
    from cloned_proxy.cli.place.place import beside_another
    from cloned_proxy.proxy.plane.choice import PlaneMode, choose
    from cloned_proxy.proxy.serving.options import ServeOptions
    from cloned_proxy.proxy.transport.listener import BindError
    from cloned_proxy.telemetry.log import configure_logging

    try:
        proxy_address = parse_listen(listen, "--listen")
        control_address = parse_listen(control, "--control")
        metrics_address = parse_listen(metrics, "--metrics")
    except ValueError as error:
        raise CommandError(str(error)) from error
    if proxy_address is None:
        raise CommandError("--listen cannot be off; write HOST:PORT such as 127.0.0.1:8081")
    configure_logging(log_format)
    slots = tuple(parse_slot(text) for text in slot or ())
    chosen = choose(PlaneMode(plane), workers=workers)
    options = ServeOptions(
        listen=proxy_address,
        metrics=metrics_address,
        policy_file=policy,
        slots=slots,
        control=control_address,
        standby=standby,
        plane=chosen,
    )
    try:
        # The native plane's workers are threads of one process.
        processes = workers if chosen.library is None else 1
        run_in_foreground(options, directory=workspace, workers=processes, log_format=log_format)
    except BindError as error:
        raise type(error)(f"{error}{beside_another(str(error))}") from error
