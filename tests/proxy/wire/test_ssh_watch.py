"""What an SSH connection begins with, as RFC 4253, section 4.2 says it and real programs send it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloned_proxy.proxy.wire.ssh_watch import MAX_PREAMBLE, Identification, NotSshError

GOOD = [
    b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n",
    b"SSH-2.0-babeld-c2e3d5f\r\n",
    b"SSH-2.0-Go\r\n",
    b"SSH-2.0-paramiko_4.0.0\r\n",
    b"SSH-1.99-Cisco-1.25\n",
    b"SSH-2.0-x\n",
    b"SSH-2.0-" + b"x" * 245 + b"\r\n",
]
BAD = [
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01\x02\x00",
    b"SSH-1.5-old\r\n",
    b"SSH-2.0\r\n",
    b"SSH-2.0-\r\n",
    b"SSH-2.0- x\r\n",
    b"SSH-3.0-x\r\n",
    b"SSH-2.0-a\0b\r\n",
    b"SSH-2.0-a\rb\r\n",
    b"SSH-2.0-caf\xc3\xa9\r\n",
    b"SSH-2.0-" + b"x" * 246 + b"\r\n",
    b"SSH-2.0-" + b"x" * 300,
    b"ssh-2.0-x\r\n",
    b" SSH-2.0-x\r\n",
    b"SSH-2.0-\xff",
    b"SSH_",
    b"X",
]


def outcome(side: Identification, parts: list[bytes]) -> tuple[bytes, bytes, str]:
    """What passes of the parts, what comes behind it, and how it ends."""
    passed = behind = b""
    for part in parts:
        if side.complete:
            behind += part
            continue
        try:
            more, after = side.feed(part)
        except NotSshError:
            return passed, b"", "refused"
        passed, behind = passed + more, behind + after
    return passed, behind, "complete" if side.complete else "waits"


LINES = [b"Welcome\r\n", b"one\r\ntwo\n\xff\xfe\r\n", b"\r\n", b"SSX\r\n", b"S\r\n"]


@pytest.mark.parametrize("server", [False, True])
@pytest.mark.parametrize("line", GOOD)
def test_an_identification_passes_with_what_is_behind_it_apart(line: bytes, server: bool) -> None:
    side = Identification(server=server)
    assert side.feed(line + b"\0\0\x01\x2c\nSSH-") == (line, b"\0\0\x01\x2c\nSSH-")
    assert side.complete
    assert side.waiting == b""


@pytest.mark.parametrize("line", BAD)
@pytest.mark.parametrize("cut", [1, 1000])
def test_nothing_else_of_a_client_passes(line: bytes, cut: int) -> None:
    parts = [line[at : at + cut] for at in range(0, len(line), cut)]
    assert outcome(Identification(server=False), parts) == (b"", b"", "refused")


@pytest.mark.parametrize("line", GOOD)
@pytest.mark.parametrize("before", LINES)
def test_a_server_may_send_lines_first_and_a_client_may_not(before: bytes, line: bytes) -> None:
    assert Identification(server=True).feed(before + line) == (before + line, b"")
    with pytest.raises(NotSshError):
        Identification(server=False).feed(before + line)


@pytest.mark.parametrize("line", [b"HTTP/1.1 400 Bad Request\r\n", b"x" * 100])
def test_a_server_that_goes_on_with_something_else_is_none(line: bytes) -> None:
    assert outcome(Identification(server=True), [line] * (MAX_PREAMBLE // len(line) + 1)) == (b"", b"", "refused")


@pytest.mark.parametrize("line", [line for line in BAD if line.startswith(b"SSH-") and line.endswith(b"\n")])
def test_a_server_does_not_identify_itself_as_anything_else(line: bytes) -> None:
    with pytest.raises(NotSshError):
        Identification(server=True).feed(line)


@given(st.binary(max_size=60), st.booleans(), st.data())
def test_the_outcome_does_not_depend_on_how_it_was_cut(tail: bytes, server: bool, data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([*GOOD, *BAD])) + tail
    whole = (data.draw(st.sampled_from(LINES)) if server else b"") + whole
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert outcome(Identification(server=server), pieces) == outcome(Identification(server=server), [whole])


def test_a_preamble_that_comes_byte_by_byte_is_read_once() -> None:
    read = 0

    class Counting(Identification):
        def _is_other_line(self, line: bytes) -> bool:
            nonlocal read
            read += 1
            return super()._is_other_line(line)

    server = Counting(server=True)
    for _ in range(4096):
        assert server.feed(b"\n") == (b"", b"")
    assert server.feed(b"SSH-2.0-x\r\n") == (b"\n" * 4096 + b"SSH-2.0-x\r\n", b"")
    assert read < 3 * 4096
