"""The process that notifies: `serve` starts it where `notify:` of config.yaml asks for it, and it ends with `serve`.

It reads the log, and stands in no request's way: a receiver that is slow or dead costs time here and nowhere else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import time
from pathlib import Path

import httpx

from cloned_proxy.notify.delivery import Channel, Delivery
from cloned_proxy.notify.desktop import show
from cloned_proxy.notify.news import NewsReader
from cloned_proxy.notify.webhook import Receiver
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.files.private_memory import keep_memory_private
from cloned_proxy.store.settings.upstream_client import proxy_for
from cloned_proxy.store.vault.live_vault import LiveVault
from cloned_proxy.store.vault.vault import Vault
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.events import NotifyEvent
from cloned_proxy.telemetry.log import configure_logging


def main() -> None:
    """Reads what `proxy.serving.notifier` wrote."""
    parser = argparse.ArgumentParser(prog="python -m cloned_proxy.notify")
    parser.add_argument("--lifeline", type=int, required=True)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--after", type=int, required=True)
    parser.add_argument("--log-format", choices=("console", "json"), default="console")
    given = parser.parse_args()
    keep_memory_private()  # it opens the vault for the signing secret
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal sends it to everybody; `serve` alone decides
    configure_logging(given.log_format)
    logging.getLogger().setLevel(logging.WARNING)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_run(Workspace(given.workspace), given.policy, given.lifeline, given.after))


async def _run(workspace: Workspace, policy_file: Path, lifeline: int, after: int) -> None:
    config = workspace.config()
    settings = config.notify
    channels: dict[str, Channel] = {}
    if settings.desktop:
        channels["desktop"] = show
    if settings.webhook is not None:
        vault = LiveVault(Vault(workspace, config.vault.key), os.environ)

        def proxy_to(url: str) -> httpx.Proxy | None:
            return proxy_for(url, config.upstream, vault.value_of, workspace.root)

        channels["webhook"] = Receiver(settings.webhook, vault.value_of, clock=time.time, proxy_to=proxy_to).send
    news = NewsReader(workspace.state_db, policy_file, workspace.presets, settings, time.time, after=after)

    def record(event: NotifyEvent) -> None:
        with AuditLog(workspace.state_db) as log:
            log.append(event)

    delivery = asyncio.ensure_future(Delivery(news, channels, record, time.time).run())
    loop = asyncio.get_running_loop()
    # Readable means that its other end is closed: `serve` is gone, however it ended.
    loop.add_reader(lifeline, delivery.cancel)
    loop.add_signal_handler(signal.SIGTERM, delivery.cancel)
    loop.add_signal_handler(signal.SIGINT, delivery.cancel)
    await delivery


if __name__ == "__main__":
    main()
