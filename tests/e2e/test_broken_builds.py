"""Take one guard out and its attack gets through; break a part and nothing does.

Each row of `MATCHING` and `INSPECTING` is the proof that the test of the same attack in `test_attacks.py` can fail.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Sequence

import pytest

from tests.e2e import test_registries
from tests.net.asker import ASKING_GUARDS
from tests.net.attacks import destinations, framing, headers, http2, identity, inspected, secrets, tunnels
from tests.net.attacks.attempt import (
    Attack,
    Attempt,
    gets_out,
    gets_through,
    permitted_call_passes,
    proxy_authorization,
    read_all,
)
from tests.net.attacks.policies import CONFIG, POLICIES
from tests.net.broken_builds import FAULTS, OPEN, SLOT, SLOT_OFFSET
from tests.net.guards import GUARDS
from tests.net.proxy_process import ProxyOptions
from tests.net.world import World

pytestmark = pytest.mark.net

_TABLES = {
    "": destinations.ATTACKS,
    "tunnel: ": tunnels.ATTACKS,
    "framing: ": (*framing.ATTACKS, *framing.INSIDE),
    "identity: ": identity.ATTACKS,
    "headers: ": headers.ATTACKS,
    "inspected: ": inspected.ATTACKS,
    "http2: ": http2.ATTACKS,
    "secret: ": secrets.ATTACKS,
}
ATTACKS = {prefix + attack.name: attack for prefix, table in _TABLES.items() for attack in table}

MATCHING: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("the decision",), ("http: a host nobody allowed", "tunnel: a host nobody allowed", "http: upper case",
                         "tunnel: the apex of a wildcard", "http: port 8080 of an allowed host",
                         "framing: a second request for a denied host",
                         "framing: a pipelined request for a denied host",
                         "framing: a denied request behind a chunked body")),
    (("deny rules",), ("http: an explicit deny under an allowed wildcard",
                       "tunnel: an explicit deny under an allowed wildcard",
                       "http: a name into a denied network", "tunnel: a name into a denied network")),
    (("every reading of a path",), ("inspected: an encoded slash", "inspected: dots with a parameter",
                                    "inspected: dots encoded twice", "inspected: overlong dots")),
    (("what a network opens",), ("http: private.example.com (allowed)", "tunnel: private.example.com (allowed)")),
    (("ports",), ("tunnel: port 22 of an allowed host", "http: port 8080 of an allowed host")),
    (("methods and paths",), ("inspected: a method that is not allowed", "inspected: a path that is not allowed",
                              "inspected: a second request with a forbidden path",
                              "inspected: plain HTTP with a forbidden path")),
    (("what report mode never opens",), ("http: private.example.com (report mode)",
                                         "tunnel: metadata.example.com (report mode)")),
    (("address classes",), ("http: private.example.com (allowed)", "tunnel: metadata.example.com (allowed)",
                            "tunnel: loopback6.example.com (allowed)", "http: mapped.example.com (allowed)",
                            "tunnel: nat64.example.com (allowed)", "tunnel: mixed.example.com (allowed)",
                            "tunnel: alias.example.com (allowed)", "http: cgnat.example.com (allowed)")),
    (("own listeners",), ("the proxy dialling its metrics", "the proxy dialling itself")),
    (("decide before DNS",), ("http: a host nobody allowed", "tunnel: a host nobody allowed")),
    (("dial the checked address",), ("a rebinding name",)),
    (("SNI",), ("tunnel: SNI of another host", "tunnel: no SNI", "tunnel: the same SNI twice",
                "tunnel: two SNIs, the allowed one first", "tunnel: another SNI, a byte a segment",
                "tunnel: another SNI beside an ECH extension", "tunnel: only an ECH extension")),
    (("further ClientHellos",), ("tunnel: another SNI behind a HelloRetryRequest",
                                 "tunnel: another SNI behind a HelloRetryRequest, in segments",
                                 "tunnel: another SNI without waiting for the HelloRetryRequest",
                                 "tunnel: another SNI behind early data")),
    (("TLS in tunnels",), ("tunnel: plain HTTP in a tunnel", "tunnel: SSH in a tunnel",
                           "tunnel: the HTTP/2 preface in a tunnel", "tunnel: bytes sent with the CONNECT head")),
    (("SSH in tunnels",), ("tunnel: HTTP in a tunnel for SSH", "tunnel: HTTP in a tunnel for SSH, to a server of SSH",
                           "tunnel: HTTP behind an SSH identification", "tunnel: TLS in a tunnel for SSH",
                           "tunnel: a line before the SSH identification",
                           "tunnel: an SSH identification without an end",
                           "tunnel: an SSH identification of another version")),
    (("strict lines",), ("framing: bare LF everywhere", "framing: obs-fold", "inspected: obs-fold")),
    (("framing",), ("framing: Content-Length beside Transfer-Encoding", "framing: an unknown transfer coding",
                    "framing: a signed Content-Length")),
    (("what is left of a body",), ("framing: a request in a body behind a timeout",)),
    (("Host",), ("framing: a Host that is not the target", "framing: a Host on another port")),
    # Two layers: either alone still stops it.
    (("inner Host", "the grant of each dial"), ("inspected: fronting to another allowed host",)),
    (("inner Host", "the grant of each dial"), ("http2: the authority of another allowed host",)),
    (("HTTP/2 fields",), ("http2: a second request behind CRLF in a value",
                          "http2: a second request behind LF in a value",
                          "http2: a second request behind CRLF in a name", "http2: NUL in a value")),
    (("methods and paths",), ("http2: a forbidden path on the next stream", "http2: a method that is not allowed")),
    (("Host", "inner Host", "the grant of each dial"), ("inspected: absolute form, https, to another allowed host",)),
    (("header stripping",), ("headers: http: X-Cloned-Tool", "headers: inspected: X-Cloned-Tool",
                             "headers: http: Connection", "headers: a tool's credential",
                             "framing: an upgrade to HTTP/2 in clear")),
    (("token signature",), ("identity: a token signed with another key",
                            "identity: a token with a changed signature")),
    (("token expiry",), ("identity: an expired token",)),
    (("identity is proved",), ("identity: a forged X-Cloned-Tool",
                               "identity: a forged X-Cloned-Tool beside another tool's token")),
    (("identity of each request",), ("identity: on a kept-alive connection: no credential",
                                     "identity: on a kept-alive connection: another tool's own credential")),
    (("anonymous",), ("identity: no credential where one is needed",)),
    (("secrets on their way out",), ("secret: in the query", "secret: in the path", "secret: in a header",
                                     "secret: in a body", "secret: in a body in two segments")),
    (("upstream verification",), ("inspected: an upstream with a bad certificate",)),
    (OPEN, ("http: a host nobody allowed", "tunnel: a host nobody allowed", "http: private.example.com (allowed)",
            "tunnel: SNI of another host", "tunnel: plain HTTP in a tunnel", "framing: a Host that is not the target",
            "framing: bare LF everywhere", "headers: http: X-Cloned-Tool", "identity: no credential",
            "inspected: a path that is not allowed", "inspected: an upstream with a bad certificate")),
]  # fmt: skip

INSPECTING: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("the decision",), ("tunnel: a host nobody allowed", "tunnel: the apex of a wildcard")),
    (("deny rules",), ("tunnel: an explicit deny under an allowed wildcard",)),
    (("what report mode never opens",), ("tunnel: metadata.example.com (report mode)",)),
    (("address classes",), ("tunnel: metadata.example.com (allowed)", "tunnel: loopback6.example.com (allowed)",
                            "tunnel: nat64.example.com (allowed)", "tunnel: alias.example.com (allowed)")),
    (("decide before DNS",), ("tunnel: a host nobody allowed",)),
    (("SNI",), ("tunnel: no SNI",)),
    (("TLS in tunnels",), ("tunnel: plain HTTP in a tunnel", "tunnel: SSH in a tunnel",
                           "tunnel: the HTTP/2 preface in a tunnel", "tunnel: bytes sent with the CONNECT head")),
    (("strict lines",), ("framing: inside: bare LF everywhere", "framing: inside: obs-fold")),
    (("framing",), ("framing: inside: Content-Length beside Transfer-Encoding",
                    "framing: inside: an unknown transfer coding", "framing: inside: a signed Content-Length")),
    (("secrets on their way out",), ("secret: in the query, in opened TLS", "secret: in a header, in opened TLS",
                                     "secret: in a body, in opened TLS",
                                     "secret: in a body in two segments, in opened TLS")),
]  # fmt: skip
"""The same where every rule looks inside TLS. Not here is what that path stops a second time by its nature: it sends
its own ClientHello and not the client's."""


def _name(value: str | Sequence[str]) -> str:
    if isinstance(value, str):
        return value
    if value[0] not in GUARDS:
        return ""
    return "everything" if value == OPEN else " and ".join(value)


@pytest.mark.parametrize(
    ("path", "guards", "attacks"),
    [*(("gate", *row) for row in MATCHING), *(("inspected", *row) for row in INSPECTING)],
    ids=_name,
)
def test_without_its_guard_the_attack_gets_through(
    world: World, path: str, guards: tuple[str, ...], attacks: tuple[str, ...]
) -> None:
    by_policy: dict[str, list[Attack]] = {}
    for name in attacks:
        by_policy.setdefault(ATTACKS[name].policy, []).append(ATTACKS[name])
    stopped = []
    for policy, group in by_policy.items():
        proxy = world.serve(POLICIES[path][policy], ProxyOptions(without=guards, config=CONFIG))
        stopped += [attack.name for attack in group if not gets_through(world, proxy, attack)]
        proxy.kill()
    assert not stopped, "these attacks fail even without their guard, so their tests prove nothing"


def test_every_guard_has_its_attack() -> None:
    tested = {guard for guards, _ in MATCHING for guard in guards}
    elsewhere = {"no record, no request", "listener-bound identity"}  # the two tests below
    asking = set(ASKING_GUARDS)  # `test_asking.py`
    assert tested | elsewhere | asking | set(test_registries.ATTACKS) == set(GUARDS)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "the audit log is full"])
def test_a_broken_part_lets_nothing_pass(world: World, fault: str) -> None:
    proxy = world.serve(POLICIES["gate"]["base"], ProxyOptions(without=(fault,), config=CONFIG))
    attempt = Attempt(world, proxy, patience=0.5)
    assert attempt.carry_out(Attack("calls that the policy allows", _allowed_calls)) == []
    proxy.kill()


@pytest.mark.parametrize(("guarded", "passes"), [(True, False), (False, True)], ids=["guarded", "guard removed"])
def test_what_cannot_be_recorded_does_not_pass(world: World, guarded: bool, passes: bool) -> None:
    without = ("the audit log is full",) if guarded else ("the audit log is full", "no record, no request")
    proxy = world.serve(POLICIES["gate"]["base"], ProxyOptions(without=without, config=CONFIG))
    assert permitted_call_passes(world, proxy, must=passes) is passes
    proxy.kill()


def _as_beta(attempt: Attempt) -> None:
    """Through the listener of one tool with the genuine credential of another, and with its mere name."""
    credential = proxy_authorization("beta@v1", attempt.proxy.token("beta@v1"))
    for claim in (credential, {"X-Cloned-Tool": "beta@v1"}):
        attempt.get("beta.example.com", headers=claim)
        with contextlib.suppress(OSError, ssl.SSLError):
            attempt.fetch("beta.example.com", headers=claim)


@pytest.mark.parametrize("without", [(), ("listener-bound identity",)], ids=["guarded", "guard removed"])
def test_a_listener_that_is_a_tool_cannot_be_another(world: World, without: tuple[str, ...]) -> None:
    proxy = world.serve(POLICIES["gate"]["base"], ProxyOptions(without=(SLOT, *without), config=CONFIG))
    proxy.port += SLOT_OFFSET
    attack = Attack("as beta", _as_beta, (("beta.example.com", 80), ("beta.example.com", 443)))
    got_out = gets_out(lambda: Attempt(world, proxy).carry_out(attack), must=bool(without))
    assert got_out is bool(without)
    # The tool itself needs no credential there, and none would make it less.
    allowed = Attack("as alpha", lambda attempt: attempt.get("alpha.example.com").decode()[:0] or None)
    assert gets_through(world, proxy, allowed)
    proxy.kill()


def _allowed_calls(attempt: Attempt) -> None:
    """One as plain HTTP, one in a tunnel that is opened: both pass in a whole build."""
    request = f"/ok/{attempt.marker} HTTP/1.1\r\nHost: {inspected.HOST}\r\nConnection: close\r\n\r\n"
    attempt.send(f"GET http://{inspected.HOST}{request}".encode())
    with attempt.tls(f"{inspected.HOST}:443", inspected.HOST) as secure:
        secure.sendall(f"GET {request}".encode())
        read_all(secure)


def test_a_whole_build_lets_the_same_calls_pass(world: World) -> None:
    proxy = world.serve(POLICIES["gate"]["base"], ProxyOptions(config=CONFIG))
    allowed = Attack("calls that the policy allows", _allowed_calls)
    assert gets_out(lambda: len(set(Attempt(world, proxy).carry_out(allowed))) == 2)
    proxy.kill()
