"""What a publisher signs: one policy, for one fleet, under one number.

The payload is a JSON document (which every reader of YAML reads, too) with all that must not be changed by whoever
carries it: the name of the fleet, so that no other one takes it; the number, so that an older one is known as such;
the presets that the policy uses, so that it says the same on every machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from cloned_proxy.fleet.signed.envelope import Trust, seal
from cloned_proxy.fleet.signed.errors import EnvelopeError, FleetError, Refused
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.policy.model.preset import valid_preset_name
from cloned_proxy.policy.terms.strict_json import read_json

PAYLOAD_TYPE: Final = "application/vnd.cloned-proxy.policy+yaml"
MAX_NUMBER: Final = 2**53 - 1
"""What every reader of JSON, and the store's scripts, can hold exactly."""


class Number(NamedTuple):
    """The order of policies. An epoch begins anew where a publisher no longer knows what was the last version."""

    epoch: int
    version: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.version}"


NOTHING: Final = Number(0, 0)
"""Older than everything that can be published."""
FIRST: Final = Number(1, 1)


def parse_number(text: str) -> Number:
    """`EPOCH.VERSION`, or `VERSION` of the first epoch. Raises FleetError."""
    epoch, dot, version = text.rpartition(".")
    parts = (epoch if dot else "1", version)
    if not all(part.isascii() and part.isdecimal() and 0 < int(part[:17]) <= MAX_NUMBER for part in parts):
        raise FleetError(f"{text[:40]!r} is not the number of a policy; write EPOCH.VERSION such as 1.12")
    return Number(int(parts[0]), int(parts[1]))


@dataclass(frozen=True, slots=True)
class Statement:
    """A policy as it is published."""

    fleet: str
    number: Number
    policy: bytes
    """The text of the file, as it is."""
    presets: Mapping[str, bytes]
    """Name to the text of each preset that the policy uses."""
    issued_at: float
    """Unix seconds by the publisher's clock. For people: nothing is accepted or refused by it."""
    author: str
    reason: str

    @property
    def sha256(self) -> str:
        """Hash of the policy's text, 64 hex digits."""
        return hashlib.sha256(self.policy).hexdigest()


def seal_statement(statement: Statement, keys: Sequence[SigningKey]) -> bytes:
    """The envelope. Raises FleetError for a policy that is no UTF-8 text."""
    try:
        payload = {
            "fleet": statement.fleet,
            "epoch": statement.number.epoch,
            "version": statement.number.version,
            "sha256": statement.sha256,
            "issued_at": datetime.fromtimestamp(statement.issued_at, UTC).isoformat(),
            "author": statement.author,
            "reason": statement.reason,
            "presets": {name: text.decode() for name, text in sorted(statement.presets.items())},
            "policy": statement.policy.decode(),
        }
    except UnicodeDecodeError as error:
        raise FleetError("the policy, or a preset of it, is not UTF-8 text; save it as such") from error
    return seal(json.dumps(payload, ensure_ascii=False).encode(), PAYLOAD_TYPE, keys)


def open_statement(raw: bytes, fleet: str, trust: Trust) -> Statement:
    """What a trusted key has signed for this fleet. Raises EnvelopeError; nothing of the policy is read before."""
    opened = trust.open(raw, PAYLOAD_TYPE)
    try:
        payload = _Payload.model_validate(read_json(opened.payload))
        issued_at = datetime.fromisoformat(payload.issued_at).timestamp()
        statement = Statement(
            payload.fleet,
            Number(payload.epoch, payload.version),
            payload.policy.encode(),
            {name: text.encode() for name, text in payload.presets.items()},
            issued_at,
            payload.author,
            payload.reason,
        )
    except (ValidationError, ValueError, OverflowError) as error:
        raise EnvelopeError(
            Refused.FORMAT, f"signed, but not as a policy of this program ({type(error).__name__}); upgrade it here"
        ) from None
    if statement.fleet != fleet:
        raise EnvelopeError(Refused.FLEET, f"it is the policy of the fleet {statement.fleet}, and this one is {fleet}")
    if statement.sha256 != payload.sha256:
        raise EnvelopeError(Refused.HASH, "its policy is not the one whose hash it states")
    return statement


def _preset_name(name: str) -> str:
    if not valid_preset_name(name):
        raise ValueError("not the name of a preset")
    return name


class _Payload(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    fleet: str
    epoch: int = Field(ge=1, le=MAX_NUMBER)
    version: int = Field(ge=1, le=MAX_NUMBER)
    sha256: str
    issued_at: str
    author: str
    reason: str
    presets: dict[Annotated[str, AfterValidator(_preset_name)], str]
    policy: str
