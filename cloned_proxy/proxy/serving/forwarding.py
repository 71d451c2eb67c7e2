"""What forwards in a process: the enforcer, the ways to an upstream, the inspection of opened TLS, and the gate."""

from __future__ import annotations

import time
from dataclasses import dataclass

import structlog

from cloned_proxy.proxy.enforce.enforcer import Enforcer
from cloned_proxy.proxy.gate.gate import Gate
from cloned_proxy.proxy.grants.denial_budget import DenialBudget
from cloned_proxy.proxy.inspection.engine import TlsInspector
from cloned_proxy.proxy.inspection.registry.client import MetadataClient
from cloned_proxy.proxy.inspection.registry.examiner import RegistryExaminer
from cloned_proxy.proxy.own.own_view import OwnView
from cloned_proxy.proxy.own.requests_api import RequestsApi
from cloned_proxy.proxy.plane.plane import Plane
from cloned_proxy.proxy.secrets.injection import Injector
from cloned_proxy.proxy.secrets.leak import LeakWatch
from cloned_proxy.proxy.serving.records import Records
from cloned_proxy.proxy.serving.rules import Rules
from cloned_proxy.proxy.serving.setup import Setup
from cloned_proxy.proxy.transport.listener import OwnListeners
from cloned_proxy.proxy.upstream.chained.failure import Trouble
from cloned_proxy.proxy.upstream.chained.front import UpstreamProxy
from cloned_proxy.proxy.upstream.ways import Ways
from cloned_proxy.telemetry.metrics import Metrics
from cloned_proxy.telemetry.upstream_metrics import UpstreamMetrics

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Forwarding:
    own: OwnListeners
    """Sockets of this process, to which nobody is let through."""
    upstream: UpstreamProxy | None
    """The proxy in front, if there is one."""
    leaks: LeakWatch
    inspector: TlsInspector
    gate: Gate

    def sweep(self) -> None:
        """Cuts what the policy and the time of now no longer permit."""
        self.gate.sweep()
        self.inspector.sweep()


def open_forwarding(setup: Setup, records: Records, rules: Rules, plane: Plane | None) -> Forwarding:
    """Nothing is accepted before `Gate.open`. Raises StoreError."""
    config, metrics, clock = setup.config, records.metrics, setup.clock
    own = OwnListeners()
    upstream = _upstream(setup, records, rules, own)
    ways = _ways(setup, upstream, metrics)
    enforcer = _enforcer(setup, records, rules, own, upstream)
    injector = Injector(records.vault)
    leaks = LeakWatch(rules.follower.policies)
    leaks.load(records.vault.watched())
    inspector = TlsInspector(
        enforcer=enforcer,
        injector=injector,
        leaks=leaks,
        settings=config.proxy,
        metrics=metrics,
        ca_directory=setup.workspace.ca_directory,
        examiners=(RegistryExaminer(enforcer, injector, MetadataClient(config.proxy, ways), clock=clock),),
        ways=ways,
    )
    setup.parts.push_async_callback(inspector.close)
    gate = Gate(
        enforcer=enforcer,
        tokens=records.tokens,
        settings=config.proxy,
        metrics=metrics,
        inspector=inspector,
        injector=injector,
        leaks=leaks,
        clock=clock,
        cells=rules.cells,
        ways=ways,
        requests=RequestsApi(
            rules.approvals,
            rules.asking,
            policies=rules.follower.policies,
            audit=records.state.audit,
            view=OwnView(setup.workspace.state_db, clock),
            clock=clock,
        ),
        plane=plane,
    )
    return Forwarding(own, upstream, leaks, inspector, gate)


def _upstream(setup: Setup, records: Records, rules: Rules, own: OwnListeners) -> UpstreamProxy | None:
    settings = setup.config.upstream
    if not settings.wanted:
        return None
    upstream = UpstreamProxy(
        settings,
        setup.config.proxy,
        resolver=rules.resolver,
        secrets=records.vault,
        own=own,
        base=setup.workspace.root,
    )
    setup.parts.callback(upstream.close)
    return upstream


def _ways(setup: Setup, upstream: UpstreamProxy | None, metrics: Metrics) -> Ways:
    seconds, settings = setup.config.proxy.connect_timeout, setup.config.upstream
    if upstream is None:
        return Ways(connect_timeout=seconds)
    failures = UpstreamMetrics(metrics.registry, Trouble)
    _log.info("an upstream proxy is in front", proxy=settings.proxy or settings.pac, resolve=settings.resolve)
    return Ways(upstream, connect_timeout=seconds, on_trouble=failures.failed)


def _enforcer(
    setup: Setup, records: Records, rules: Rules, own: OwnListeners, upstream: UpstreamProxy | None
) -> Enforcer:
    config = setup.config
    workers = setup.worker.of if setup.worker is not None else 1
    return Enforcer(
        policies=rules.follower.policies,
        resolver=rules.resolver,
        budgets=rules.budgets,
        leases=records.state.leases,
        audit=rules.shared.audit,
        metrics=records.metrics,
        own_listeners=own,
        clock=setup.clock,
        strict_durability=config.audit.durability == "strict",
        flows_per_tool=rules.flows_per_tool,
        asking=rules.asking,
        names=upstream,
        denials=DenialBudget(
            time.monotonic,
            rules.cells,
            per_minute=config.audit.denials_per_minute,
            most_waiting=config.proxy.max_connections // (8 * workers),
        ),
    )
