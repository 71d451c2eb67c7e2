"""The policy in force, following its file.

The parent directory is watched, not the file: editors, `kubectl` and our own edits replace a file, and a watch on the
old inode sees nothing. Any event means "read again and compare the hash"; a slow poll catches what no event told
(a network file system, a link whose target lies elsewhere, a directory that was itself replaced, a writer that does
not close the file).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import structlog

from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.model.preset import versions_of
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.store.files.directory_watch import DirectoryWatch
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.files import Signature, signature_of
from cloned_proxy.store.files.policy_bytes import read_policy_bytes, version_of
from cloned_proxy.store.policyfile.policy_file import policy_from_bytes
from cloned_proxy.store.workspaces.presets import SHIPPED, PresetShelf

_log = structlog.get_logger(__name__)

_DEBOUNCE_SECONDS: Final = 0.02
_SETTLE_SECONDS: Final = 0.1
"""How long an emptied file may stay empty: an editor that rewrites in place truncates first, and that moment is not
worth an alarm."""
_POLL_SECONDS: Final = 1.0
_SWITCH_SECONDS: Final = 0.002

type LoadError = PolicyError | StoreError
type _Seen = tuple[Signature | None, tuple[tuple[str, Signature | None], ...]]
"""What the policy file and the local presets look like from outside."""


@contextlib.contextmanager
def beside_traffic() -> Iterator[None]:
    """While a file is read in its thread, the event loop gets the interpreter back within two milliseconds.

    A request asks for it again after each of its system calls, so the usual 5 ms add up to a stall that a caller
    notices; so does a garbage collection over 20,000 rules in the making.
    """
    interval, collecting = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.disable()
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        if collecting:
            gc.enable()


class LivePolicy:
    """Implements `proxy.enforce.question.PolicySource`. Callbacks run on the event loop; files are read in a thread."""

    def __init__(
        self,
        path: Path,
        *,
        presets: PresetShelf = SHIPPED,
        clock: Callable[[], float] = time.time,
        on_change: Callable[[Policy], None] = lambda _policy: None,
        on_reject: Callable[[LoadError], None] = lambda _error: None,
        check: Callable[[Policy], None] = lambda _policy: None,
    ) -> None:
        """`check` raises PolicyError for what is valid, and not to be in force here.

        `on_change` is called after each swap, the first one included; `on_reject` once for each new refusal.
        """
        self.path = path
        self._presets = presets
        self.current: Policy | None = None
        self.last_error: LoadError | None = None
        """Why the file as it is now is not in force; None while it is."""
        self.loaded_at: float | None = None
        """When `current` came into force (Unix seconds)."""
        self.raw = b""
        """The bytes of `current`'s file."""
        self._clock = clock
        self.on_change = on_change
        self.on_reject = on_reject
        self._check = check
        self._seen: _Seen | None = None
        self._dirty = asyncio.Event()
        self._loading = asyncio.Lock()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policy")
        directories = (path.parent,) if presets.local is None else (path.parent, presets.local)
        self._watches = [DirectoryWatch(directory, self._dirty) for directory in directories]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Reads the file once and begins to follow it. A file that is not accepted is in `last_error`, not raised."""
        self._refresh()
        await self.reload()
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._poll())]

    async def stop(self) -> None:
        """Stops following; the policy stays in force."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for watch in self._watches:
            await asyncio.get_running_loop().run_in_executor(None, watch.stop)
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def reload(self) -> None:
        """Reads the file now (SIGHUP). Returns when the result is in force or in `last_error`."""
        async with self._loading:
            loop = asyncio.get_running_loop()
            try:
                with beside_traffic():
                    loaded = await loop.run_in_executor(self._executor, self._load)
            except (PolicyError, StoreError) as error:
                self._reject(error)
            except Exception as error:  # noqa: BLE001  the last good policy stays; the watcher must not die
                _log.exception("reading the policy file failed")
                self._reject(StoreError(f"{self.path}: reading it failed: {error!r}; see the log"))
            else:
                self._accept(*loaded)

    def _load(self) -> tuple[Policy | None, bytes]:
        """The policy of the file, None when its bytes are those already in force, and they. Runs in the thread."""
        self._look()
        raw = read_policy_bytes(self.path)
        if not raw.strip() and self.current is not None:
            time.sleep(_SETTLE_SECONDS)
            self._look()
            raw = read_policy_bytes(self.path)
        current = self.current
        if current is not None and version_of(raw) == current.version and not self._presets_changed(current):
            return None, raw
        policy = policy_from_bytes(raw, source=str(self.path), now=self._clock(), presets=self._presets)
        self._check(policy)
        return policy, raw

    def _look(self) -> None:
        """Remembers what the files look like, before they are read: what changes meanwhile is read again."""
        self._seen = self._from_outside()

    def _from_outside(self) -> _Seen:
        return signature_of(self.path), self._presets.signature()

    def _presets_changed(self, current: Policy) -> bool:
        found = self._presets.load(current.presets)
        return current.presets != versions_of(found, [current.presets])

    def _refresh(self) -> None:
        for watch in self._watches:
            watch.refresh(asyncio.get_running_loop())

    def _accept(self, policy: Policy | None, raw: bytes) -> None:
        if policy is None:
            if self.last_error is None:
                return
            # The good content came back: it is in force all along, but the metrics must hear that the file is fine.
            policy = self.current
            if policy is None:
                return
        self.last_error = None
        self.current = policy
        self.raw = raw
        # Rules have no cycles and go by reference count: no later collection needs to walk through them.
        gc.freeze()
        self.loaded_at = self._clock()
        _log.info("policy in force", version=policy.version, source=str(self.path))
        self.on_change(policy)

    def _reject(self, error: LoadError) -> None:
        if self.last_error is not None and str(error) == str(self.last_error):
            return
        self.last_error = error
        if self.current is not None or self._tasks:  # at the start it is the caller of `start` who tells
            in_force = self.current.version if self.current is not None else "none"
            _log.error("policy file not accepted", in_force=in_force, problem=str(error))
        self.on_reject(error)

    async def _follow(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(_DEBOUNCE_SECONDS)
            self._dirty.clear()
            try:
                self._refresh()  # the event may have been a directory's own end, or its beginning
                await self.reload()
            except Exception:  # noqa: BLE001  what one change broke must not end the following of the next
                _log.exception("a change of the policy could not be followed to its end")

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            if any(watch.outdated for watch in self._watches) or self._from_outside() != self._seen:
                self._dirty.set()
