"""A notice is read by people and by desktops that take markup: nothing in it is of a tool's making."""

from __future__ import annotations

import json

import pytest

from cloned_proxy.notify.desktop import arguments
from cloned_proxy.notify.notice import Notice, plain


def denial(**changes: object) -> Notice:
    given = {
        "occasion": "denial",
        "at": 1_800_000_000.5,
        "id": "d1",
        "tool": "demo@v1",
        "host": "a.example",
        "port": 443,
        "reason": "host_not_allowed",
        "what": "",
        "hint": "cloned-proxy allow a.example --tool demo@v1",
    }
    return Notice(**{**given, **changes})  # type: ignore[arg-type]  # each field by its name


def test_the_message_is_the_form_of_standard_webhooks() -> None:
    message = json.loads(denial(more=3).payload())
    assert message == {
        "type": "egress.denied",
        "timestamp": "2027-01-15T08:00:00.500Z",
        "text": "demo@v1 was refused a.example:443 (host_not_allowed). And 3 more.",
        "data": {
            "tool": "demo@v1",
            "id": "d1",
            "more": 3,
            "hint": "cloned-proxy allow a.example --tool demo@v1",
            "host": "a.example",
            "port": 443,
            "reason": "host_not_allowed",
        },
    }
    asked = json.loads(denial(occasion="request", host="", what="allow a.example:443 for demo@v1").payload())
    assert asked["type"] == "egress.requested"
    assert asked["data"]["request"] == "allow a.example:443 for demo@v1"


ATTACKS = [
    pytest.param("<b>x</b>", id="markup"),
    pytest.param("&lt;img src=x&gt;", id="escaped markup"),
    pytest.param("<a href='http://evil.example/'>click</a>", id="a link"),
    pytest.param("a\nb\r\nc", id="lines"),
    pytest.param("\x1b]0;title\x07", id="a terminal's title"),
    pytest.param("\u202egnp.exe", id="direction"),
    pytest.param("a\u2028b\x00\x7f\x9b", id="separators and C1"),
    pytest.param("--urgency=critical", id="an option"),
    pytest.param("x" * 10_000, id="length"),
]


@pytest.mark.parametrize("value", ATTACKS)
@pytest.mark.parametrize("field", ["host", "tool", "reason"])
def test_what_a_tool_chooses_is_text(field: str, value: str) -> None:
    notice = denial(**{field: value})
    *options, separator, title, body = arguments(notice)
    assert options == ["--app-name=cloned-proxy", "--urgency=normal"]
    assert separator == "--"
    assert title == "Egress denied"
    assert "<" not in body
    assert ">" not in body
    assert body.replace("&amp;", "").replace("&lt;", "").replace("&gt;", "").count("&") == 0
    for text in (body, notice.text, json.loads(notice.payload())["text"]):
        assert text.isprintable()
        assert len(text) < 900
    assert len(notice.payload()) < 3000


def test_an_ordinary_text_stays_as_it_is() -> None:
    assert plain("xn--fa-hia.example: naïve, 例え") == "xn--fa-hia.example: naïve, 例え"
