"""The native plane in front of the gate: what fails against Python must fail against it, and what passes, pass.

Every attack is made three times (`Attempt.carry_out`), behind calls of those who may: it meets verdicts.
`PLANE=require make test T=tests/e2e` runs the others this way. Of `test_broken_builds.py` the rows SNI and TLS in
tunnels are about Python alone: what the plane hands over is reviewed once more, which stops the same attacks. So are
"decide before DNS" and "dial the checked address": the plane dials what a verdict has, and looks nothing up.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.e2e import test_resilience as resilience
from tests.e2e.test_attacks import DESTINATIONS, IDENTITY, TUNNELS, named
from tests.net.attacks import tunnels
from tests.net.attacks.attempt import (
    Attack,
    Attempt,
    gets_out,
    gets_through,
    permitted_call_passes,
    proxy_authorization,
)
from tests.net.attacks.policies import CONFIG_OF_PLANE, POLICIES
from tests.net.load import ALWAYS, SOMETIMES
from tests.net.plane_guards import PLANE_GUARDS
from tests.net.proxy_process import ProxyOptions, ProxyProcess
from tests.net.world import World
from tests.proxy.support import need_plane

pytestmark = [pytest.mark.net, pytest.mark.checkout, pytest.mark.timeout(120)]

_BEGINNINGS = (
    "tunnel: a comma",
    "tunnel: a host",
    "tunnel: a trailing",
    "tunnel: mixed",
    "tunnel: port",
    "tunnel: private",
    "tunnel: two trailing",
    "tunnel: userinfo",
)
_ON_ALLOWED_NAMES = {
    name: attack
    for name, attack in DESTINATIONS.items()
    if attack.policy == "base" and (name.startswith(_BEGINNINGS) or name == "a rebinding name")
}
"""The others are refused before there could be a verdict on them."""

PERMITTED = named(tunnels.PERMITTED)


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    need_plane()


def start(world: World, without: tuple[str, ...] = ()) -> ProxyProcess:
    """In use, and with verdicts on what those may who are asked about in the attacks."""
    options = ProxyOptions(config=CONFIG_OF_PLANE, plane="require", without=without)
    proxy = world.serve(POLICIES["gate"]["base"], options)
    assert 'plane="native"' in proxy.http_get("/metrics")[1]
    for tool, host in (("alpha@v1", "alpha.example.com"), ("beta@v1", "beta.example.com"), ("", "api.example.com")):
        headers = proxy_authorization(tool, proxy.token(tool)) if tool else {}
        for _ in range(2):  # the second grant of Python publishes
            with contextlib.suppress(OSError, ssl.SSLError):
                Attempt(world, proxy).fetch(host, headers=headers)
    return proxy


def check(world: World, proxy: ProxyProcess, attack: Attack) -> None:
    """As `test_attacks.carry_out`, whose allowed call behind each attack is made once, behind all of them."""
    assert not Attempt(world, proxy).carry_out(attack), proxy.said()[-2000:]


def _meets_the_plane(name: str, attack: Attack) -> bool:
    """What is on a kept-alive connection is plain HTTP, which is Python's."""
    return attack.policy == "base" and "kept-alive" not in name


@pytest.fixture(scope="module")
def base(world: World) -> Iterator[ProxyProcess]:
    proxy = start(world)
    yield proxy
    proxy.stop()


@pytest.mark.parametrize("name", [name for name in TUNNELS if "SSH" not in name or name == "SSH in a tunnel"])
def test_a_tunnel_carries_only_tls_for_its_host(world: World, base: ProxyProcess, name: str) -> None:
    check(world, base, TUNNELS[name])


@pytest.mark.parametrize("name", [name for name, attack in IDENTITY.items() if _meets_the_plane(name, attack)])
def test_a_tool_cannot_be_impersonated(world: World, base: ProxyProcess, name: str) -> None:
    check(world, base, IDENTITY[name])


@pytest.mark.parametrize("name", _ON_ALLOWED_NAMES)
def test_a_destination_that_is_not_allowed_is_not_reached(world: World, base: ProxyProcess, name: str) -> None:
    check(world, base, _ON_ALLOWED_NAMES[name])


@pytest.mark.parametrize("name", [name for name in PERMITTED if "SSH" not in name])
def test_what_is_odd_but_right_passes(world: World, base: ProxyProcess, name: str) -> None:
    arrived = []
    for patience in (0.5, 30.0):  # the second for a busy machine
        attempt = Attempt(world, base, patience)
        attempt.carry_out(PERMITTED[name])
        arrived.append(len(world.saw(attempt.marker)))
        if arrived[-1] == 3:  # each time: twice from Python, and from the plane
            return
    pytest.fail(f"arrived {arrived}: {base.said()[-2000:]}")


def test_behind_all_of_them_what_is_allowed_passes(world: World, base: ProxyProcess) -> None:
    assert permitted_call_passes(world, base), base.said()[-2000:]


# Resilience. -----------------------------------------------------------------------------------------------------


def test_half_closed_tunnels_are_released(fresh_world: World, base: ProxyProcess) -> None:
    assert not fresh_world.contacts()
    resilience.test_half_closed_tunnels_are_released(base)


def test_a_policy_that_changes_under_load_loses_and_leaks_nothing(
    fresh_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANE", "require")
    resilience.change_under_load(fresh_world, seconds=3)


def test_sudden_death_during_writes_leaves_a_chain_that_verifies(
    fresh_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANE", "require")
    resilience.die_during_writes(fresh_world, times=1)


# Broken builds. --------------------------------------------------------------------------------------------------

_ATTACKS = {**TUNNELS, **IDENTITY}
_MATCHING = {
    "plane: the ClientHello": (
        "SNI of another host",
        "no SNI",
        "two SNIs, the allowed one first",
        "another SNI behind a HelloRetryRequest",
        "plain HTTP in a tunnel",
        "SSH in a tunnel",
        "bytes sent with the CONNECT head",
    ),
    "plane: who asks": ("no credential", "a forged X-Cloned-Tool", "this tool's token in Authorization"),
}


@pytest.mark.parametrize("guard", _MATCHING)
def test_without_its_guard_the_attack_gets_through(world: World, guard: str) -> None:
    proxy = start(world, without=(guard,))
    names = _MATCHING[guard]
    stopped = [name for name in names if not gets_through(world, proxy, _ATTACKS[name])]
    proxy.kill()
    assert not stopped, "these attacks fail even without their guard, so their tests prove nothing"


@pytest.mark.parametrize("without", [(), ("plane: taking back",)], ids=["guarded", "guard removed"])
def test_what_the_policy_no_longer_allows_is_granted_no_more(fresh_world: World, without: tuple[str, ...]) -> None:
    options = ProxyOptions(config=CONFIG_OF_PLANE, plane="require", without=without)
    proxy = fresh_world.serve(resilience._WITH, options)
    attacks = (
        Attack("a host that was allowed", lambda attempt: attempt.fetch(SOMETIMES)[:0].decode() or None),
        Attack("the same in the clear", lambda attempt: attempt.get(SOMETIMES)[:0].decode() or None),
    )
    for attack in attacks:
        assert gets_through(fresh_world, proxy, attack)
    proxy.write_policy(resilience._WITHOUT)
    deadline = time.monotonic() + 60
    # With this field a request is Python's, whatever the plane has a verdict on.
    while Attempt(fresh_world, proxy).get(SOMETIMES, headers={"TE": "trailers"}).split()[1] != b"403":
        assert time.monotonic() < deadline, proxy.said()[-2000:]
        time.sleep(0.05)
    for attack in attacks:
        again = partial(Attempt(fresh_world, proxy).carry_out, attack)
        assert gets_out(again, must=bool(without)) is bool(without), attack
    assert resilience.passes(proxy, ALWAYS)
    proxy.kill()


def test_every_guard_has_its_attack() -> None:
    # The attack past a proxy in front is in `test_upstream_proxy.py`.
    assert {*_MATCHING, "plane: taking back", "plane: the proxy in front"} == set(PLANE_GUARDS)
