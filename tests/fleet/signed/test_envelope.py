"""What is signed is read, and nothing else is."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloned_proxy.fleet.signed import envelope as envelope_module
from cloned_proxy.fleet.signed import pause as pause_module
from cloned_proxy.fleet.signed.envelope import Trust, seal
from cloned_proxy.fleet.signed.errors import EnvelopeError, FleetError, Refused
from cloned_proxy.fleet.signed.keys import SigningKey, load_key, load_or_create_key
from cloned_proxy.store.files.errors import StoreError

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
TYPE = "application/vnd.example+json"


def test_what_one_of_several_trusted_keys_signed_is_read() -> None:
    opened = Trust([OTHER.public, KEY.public]).open(seal(b"x", TYPE, [KEY]), TYPE)
    assert (opened.payload, opened.signer) == (b"x", KEY.id)


def test_two_signatures_serve_those_who_trust_either() -> None:
    raw = seal(b"x", TYPE, [KEY, OTHER])
    assert [Trust([key.public]).open(raw, TYPE).signer for key in (KEY, OTHER)] == [KEY.id, OTHER.id]


def altered(**changes: Any) -> bytes:
    return json.dumps({**json.loads(seal(b"x", TYPE, [KEY])), **changes}).encode()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", Refused.FORMAT),
        (b"{}", Refused.FORMAT),
        (b"[" * 100_000, Refused.FORMAT),
        (altered(payload="%%%"), Refused.FORMAT),
        (altered(payload=base64.b64encode(b"y").decode()), Refused.SIGNATURE),
        (altered(payloadType="application/other"), Refused.FORMAT),
        (altered(signatures=[]), Refused.SIGNATURE),
        (altered(signatures=[{"keyid": KEY.id, "sig": ""}]), Refused.SIGNATURE),
        (altered(signatures=[{"keyid": KEY.id, "sig": base64.b64encode(bytes(64)).decode()}]), Refused.SIGNATURE),
        (altered(signatures=[{"keyid": KEY.id, "sig": "AA=="}] * 2), Refused.FORMAT),
        (altered(signatures=[{"keyid": str(n), "sig": "AA=="} for n in range(17)]), Refused.FORMAT),
        (altered(signatures={"keyid": KEY.id}), Refused.FORMAT),
        (seal(b"x", TYPE, [OTHER]), Refused.SIGNATURE),
        (seal(b"x", "application/other", [KEY]), Refused.FORMAT),
        (seal(b"x", TYPE, [KEY])[:-9], Refused.FORMAT),
    ],
)
def test_anything_else_is_refused_with_its_reason(raw: bytes, reason: Refused) -> None:
    with pytest.raises(EnvelopeError) as caught:
        Trust([KEY.public]).open(raw, TYPE)
    assert caught.value.reason is reason


def test_a_signature_under_the_name_of_a_trusted_key_is_not_its_signature() -> None:
    forged = json.loads(seal(b"x", TYPE, [OTHER]))
    forged["signatures"][0]["keyid"] = KEY.id
    with pytest.raises(EnvelopeError, match="no key of `trust:`"):
        Trust([KEY.public]).open(json.dumps(forged).encode(), TYPE)


@given(st.data())
def test_no_change_of_a_byte_gets_through_with_another_payload(data: st.DataObject) -> None:
    raw = bytearray(seal(b"policy", TYPE, [KEY]))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] = data.draw(st.integers(0, 255))
    try:
        opened = Trust([KEY.public]).open(bytes(raw), TYPE)
    except EnvelopeError:
        return
    assert opened.payload == b"policy"


def test_a_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    place = tmp_path / "fleet.key"
    made = load_or_create_key(place)
    assert load_or_create_key(place).public == made.public
    assert place.stat().st_mode & 0o777 == 0o600
    place.chmod(0o640)
    with pytest.raises(StoreError, match="chmod 600"):
        load_key(place, missing="")
    assert "PRIVATE" not in repr(made)


def test_another_kind_of_key_is_none(tmp_path: Path) -> None:
    for text in (b"", b"s3cret", b"-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----\n"):
        with pytest.raises(FleetError, match="not an Ed25519 key") as caught:
            SigningKey.from_pem(text, "here")
        assert "s3cret" not in str(caught.value)


def test_a_large_envelope_is_read_as_a_small_one_is() -> None:
    payload = bytes(range(256)) * 4096
    raw = seal(payload, TYPE, [OTHER, KEY])
    assert len(raw) > envelope_module._SMALL
    assert Trust([KEY.public]).open(raw, TYPE).payload == payload
    document = json.loads(raw)
    document["payload"] = document["payload"].replace("+", "-").replace("/", "_")
    assert Trust([KEY.public]).open(json.dumps(document, indent=2).encode(), TYPE).payload == payload
    at = raw.index(b"payload") + 400_000
    changed = raw[:at] + (b"A" if raw[at : at + 1] != b"A" else b"B") + raw[at + 1 :]
    with pytest.raises(EnvelopeError) as caught:
        Trust([KEY.public]).open(changed, TYPE)
    assert caught.value.reason is Refused.SIGNATURE


_LARGE = 8 * 1024 * 1024


@pytest.mark.parametrize(
    "junk",
    [
        b'"' * _LARGE,
        b"[" * _LARGE,
        b"[" + b"1," * (_LARGE // 2) + b"1]",
        b"[{}" + b",{}" * (_LARGE // 3) + b"]",
        b" " * _LARGE,
        b"1" * _LARGE,
        b'{"payload":"' + b"\\u0041" * (_LARGE // 6) + b'"}',
        b'{"payload":"x"' + b" " * _LARGE + b',"payloadType":"y"}',
        b'{"payload":"' + b"A" * _LARGE + b'","payload":"","payloadType":"x","signatures":[]}',
        b'{"payload":"' + b"A" * _LARGE + b'","x":[' + b"1," * (_LARGE // 8) + b"1]}",
        b'{"x":"' + b"A" * _LARGE + b'","payload":"","payloadType":"x","signatures":[]}',
    ],
)
def test_no_more_of_what_is_not_proven_is_read_as_json_than_an_envelope_needs(
    junk: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading eight million small values takes seconds, in which nothing else of the process runs."""
    read: list[int] = []

    def loads(text: bytes) -> Any:
        read.append(len(text))
        return json.loads(text)

    monkeypatch.setattr(envelope_module, "json", SimpleNamespace(loads=loads, dumps=json.dumps))
    with pytest.raises(EnvelopeError) as caught:
        Trust([KEY.public]).open(junk, TYPE)
    assert caught.value.reason is Refused.FORMAT
    assert sum(read) <= envelope_module._SMALL


async def test_what_is_refused_costs_a_small_part_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = 100.0, 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now, slept
        now, slept = now + seconds, slept + seconds

    monkeypatch.setattr(pause_module, "asyncio", SimpleNamespace(sleep=sleep))
    pause = pause_module.Pause(lambda: now)
    await pause.over()
    assert (pause.lasts, slept) == (False, 0.0)
    now += 0.5  # so long did the looking take
    pause.after(100.0)
    assert pause.lasts
    await pause.over()
    assert (pause.lasts, slept) == (False, 10.0)
