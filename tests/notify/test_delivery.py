"""Between the log and the channels: bounded, each on its own, and what fails is on record."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from cloned_proxy.notify import delivery
from cloned_proxy.notify.delivery import Channel, Delivery
from cloned_proxy.notify.notice import Notice
from cloned_proxy.notify.webhook import WebhookError
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.telemetry.events import NotifyEvent
from tests.notify.test_notice import denial
from tests.waiting import until


class Source:
    def __init__(self, *notices: Notice) -> None:
        self.looks: list[list[Notice] | StoreError] = [list(notices)]

    def look(self) -> list[Notice]:
        found = self.looks.pop(0) if self.looks else []
        if isinstance(found, StoreError):
            raise found
        return found


class Running:
    def __init__(self, source: Source, **channels: Channel) -> None:
        self.records: list[NotifyEvent] = []
        self.task = asyncio.ensure_future(Delivery(source, channels, self.records.append, lambda: 5.0).run())

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_a_channel_that_hangs_keeps_no_other_waiting() -> None:
    arrived: list[str] = []

    async def hangs(_notice: Notice) -> None:
        await asyncio.Event().wait()

    async def works(notice: Notice) -> None:
        arrived.append(notice.id)

    running = Running(Source(*(denial(id=str(n)) for n in range(5))), webhook=hangs, desktop=works)
    await until(lambda: arrived == ["0", "1", "2", "3", "4"])
    await running.stop()


async def test_what_waits_is_bounded_and_what_is_dropped_is_on_record() -> None:
    opened = asyncio.Event()

    async def slow(notice: Notice) -> None:
        await opened.wait()
        raise WebhookError("the receiver answered 500")

    many = delivery.QUEUE * 3
    source = Source(*(denial(id=str(n)) for n in range(many)))
    running = Running(source, webhook=slow)
    await until(lambda: not source.looks)
    opened.set()
    await until(lambda: len(running.records) >= delivery.QUEUE)
    await running.stop()
    assert running.records[0].reason == "the receiver answered 500"
    assert running.records[0].about == "0"
    assert sum(event.dropped for event in running.records) + len(running.records) == many


async def test_neither_a_fault_nor_an_unreadable_log_ends_it() -> None:
    arrived: list[str] = []

    async def faulty(notice: Notice) -> None:
        if notice.id == "bad":
            raise RuntimeError("a fault of ours, with a secret in it")
        arrived.append(notice.id)

    source = Source(denial(id="bad"), denial(id="good"))
    source.looks += [StoreError("locked"), [denial(id="later")]]
    running = Running(source, webhook=faulty)
    await until(lambda: arrived == ["good", "later"])
    await running.stop()
    assert [event.reason for event in running.records] == ["RuntimeError; see the log of serve"]


def test_the_process_keeps_its_memory_private() -> None:
    """It opens the vault, like `serve`: no core dump of it, and no debugger of the same user in it."""
    script = (
        "import asyncio, ctypes, resource, sys\n"
        "from cloned_proxy.notify import __main__ as program\n"
        "def run(what):\n"
        "    what.close()\n"
        "    print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE)[0])\n"
        "asyncio.run = run\n"
        "sys.argv[1:] = ['--lifeline', '0', '--workspace', '.', '--policy', 'p', '--after', '0']\n"
        "program.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0"]
