"""Random sequences of requests with random endings, against the model: a fuzzer of connections, not of heads."""

from __future__ import annotations

import asyncio
import logging
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import structlog

from tests.proxy.scenes import inspected_scene, plain_scene
from tests.proxy.sequences import (
    FRAMINGS,
    HEAD,
    HEAD_ONLY,
    NO_BODY,
    OK,
    SIZED,
    WHENS,
    WHOLE,
    Asked,
    Ports,
    Scene,
    SequenceError,
    Step,
    encode,
    play,
)


def random_sequence(ports: Ports, rng: random.Random) -> tuple[list[Asked], list[Step]]:
    """Up to six requests, pipelined or one by one, in any segments; now and then the client gives up."""
    sequence, steps = [], list[Step]()
    for number in range(rng.randrange(2, 7)):
        ending = OK if rng.random() < 0.3 else rng.choice(ports.endings)
        framing = rng.choice((NO_BODY, *FRAMINGS, SIZED))
        when = WHOLE if ending.whole_only or framing == NO_BODY else rng.choice(WHENS)
        asked = Asked(number, ending, framing, when, rng.choice((HEAD, HEAD, HEAD, HEAD * 2, 5000, 70_000)))
        sequence.append(asked)
        head, body = encode(asked, ports, rng)
        if body and rng.random() < 0.3 and when == HEAD_ONLY:
            steps += [head, number + 1, body]
        else:
            steps += cut(head + body, rng)
        if rng.random() < 0.4:
            steps.append(number + 1)
    if rng.random() < 0.2:
        whole = [step for step in steps if isinstance(step, bytes)]
        steps = [*steps[: steps.index(rng.choice(whole))], rng.choice(("fin", "reset"))]
    return sequence, steps


async def check(scene: Scene, seed: int) -> None:
    """Plays one random sequence. Raises SequenceError, which tells the seed."""
    sequence, steps = random_sequence(scene.ports, random.Random(seed))
    try:
        await play(scene, sequence, steps)
    except SequenceError as error:
        raise SequenceError(f"seed {seed}: {error}; {sequence}") from error


def cut(data: bytes, rng: random.Random) -> Iterator[bytes]:
    """In segments: most of them as writes come, some of a few bytes."""
    at = 0
    while at < len(data):
        size = rng.choice((3, HEAD, HEAD + 1, 5000, 1 << 20, 1 << 20))
        yield data[at : at + size]
        at += size


def run(inputs: int, seconds: float, seed: int) -> tuple[int, int]:
    """Sequences played on both paths of the proxy, and failures. Ends at whichever bound comes first."""
    logging.disable()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return asyncio.run(_run(inputs, seconds, random.Random(seed)))


async def _run(inputs: int, seconds: float, rng: random.Random) -> tuple[int, int]:
    done = failed = 0
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as directory:
        async with plain_scene() as plain, inspected_scene(Path(directory)) as inspected:
            while done < inputs and time.monotonic() < end:
                try:
                    await check(plain if done % 4 else inspected, rng.getrandbits(32))
                except SequenceError as error:
                    failed += 1
                    print(f"{error}"[:1500], flush=True)  # noqa: T201  a command
                done += 1
    return done, failed
