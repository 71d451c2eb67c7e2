"""What every inspected connection works with."""

from __future__ import annotations

from dataclasses import dataclass

from cloned_proxy.proxy.enforce.enforcer import Enforcer
from cloned_proxy.proxy.inspection.certificates.tls import Sessions
from cloned_proxy.proxy.inspection.requests.admission import Admission
from cloned_proxy.proxy.upstream.ways import Ways
from cloned_proxy.store.settings.config import ProxySettings
from cloned_proxy.telemetry.metrics import Metrics


@dataclass(slots=True)
class InspectionServices:
    enforcer: Enforcer
    sessions: Sessions
    settings: ProxySettings
    metrics: Metrics
    ways: Ways
    admission: Admission
