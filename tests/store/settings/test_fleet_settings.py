"""`fleet:` as people write it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from cloned_proxy.store.settings.config import ConfigError, load_config
from cloned_proxy.store.settings.fleet_settings import FleetSettings

KEY = "ed25519:" + base64.b64encode(bytes(range(32))).decode()


def settings(text: str, directory: Path) -> FleetSettings | None:
    (directory / "config.yaml").write_text(f"fleet: {text}\n")
    return load_config(directory / "config.yaml").fleet


def test_there_is_no_fleet_by_default(tmp_path: Path) -> None:
    assert load_config(tmp_path / "config.yaml").fleet is None


def test_what_contract_14_names(tmp_path: Path) -> None:
    read = settings(
        f"{{name: acme, store: 'rediss://r.example.com:6379/2', trust: ['{KEY}'], max_staleness: 24h, local: narrow, "
        "on_store_loss: deny}",
        tmp_path,
    )
    assert read is not None
    assert (read.max_staleness, read.local, read.on_store_loss, read.trust) == (86_400, "narrow", "deny", [KEY])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "`fleet` is empty"),
        ("{name: acme}", "fleet.trust: Field required"),
        ("{name: acme, trust: []}", "at least 1 item"),
        (f"{{name: 'Acme Inc', trust: ['{KEY}']}}", "should match pattern"),
        ("{name: acme, trust: ['s3cret']}", "not a public key"),
        (f"{{name: acme, trust: ['{KEY[:-2]}9=']}}", "not a public key"),
        (f"{{name: acme, trust: ['{KEY}', '{KEY}']}}", "names a key twice"),
        (f"{{name: acme, trust: ['{KEY}'], store: 'redis://me:s3cret@h:1'}}", "a password does not belong"),
        (f"{{name: acme, trust: ['{KEY}'], store: 'http://h:1'}}", "Redis protocol"),
        (f"{{name: acme, trust: ['{KEY}'], store: 'redis://'}}", "Redis protocol"),
        (f"{{name: acme, trust: ['{KEY}'], store: 'redis://h:1?password=s3cret'}}", "Redis protocol"),
        (f"{{name: acme, trust: ['{KEY}'], store: 'unix://run/redis.sock'}}", "Redis protocol"),
        (f"{{name: acme, trust: ['{KEY}'], auth: '${{vault:a}}'}}", "write `store` as well"),
        (f"{{name: acme, trust: ['{KEY}'], store: 'redis://h', auth: 'me:s3cret'}}", "kept in the vault"),
        (f"{{name: acme, trust: ['{KEY}'], max_staleness: 5}}", "not a duration"),
        (f"{{name: acme, trust: ['{KEY}'], max_staleness: 5ms}}", "a second or more"),
        (f"{{name: acme, trust: ['{KEY}'], local: widen}}", "narrow"),
        (f"{{name: acme, trusts: ['{KEY}']}}", "did you mean `trust`"),
    ],
)
def test_what_is_wrong_is_told_without_quoting_a_secret(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(text, tmp_path)
    assert problem in str(caught.value)
    assert "s3cret" not in str(caught.value)
