from __future__ import annotations

import time

import pytest

from cloned_proxy.policy.secrets.redact import MAX_TEXT, REDACTED, bounded, hide_arguments, redact, redact_command

# Made up for these tests; none of them opens anything.
SECRETS = [
    pytest.param("sk-proj-4fJ9aKq2Lm8Zx7Wv", "sk-proj-4fJ9aKq2Lm8Zx7Wv", id="an API key by its prefix"),
    pytest.param("use ghp_16C7e42F292c6912E7710c838347Ae178B4a", "16C7e42F292c69", id="a GitHub token"),
    pytest.param("AKIAIOSFODNN7EXAMPLE", "IOSFODNN7", id="an AWS key id"),
    pytest.param("Authorization: Bearer abc.def-ghi", "abc.def-ghi", id="a bearer token"),
    pytest.param("authorization=basic dXNlcjpwYXNz", "dXNlcjpwYXNz", id="basic credentials"),
    pytest.param("see https://user:hunter2@example.com/x", "hunter2", id="credentials in a URL"),
    pytest.param("see https://user:hunt@hunter2@example.com/x", "hunter2", id="a password with an at sign"),
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


@pytest.mark.parametrize("part", ["a-", "a", "a.", "secret", "token-", "http://a", "a:", "v1."])
def test_no_text_makes_it_slow(part: str) -> None:
    began = time.thread_time()
    redact(part * (16_384 // len(part)))
    assert time.thread_time() - began < 1  # milliseconds; tried at each place of a long word it took up to 25 s


@pytest.mark.parametrize("text", ["word " * 200, "x" * 999, "short", "a\x1b[2J\u202e\nb"])
def test_a_bounded_text_is_one_line_of_whole_words(text: str) -> None:
    told = bounded(text, 50)
    assert told.isprintable()
    assert len(told) <= 50
    assert set(told.replace("…", "").split()) <= set(text.replace("\x1b", " ").replace("\u202e", " ").split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["curl", "-sS", "https://example.com/"], "curl -sS https://example.com/"),
        (["sh", "-c", "echo one; echo two"], "sh -c 'echo one; echo two'"),
        (["tool", "--access-token", "hunter2", "x"], f"tool --access-token {REDACTED} x"),
        (["tool", "-password", "hunter2"], f"tool -password {REDACTED}"),
        (["curl", "-u", "me:hunter2", "h"], f"curl -u me:{REDACTED} h"),
        (["curl", "-ume:hunter2", "h"], f"curl -ume:{REDACTED} h"),
        (["curl", "--user=me:hunter2", "h"], f"curl --user=me:{REDACTED} h"),
        (["env", "-u", "HOME", "sh"], "env -u HOME sh"),
        (["sh", "-c", "export API_KEY=hunter2\ncurl x"], f"sh -c 'export API_KEY={REDACTED} curl x'"),
    ],
)
def test_a_command_is_recorded_without_its_secrets(words: list[str], told: str) -> None:
    assert redact_command(words) == told


def test_a_recorded_command_is_bounded_whatever_ran() -> None:
    for words in (["x"] * 100_000, ["y" * 1_000_000], ["--token"] * 10_000, ["-u", "a:" + "b" * 100_000]):
        assert len(redact_command(words)) <= MAX_TEXT
    cut = redact_command([*("word" for _ in range(95)), "--header=ghp_16C7e42F292c6912E7710c838347Ae178B4a"])
    assert "16C7" not in cut


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--api-key", "abc", "--port", "1"], ("--api-key", "[redacted]", "--port", "1")),
        (["--key=abc", "--token", "--verbose"], ("--key=[redacted]", "--token", "--verbose")),
        (["--token", "${CLONED_MCP_1}", "--key=$KEY"], ("--token", "${CLONED_MCP_1}", "--key=$KEY")),
        (["sk-ant-api03-0123456789"], ("[redacted]",)),
        (["https://me:pw@host.example/x"], ("https://[redacted]@host.example/x",)),
        (["-u", "me:pw"], ("-u", "me:[redacted]")),
        (["a8F7c9D2e4B6a1C3f5E7d9B8"], ("[redacted]",)),
        (["-y", "@scope/google-analytics-mcp-server2@1.2.3"], ("-y", "@scope/google-analytics-mcp-server2@1.2.3")),
        (["/home/you/projects2/a-long-name/of-a-file.json"], ("/home/you/projects2/a-long-name/of-a-file.json",)),
    ],
)
def test_arguments_are_reviewed_without_their_keys(words: list[str], shown: tuple[str, ...]) -> None:
    assert hide_arguments(words) == shown
