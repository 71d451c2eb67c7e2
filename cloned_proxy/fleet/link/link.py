"""The way to the store: one subscription that comes back by itself, and calls that end in time.

Everything here is a coroutine of the event loop that also serves traffic: nothing blocks, and nothing waits for longer
than its bound. What the store says is a hint (signatures prove, and the store cannot sign), so a link that is down
costs news and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Self

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from cloned_proxy.fleet.link.answers import (
    LEFT_OUT,
    MOST_ANSWERED,
    LargeAnswerError,
    answers_of,
    without_what_is_large,
)
from cloned_proxy.fleet.link.client import CALL_SECONDS, CONNECTIONS, Secrets, client_of
from cloned_proxy.fleet.link.parts import Parts
from cloned_proxy.fleet.signed.errors import FleetError, StoreAwayError, StoreRefusedError
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.settings.fleet_settings import FleetSettings

_log = structlog.get_logger(__name__)

_QUIET_SECONDS: Final = 5.0
"""After so long without a message the subscription is asked whether it is alive."""
_FIRST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 1.0
"""Between two attempts to connect: a store that was restarted has all of its replicas again within two seconds."""
_BURST: Final = 200
_BURST_SECONDS: Final = 0.2
"""For so many messages; more wait in the store, which costs it its memory and traffic nothing."""
_SAY_SECONDS: Final = 60.0
"""Between two words about messages that are too large."""

type Work[T] = Callable[[Redis], Awaitable[T]]


class Link:
    """One for each process. `follow` and `at_connect` come first, then `start`; `run` works without either."""

    def __init__(
        self,
        settings: FleetSettings,
        *,
        base: Path,
        secrets: Secrets | None = None,
        on_state: Callable[[bool], None] = lambda _connected: None,
    ) -> None:
        """`base` is where relative paths begin. `on_state` hears when the subscription comes and goes.

        Raises StoreError: no store is named, or its credential or CA cannot be used.
        """
        if settings.store is None:
            raise FleetError("`fleet: {store: …}` is not set; write one such as redis://redis.example.com:6379")
        self.url: Final = settings.store
        self.redis: Final = client_of(settings, base, secrets)
        self._on_state = on_state
        self._handlers: dict[str, Callable[[bytes], None]] = {}
        self._at_connect: list[Callable[[], Awaitable[None]]] = []
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._task: asyncio.Task[None] | None = None
        self._large_said = float("-inf")
        self.connected = False
        """Whether the subscription stands: news comes by itself."""
        self.problem = ""
        """Why it does not."""
        self.parts: Final = Parts()
        """What cannot be used of what is in the store, and why; the rest goes on."""

    def follow(self, channel: str, on_message: Callable[[bytes], None]) -> None:
        """Has `on_message` called with each message of the channel, on the event loop."""
        self._handlers[channel] = on_message

    def at_connect(self, work: Callable[[], Awaitable[None]]) -> None:
        """Has `work` done each time the subscription stands again: what was said meanwhile was not heard.

        The subscription comes first, so nothing can fall between `work`'s reading and the first message.
        """
        self._at_connect.append(work)

    def start(self) -> None:
        """Begins to follow, in a task of its own; returns at once, whether or not the store is there."""
        if self._task is not None:
            return
        self._task = asyncio.create_task(self._keep_following())

    async def close(self) -> None:
        """Ends everything. Takes no longer than a call."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(CALL_SECONDS):
                await self.redis.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def run[T](self, work: Work[T], *, within: float = CALL_SECONDS, most: int = MOST_ANSWERED) -> T:
        """What `work` makes of the client, within so many seconds and bytes. Raises StoreAwayError.

        A call that fails may have been done by the store all the same; whoever cannot live with that writes a script
        that can be repeated.
        """
        try:
            async with asyncio.timeout(within), self._turns:
                with answers_of(most):
                    return await work(self.redis)
        except (RedisError, OSError, TimeoutError, StoreError, ssl.SSLError) as error:
            kind = StoreRefusedError if _is_of_a_key(error) else StoreAwayError
            raise kind(f"{self.url}: {_reason(error)}") from error

    async def _keep_following(self) -> None:
        delay = _FIRST_DELAY
        while True:
            try:
                await self._session()
            except (RedisError, OSError, TimeoutError, StoreError) as error:
                delay = _FIRST_DELAY if self.connected else min(delay * 2, _LONGEST_DELAY)
                await self._lost(_reason(error))
            except Exception as error:  # noqa: BLE001  whatever one answer broke must not end the following
                delay = _LONGEST_DELAY
                _log.exception("the store of the fleet could not be followed; tried again")
                await self._lost(f"{type(error).__name__}")
            # Replicas try again at different moments: the whole fleet has lost the same store.
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311  no secret

    async def _session(self) -> None:
        pubsub = self.redis.pubsub()
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await pubsub.subscribe(*self._handlers)
                for _ in self._handlers:
                    await _next(pubsub, CALL_SECONDS)
            for work in self._at_connect:
                await self._do(work)
            self._found()
            began, heard = time.monotonic(), 0
            while True:
                if heard >= _BURST:
                    await asyncio.sleep(max(0.0, began + _BURST_SECONDS - time.monotonic()))
                    began, heard = time.monotonic(), 0
                heard += 1
                message = await _next(pubsub, _QUIET_SECONDS)
                if message is None:
                    async with asyncio.timeout(CALL_SECONDS):
                        await pubsub.ping()
                    message = await _next(pubsub, CALL_SECONDS)
                    if message is None:
                        raise TimeoutError
                self._heard(message)
        finally:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(CALL_SECONDS):
                    await pubsub.aclose()  # type: ignore[no-untyped-call]  # not typed there

    async def _do(self, work: Callable[[], Awaitable[None]]) -> None:
        """Raises StoreAwayError. What an answer broke in one part of the proxy is nothing to the others."""
        try:
            await work()
        except StoreRefusedError:
            pass  # told by `parts`; the others go on
        except StoreError:
            raise
        except Exception:  # noqa: BLE001  the answers are the store's, and it may say anything
            _log.exception("an answer of the store of the fleet could not be used")

    def _heard(self, message: dict[str, Any]) -> None:
        if message["type"] != "message":
            return
        channel = message["channel"].decode(errors="replace")
        handler = self._handlers.get(channel)
        if handler is None:
            return
        if message["data"] is LEFT_OUT and time.monotonic() >= self._large_said + _SAY_SECONDS:
            self._large_said = time.monotonic()
            _log.warning("a message of the fleet is too large; it counts without its content", channel=channel)
        try:
            handler(message["data"])
        except Exception:  # noqa: BLE001  what one message broke must not end the following of the next
            _log.exception("a message of the fleet could not be taken in")

    def _found(self) -> None:
        self.connected, self.problem = True, ""
        _log.info("the store of the fleet answers", store=self.url)
        self._on_state(True)

    async def _lost(self, reason: str) -> None:
        if self.connected or not self.problem:
            _log.warning("the store of the fleet is away; what is known here stays in force", reason=reason)
        self.connected, self.problem = False, reason
        self._on_state(False)
        # Idle connections lead where the subscription led: each would cost a call its time to find that out.
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            await self.redis.connection_pool.disconnect(inuse_connections=False)


async def _next(pubsub: PubSub, seconds: float) -> dict[str, Any] | None:
    """The next message of any kind; None when none came in time. One that is too large comes without its content."""
    with without_what_is_large():
        message: dict[str, Any] | None = await pubsub.get_message(timeout=seconds)
    return message


_CODES: Final = frozenset({
    "BUSY", "CLUSTERDOWN", "ERR", "EXECABORT", "LOADING", "MASTERDOWN", "MISCONF", "MOVED", "NOREPLICAS", "NOSCRIPT",
    "OOM", "READONLY", "WRONGTYPE",
})  # fmt: skip


_OF_A_KEY: Final = frozenset({"WRONGTYPE", "ERR"})
"""Refusals that are about what is there; `ERR` is what a script says that stumbles over it."""


def _is_of_a_key(error: Exception) -> bool:
    """Whether the fault is of one thing that is there, and says nothing of the store as a whole."""
    if isinstance(error, LargeAnswerError):
        return True
    # A class of its own says that the server as a whole is not ready; the plain one is about this command.
    return type(error) is ResponseError and _code(error) in _OF_A_KEY


def _code(error: RedisError) -> str:
    """What kind of refusal it is, where that is one of the server's own words."""
    if isinstance(error, BusyLoadingError):
        return "LOADING"
    word = next(iter(str(error).split()), "")
    return word if word in _CODES else "ERR"


def _reason(error: BaseException) -> str:
    """What to tell people; never a password, which some messages of servers repeat."""
    # While connecting the library wraps what the server said into an error that says less.
    if isinstance(error.__cause__, RedisError):
        error = error.__cause__
    match error:
        case AuthenticationError():
            return "the store refuses this credential; set `fleet: {auth: ${vault:fleet.store}}` and that secret"
        case NoPermissionError():
            return "the store's ACL does not let this user do that (docs/fleet.md lists what a replica needs)"
        case ResponseError() | BusyLoadingError():  # its text may repeat what was sent, a password among it
            return f"the store refuses a command: {_code(error)}"
        case TimeoutError():
            return f"no answer within {CALL_SECONDS:g} s"
        case StoreError() | OSError() | RedisError():
            return str(error).splitlines()[0] if str(error) else type(error).__name__
        case _:
            return type(error).__name__
