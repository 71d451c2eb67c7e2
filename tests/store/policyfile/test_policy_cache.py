"""A policy that was read before is shown as it was read, and no file in the cache can run anything."""

from __future__ import annotations

import io
import pickle
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.policy.callers.caller import ANONYMOUS
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.store.policyfile import policy_cache
from cloned_proxy.store.policyfile.policy_cache import cached_policy, keep_policy
from cloned_proxy.store.policyfile.policy_file import parse_bytes

RAW = b"""version: 1
anonymous: global
global:
  allow: [a.example.com, "*.b.example.com", {host: c.example.com, ports: [8443], methods: [GET], paths: ["/v1/**"]}]
  deny: [bad.b.example.com]
tools:
  demo.tool@v1: {allow: [{host: 192.0.2.1, expires: 2126-12-01T00:00:00Z, max_uses: 5}], limits: {concurrent: 2}}
tests:
  - {allow: ["https://a.example.com/"], deny: ["https://bad.b.example.com/"]}
"""
SOURCE = "/somewhere/policy.yaml"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cloned-proxy" / "policies"


def kept(raw: bytes = RAW) -> Policy:
    policy = parse_bytes(raw, source=SOURCE)
    keep_policy(raw, SOURCE, policy)
    return policy


def test_what_was_kept_is_what_was_read(cache: Path) -> None:
    assert cached_policy(RAW, SOURCE) is None
    policy, found = kept(), cached_policy(RAW, SOURCE)
    assert found is not None
    assert (found.rules, found.tests, found.version, found.mode) == (
        policy.rules,
        policy.tests,
        policy.version,
        policy.mode,
    )
    for host in ("a.example.com", "x.b.example.com", "bad.b.example.com", "c.example.com", "other.example"):
        request = Request(host, 443)
        assert decide(found, ANONYMOUS, request, 0) == decide(policy, ANONYMOUS, request, 0)
    with pytest.raises(TypeError):
        found.tools["x"] = found.global_scope  # type: ignore[index]
    assert [(path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) for path in cache.iterdir()] == [
        (0o600, 0o700)
    ]


def test_another_text_file_or_program_is_another_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    kept()
    assert cached_policy(RAW + b"\n", SOURCE) is None
    assert cached_policy(RAW, "/elsewhere/policy.yaml") is None
    monkeypatch.setattr(policy_cache, "__version__", "9.9.9")
    assert cached_policy(RAW, SOURCE) is None


def test_neither_presets_nor_what_may_be_a_secret_is_kept(cache: Path) -> None:
    secret = (
        b"version: 1\nglobal: {allow: [{host: a.example.com, ports: [443], inject: {header: X-Key, value: hunter2}}]}\n"
    )
    kept(secret)
    kept(b"version: 1\ntools: {demo.tool@v1: {use: [github-read]}}\n")
    assert not cache.exists()


class Attack:
    """What a hostile pickle does: it names a function and its arguments."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return subprocess.check_call, (["touch", str(self.marker)],)


def test_a_file_that_somebody_planted_runs_nothing(cache: Path, tmp_path: Path) -> None:
    kept()
    place, marker = next(cache.iterdir()), tmp_path / "run"
    place.write_bytes(pickle.dumps(Attack(marker)))
    assert cached_policy(RAW, SOURCE) is None
    assert not marker.exists()
    pickle.loads(place.read_bytes())
    assert marker.exists(), "the attack itself does not work"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("cloned_proxy.policy.terms.rule", "ipaddress.os"),
        ("cloned_proxy.policy.terms.decision", "replace"),
        ("cloned_proxy.policy.model.model", "Mapping"),
        ("cloned_proxy.policy.reading.rule_id", "rule_id"),
        ("cloned_proxy.store.policyfile.policy_cache", "os"),
        ("cloned_proxy.policy.none", "Policy"),
    ],
)
def test_nothing_but_a_value_of_the_policy_can_be_named(module: str, name: str) -> None:
    reader = policy_cache._Reader(io.BytesIO())
    with pytest.raises((pickle.UnpicklingError, ImportError)):
        reader.find_class(module, name)


@pytest.mark.parametrize("damage", [b"", b"\x80\x05", pickle.dumps("text"), pickle.dumps({"a": 1})])
def test_a_damaged_file_is_as_good_as_none(cache: Path, damage: bytes) -> None:
    kept()
    next(cache.iterdir()).write_bytes(damage)
    assert cached_policy(RAW, SOURCE) is None


def test_a_directory_that_others_can_write_is_not_read(cache: Path) -> None:
    kept()
    cache.chmod(0o777)
    assert cached_policy(RAW, SOURCE) is None
    cache.chmod(0o700)
    assert cached_policy(RAW, SOURCE) is not None


def test_old_texts_go(cache: Path) -> None:
    for number in range(policy_cache._KEPT + 5):
        kept(RAW + b"# %d\n" % number)
    assert len(list(cache.iterdir())) == policy_cache._KEPT


def test_where_nothing_can_be_written_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    kept()
    assert cached_policy(RAW, SOURCE) is None
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
