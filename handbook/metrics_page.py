"""docs/metrics.md: every metric that `/metrics` can show, from the collectors that a process registers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry

from cloned_proxy.store.audit.otlp_export import OtlpExport
from cloned_proxy.telemetry.fleet_metrics import FleetMetrics
from cloned_proxy.telemetry.identity_metrics import IdentityMetrics
from cloned_proxy.telemetry.metrics import Metrics
from cloned_proxy.telemetry.share_metrics import ShareMetrics
from cloned_proxy.telemetry.shipping_metrics import ShippingMetrics
from cloned_proxy.telemetry.upstream_metrics import UpstreamMetrics
from handbook.reference import intro, table

_GROUPS: Final = (
    # The last one appears with the first probe.
    ("Always", lambda registry: Metrics(registry).sandbox.probed(sealed=True)),
    ("With `telemetry.otlp_endpoint`", lambda registry: OtlpExport(Path(), Path(), "", registry)),
    ("With `upstream`", lambda registry: UpstreamMetrics(registry, ())),
    ("In a fleet", lambda registry: (FleetMetrics(registry, ()), IdentityMetrics(registry, (), ()))),
    ("In a fleet with a store", lambda registry: (ShareMetrics(registry), ShippingMetrics(registry))),
)


def metrics_page() -> str:
    """The page as it should be."""
    parts = [intro("metrics")]
    for title, register in _GROUPS:
        registry = CollectorRegistry()
        register(registry)
        parts.append(f"## {title}\n\n{table(('Name', 'Type', 'Labels', 'Meaning'), _rows(registry))}")
    return "\n".join(parts)


def _rows(registry: CollectorRegistry) -> list[tuple[str, ...]]:
    # The registry shows only what has a value; what it knows, labels included, it tells nobody but itself.
    known: Any = registry._collector_to_names  # noqa: SLF001
    found = {}
    for collector in known:
        if not hasattr(collector, "_labelnames"):  # carries the counts of others and has none of its own
            continue
        [family] = collector.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in collector._labelnames)  # noqa: SLF001
        found[name] = (f"`{name}`", family.type, labels, family.documentation)
    return [found[name] for name in sorted(found)]
