from __future__ import annotations

import json
import stat
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyrage
import pytest
from structlog.testing import capture_logs

from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.lock import locked
from cloned_proxy.store.vault.live_vault import LiveVault
from cloned_proxy.store.vault.vault import Vault
from cloned_proxy.store.vault.vault_key import CREDENTIAL, KeyChoice
from cloned_proxy.store.workspaces.workspace import Workspace

CANARY = "sk-canary-5f1d"


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / ".cloned")
    workspace.create()
    return workspace


@pytest.fixture
def vault(place: Workspace) -> Vault:
    made = Vault(place, environ={}, clock=lambda: 7.5)
    made.set("llm.api_key", CANARY)
    return made


def test_what_is_set_is_there_for_another_process(place: Workspace, vault: Vault) -> None:
    vault.set("brave", "b")
    found = Vault(place, environ={}).secrets()
    assert {name: (secret.value, secret.since) for name, secret in found.items()} == {
        "brave": ("b", 7.5),
        "llm.api_key": (CANARY, 7.5),
    }
    vault.remove("brave")
    assert list(Vault(place, environ={}).secrets()) == ["llm.api_key"]


def test_both_files_are_private_and_no_file_holds_the_value(place: Workspace, vault: Vault) -> None:
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in place.root.iterdir()} == {
        ".gitignore": 0o600,
        ".vault.age.lock": 0o600,
        "vault.age": 0o600,
        "vault.key": 0o600,
    }
    assert all(CANARY.encode() not in path.read_bytes() for path in place.root.iterdir())


def test_the_files_are_those_of_age(place: Workspace, vault: Vault) -> None:
    line = place.vault_key.read_text().splitlines()[-1]
    plain = pyrage.decrypt(place.vault_file.read_bytes(), [pyrage.x25519.Identity.from_str(line)])
    assert json.loads(plain)["secrets"]["llm.api_key"]["value"] == CANARY


def test_without_a_vault_there_are_no_secrets(place: Workspace) -> None:
    assert Vault(place, environ={}).secrets() == {}


def test_the_value_is_in_no_repr(vault: Vault) -> None:
    assert CANARY not in repr(vault.secrets())
    assert CANARY not in repr(vars(LiveVault(vault, {})))


def _damaged(place: Workspace) -> None:
    place.vault_file.write_bytes(place.vault_file.read_bytes()[:150])


def _flipped(place: Workspace) -> None:
    raw = bytearray(place.vault_file.read_bytes())
    raw[-3] ^= 1
    place.vault_file.write_bytes(raw)


def _of_another_key(place: Workspace) -> None:
    place.vault_key.write_text(str(pyrage.x25519.Identity.generate()))


def _of_another_kind(place: Workspace) -> None:
    key = pyrage.x25519.Identity.from_str(place.vault_key.read_text().splitlines()[-1])
    plain = json.dumps({"version": 2, "secrets": {"llm.api_key": {"value": CANARY}}}).encode()
    place.vault_file.write_bytes(pyrage.encrypt(plain, [key.to_public()]))


def _not_json(place: Workspace) -> None:
    key = pyrage.x25519.Identity.from_str(place.vault_key.read_text().splitlines()[-1])
    place.vault_file.write_bytes(pyrage.encrypt(f'{{"{CANARY}'.encode(), [key.to_public()]))


FAULTS: list[tuple[Callable[[Workspace], object], str]] = [
    (_damaged, "is damaged"),
    (_flipped, "is damaged"),
    (_of_another_key, "another key than"),
    (_of_another_kind, "no vault of this version"),
    (_not_json, "no vault of this version"),
    (lambda place: place.vault_key.unlink(), "restore it from where you keep keys"),
    (lambda place: place.vault_key.chmod(0o640), "chmod 600"),
    (lambda place: place.vault_key.write_text("x"), "not an age key"),
    (lambda place: place.vault_key.write_text(f"AGE-SECRET-KEY-1{CANARY}"), "not an age key"),
]


@pytest.mark.parametrize(("break_it", "message"), FAULTS)
def test_a_vault_that_cannot_be_opened_says_why_and_stays_as_it_is(
    place: Workspace, vault: Vault, break_it: Callable[[Workspace], object], message: str
) -> None:
    break_it(place)
    before = place.vault_file.read_bytes()
    for attempt in (vault.secrets, lambda: vault.set("other", "x"), lambda: vault.remove("llm.api_key")):
        with pytest.raises(StoreError, match=message) as caught:
            attempt()
        assert "\n" not in str(caught.value)
        told = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=False).format())
        assert CANARY not in told
        # A chained error may carry the whole text in an attribute, for whoever prints it later.
        assert caught.value.__cause__ is None or CANARY not in repr(vars(caught.value.__cause__))
    assert place.vault_file.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("LLM", CANARY, "not the name"), ("a/b", CANARY, "not the name"), ("a", f"{CANARY}\r\nX: y", "one line")],
)
def test_what_cannot_be_a_secret_is_refused_untold(vault: Vault, name: str, value: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as caught:
        vault.set(name, value)
    assert CANARY not in str(caught.value)
    assert list(vault.secrets()) == ["llm.api_key"]


def test_concurrent_edits_lose_nothing(place: Workspace) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: Vault(place, environ={}).set(f"s{n}", f"v{n}"), range(24)))
    assert {name: secret.value for name, secret in Vault(place, environ={}).secrets().items()} == {
        f"s{n}": f"v{n}" for n in range(24)
    }


def test_an_edit_waits_for_the_lock(tmp_path: Path) -> None:
    with locked(tmp_path / "x"), pytest.raises(StoreError, match="another edit"), locked(tmp_path / "x", seconds=0.05):
        raise AssertionError("two edits at once")


def _credential(directory: Path, mode: int = 0o400) -> pyrage.x25519.Identity:
    key = pyrage.x25519.Identity.generate()
    directory.mkdir()
    (directory / CREDENTIAL).write_text(str(key))
    (directory / CREDENTIAL).chmod(mode)
    return key


def test_a_systemd_credential_is_the_key_and_no_file_is_made(place: Workspace, tmp_path: Path) -> None:
    key = _credential(tmp_path / "given", 0o440)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path / "given")}
    Vault(place, environ=environ).set("llm.api_key", CANARY)
    assert not place.vault_key.exists()
    assert CANARY.encode() in pyrage.decrypt(place.vault_file.read_bytes(), [key])
    assert Vault(place, "credential", environ=environ).secrets()["llm.api_key"].value == CANARY
    with pytest.raises(StoreError, match="there is no key"):
        Vault(place, "file", environ=environ).secrets()


def test_a_unit_without_the_credential_goes_on_with_the_file(place: Workspace, vault: Vault, tmp_path: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert list(Vault(place, environ=environ).secrets()) == ["llm.api_key"]


@pytest.mark.parametrize(
    ("environ", "choice", "message"),
    [
        ({}, "credential", "CREDENTIALS_DIRECTORY is not set"),
        ({"CREDENTIALS_DIRECTORY": "/nowhere"}, "credential", "LoadCredential=cloned-vault.key"),
    ],
)
def test_a_credential_that_is_not_there_is_missed(
    place: Workspace, vault: Vault, environ: dict[str, str], choice: KeyChoice, message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        Vault(place, choice, environ=environ).secrets()


def test_a_credential_that_everybody_can_read_is_refused(place: Workspace, vault: Vault, tmp_path: Path) -> None:
    _credential(tmp_path / "given", 0o444)
    with pytest.raises(StoreError, match="others can read"):
        Vault(place, environ={"CREDENTIALS_DIRECTORY": str(tmp_path / "given")}).secrets()


# The proxy's view of it.


def test_the_next_question_after_a_change_gets_the_new_value(vault: Vault) -> None:
    live = LiveVault(vault, {})
    assert live.value_of("llm.api_key") == CANARY
    vault.set("llm.api_key", "rotated")
    assert live.value_of("llm.api_key") == "rotated"
    vault.remove("llm.api_key")
    with pytest.raises(StoreError, match=r"vault set llm\.api_key"):
        live.value_of("llm.api_key")


def test_a_vault_that_breaks_gives_nothing_and_one_that_is_mended_gives_again(place: Workspace, vault: Vault) -> None:
    live = LiveVault(vault, {})
    assert live.value_of("llm.api_key") == CANARY
    whole = place.vault_file.read_bytes()
    with capture_logs() as logs:
        _damaged(place)
        for _ in range(3):
            with pytest.raises(StoreError, match="is damaged"):
                live.value_of("llm.api_key")
        place.vault_file.write_bytes(whole)
        assert live.value_of("llm.api_key") == CANARY
    assert [entry["log_level"] for entry in logs] == ["error", "info"]
    assert CANARY not in repr(logs)


def test_the_environment_wins_over_the_vault_for_the_key_of_the_model_alone(vault: Vault) -> None:
    vault.set("brave", "b")
    live = LiveVault(vault, {"LLM_API_KEY": "from-outside", "BRAVE": "x"})
    assert (live.value_of("llm.api_key"), live.value_of("brave")) == ("from-outside", "b")
    assert LiveVault(vault, {"LLM_API_KEY": ""}).value_of("llm.api_key") == CANARY
    with pytest.raises(StoreError, match="LLM_API_KEY in the environment") as caught:
        LiveVault(vault, {"LLM_API_KEY": f"{CANARY}\nX: y"}).value_of("llm.api_key")
    assert CANARY not in str(caught.value)
