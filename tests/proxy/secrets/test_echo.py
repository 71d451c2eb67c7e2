from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloned_proxy.proxy.secrets.echo import EchoError, EchoFilter, EchoScanner, is_encoded

SECRET = 'sk-live/0+"u&9'
FILTER = EchoFilter([SECRET])

SPELLINGS = {
    "raw": SECRET,
    "percent": quote(SECRET, safe=""),
    "percent, small letters": quote(SECRET, safe="").replace("%2F", "%2f").replace("%2B", "%2b"),
    "in a form": quote(SECRET, safe="").replace("%20", "+"),
    "json": json.dumps({"a": SECRET}),
    "json, PHP": json.dumps({"a": SECRET}).replace("/", "\\/"),
    "html": "<p>sk-live/0+&quot;u&amp;9</p>",
    "hex": SECRET.encode().hex(),
    "HEX": SECRET.encode().hex().upper(),
}
SPELLINGS |= {f"base64 at {n}": base64.b64encode(b"x" * n + SECRET.encode() + b"yz").decode() for n in range(4)}
SPELLINGS |= {f"base64url at {n}": base64.urlsafe_b64encode(b"x" * n + SECRET.encode()).decode() for n in range(4)}


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS)
def test_the_usual_spellings_are_found(text: str) -> None:
    data = f"before {text} after".encode()
    assert FILTER.finds(data)
    assert not FILTER.finds(FILTER.redacted(data))
    assert b"[redacted]" in FILTER.redacted(data)


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_body_in_pieces_is_stopped_before_the_secret_is_whole(text: str, size: int) -> None:
    data = f"before {text} after".encode()
    scanner, passed = EchoScanner(FILTER), b""
    try:
        for at in range(0, len(data), size):
            passed += scanner.feed(data[at : at + size])
    except EchoError:
        pass
    else:
        raise AssertionError("the secret was not found")
    assert not FILTER.finds(passed)
    assert data.startswith(passed)


@given(st.lists(st.binary(max_size=40), max_size=20), st.text("abAB01", min_size=6, max_size=9))
def test_what_holds_no_secret_passes_unchanged_and_what_does_never_passes(pieces: list[bytes], secret: str) -> None:
    looking = EchoFilter([secret])
    scanner, passed = EchoScanner(looking), b""
    whole = b"".join(pieces)
    try:
        for piece in pieces:
            passed += scanner.feed(piece)
        passed += scanner.rest()
    except EchoError:
        assert looking.finds(whole)
        assert not looking.finds(passed)
    else:
        assert passed == whole
        assert not looking.finds(whole)


def test_an_event_of_a_stream_is_not_kept_back() -> None:
    scanner = EchoScanner(FILTER)
    for event in (b'data: {"delta":"ask"}\n\n', b"data: [DONE]\n\n"):
        assert scanner.feed(event) == event
    assert scanner.rest() == b""


def test_a_secret_that_turns_up_by_chance_is_not_looked_for() -> None:
    assert not EchoFilter(["1234"]).finds(b"1234")


def test_nothing_tells_the_secret() -> None:
    with pytest.raises(EchoError) as caught:
        EchoScanner(FILTER).feed(SECRET.encode())
    assert SECRET not in repr(FILTER) + str(caught.value)


@pytest.mark.parametrize(
    ("codings", "encoded"),
    [([], False), (["identity"], False), ([" "], False), (["gzip"], True), (["identity, br"], True), (["x"], True)],
)
def test_codings(codings: list[str], encoded: bool) -> None:
    assert is_encoded(codings) is encoded
