"""The metrics of docs/metrics.md, with label values that no caller can multiply."""

from __future__ import annotations

import platform
from collections.abc import Callable, Container
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cloned_proxy import __version__
from cloned_proxy.policy.terms.vocabulary import Reason, Verdict
from cloned_proxy.telemetry.counts import Count, Counts, Level, Spread
from cloned_proxy.telemetry.events import DecisionEvent, Kind
from cloned_proxy.telemetry.labels import ANONYMOUS_LABEL, OTHER_LABEL, UNKNOWN_LABEL
from cloned_proxy.telemetry.lease_metrics import LeaseMetrics
from cloned_proxy.telemetry.sandbox_metrics import SandboxMetrics
from cloned_proxy.telemetry.wait_metrics import WaitMetrics

MAX_HOSTS_A_TOOL: Final = 100

# A decision takes microseconds; one that had to wait for a strict commit takes milliseconds.
DECISION_BUCKETS: Final = (
    *(2e-6, 5e-6, 10e-6, 20e-6, 50e-6, 100e-6, 200e-6, 500e-6),
    *(0.001, 0.005, 0.025, 0.1, 1.0),
)
CONNECT_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_PLAIN: Final = 3
REQUEST_BUCKETS: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
_DENY: Final = Verdict.DENY.name.lower()


class Metrics:
    """One for each process. What a request counts are plain numbers of the event loop, carried over at a scrape."""

    def __init__(self, registry: CollectorRegistry, *, shared: bool = False, plane: str = "python") -> None:
        """`shared`: this is one of several workers, whose metrics `telemetry.shared` keeps.

        `plane` is what serves the common case: `native` or `python`.
        """
        self.registry = registry
        self._known: Container[str] = frozenset()
        self._hosts: dict[str, set[str]] = {}
        self._counts: Final = Counts(at_once=shared)
        registry.register(self._counts)
        self._decided: dict[tuple[str, str, str], Count] = {}
        self._blocked_by_host: dict[tuple[str, str], Count] = {}
        self._bytes_of: dict[str, tuple[Count, Count]] = {}
        self._tunnels_of: dict[str, Level] = {}
        self._open_tunnels: dict[str | None, tuple[Level, int]] = {}
        self._requests_of: dict[str, Spread] = {}
        self._make_traffic(registry)
        self._make_policy(registry)
        self.sandbox: Final = SandboxMetrics(registry, self._tool)
        self.leases: Final = LeaseMetrics(registry)
        self.waits = WaitMetrics(registry)
        self._audit_queue = Gauge(
            "cloned_proxy_audit_queue", "Audit events waiting for the writer.",
            registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self._audit_bytes = Gauge(
            "cloned_proxy_audit_log_bytes", "What the audit log takes up on disk; audit.max_mib bounds it.",
            registry=registry, multiprocess_mode="livemax",
        )  # fmt: skip
        self._audit_dropped = Counter(
            "cloned_proxy_audit_dropped", "Audit events that could not be recorded.", registry=registry
        )
        self._plane_failures = Counter(
            "cloned_proxy_plane_failures", "Faults of the native plane; Python serves after one.", registry=registry
        )
        self._headers_refused = Counter(
            "cloned_proxy_proxy_protocol_refused",
            "Connections of listen.proxy_protocol_from that were reset for want of a good header.",
            registry=registry,
        )
        build = Gauge(
            "cloned_proxy_build_info", "Always 1; the labels tell the build.", ("version", "python", "plane"),
            registry=registry, multiprocess_mode="max",
        )  # fmt: skip
        self._build: Final = build
        self._build_labels: Final = (__version__, platform.python_version())
        build.labels(*self._build_labels, plane).set(1)

    def _make_traffic(self, registry: CollectorRegistry) -> None:
        self._decisions = Counter(
            "cloned_proxy_decisions", "Decisions made.", ("tool", "verdict", "reason"), registry=registry
        )
        self._blocked = Counter(
            "cloned_proxy_blocked_hosts", "Denied requests by host.", ("tool", "host"), registry=registry
        )
        decision_seconds = Histogram(
            "cloned_proxy_decision_duration_seconds",
            "Time to decide, without name resolution.",
            buckets=DECISION_BUCKETS,
            registry=registry,
        )
        self._decision_seconds = self._counts.spread(decision_seconds)
        connect_seconds = Histogram(
            "cloned_proxy_upstream_connect_duration_seconds",
            "Time to connect to an upstream.",
            buckets=CONNECT_BUCKETS,
            registry=registry,
        )
        self._connect_seconds = self._counts.spread(connect_seconds)
        self._request_seconds = Histogram(
            "cloned_proxy_request_duration_seconds",
            "Time from the grant of a request or tunnel to its end.",
            ("kind",),
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self._tunnels = Gauge(
            "cloned_proxy_open_tunnels", "Tunnels open now.", ("tool",), registry=registry, multiprocess_mode="livesum"
        )
        self._bytes = Counter(
            "cloned_proxy_bytes", "Bytes relayed, by direction as the caller sees it.", ("tool", "direction"),
            registry=registry,
        )  # fmt: skip

    def _make_policy(self, registry: CollectorRegistry) -> None:
        self._reloads = Counter(
            "cloned_proxy_policy_reloads", "Policy files read after a change.", ("result",), registry=registry
        )
        for result in ("ok", "rejected"):  # both series exist from the start, so that rate() sees the first step
            self._reloads.labels(result)
        # Over several workers the sum says what is true of all of them, hence the least of each.
        self._reload_ok = Gauge(
            "cloned_proxy_policy_last_reload_success", "1 if the newest policy file is in force.",
            registry=registry, multiprocess_mode="livemin",
        )  # fmt: skip
        self._reload_at = Gauge(
            "cloned_proxy_policy_last_reload_timestamp_seconds",
            "When the policy in force was loaded.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._rules = Gauge(
            "cloned_proxy_policy_rules", "Rules of the policy in force.",
            registry=registry, multiprocess_mode="livemax",
        )  # fmt: skip

    def know_tools(self, tools: Container[str]) -> None:
        """The tools that the policy in force names; any other is `_unknown`, no tool is `_anonymous`."""
        self._known = tools

    def decided(self, event: DecisionEvent, seconds: float, decision_id: str = "") -> None:
        """One decision: `decisions_total`, `decision_duration_seconds`, and `blocked_hosts_total` for a denial.

        `decision_id` is the one under which it is on record, where that is not the event's.
        """
        tool = self._tool(event.tool)
        self._decided_as(tool, event).add(1, decision_id or event.id)  # from a point of a graph to the entry of the log
        self._decision_seconds.observe(seconds)
        if event.verdict == _DENY:
            self._count_blocked(tool, event)
        else:
            self.leases.passed(tool, event.rule, event.at)

    def _decided_as(self, tool: str, event: DecisionEvent) -> Count:
        key = (tool, event.verdict, event.reason)
        count = self._decided.get(key)
        if count is None:
            count = self._decided[key] = self._counts.count(self._decisions.labels(*key))
        return count

    def _count_blocked(self, tool: str, event: DecisionEvent, times: int = 1) -> None:
        # A malformed host is free text; only canonical names may take one of the hundred places.
        host = OTHER_LABEL if event.reason == Reason.MALFORMED_REQUEST else event.host
        hosts = self._hosts.setdefault(tool, set())
        if host not in hosts:
            if len(hosts) >= MAX_HOSTS_A_TOOL:
                host = OTHER_LABEL
            elif host != OTHER_LABEL:
                hosts.add(host)
        count = self._blocked_by_host.get((tool, host))
        if count is None:
            count = self._counts.count(self._blocked.labels(tool, host))
            self._blocked_by_host[tool, host] = count
        count.add(times)

    def upstream_connected(self, seconds: float) -> None:
        """One successful connect to an upstream."""
        self._connect_seconds.observe(seconds)

    def request_finished(self, kind: str, seconds: float) -> None:
        """The end of an allowed flow; `kind` is one of `events.Kind`."""
        spread = self._requests_of.get(kind)
        if spread is None:
            spread = self._requests_of[kind] = self._counts.spread(self._request_seconds.labels(kind))
        spread.observe(seconds)

    def tunnel_opened(self, tool: str | None) -> None:
        """A tunnel begins to relay."""
        level, open_now = self._open_tunnels.get(tool) or (self._tunnel(self._tool(tool)), 0)
        self._open_tunnels[tool] = level, open_now + 1
        level.add(1)

    def tunnel_closed(self, tool: str | None) -> None:
        """A tunnel that `tunnel_opened` counted ended. It leaves the gauge under the label it came in with."""
        # The policy may know the tool by now, or no longer; and a tool without tunnels must not take up memory.
        level, open_now = self._open_tunnels.pop(tool)
        if open_now > 1:
            self._open_tunnels[tool] = level, open_now - 1
        level.add(-1)

    def tunnels_changed(self, tool: str | None, amount: int) -> None:
        """Counts tunnels of the tool that have begun to relay, or (negative) have ended, elsewhere in this process."""
        for _ in range(amount):
            self.tunnel_opened(tool)
        for _ in range(-amount):
            self.tunnel_closed(tool)

    def decided_elsewhere(self, event: DecisionEvent, count: int, newest: str, at: float) -> None:
        """Counts decisions like this one that were made elsewhere in this process, until `at` (Unix seconds).

        `newest` is the id of the last of them.
        """
        if not count:
            return
        tool = self._tool(event.tool)
        self._decided_as(tool, event).add(count, newest)
        if event.verdict == _DENY:
            self._count_blocked(tool, event, count)
        else:
            self.leases.passed(tool, event.rule, at)

    def observed_elsewhere(self, which: int, counts: list[int], total: float) -> None:
        """What to add to a histogram: of connects (0), decisions (1), requests that were tunnels (2) or plain (3)."""
        kind = (Kind.HTTP if which == _PLAIN else Kind.TUNNEL).value
        if kind not in self._requests_of:
            self._requests_of[kind] = self._counts.spread(self._request_seconds.labels(kind))
        (self._connect_seconds, self._decision_seconds, self._requests_of[kind])[min(which, 2)].add(counts, total)

    def refreshed_by(self, refresh: Callable[[], None] | None) -> None:
        """Has somebody who counts by himself tell what he has counted, before each scrape."""
        self._counts.refresh = refresh

    def header_refused(self) -> None:
        """A connection without a good PROXY protocol header."""
        self._headers_refused.inc()

    def plane_failed(self) -> None:
        """The native plane had a fault, and is out of use."""
        self._plane_failures.inc()
        self._build.remove(*self._build_labels, "native")
        self._build.labels(*self._build_labels, "python").set(1)

    def bytes_passed(self, tool: str | None, *, up: int, down: int) -> None:
        """Bytes of one flow: `up` from the caller, `down` to it."""
        label = self._tool(tool)
        counts = self._bytes_of.get(label)
        if counts is None:
            each = (self._counts.count(self._bytes.labels(label, direction)) for direction in ("up", "down"))
            counts = self._bytes_of[label] = (next(each), next(each))
        counts[0].add(up)
        counts[1].add(down)

    def policy_loaded(self, *, rules: int, at: float, counts: bool = True) -> None:
        """A policy came into force at `at` (Unix seconds). One of several workers `counts` it as a reload."""
        if counts:
            self._reloads.labels("ok").inc()
        self._reload_ok.set(1)
        self._reload_at.set(at)
        self._rules.set(rules)

    def policy_rejected(self, *, counts: bool = True) -> None:
        """A changed policy file was refused; the last good one stays in force. `counts` as above."""
        if counts:
            self._reloads.labels("rejected").inc()
        self._reload_ok.set(0)

    def audit_queue(self, length: int) -> None:
        """How many events wait for the audit writer."""
        self._audit_queue.set(length)

    def audit_log_bytes(self, size: int) -> None:
        """What the audit log takes up on disk."""
        self._audit_bytes.set(size)

    def audit_dropped(self) -> None:
        """An event that could not be recorded (its request was refused)."""
        self._audit_dropped.inc()

    def _tool(self, tool: str | None) -> str:
        if tool is None:
            return ANONYMOUS_LABEL
        return tool if tool in self._known else UNKNOWN_LABEL

    def _tunnel(self, label: str) -> Level:
        level = self._tunnels_of.get(label)
        if level is None:
            level = self._tunnels_of[label] = self._counts.level(self._tunnels.labels(label))
        return level
