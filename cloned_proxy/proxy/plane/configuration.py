"""What the plane is told when it starts."""

from __future__ import annotations

import ctypes
from typing import Final

from cloned_proxy.proxy.grants.fair_share import fair_share
from cloned_proxy.proxy.plane.cells import PlaneCells
from cloned_proxy.proxy.plane.figures import SPREADS
from cloned_proxy.proxy.plane.library import PlaneConfig
from cloned_proxy.proxy.plane.parties import PARTIES
from cloned_proxy.store.settings.config import ProxySettings

_BOUNDS: Final = 3
"""The plane has those of tunnels for plain requests, too."""


def config_of(settings: ProxySettings, cells: PlaneCells, *, threads: int, queue: int) -> PlaneConfig:
    """As `Plane` has it; `cells` have to outlast the plane."""
    double = ctypes.c_double
    bounds = [(double * len(each))(*each) for each in SPREADS[:_BOUNDS]]
    return PlaneConfig(
        threads=threads,
        head_timeout=_microseconds(settings.head_timeout),
        hello_timeout=_microseconds(settings.client_hello_timeout),
        connect_timeout=_microseconds(settings.connect_timeout),
        keep_alive_timeout=_microseconds(settings.keep_alive_timeout),
        idle_timeout=_microseconds(settings.idle_timeout),
        max_head_bytes=settings.max_head_bytes,
        max_head_fields=settings.max_head_fields,
        max_connections=settings.max_connections,
        party_share=fair_share(settings.max_connections),
        queue=queue,
        connected=cells.address("connections", 1),
        parties=cells.address("parties", PARTIES),
        parties_width=PARTIES,
        bounds=(ctypes.POINTER(double) * _BOUNDS)(*(ctypes.cast(each, ctypes.POINTER(double)) for each in bounds)),
        bounds_count=(ctypes.c_uint64 * _BOUNDS)(*(len(each) for each in bounds)),
    )


def _microseconds(seconds: float) -> int:
    return min(int(seconds * 1e6), 2**62)
