"""The pure parts alone: median microseconds of one call, on one core, nothing else running in the process."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.contenders import rule_hosts
from bench.measure import median
from bench.wire import HOST, real_hello
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.fleet.tokens.jwks import fleet_keys
from cloned_proxy.fleet.tokens.tool_tokens import FleetTokens, mint_tool_token
from cloned_proxy.policy.callers.caller import ANONYMOUS
from cloned_proxy.policy.callers.identity import Claims, OwnTokens, identify, mint_token
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.deciding.decide_addresses import decide_addresses
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.proxy.wire.client_hello import ClientHelloReader
from cloned_proxy.proxy.wire.head import parse_head
from cloned_proxy.proxy.wire.hello_watch import HelloWatch
from cloned_proxy.store.audit.state import State
from cloned_proxy.store.policyfile.policy_file import policy_from_bytes
from cloned_proxy.telemetry.events import DecisionEvent, Kind, new_decision_id

SIZES: Final = (10, 1_000, 20_000)
_ROUNDS: Final = 200
_CALLS: Final = 50
_NOW: Final = 1_800_000_000.0
_KEY: Final = b"k" * 32


def _microseconds(call: Callable[[int], object]) -> float:
    """The median over rounds of the mean of one call; the argument counts up, so that no call repeats the last."""
    rounds: list[float] = []
    for number in range(_ROUNDS):
        first = number * _CALLS
        began = time.perf_counter()
        for index in range(first, first + _CALLS):
            call(index)
        rounds.append((time.perf_counter() - began) / _CALLS * 1e6)
    return median(rounds)


def policy_of(hosts: int) -> Policy:
    lines = [f"    - {name}\n" for name in rule_hosts(hosts)] + ["    - '*.wild.example'\n"]
    text = "version: 1\nanonymous: global\nglobal:\n  allow:\n" + "".join(lines)
    return policy_from_bytes(text.encode(), source="bench", now=_NOW)


def _decisions(hosts: int) -> dict[str, float]:
    policy = policy_of(hosts)
    names = rule_hosts(hosts)[:-1]
    allowed = [Request(name, 443) for name in names]
    denied = [Request("x" + name, 443) for name in names]
    wild = [Request(f"{name.replace('.', '-')}.wild.example", 443) for name in names]
    return {
        f"decide, {hosts} hosts: {label}": _microseconds(
            lambda index, asked=asked: decide(policy, ANONYMOUS, asked[index * 7 % len(asked)], _NOW)  # type: ignore[misc]
        )
        for label, asked in (("allowed", allowed), ("denied", denied), ("wildcard", wild))
    }


def _networks(count: int) -> dict[str, float]:
    """Literals under rules with `cidr`, and a name that resolves into one of the networks."""
    lines = [f"    - {{cidr: 10.{at // 256 % 256}.{at % 256}.0/{24 + at % 5}}}\n" for at in range(count)]
    text = "version: 1\nanonymous: global\nglobal:\n  allow:\n    - db.example.com\n" + "".join(lines)
    policy = policy_from_bytes(text.encode(), source="bench", now=_NOW)
    literals = [Request(f"10.{at // 256 % 256}.{at % 256}.1", 443) for at in range(count)]
    led = [ipaddress.ip_address(request.host) for request in literals]
    named = decide(policy, ANONYMOUS, Request("db.example.com", 443), _NOW)
    return {
        f"decide, {count} networks: literal": _microseconds(
            lambda index: decide(policy, ANONYMOUS, literals[index * 7 % count], _NOW)
        ),
        f"decide, {count} networks: address of a name": _microseconds(
            lambda index: decide_addresses(named, (led[index * 7 % count],), ())
        ),
    }


def _parts(directory: Path) -> dict[str, float]:
    token = mint_token(_KEY, Claims("bench@v1", "run", _NOW + 3600))
    tokens = OwnTokens(_KEY)
    fields = (("host", f"{HOST}:443"), ("x-cloned-tool-token", token))
    connect = f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\nUser-Agent: bench/1\r\n\r\n".encode()
    get = f"GET http://{HOST}/a/b?c=d HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: bench/1\r\nAccept: */*\r\n".encode()
    get += b"Accept-Encoding: gzip\r\nX-Request: 1\r\n\r\n"
    hello = real_hello()
    flight = bytes.fromhex("160303007a02000076") + hello[9:127]  # a ServerHello, as far as the watch reads it
    event = DecisionEvent(
        id=new_decision_id(), at=_NOW, kind=Kind.TUNNEL, verdict="allow", reason="allowed", tool=None, run=None,
        host=HOST, port=443, method="CONNECT", path="", rule="r-0000000000", policy="000000000000", hint="",
    )  # fmt: skip
    state = State(directory / "state.db")
    try:
        figures = {
            "token check": _microseconds(lambda _: identify(fields, tokens=tokens, now=_NOW, listener=ANONYMOUS)),
            **_fleet_tokens(),
            "head parse, CONNECT": _microseconds(lambda _: parse_head(connect)),
            "head parse, GET with five fields": _microseconds(lambda _: parse_head(get)),
            "ClientHello parse": _microseconds(lambda _: ClientHelloReader().feed(hello)),
            "watch for further ClientHellos": _microseconds(lambda _: _watch(hello, flight)),
        }
        audit = [_one_record(state, event) for _ in range(2_000)]
    finally:
        state.close()
    return {**figures, "audit record (queueing)": median(audit)}


def _fleet_tokens() -> dict[str, float]:
    """The same check for a token that the fleet has signed, when it was met before and when not."""
    key = SigningKey.generate()
    tokens = FleetTokens(OwnTokens(_KEY), fleet="bench", keys=fleet_keys([key.public]))
    token = mint_tool_token(key, Claims("bench@v1", "run", _NOW + 3600), fleet="bench", now=_NOW)
    fields = (("host", f"{HOST}:443"), ("x-cloned-tool-token", token))

    def first(_: int) -> None:
        tokens.changed()
        identify(fields, tokens=tokens, now=_NOW, listener=ANONYMOUS)

    return {
        "token check, fleet": _microseconds(lambda _: identify(fields, tokens=tokens, now=_NOW, listener=ANONYMOUS)),
        "token check, fleet: the first one": _microseconds(first),
    }


def _watch(hello: bytes, flight: bytes) -> bool:
    """What a tunnel without a retry pays for the watch, from its beginning to its end."""
    watch = HelloWatch(len(hello))
    watch.from_client(hello)
    watch.look_at_server(flight)
    return watch.done


def _one_record(state: State, event: DecisionEvent) -> float:
    began = time.perf_counter()
    state.audit.record(event)
    return (time.perf_counter() - began) * 1e6


def run_micro(directory: Path) -> dict[str, float]:
    """Microseconds by what was called."""
    directory.mkdir(parents=True)
    figures: dict[str, float] = {}
    for hosts in SIZES:
        figures |= _decisions(hosts) | _networks(hosts)
    return figures | _parts(directory)
