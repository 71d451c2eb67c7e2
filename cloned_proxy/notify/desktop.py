"""A notification on the desktop, by `notify-send` (package libnotify-bin)."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from typing import Final

from cloned_proxy.notify.notice import Notice

_PROGRAM: Final = "notify-send"
_SECONDS: Final = 5.0
"""notify-send hangs where no notification service answers."""


class DesktopError(Exception):
    """The notification could not be shown; the message says why."""


def arguments(notice: Notice) -> list[str]:
    """What `notify-send` is called with. The body is markup there, so what a tool has chosen is escaped.

    Desktop Notifications Specification 1.2, "Markup": `<`, `>` and `&` begin it, in the body alone.
    """
    body = notice.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return ["--app-name=cloned-proxy", "--urgency=normal", "--", notice.title, body]


async def show(notice: Notice) -> None:
    """Raises DesktopError."""
    program = shutil.which(_PROGRAM)
    if program is None:
        raise DesktopError(f"{_PROGRAM} is not installed; install libnotify-bin, or set `notify: {{desktop: false}}`")
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments(notice),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        raise DesktopError(f"{program}: {error.strerror or error}") from error
    try:
        async with asyncio.timeout(_SECONDS):
            code = await process.wait()
    except TimeoutError as error:
        raise DesktopError(f"{_PROGRAM} did not end within {_SECONDS:.0f} s; is there a desktop session?") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if code != 0:
        raise DesktopError(f"{_PROGRAM} ended with {code}; is there a desktop session?")
