"""The metrics of a replica, made where there is a fleet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

PARTS: Final = ("limits", "log", "policy", "replicas", "requests", "uses")
"""Parts of what is in the store, as `fleet.link.link` names them."""


class FleetMetrics:
    """One for each process. Over several workers the sum says what is true of all of them, hence the least of each."""

    def __init__(self, registry: CollectorRegistry, reasons: Iterable[str]) -> None:
        """`reasons` are all there can be."""
        self._epoch: Final = Gauge(
            "cloned_proxy_fleet_policy_epoch", "Epoch of the fleet's policy in force; 0: none.",
            registry=registry, multiprocess_mode="livemin",
        )  # fmt: skip
        self._version: Final = Gauge(
            "cloned_proxy_fleet_policy_version", "Version, within its epoch, of the fleet's policy in force; 0: none.",
            registry=registry, multiprocess_mode="livemin",
        )  # fmt: skip
        self._age: Final = Gauge(
            "cloned_proxy_fleet_policy_age_seconds",
            "Time since the source of the fleet's policy last said that it is the newest.",
            registry=registry, multiprocess_mode="livemax",
        )  # fmt: skip
        self._connected: Final = Gauge(
            "cloned_proxy_fleet_connected", "1 if the source of the fleet's policy answers.",
            registry=registry, multiprocess_mode="livemin",
        )  # fmt: skip
        self._stale: Final = Gauge(
            "cloned_proxy_fleet_denying", "1 if everything is denied, for want of a policy or of news about it.",
            registry=registry, multiprocess_mode="livemax",
        )  # fmt: skip
        self._refused: Final = Counter(
            "cloned_proxy_fleet_refused", "Envelopes that were not accepted.", ("reason",), registry=registry
        )
        self._faults: Final = Gauge(
            "cloned_proxy_fleet_store_fault",
            "1 if this part of what the store of the fleet has cannot be used; `fleet status` says why.",
            ("part",), registry=registry, multiprocess_mode="livemax",
        )  # fmt: skip
        for part in PARTS:
            self._faults.labels(part)
        for reason in reasons:  # every series exists from the start, so that rate() sees the first step
            self._refused.labels(reason)

    def in_force(self, epoch: int, version: int) -> None:
        """The number of the policy in force."""
        self._epoch.set(epoch)
        self._version.set(version)

    def state(self, *, connected: bool, age: float, denying: bool) -> None:
        """How the source is, and for how many seconds it has not been heard; infinite: never."""
        self._connected.set(connected)
        self._age.set(age)
        self._stale.set(denying)

    def fault(self, part: str, reason: str) -> None:
        """What of the store cannot be used, or can again (an empty reason)."""
        self._faults.labels(part).set(bool(reason))

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()
