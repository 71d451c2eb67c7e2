"""Which way names are answered, by what the settings ask for and what the process may do. No engine is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloned_proxy.cli.commands.doctor import engine_checks
from cloned_proxy.cli.commands.doctor.checks import Check
from cloned_proxy.runner.docker.engine_answers import EngineFacts
from cloned_proxy.runner.namespaces import names
from cloned_proxy.runner.namespaces.names import LOOPBACK, PUBLIC_LOOKING, NamePlan, plan_names
from cloned_proxy.runner.values.errors import SandboxInputError
from cloned_proxy.runner.values.limits import names_for
from cloned_proxy.store.settings.config import ConfigError, load_config

FACTS = EngineFacts("Docker", "28.0", "1.48", "overlay2", (), (), rootless=False, cgroup="v2")


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A process that may do everything."""
    monkeypatch.setattr(names, "holds", lambda *_: True)
    monkeypatch.setattr(names, "can_steer", lambda: True)
    monkeypatch.setattr(names, "knows_namespaces", lambda: True)
    return monkeypatch


def addresses(plan: NamePlan | None) -> list[str]:
    assert plan is not None
    return [str(address) for address in plan.addresses]


def test_with_everything_addresses_look_public_and_every_port_is_steered(able: pytest.MonkeyPatch) -> None:
    plan = plan_names("auto", enters=True)
    assert plan is not None
    assert (plan.network, plan.steered, plan.spares, plan.listen_on) == (PUBLIC_LOOKING, True, 0, "127.0.0.1")
    assert addresses(plan) == ["11.64.0.1/16"]


def test_off_is_off(able: pytest.MonkeyPatch) -> None:
    assert plan_names("off", enters=True) is None


def test_without_bpf_each_port_takes_a_socket(able: pytest.MonkeyPatch) -> None:
    able.setattr(names, "can_steer", lambda: False)
    plan = plan_names("auto", enters=True)
    assert plan is not None
    assert (plan.network, plan.steered, plan.listen_on) == (PUBLIC_LOOKING, False, "0.0.0.0")
    assert plan.handover.count <= 60, "the holder hands over no more"


@pytest.mark.parametrize("enters", [True, False])
def test_without_the_capability_it_is_off_until_somebody_asks(able: pytest.MonkeyPatch, enters: bool) -> None:
    able.setattr(names, "holds", lambda *_: False)
    assert plan_names("auto", enters=enters) is None
    plan = plan_names(str(LOOPBACK), enters=enters)
    assert plan is not None
    assert (plan.network, addresses(plan)) == (LOOPBACK, [])


def test_with_the_capability_a_loopback_network_gets_a_second_address(able: pytest.MonkeyPatch) -> None:
    """AI_ADDRCONFIG: with 127.0.0.1 alone the C library asks for no IPv4 address."""
    assert addresses(plan_names(str(LOOPBACK), enters=True)) == ["127.0.0.2/32"]


def test_what_cannot_be_had_is_an_error_with_its_fix(able: pytest.MonkeyPatch) -> None:
    with pytest.raises(SandboxInputError, match=r"CAP_NET_ADMIN.*127\.128\.0\.0/9"):
        plan_names("11.64.0.0/16", enters=False)


def test_an_old_kernel_has_none_and_says_so_only_when_asked(able: pytest.MonkeyPatch) -> None:
    able.setattr(names, "knows_namespaces", lambda: False)
    assert plan_names("auto", enters=True) is None
    with pytest.raises(SandboxInputError, match="set it to off"):
        plan_names(str(LOOPBACK), enters=True)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("127.0.0.0/8", "127.0.0.1 is the slot's own"),
        ("127.128.0.0/24", "/18 or larger"),
        ("224.0.0.0/8", "unicast"),
        ("fd00::/64", "write auto, off, or a network"),
        ("on", "write auto, off, or a network"),
        ("127.128.0.1/9", "host bits"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"sandbox:\n  name_addresses: '{text}'\n")
    with pytest.raises(ConfigError, match=rf"config\.yaml:2: sandbox\.name_addresses: .*{problem}"):
        load_config(path)


def test_a_tool_may_have_another_setting(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("sandbox:\n  name_addresses: off\n  name_addresses_of: {a@v1: 127.128.0.0/9}\n")
    sandbox = load_config(path).sandbox
    assert (names_for(sandbox, "a@v1"), names_for(sandbox, "b@v1")) == ("127.128.0.0/9", "off")


def test_doctor_says_which_way_and_why(able: pytest.MonkeyPatch) -> None:
    def said(setting: str = "auto", *, enters: bool = True) -> Check:
        able.setattr(engine_checks, "may_enter", lambda: enters)
        return engine_checks._names(FACTS, setting)

    assert "every port" in said().detail
    able.setattr(names, "can_steer", lambda: False)
    assert "bpf(2) is refused" in said().detail
    assert "not entered" in said(str(LOOPBACK), enters=False).detail
    assert str(LOOPBACK) in said(enters=False).fix
    failing = said("11.64.0.0/16", enters=False)
    assert (failing.status, "run as root" in failing.fix) == ("fail", True)
    assert said("off").detail.startswith("off")
