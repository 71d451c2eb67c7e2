"""What the project set out to reach, and what a run reached: the same words in the results and in the docs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.start import GOALS

if TYPE_CHECKING:
    from bench.report import Figure, Results

OURS = "cloned-proxy"
TWO_WORKERS = "cloned-proxy, 2 workers"
PYTHON = "cloned-proxy, Python alone"
FLOOR = "floor"
_CORES = 4


@dataclass(frozen=True, slots=True)
class Target:
    title: str
    aim: float
    found: float
    unit: str
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.found <= self.aim if self.at_most else self.found >= self.aim

    @property
    def row(self) -> str:
        sign = "at most" if self.at_most else "at least"
        verdict = "met" if self.met else "missed"
        return f"| {self.title} | {sign} {self.aim:g}{self.unit} | {self.found:.2f}{self.unit} | {verdict} |"


def targets_of(results: Results) -> list[Target]:
    """Those for which the run has both sides."""
    found: list[Target | None] = [
        _ratio(results, "setup", ("Squid", "tinyproxy"), "CONNECT set-ups, of the better of Squid and tinyproxy", 1.35),
        _ratio(results, "download1", ("Squid",), "Bytes through one tunnel, of Squid", 3.0),
        # How far the copies of Squid can be beaten is the kernel's to say: the floor does nothing but splice.
        _ratio(results, "download1", (FLOOR,), "Bytes through one tunnel, of the floor's", 0.95),
        _ratio(results, "download8", ("Squid",), "Bytes through eight tunnels, of Squid", 3.0),
        _ratio(results, "http", ("Squid",), "Plain HTTP requests, of Squid", 2.0),
        _ratio(results, "tls", ("Squid", "tinyproxy"), "Whole TLS handshakes, of the better of the two", 1.2),
        _ratio(results, "denied", ("Squid", "tinyproxy"), "Denied CONNECTs, of the better of the two", 1.0),
        _ratio(results, "http", ("mitmdump",), "Plain HTTP, of stock mitmdump (wall clock)", 1.5, of=lambda f: f.rate),
        _ratio(results, "setup", ("mitmdump",), "Set-ups, of stock mitmdump (wall clock)", 10.0, of=lambda f: f.rate),
        _tail(results, "Squid", "p99 of a set-up, of Squid's", 1.0),
        _tail(results, FLOOR, "p99 of a set-up, of the floor's", 2.0),
        _workers(results, "http", "Two threads, plain HTTP, of one (wall clock)"),
        _workers(results, "setup", "Two threads, set-ups, of one (wall clock)"),
        _idle(results),
        _many(results),
        _rules(results),
        _cold(results),
        *_neighbour(results.neighbour),
        *_chained(results.chained),
        *_fleet(results.fleet),
        *_opened(results.opened),
        *_registry(results.registry),
        *_model(results.model),
        *_warm_exec(results.sandbox),
        *_starts(results),
    ]
    return [target for target in found if target is not None]


def rows(targets: Iterable[Target]) -> list[str]:
    """A Markdown table."""
    return ["| | target | this run | |", "|---|---:|---:|---|", *(target.row for target in targets)]


def _figure(results: Results, key: str, contender: str) -> Figure | None:
    table = next((table for table in results.tables if table.key == key), None)
    return table.of(contender) if table is not None else None


def _ratio(
    results: Results,
    key: str,
    rivals: tuple[str, ...],
    title: str,
    aim: float,
    *,
    of: Callable[[Figure], float] = lambda figure: figure.per_cpu,
) -> Target | None:
    """Ours, of the best of the rivals. Per CPU-second unless it says otherwise."""
    ours = _figure(results, key, OURS)
    theirs = [of(figure) for rival in rivals if (figure := _figure(results, key, rival)) is not None]
    best = max(theirs, default=0.0)
    # 0 is a cost too small for the clock to tell: no figure.
    return Target(title, aim, of(ours) / best, "x") if ours is not None and of(ours) and best else None


def _tail(results: Results, rival: str, title: str, aim: float) -> Target | None:
    ours, theirs = _figure(results, "setup", OURS), _figure(results, "setup", rival)
    if ours is None or theirs is None or not theirs.p99:
        return None
    return Target(title, aim, ours.p99 / theirs.p99, "x", at_most=True)


def too_few_cores(results: Results) -> bool:
    """Whether two threads of a proxy could not both run beside the clients and the upstream, which take a core each."""
    return int(results.machine["cores"]) < _CORES


def _workers(results: Results, key: str, title: str) -> Target | None:
    one, two = _figure(results, key, OURS), _figure(results, key, TWO_WORKERS)
    if one is None or two is None or not one.rate or too_few_cores(results):
        return None
    return Target(title, 1.8, two.rate / one.rate, "x")


def _idle(results: Results) -> Target | None:
    ours = _figure(results, "idle", OURS)
    return (
        Target("Memory of each further 1000 idle tunnels", 0.5, ours.rate, " MB", at_most=True)
        if ours is not None
        else None
    )


def _many(results: Results) -> Target | None:
    many = results.many_tunnels
    if not many:
        return None
    return Target(f"Memory in all, {many['open']:.0f} tunnels open", 150.0, many["MB"], " MB", at_most=True)


def _cold(results: Results) -> Target | None:
    native, python = _figure(results, "cold", OURS), _figure(results, "cold", PYTHON)
    if native is None or python is None or not python.per_cpu:
        return None
    return Target("Set-ups with a cold cache, of those in Python alone", 1.0, native.per_cpu / python.per_cpu, "x")


def _neighbour(found: dict[str, float]) -> list[Target]:
    if not found:
        return []
    return [
        Target(
            "Allowed calls that failed beside a loop of denied ones", 0.0, found["neighbour_failed"], "", at_most=True
        ),
        Target("Their median time, of that without the loop", 3.0, found["neighbour_ratio"], "x", at_most=True),
        *(
            Target(f"The latest call beside 1,000 half heads, {gate}", 1_000.0, found[key], " ms", at_most=True)
            for gate in ("native", "Python alone")
            if (key := f"crowded_{gate.partition(' ')[0].lower()}_ms") in found
        ),
    ]


def _chained(found: dict[str, float]) -> list[Target]:
    title = "Set-ups through a Squid in front, of that Squid alone"
    return [Target(title, 0.9, found["chained_ratio"], "x")] if found else []


def _fleet(found: Mapping[str, Any]) -> list[Target]:
    return [
        Target(f"More CPU of {name.removesuffix(', at most')} (upper end of 95 %)", 3.0, 100 * more, " %", at_most=True)
        for name, more in found.items()
        if name.endswith("in a fleet, at most")
    ]


def _model(found: dict[str, float]) -> list[Target]:
    if not found:
        return []
    return [
        Target("Tokens of a sealed model, of those inside its namespace", 0.98, found["tokens_ratio"], "x"),
        Target("First token of a sealed model, later by", 2.0, found["first_token_later_ms"], " ms", at_most=True),
        Target("`llm up`, of the bare container", 1.2, found["start_ratio"], "x", at_most=True),
    ]


def _opened(found: dict[str, float]) -> list[Target]:
    if not found:
        return []
    return [
        Target("HTTP/2 in opened TLS, of our own HTTP/1.1", 0.8, found["opened_http2_of_http1"], "x"),
        Target("HTTP/2 in opened TLS, of stock mitmdump", 3.0, found["opened_http2_of_mitmdump"], "x"),
        Target("HTTP/1.1 in opened TLS, of stock mitmdump", 3.0, found["inspected_ours_of_mitmdump"], "x"),
        Target("The same, each on a connection of its own", 3.0, found["inspected_ours_connections_of_mitmdump"], "x"),
    ]


def _registry(found: dict[str, float]) -> list[Target]:
    if not found:
        return []
    return [
        Target("A filtered packument of 10 MB, later by", 150.0, found["added_ms"], " ms", at_most=True),
        Target("A filtered packument of 10 MB, memory more by", 40.0, found["added_mb"], " MB", at_most=True),
    ]


def _warm_exec(found: dict[str, float]) -> list[Target]:
    if "warm_exec_ratio" not in found:
        return []
    return [
        Target("Warm `exec … true`, of `docker run`", 0.6, found["warm_exec_ratio"], "x", at_most=True),
        Target("Memory of each of 20 `exec`", 30.0, found["exec_memory_mb"], " MB", at_most=True),
    ]


def _starts(results: Results) -> list[Target]:
    title = "`{}`, of the start of a bare interpreter"
    return [Target(title.format(name), GOALS[name], found, "x", at_most=True) for name, found in results.start.items()]


def _rules(results: Results) -> Target | None:
    few, most = _figure(results, "rules10", OURS), _figure(results, "rules20000", OURS)
    if few is None or most is None or not few.per_cpu:
        return None
    return Target("Set-ups with 20,000 rules, of those with 10", 0.95, most.per_cpu / few.per_cpu, "x")
