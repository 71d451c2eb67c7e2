"""How `serve` starts the control process: a fresh interpreter that inherits a listening socket and little else."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloned_proxy.proxy.serving import beside
from cloned_proxy.proxy.transport.listener import BadAddressError, BindError, bind_tcp
from cloned_proxy.telemetry.log import LogFormat

_KEPT: Final = frozenset({"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM", "NO_COLOR", "VIRTUAL_ENV"})
_KEPT_FAMILIES: Final = ("LC_", "PYTHON", "CLONED_")


@dataclass(frozen=True, slots=True)
class ControlOptions:
    """What the control process is told."""

    workspace: Path
    policy_file: Path | None
    log_format: LogFormat = "console"

    def command(self, listening: int, lifeline: int, proxy: str) -> list[str]:
        """The words that start it; the descriptors are those that it inherits."""
        words = [*beside.python_module("cloned_proxy.control"), "--fd", str(listening)]
        words += ["--lifeline", str(lifeline), "--workspace", str(self.workspace), "--proxy", proxy]
        words += ["--log-format", self.log_format]
        return words if self.policy_file is None else [*words, "--policy", str(self.policy_file)]


def bind_control(host: str, port: int) -> socket.socket:
    """The listening socket, on loopback only. Raises BindError."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise BadAddressError(
            f"--control {host}:{port}: the control UI listens on loopback only; use 127.0.0.1:{port}, and from another "
            f"machine `ssh -L {port}:127.0.0.1:{port} THIS_MACHINE`"
        )
    try:
        return bind_tcp(host, port)
    except BindError as error:
        raise BindError(f"{error}; the control UI wants it: use --control HOST:PORT or --control off") from error


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What the process needs to run. The rest may hold keys, and it has no use for any."""
    return {name: value for name, value in environ.items() if name in _KEPT or name.startswith(_KEPT_FAMILIES)}


def become(options: ControlOptions, listening: socket.socket, lifeline: int, proxy: str) -> None:
    """Replaces this (forked) process by the control process. Raises OSError."""
    for descriptor in (listening.fileno(), lifeline):
        os.set_inheritable(descriptor, True)
    command = options.command(listening.fileno(), lifeline, proxy)
    os.execve(command[0], command, environment(os.environ))  # noqa: S606  our own interpreter, no shell


async def keep_running(options: ControlOptions, listening: socket.socket, proxy: str) -> None:
    """Runs the control process and replaces it when it dies; until cancelled, and then it is gone."""

    def command(lifeline: int) -> list[str]:
        return options.command(listening.fileno(), lifeline, proxy)

    await beside.keep_running("control", command, environ=environment(os.environ), descriptors=(listening.fileno(),))
