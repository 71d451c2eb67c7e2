"""What every inspected connection works with."""

from __future__ import annotations

from dataclasses import dataclass

from cloned_proxy.proxy.enforcer import Enforcer
from cloned_proxy.proxy.inspection.admission import Admission
from cloned_proxy.proxy.inspection.tls import Sessions
from cloned_proxy.proxy.ways import Ways
from cloned_proxy.store.config import ProxySettings
from cloned_proxy.telemetry.metrics import Metrics


@dataclass(slots=True)
class InspectionParts:
    enforcer: Enforcer
    sessions: Sessions
    settings: ProxySettings
    metrics: Metrics
    ways: Ways
    admission: Admission
