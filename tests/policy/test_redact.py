from __future__ import annotations

import pytest

from cloned_proxy.policy.redact import MAX_TEXT, REDACTED, redact

# Made up for these tests; none of them opens anything.
SECRETS = [
    pytest.param("sk-proj-4fJ9aKq2Lm8Zx7Wv", "sk-proj-4fJ9aKq2Lm8Zx7Wv", id="an API key by its prefix"),
    pytest.param("use ghp_16C7e42F292c6912E7710c838347Ae178B4a", "16C7e42F292c69", id="a GitHub token"),
    pytest.param("AKIAIOSFODNN7EXAMPLE", "IOSFODNN7", id="an AWS key id"),
    pytest.param("Authorization: Bearer abc.def-ghi", "abc.def-ghi", id="a bearer token"),
    pytest.param("authorization=basic dXNlcjpwYXNz", "dXNlcjpwYXNz", id="basic credentials"),
    pytest.param("see https://user:hunter2@example.com/x", "hunter2", id="credentials in a URL"),
    pytest.param("see https://tokenonly@example.com/x", "tokenonly", id="a token in a URL"),
    pytest.param("api_key=short1", "short1", id="a named key"),
    pytest.param('{"password": "hunter2"}', "hunter2", id="a named password in JSON"),
    pytest.param("X-Client-Secret: s3", "s3", id="a named secret"),
    pytest.param("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "eyJzdWIi", id="a JSON Web Token"),
    pytest.param("-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE KEY-----", "MIIEow", id="PEM"),
    pytest.param("-----BEGIN PRIVATE KEY-----\nMIIEow", "MIIEow", id="PEM without its end"),
    pytest.param("key 9f86d081884c7d659a2feaa0c55ad015 ok", "9f86d081", id="32 hexadecimal digits"),
    pytest.param("key Zm9vYmFyYmF6cXV4cXV1eA0K4 ok", "Zm9vYmFy", id="base64"),
    pytest.param("AGE-SECRET-KEY-1QQQQQQQQQQ", "1QQQ", id="an age key"),
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_what_looks_like_a_secret_is_taken_out(text: str, secret: str) -> None:
    told = redact(f"we need it: {text} thanks")
    assert secret not in told
    assert REDACTED in told
    assert told.startswith("we need it:")


@pytest.mark.parametrize(
    "text",
    [
        "to fetch the release notes of api.github.com for the report",
        "search results point at very-long-subdomain-name-for-docs.example.com",
        "needs https://api.example.com/v1/items on port 8443",
        "internationalization-of-documentation is described there",
    ],
)
def test_plain_words_stay(text: str) -> None:
    assert redact(text) == text


def test_a_text_is_one_printable_bounded_line() -> None:
    told = redact("a\x1b[2J\x1b]0;owned\x07b\r\nallow: ['*']\u202egnp.exe\u2028c" + " word" * 400)
    assert told.isprintable()
    assert "\x1b" not in told
    assert "\u202e" not in told
    assert len(told) <= MAX_TEXT


def test_redacting_twice_changes_nothing() -> None:
    once = redact("Bearer abcdefgh and password=x and https://u:p@h/")
    assert redact(once) == once
