"""A mutational fuzzer of the parsers at the edge, with independent readers as oracles, and of whole connections.

What `parse_head` accepts, h11 and http.server read the same way; what `ClientHelloReader` names, OpenSSL names, too.
`make fuzz` tries a million inputs on each; an input that fails is kept in tests/proxy/corpus, and `test_fuzz.py` tries
the corpus and a few thousand fresh inputs each time. Ten thousand sequences of requests and a hundred thousand DNS
messages come behind them.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import random
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Final

import h11

from cloned_proxy.proxy.wire.client_hello import ClientHelloReader, ServerNames, Unread
from cloned_proxy.proxy.wire.head import Head, HeadError, parse_head
from tests.proxy import random_sequences
from tests.proxy.slots import dns
from tests.proxy.support import hello

CORPUS: Final = Path(__file__).parent / "corpus"
_MOST_SECONDS: Final = 0.5
"""Of CPU time for one input: anything slower is a hang."""
_PER_QUESTION: Final = 10
"""DNS messages are short: this many heads for each are enough."""
_PER_SEQUENCE: Final = 100
"""A sequence of requests takes as long as so many heads."""

_HEADS: Final = (
    b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n",
    b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\nProxy-Authorization: Basic YTpi\r\n\r\n",
    b"GET http://example.com/a?b=c HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\n\r\n",
    b"POST http://example.com:8080/ HTTP/1.1\r\nHost: example.com:8080\r\nContent-Length: 12\r\n\r\n",
    b"PUT http://example.com/ HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n",
    b"GET http://example.com/ HTTP/1.0\r\n\r\n",
    b"GET /path HTTP/1.1\r\nHost: example.com\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: example.com\r\n\r\n",
)
WORDS: Final = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"\0",
        b"\x0b",
        b"\x0c",
        b"\x1c",
        b"\x7f",
        b"\x85",
        b"\xa0",
    ),
    *(b"\xff", b"\r\n ", b"\r\n\r\n", b"//", b"/", b"?", b"#", b"@", b"%00", b"[::1]", b"+", b"-", b"0", b"0x1", b"_"),
    *(b"Host: example.com\r\n", b"Content-Length: 5\r\n", b"Content-Length : 5\r\n", b"Content-Length: 5, 5\r\n"),
    *(
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: Chunked, identity\r\n",
        b"transfer-encoding:\tchunked\r\n",
    ),
    *(b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"http://", b"https://", b"CONNECT ", b"GET "),
)


class DisagreementError(AssertionError):
    """An input that two readers read in two ways."""


# Heads.


def check_head(data: bytes) -> bool:
    """Whether the head is accepted, outside or inside a tunnel. Raises DisagreementError."""
    accepted = False
    for tunnelled in (False, True):
        try:
            head = parse_head(data, tunnelled=tunnelled)
        except HeadError:
            continue
        accepted = True
        # CONNECT has its host in its target: some clients leave Host out, which h11 wants in every HTTP/1.1 head.
        if head.method != "CONNECT" or any(name == "host" for name, _ in head.fields):
            _compare(data, "h11", _of(head), _by_h11(data))
        _compare(data, "http.server", _of(head), _by_http_server(data))
    return accepted


type _Reading = tuple[str, str, tuple[tuple[str, str], ...], str]
"""Method, target, fields, framing."""


def _of(head: Head) -> _Reading:
    framing = "chunked" if head.chunked else str(head.content_length or 0)
    return head.method, head.target, head.fields, framing


def _by_h11(data: bytes) -> _Reading | str:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        return str(error)
    if not isinstance(event, h11.Request):
        return repr(event)
    fields = tuple((name.decode(), value.decode("latin-1")) for name, value in event.headers)
    named = dict(fields)
    framing = "chunked" if "transfer-encoding" in named else str(int(named.get("content-length", 0)))
    return event.method.decode(), event.target.decode(), fields, framing


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, data: bytes) -> None:  # the base class would serve a socket
        self.rfile = io.BytesIO(data)
        self.wfile = io.BytesIO()
        self.client_address = ("", 0)
        self.raw_requestline = self.rfile.readline(65_537)
        self.refusal = "" if self.parse_request() else "refused"

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self.refusal = f"{code} {message}"

    def handle_expect_100(self) -> bool:
        return True


def _by_http_server(data: bytes) -> _Reading | str:
    handler = _Handler(data)
    if handler.refusal:
        return handler.refusal
    rest = handler.rfile.read()
    if rest:
        return f"{len(rest)} bytes left"
    fields = tuple((name.lower(), value.strip(" \t")) for name, value in handler.headers.items())
    named = dict(fields)
    framing = "chunked" if "transfer-encoding" in named else str(int(named.get("content-length", 0)))
    # It takes `//` at the beginning for `/`, so that a redirect to it stays on its host.
    target = handler.requestline.split(" ")[1]
    return handler.command, target, fields, framing


def _compare(data: bytes, who: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise DisagreementError(f"{data!r}: we read {ours!r}, {who} reads {theirs!r}")


# ClientHellos.


def check_hello(data: bytes, rng: random.Random) -> bool:
    """Whether server names are told; the same in whatever segments, and the same as OpenSSL's."""
    whole = ClientHelloReader().feed(data)
    pieces = ClientHelloReader()
    outcome: ServerNames | Unread = Unread.NEED_MORE
    for piece in _cut(data, rng):
        outcome = pieces.feed(piece)
    _compare(data, "the same reader in segments", whole, outcome)
    if isinstance(whole, Unread):
        return False
    seen = _by_openssl(data)
    # OpenSSL may refuse for reasons of its own; it must never see another name.
    if seen is not None and seen != whole[:1]:
        raise DisagreementError(f"{data.hex()}: we read {whole!r}, OpenSSL reads {seen!r}")
    return True


def _cut(data: bytes, rng: random.Random) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = rng.choice((1, 2, 5, 100, 1000))
        yield data[at : at + size]
        at += size


_SEEN: Final[list[tuple[str, ...]]] = []


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")

    def note(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        _SEEN.append((name,) if name is not None else ())

    context.sni_callback = note
    return context


_CONTEXT: Final = _server_context()


def _by_openssl(data: bytes) -> tuple[str, ...] | None:
    """The name that OpenSSL's server sees, () for none, None when it refuses the hello before that."""
    _SEEN.clear()
    incoming = ssl.MemoryBIO()
    incoming.write(data)
    with contextlib.suppress(ssl.SSLError):
        _CONTEXT.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True).do_handshake()
    return _SEEN[0] if _SEEN else None


# Mutations.


def mutate(data: bytes, words: tuple[bytes, ...], rng: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(made) + 1)
        match rng.randrange(6):
            case 0:
                made[at:at] = rng.choice(words)
            case 1:
                made[at : at + 1] = bytes((rng.randrange(256),))
            case 2:
                del made[at : at + rng.choice((1, 1, 2, 8, 64))]
            case 3:
                made[at : at + rng.choice((0, 1, 2))] = rng.choice(words)
            case 4:
                end = at + rng.randrange(60)
                made[at:at] = made[at:end]
            case _:
                if at < len(made):
                    made[at] ^= 1 << rng.randrange(8)
    return bytes(made)


def heads(rng: random.Random) -> bytes:
    made = mutate(rng.choice(_HEADS), WORDS, rng)
    return made if rng.random() < 0.1 or made.endswith(b"\r\n\r\n") else made + b"\r\n\r\n"


def _block(width: int, data: bytes) -> bytes:
    return len(data).to_bytes(width) + data


def _records(message: bytes, rng: random.Random) -> bytes:
    made, at = b"", 0
    while at < len(message):
        size = rng.choice((1, 3, 100, 16_000))
        made += b"\x16\x03\x01" + _block(2, message[at : at + size])
        at += size
    return made


_NAMES: Final = (
    b"api.example.com",
    b"evil.example",
    b"API.Example.COM",
    b"a.",
    b"",
    b"x" * 255,
    b"a\0b",
    b"xn--fa-hia.de",
)


def built_hello(rng: random.Random) -> bytes:
    """A hello whose lengths agree, with server_name extensions that are odd; in one or many records."""

    def server_name() -> bytes:
        entries = [
            rng.choice((b"\0", b"\0", b"\0", b"\1")) + _block(2, rng.choice(_NAMES))
            for _ in range(rng.choice((1, 1, 1, 2, 0)))
        ]
        return b"\0\0" + _block(2, _block(2, b"".join(entries)))

    others = (
        b"\0\x2b" + _block(2, _block(1, b"\3\4\3\3")),
        b"\0\x0a" + _block(2, _block(2, b"\0\x1d\0\x17")),
        b"\0\x0d" + _block(2, _block(2, b"\4\3\x08\4")),
        b"\xfe\x0d" + _block(2, rng.randbytes(40)),
        b"\x1a\x1a" + _block(2, b""),
    )
    extensions = [*rng.sample(others, rng.randrange(6)), *(server_name() for _ in range(rng.choice((0, 1, 1, 1, 2))))]
    rng.shuffle(extensions)
    body = (
        b"\3\3"
        + rng.randbytes(32)
        + _block(1, rng.randbytes(rng.choice((0, 32))))
        + _block(2, b"\x13\1\xc0\x2f")
        + b"\1\0"
    )
    body += _block(2, b"".join(extensions))
    return _records(b"\1" + _block(3, body), rng)


_REAL: Final = hello("api.example.com")


def hellos(rng: random.Random) -> bytes:
    seed = _REAL if rng.random() < 0.3 else built_hello(rng)
    return seed if rng.random() < 0.3 else mutate(seed, (b"\0\0", b"\xff\xff", b"\x16\3\1\0\5", b"\0\0\0\x14"), rng)


# The long run.


def run(kind: str, inputs: int, seconds: float, seed: int) -> tuple[int, int, int]:
    """Inputs, accepted inputs, and failures, which are kept in the corpus. Ends at whichever bound comes first."""
    rng = random.Random(seed)
    make: Callable[[random.Random], bytes] = heads if kind == "head" else hellos
    done = accepted = failed = 0
    end = time.monotonic() + seconds
    while done < inputs and time.monotonic() < end:
        cpu = time.process_time()
        data = make(rng)
        try:
            accepted += check_head(data) if kind == "head" else check_hello(data, rng)
            if time.process_time() - cpu > _MOST_SECONDS:
                raise DisagreementError(f"slow: {data!r}")  # noqa: TRY301  kept like every other failure
        except Exception as error:  # noqa: BLE001  a fuzzer collects whatever comes
            failed += 1
            keep(kind, data)
            if failed <= 10:
                print(f"{type(error).__name__}: {error}"[:1500], flush=True)  # noqa: T201  a command
        done += 1
    return done, accepted, failed


def keep(kind: str, data: bytes) -> None:
    folder = CORPUS / kind
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def main() -> int:
    """1 when an input failed or the time was up before all inputs were tried."""
    parser = argparse.ArgumentParser(prog="python -m tests.proxy.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="for each parser")
    parser.add_argument("--seconds", type=float, default=3600.0, help="for each parser, at most")
    parser.add_argument("--seed", type=int, default=None, help="repeats a run; a new one each time without it")
    chosen = parser.parse_args()
    seed = random.randrange(1 << 32) if chosen.seed is None else chosen.seed
    good = True
    for kind in ("head", "hello"):
        done, accepted, failed = run(kind, chosen.inputs, chosen.seconds, seed)
        print(f"{kind}: {done} inputs, {accepted} accepted, {failed} failed, seed {seed}", flush=True)  # noqa: T201  a command
        good = good and not failed and done == chosen.inputs
    wanted = chosen.inputs // _PER_SEQUENCE
    done, failed = random_sequences.run(wanted, chosen.seconds, seed)
    print(f"sequence: {done} inputs, {failed} failed, seed {seed}", flush=True)  # noqa: T201  a command
    good = good and not failed and done == wanted
    done, accepted = dns.run(chosen.inputs // _PER_QUESTION, chosen.seconds, seed)
    print(f"dns: {done} inputs, {accepted} with an address, seed {seed}", flush=True)  # noqa: T201  a command
    good = good and done == chosen.inputs // _PER_QUESTION
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
