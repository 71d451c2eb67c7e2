"""Which plane serves: the native one where its library is there and fits, else Python; with the reason, for people.

Nothing that is wrong with the library may cost more than speed: unless it is required, Python serves then.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from cloned_proxy.proxy.plane import library
from cloned_proxy.store.files.errors import StoreError

_PYTHON: Final = "; or serve with --plane off"


class PlaneMode(StrEnum):
    """`serve --plane`."""

    AUTO = "auto"
    OFF = "off"
    REQUIRE = "require"


@dataclass(frozen=True, slots=True)
class PlaneChoice:
    """`library` is None where Python serves everything."""

    mode: PlaneMode
    library: Path | None
    why: str
    """Why the plane serves or not, for people: `3 threads`, `it is not built; run …`."""
    threads: int = 0

    @property
    def plane(self) -> str:
        """The label of `cloned_proxy_build_info`."""
        return "native" if self.library is not None else "python"

    def as_data(self, *, behind_balancer: bool = False) -> dict[str, str]:
        """For JSON: `serving` is `native` or `python`; and `why`.

        `behind_balancer`: connections to the address of `--listen` may begin with a PROXY protocol header.
        """
        if behind_balancer and self.library is not None:
            return {"serving": self.plane, "why": f"{self.why}, for sandboxes; {_BEHIND_BALANCER}"}
        return {"serving": self.plane, "why": self.why}

    def without(self, why: str) -> PlaneChoice:
        """Python instead. Raises StoreError where the native one is required."""
        if self.mode is PlaneMode.REQUIRE:
            raise StoreError(f"the native plane cannot be used: {why}{_PYTHON}")
        return PlaneChoice(self.mode, None, why)


_BEHIND_BALANCER: Final = "listen.proxy_protocol_from is set, so Python serves the address of --listen"
FAILED: Final = {"serving": "python", "why": "the native one had a fault; see the messages of serve"}
"""In the place of `as_data`, from then on."""
ONLY_PYTHON: Final = PlaneChoice(PlaneMode.OFF, None, "--plane off")


def choose(mode: PlaneMode, *, workers: int = 1) -> PlaneChoice:
    """Looks at the library, without starting anything. Raises StoreError where it is required and cannot be used.

    `workers` are threads of the native plane. Asked for processes and not for the plane, one gets processes: what the
    plane leaves to Python is one process's work then.
    """
    if mode is PlaneMode.OFF:
        return ONLY_PYTHON
    wanted = PlaneChoice(mode, None, "", workers)
    if mode is PlaneMode.AUTO and workers > 1:
        return wanted.without(f"--workers {workers} are processes; --plane require makes threads of them")
    found = library.find()
    if found is None:
        return wanted.without("it is not built; run `make plane` in a checkout")
    if library.is_stale(found):
        return wanted.without(f"{found} is older than its source; run `make plane`")
    try:
        library.load(found)
    except library.LibraryError as error:
        return wanted.without(str(error))
    return PlaneChoice(mode, found, "1 thread" if workers == 1 else f"{workers} threads", workers)
