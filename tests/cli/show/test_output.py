"""Small pure parts of the command line, as tables."""

from __future__ import annotations

import pytest

from cloned_proxy.cli.place.listen_option import parse_listen
from cloned_proxy.cli.show.errors import say
from cloned_proxy.cli.show.output import put_json, table, visible
from cloned_proxy.policy.terms.host_port import split_port


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("example.com", "example.com", None),
        ("example.com:8443", "example.com", 8443),
        ("**.example.com:443", "**.example.com", 443),
        ("[2001:db8::1]:443", "2001:db8::1", 443),
        ("[2001:db8::1]", "2001:db8::1", None),
        ("2001:db8::1", "2001:db8::1", None),
    ],
)
def test_host_and_port(text: str, host: str, port: int | None) -> None:
    assert split_port(text) == (host, port)


@pytest.mark.parametrize("text", ["h:", "h:x", "h:70000", "[::1", "[::1]x", "[::1]:", "h:٣", "h:-1"])
def test_what_is_no_host_and_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"port|HOST"):
        split_port(text)


def test_off_is_no_listener() -> None:
    assert parse_listen("off", "--metrics") is None


def test_recorded_text_cannot_drive_the_terminal() -> None:
    assert visible("a\x1b[2Jb\n\u202ec") == "a\\x1b[2Jb\\x0a\\x202ec"
    assert "\x1b" not in "\n".join(table([["\x1b]0;x\x07"]], ["host"]))


def test_a_pasted_url_is_told_to_be_a_host() -> None:
    with pytest.raises(ValueError, match=r"write the host alone: x\.com$"):
        split_port("https://x.com/a")


def test_nothing_that_is_quoted_drives_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("policy.yaml: '\x1b]0;owned\x07'")
    put_json({"host": "a\x9b31m\u202e"})
    told = capsys.readouterr()
    assert "\x1b" not in told.err
    assert told.out.isascii()
