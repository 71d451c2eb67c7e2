"""Named networks on a real engine: what can be reached on ours, what on others, and that people are told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.probe.canary import host_addresses
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.slots.networks import OWN_LABEL, prepare_network
from cloned_proxy.runner.values.errors import SandboxInputError
from tests.runner.conftest import Serving, leftovers
from tests.runner.jobs import TOOL, sh

pytestmark = pytest.mark.docker
OTHER = "other.tool@v1"


class Listening:
    """A service of this host on all its addresses, which notes who came."""

    def __init__(self) -> None:
        self.visits: list[str] = []
        self._sock = socket.create_server(("0.0.0.0", 0))
        self.port = int(self._sock.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, (address, _) = self._sock.accept()
            except OSError:
                return
            self.visits.append(str(address))
            connection.close()


@pytest.fixture
def listening() -> Iterator[Listening]:
    made = Listening()
    yield made
    made.close()


@pytest.fixture
def serving(module_serving: Serving, engine: Engine) -> Iterator[Serving]:
    before = set(_networks(engine))
    yield module_serving
    assert leftovers(engine, module_serving.workspace) == []
    assert set(_networks(engine)) == before


def _networks(engine: Engine) -> list[str]:
    return [str(each["Name"]) for each in engine._ask("GET", "/networks")]


def _gateway(engine: Engine, network: str) -> str:
    facts = engine.network(network)
    assert facts is not None
    return str(facts["IPAM"]["Config"][0]["Gateway"])


def _knock(*addresses: str, port: int) -> str:
    tries = " ".join(addresses)
    return f"for a in {tries}; do curl -s -m 1 --noproxy '*' -o /dev/null http://$a:{port}/; done; true"


def test_ours_is_internal_and_the_tools_own(serving: Serving, engine: Engine, origin: int) -> None:
    with DockerContainerRunner(workspace=serving.workspace, network="cloned_test") as runner:
        assert sh(runner, f"curl -sS -p http://127.0.0.1:{origin}/net").out == "origin /net\n"
        name = prepare_network(engine, "cloned_test", TOOL)
        facts = engine.network(name.name)
        assert facts is not None
        assert (facts["Internal"], facts["EnableIPv6"]) == (True, False)
        assert facts["Options"] == {"com.docker.network.bridge.inhibit_ipv4": "true"}
        assert "leaves open" in name.warnings[0]
        other = prepare_network(engine, "cloned_test", OTHER).name
        assert name.name != other
        engine.remove_network(other)


def test_on_ours_neither_host_nor_names_nor_the_way_out_are_reached(
    serving: Serving, engine: Engine, listening: Listening
) -> None:
    with DockerContainerRunner(workspace=serving.workspace, network="cloned_test") as runner:
        gateway = _gateway(engine, prepare_network(engine, "cloned_test", TOOL).name)
        sh(runner, _knock(gateway, *host_addresses(), "198.51.100.7", port=listening.port), timeout=60)
        assert listening.visits == []
        seen = sh(runner, "getent ahosts denied.example; grep eth /proc/net/if_inet6; true")
        assert seen.out == "", "a name was resolved, or the bridge has IPv6"


def test_the_same_attempt_reaches_the_host_on_a_network_that_is_not_ours_and_the_warning_says_so(
    serving: Serving, engine: Engine, listening: Listening, capfd: pytest.CaptureFixture[str]
) -> None:
    """The control: without `inhibit_ipv4` an internal network is no wall, on any engine."""
    engine.create_network("plain-internal", options={}, labels={})
    try:
        with DockerContainerRunner(workspace=serving.workspace, network="plain-internal") as runner:
            sh(runner, _knock(_gateway(engine, "plain-internal"), port=listening.port))
            assert listening.visits != []
        warnings = prepare_network(engine, "plain-internal", TOOL).warnings
        assert any("services of this host that listen on all addresses" in warning for warning in warnings)
        assert not any("everything that the host can reach" in warning for warning in warnings)
    finally:
        engine.remove_network("plain-internal")


def test_a_network_with_our_name_that_is_not_ours_is_refused(serving: Serving, engine: Engine) -> None:
    name = prepare_network(engine, "cloned_test", TOOL).name
    engine.remove_network(name)
    engine.create_network(name, options={}, labels={OWN_LABEL: TOOL})
    try:
        with (
            DockerContainerRunner(workspace=serving.workspace, network="cloned_test") as runner,
            pytest.raises(SandboxInputError, match=f"docker network rm {name}"),
        ):
            sh(runner, "true")
    finally:
        engine.remove_network(name)


@pytest.mark.parametrize("network", ["host", "container:abc"])
def test_the_network_of_other_programs_is_refused(serving: Serving, network: str) -> None:
    with (
        DockerContainerRunner(workspace=serving.workspace, network=network) as runner,
        pytest.raises(SandboxInputError, match="none or a named network"),
    ):
        sh(runner, "true")


def test_the_variable_chooses_it_and_the_argument_wins(
    serving: Serving, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLONED_SANDBOX_NETWORK", "cloned_test")
    count = "tail -n +3 /proc/net/dev | grep -c eth"
    with DockerContainerRunner(workspace=serving.workspace) as runner:
        assert sh(runner, count).out == "1\n"
    with DockerContainerRunner(workspace=serving.workspace, network="none") as runner:
        assert sh(runner, count).out == "0\n"
