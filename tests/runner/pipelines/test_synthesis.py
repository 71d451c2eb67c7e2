"""The model's answer as the built-in tool reads it: streamed, cut, broken, hostile, or never ending."""

from __future__ import annotations

import http.server
import importlib.util
import json
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from cloned_proxy.share import share_path
from tests.free_port import free_port
from tests.runner import localai_stand_in

BUILTIN = share_path("sandbox", "worker", "builtin")


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """As the worker loads a tool: by path, with its folder importable."""
    monkeypatch.syspath_prepend(str(BUILTIN))
    for imported in ("chat", "context", "egress"):
        monkeypatch.delitem(sys.modules, imported, raising=False)
    spec = importlib.util.spec_from_file_location("tool", BUILTIN / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.delenv("http_proxy", raising=False)
    return load("chat", monkeypatch)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None: ...  # who has heard enough goes away


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    server = Server(("127.0.0.1", 0), localai_stand_in.Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def ask(chat: ModuleType, base: str, text: str, **options: Any) -> dict[str, Any]:
    wanted = {"max_tokens": 64, "idle": 20.0, "watch": False} | options
    answer: dict[str, Any] = chat.chat(base, "m", [{"role": "user", "content": text}], **wanted)
    return answer


def test_words_are_put_together_and_shown_as_they_come(
    chat: ModuleType, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = ask(chat, base, "one two three", watch=True)
    assert (answer["text"], answer["finish_reason"], answer["truncated"]) == ("onetwothree", "stop", False)
    assert answer["first_token_seconds"] <= answer["seconds"]
    assert capsys.readouterr().err == "onetwothree"


def test_an_end_without_a_reason_is_no_whole_answer(chat: ModuleType, base: str) -> None:
    answer = ask(chat, base, "cut")
    assert (answer["text"], answer["finish_reason"], answer["truncated"]) == ("one two three", None, True)


FAULTS = [
    ("garbage", "streams something that is not JSON"),
    ("half", "broke off"),
    ("stall", "said nothing for 0.5 s"),
    ("tool http://canary.example/", "a call of 'fetch', which nobody offered"),
    ("nothing", "answered with nothing"),
    ("failure", "the model failed: out of slots"),
    ("endless", "more than"),
]


@pytest.mark.parametrize(("text", "message"), FAULTS)
def test_what_is_no_answer_is_an_error_that_says_what_came(
    chat: ModuleType, base: str, text: str, message: str
) -> None:
    with pytest.raises((ValueError, chat.EgressError), match=message):
        ask(chat, base, text, idle=0.5 if text == "stall" else 20.0)


def test_an_error_of_the_model_is_told_in_its_own_words(chat: ModuleType, base: str) -> None:
    with pytest.raises(chat.EgressError, match="answered 400: no messages"):
        chat.chat(base, "m", [], max_tokens=1, idle=5.0, watch=False)


def test_the_fence_does_not_reach_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = load("cloned.internal.synthesis@v1", monkeypatch)
    looped = "<UNTRUSTED-0123456789abcdef>A</UNTRUSTED-0123456789abcdef> and <UNTRUSTED-0123"
    monkeypatch.setattr(tool, "chat", lambda *_a, **_k: {"text": looped, "finish_reason": "length"})
    monkeypatch.setattr(tool, "model_of", lambda _settings: ("http://127.0.0.1:8080/v1", "m"))
    monkeypatch.setattr(tool, "context_of", lambda *_: None)
    assert tool.run({"topic": "t", "sources": [{"url": "u"}]}, {})["text"] == "A and"
    with pytest.raises(ValueError, match="report, summary"):
        tool.run({"topic": "t", "task": "poem"}, {})


class Small(http.server.BaseHTTPRequestHandler):
    """A model of 600 tokens, four characters each. It tells its context in a way of its server's, or not at all."""

    models: ClassVar[dict[str, Any]] = {"id": "m"}
    props: ClassVar[dict[str, Any] | None] = None
    asked: ClassVar[list[str]] = []
    key = ""

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/props":
            self._json(200 if self.props else 404, self.props or {})
        else:
            self._json(200, {"data": [self.models]})

    def do_POST(self) -> None:
        self.asked.append(self.path)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        read = sum(len(message["content"]) for message in body["messages"]) // 4
        if self.key and self.headers.get("Authorization") != self.key:
            self._json(401, {"error": {"message": "Invalid API Key"}})
        elif read + body["max_tokens"] > 600:
            self._json(400, {"error": {"message": "the request exceeds the available context size"}})
        else:
            choice = {"message": {"content": "a summary"}, "finish_reason": "stop"}
            self._json(200, {"choices": [choice], "usage": {"prompt_tokens": read, "completion_tokens": 2}})

    def _json(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002  the base class's word


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.setattr(Small, "asked", [])
    server = Server(("127.0.0.1", 0), Small)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


CONTEXTS: list[tuple[str, dict[str, Any], dict[str, Any] | None, int]] = [
    ("vLLM", {"max_model_len": 600}, None, 1),
    ("llama.cpp", {"owned_by": "llamacpp"}, {"default_generation_settings": {"n_ctx": 600}}, 1),
    ("a newer llama.cpp", {"owned_by": "llamacpp", "meta": {"n_ctx": 600}}, None, 1),
    ("a server that tells nothing", {}, None, 7),
    ("a server that tells nonsense", {"max_model_len": "many"}, None, 7),
]


@pytest.mark.parametrize(("models", "props", "attempts"), [row[1:] for row in CONTEXTS], ids=[r[0] for r in CONTEXTS])
def test_what_the_context_cannot_hold_is_left_out_and_said(
    small: str,
    monkeypatch: pytest.MonkeyPatch,
    models: dict[str, Any],
    props: dict[str, Any] | None,
    attempts: int,
) -> None:
    monkeypatch.setattr(Small, "models", {"id": "m"} | models)
    monkeypatch.setattr(Small, "props", props)
    tool = load("cloned.internal.synthesis@v1", monkeypatch)
    sources = [{"title": "t", "url": f"docs/{name}", "snippet": name * 8000} for name in "abc"]
    answer = tool.run({"topic": "t", "sources": sources}, {"settings": {"llm_api_base": small}})
    assert re.fullmatch(r"a summary\n\n> The model read \d+ of 24000 characters: more does not fit.*", answer["text"])
    assert Small.asked.count("/v1/chat/completions") <= attempts
    short = tool.run({"topic": "t", "sources": [{"snippet": "short"}]}, {"settings": {"llm_api_base": small}})
    assert short["text"] == "a summary"


def test_a_local_model_that_is_away_is_looked_for_where_it_is_started(
    chat: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = f"http://127.0.0.1:{free_port()}/v1"
    monkeypatch.setattr(chat, "DEFAULT_BASE", gone)
    with pytest.raises(chat.EgressError, match=r"cannot be reached.*; `cloned-proxy llm status`"):
        ask(chat, gone, "hello")


def test_another_refusal_is_no_reason_to_read_less(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Small, "key", "Bearer secret")
    tool = load("cloned.internal.synthesis@v1", monkeypatch)
    settings = {"llm_api_base": small, "llm_model": "context"}
    with pytest.raises(Exception, match=r"answered 401: Invalid API Key; the model wants a key.*vault set.*inject: {"):
        tool.run({"topic": "t", "sources": [{"snippet": "x" * 9000}]}, {"settings": settings})
    assert Small.asked == ["/v1/chat/completions"]  # a model that is named is not looked for


def test_sources_are_fenced_by_a_mark_of_this_call(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = load("cloned.internal.synthesis@v1", monkeypatch)
    marks = {tool.messages("t", [{"snippet": "IGNORE"}], "x")[1]["content"].split("<", 1)[1][:26] for _ in range(3)}
    assert len(marks) == 3


class TestFolder:
    @pytest.fixture
    def project(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        project = tmp_path / "project"
        (project / "docs" / ".hidden").mkdir(parents=True)
        monkeypatch.setenv("CLONED_WORKSPACE_TOOLS", str(project / "tools"))
        (project / "docs" / "a.md").write_text("alpha")
        (project / "docs" / "b.bin").write_bytes(b"\0\1")
        (project / "docs" / "c.txt").write_bytes(b"\xff\xfe")
        (project / "docs" / ".env").write_text("hunter2")
        (project / "docs" / ".hidden" / "d.txt").write_text("hunter2")
        (tmp_path / "outside.txt").write_text("hunter2")
        (project / "docs" / "link.txt").symlink_to(tmp_path / "outside.txt")
        return project

    def test_text_is_read_and_nothing_hidden_linked_or_binary(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = load("cloned.internal.folder.read@v1", monkeypatch).run({"folder": "docs"}, {})
        assert found["results"] == [{"title": "a.md", "url": "docs/a.md", "snippet": "alpha"}]
        assert "hunter2" not in json.dumps(found)

    def test_what_does_not_fit_is_named(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in "xyz":
            (project / "docs" / f"{name}.txt").write_text(name * 100)
        found = load("cloned.internal.folder.read@v1", monkeypatch).run({"folder": "docs", "max_characters": 12}, {})
        assert [len(row["snippet"].split("\n")[0]) for row in found["results"]] == [3, 3, 3, 3]
        assert "97 more characters" in found["results"][1]["snippet"]
        found = load("cloned.internal.folder.read@v1", monkeypatch).run({"folder": "docs", "max_characters": 2}, {})
        assert found["skipped"] == ["docs/y.txt", "docs/z.txt"]

    @pytest.mark.parametrize("folder", ["..", "/etc", "nowhere", "docs/a.md", "../project-else"])
    def test_other_folders_are_refused(self, project: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
        (project.parent / "project-else").mkdir()
        with pytest.raises(ValueError, match="no folder of the project"):
            load("cloned.internal.folder.read@v1", monkeypatch).run({"folder": folder}, {})
