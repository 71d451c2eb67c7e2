"""The prober of the serving process, with a stand-in for the probe: one at a time, on record, and gone at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from cloned_proxy.proxy.serving import probing
from cloned_proxy.proxy.serving.probing import Prober
from cloned_proxy.telemetry.events import ProbeEvent


@dataclass
class Slow:
    """A probe that ends when the test says so."""

    end: asyncio.Event = field(default_factory=asyncio.Event)
    actors: list[str] = field(default_factory=list)
    ended: int = 0
    engine: bool = True

    def possible(self) -> bool:
        return self.engine

    async def run(self, actor: str, tell: Callable[[str], None]) -> ProbeEvent:
        self.actors.append(actor)
        tell("half-way")
        try:
            await self.end.wait()
        finally:
            self.ended += 1
        return ProbeEvent(1000.0, True, 70, 13, 3.5, (), actor)


async def test_one_at_a_time_with_its_stage_and_its_outcome_on_record() -> None:
    probe, recorded = Slow(), list[ProbeEvent]()
    prober = Prober(probe, recorded.append)
    assert await prober.status() == {"possible": True, "running": False, "stage": ""}
    assert await prober.start("device:phone") == ""
    assert "under way" in await prober.start("device:other")
    await asyncio.sleep(0)
    assert await prober.status() == {"possible": True, "running": True, "stage": "half-way"}
    canary = asyncio.create_task(prober.probe("canary"))  # has to do with the one that runs
    await asyncio.sleep(0)
    probe.end.set()
    await canary
    assert (probe.actors, [event.actor for event in recorded]) == (["device:phone"], ["device:phone"])


async def test_one_right_behind_another_is_refused_but_not_the_canarys(monkeypatch: pytest.MonkeyPatch) -> None:
    probe, recorded = Slow(), list[ProbeEvent]()
    probe.end.set()
    prober = Prober(probe, recorded.append)
    await prober.probe("canary")
    assert "just ended" in await prober.start("device:phone")
    await prober.probe("canary")
    monkeypatch.setattr(probing, "PAUSE", 0.0)
    assert await prober.start("device:phone") == ""
    await prober.close()
    assert [event.actor for event in recorded][:2] == ["canary", "canary"]


async def test_the_end_of_serve_ends_a_probe_that_is_under_way() -> None:
    probe, recorded = Slow(), list[ProbeEvent]()
    prober = Prober(probe, recorded.append)
    await prober.start("device:phone")
    await asyncio.sleep(0)
    await prober.close()
    assert (probe.ended, recorded, prober.running) == (1, [], False)


async def test_a_canary_that_gives_up_waiting_does_not_end_a_persons_probe() -> None:
    probe, recorded = Slow(), list[ProbeEvent]()
    prober = Prober(probe, recorded.append)
    await prober.start("device:phone")
    canary = asyncio.create_task(prober.probe("canary"))
    await asyncio.sleep(0)
    canary.cancel()
    await asyncio.gather(canary, return_exceptions=True)
    assert prober.running
    probe.end.set()
    await prober.probe("canary")
    assert len(recorded) == 1


async def test_without_an_engine_none_begins() -> None:
    probe, recorded = Slow(engine=False), list[ProbeEvent]()
    prober = Prober(probe, recorded.append)
    assert "no container engine" in await prober.start("device:phone")
    assert ((await prober.status())["possible"], probe.actors, recorded) == (False, [], [])


async def test_of_many_at_one_moment_one_begins() -> None:
    probe, recorded = Slow(), list[ProbeEvent]()
    prober = Prober(probe, recorded.append)
    answers = await asyncio.gather(*(prober.start(f"device:{number}") for number in range(8)))
    assert answers.count("") == 1
    await asyncio.sleep(0)
    assert len(probe.actors) == 1
    await prober.close()
