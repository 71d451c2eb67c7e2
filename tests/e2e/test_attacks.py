"""Nothing gets out that the policy does not allow: the judge is what arrived at a canary or at the DNS server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.net.attacks import destinations, framing, headers, http2, identity, inspected, secrets, tunnels
from tests.net.attacks.attempt import Attack, Attempt, gets_out, gets_through, permitted_call_passes
from tests.net.attacks.policies import CONFIG, POLICIES
from tests.net.proxy_process import ProxyOptions, ProxyProcess
from tests.net.world import World

pytestmark = pytest.mark.net

type Proxies = Callable[..., ProxyProcess]


@pytest.fixture(scope="module")
def proxies(world: World) -> Iterator[Proxies]:
    """One running proxy for each policy and each path of the proxy, started when first asked for."""
    running: dict[tuple[str, str], ProxyProcess] = {}

    def proxy(policy: str, path: str = "gate") -> ProxyProcess:
        if (policy, path) not in running:
            running[policy, path] = world.serve(POLICIES[path][policy], ProxyOptions(config=CONFIG))
        return running[policy, path]

    yield proxy
    for process in running.values():
        process.stop()


def carry_out(world: World, proxy: ProxyProcess, attack: Attack) -> None:
    """The attack must fail, and an allowed call must pass right after it."""
    leaks = Attempt(world, proxy).carry_out(attack)
    assert not leaks, f"{attack.name}: {'; '.join(leaks)}\n{proxy.said()[-2000:]}"
    assert permitted_call_passes(world, proxy), f"nothing passes after: {attack.name}\n{proxy.said()[-2000:]}"


def named(attacks: tuple[Attack, ...]) -> Mapping[str, Attack]:
    table = {attack.name: attack for attack in attacks}
    assert len(table) == len(attacks), "two attacks of one name"
    return table


def over(table: Mapping[str, Attack]) -> pytest.MarkDecorator:
    """Each attack on each path of the proxy where it makes sense: the verdict is the same."""
    cases = [(path, name) for path in POLICIES for name, attack in table.items() if path in attack.paths]
    return pytest.mark.parametrize(("path", "name"), cases)


DESTINATIONS = named(destinations.ATTACKS)
TUNNELS = named(tunnels.ATTACKS)
FRAMING = named((*framing.ATTACKS, *framing.INSIDE))
IDENTITY = named(identity.ATTACKS)
HEADERS = named(headers.ATTACKS)
INSPECTED = {**named(inspected.ATTACKS), **{f"HTTP/2: {a.name}": a for a in http2.ATTACKS}}
SECRETS = named(secrets.ATTACKS)
PERMITTED = {
    **named(tunnels.PERMITTED),
    **named(inspected.PERMITTED),
    **{f"HTTP/2: {a.name}": a for a in http2.PERMITTED},
}


@over(DESTINATIONS)
def test_a_destination_that_is_not_allowed_is_not_reached(world: World, proxies: Proxies, path: str, name: str) -> None:
    attack = DESTINATIONS[name]
    carry_out(world, proxies(attack.policy, path), attack)


@over(TUNNELS)
def test_a_tunnel_carries_only_tls_for_its_host(world: World, proxies: Proxies, path: str, name: str) -> None:
    carry_out(world, proxies("base", path), TUNNELS[name])


@over(FRAMING)
def test_a_request_that_can_be_read_in_two_ways_is_not_forwarded(
    world: World, proxies: Proxies, path: str, name: str
) -> None:
    carry_out(world, proxies("base", path), FRAMING[name])


@over(IDENTITY)
def test_a_tool_cannot_be_impersonated(world: World, proxies: Proxies, path: str, name: str) -> None:
    attack = IDENTITY[name]
    carry_out(world, proxies(attack.policy, path), attack)


@pytest.mark.parametrize("path", POLICIES)
def test_the_tool_itself_reaches_its_host(world: World, proxies: Proxies, path: str) -> None:
    itself = Attack("the tool itself", identity.permitted)
    attempt = Attempt(world, proxies("base", path), patience=30.0)
    assert gets_out(lambda: len(set(attempt.carry_out(itself))) == 2)  # over both paths


@over(HEADERS)
def test_what_is_meant_for_the_proxy_does_not_go_upstream(world: World, proxies: Proxies, path: str, name: str) -> None:
    carry_out(world, proxies("base", path), HEADERS[name])


@pytest.mark.parametrize("name", INSPECTED)
def test_each_request_in_an_opened_tunnel_is_decided(world: World, proxies: Proxies, name: str) -> None:
    carry_out(world, proxies("base"), INSPECTED[name])


@over(SECRETS)
def test_a_secret_goes_to_no_host_that_it_is_not_for(world: World, proxies: Proxies, path: str, name: str) -> None:
    carry_out(world, proxies("base", path), SECRETS[name])


@over(PERMITTED)
def test_what_is_odd_but_right_passes(world: World, proxies: Proxies, path: str, name: str) -> None:
    proxy = proxies("base", path)
    assert gets_through(world, proxy, PERMITTED[name]), proxy.said()[-2000:]
