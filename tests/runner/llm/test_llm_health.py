"""What a model server's answers mean: ready, loading, or not what we asked for; and what it counts."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator

import pytest

from cloned_proxy.runner.llm.engines import USUAL_HEALTH
from cloned_proxy.runner.llm.health import (
    Health,
    ask_health,
    closed_with_key,
    model_metrics,
    open_without_key,
)

type Answers = dict[str, int | str]
type Serve = Callable[[Answers], int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server on loopback that answers each path with a status, or with 200 and a text; the rest with 404."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(answers: Answers) -> int:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = answers.get(self.path, 404)
                if self.path == "/keyed" or (self.command == "POST" and answers.get("key")):
                    found = 400 if self.headers.get("Authorization") == f"Bearer {answers['key']}" else 401
                body = found.encode() if isinstance(found, str) else b""
                self.send_response(200 if isinstance(found, str) else found)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815  the base class's word

            def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002  the base class's word

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return int(server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


CASES: list[tuple[str, Answers, Health, str]] = [
    ("LocalAI", {"/readyz": 200}, Health.READY, "/readyz 200"),
    ("llama.cpp", {"/health": 200}, Health.READY, "/readyz 404, /health 200"),
    ("a list of models is all", {"/v1/models": 200}, Health.READY, "/readyz 404, /health 404, /v1/models 200"),
    ("the list wants a key", {"/v1/models": 401}, Health.READY, "/readyz 404, /health 404, /v1/models 401"),
    ("loading", {"/health": 503, "/v1/models": 200}, Health.LOADING, "/readyz 404, /health 503"),
    ("something else", {}, Health.UNFIT, "/readyz 404, /health 404, /v1/models 404"),
    ("broken", {"/readyz": 500}, Health.UNFIT, "/readyz 500, /health 404, /v1/models 404"),
]


@pytest.mark.parametrize(("answers", "health", "said"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_the_first_answer_that_says_something_decides(
    serve: Serve, answers: Answers, health: Health, said: str
) -> None:
    report = ask_health(serve(answers), USUAL_HEALTH)
    assert (report.health, report.said) == (health, said)


def test_nobody_there_is_no_answer() -> None:
    assert ask_health(1, USUAL_HEALTH).health is Health.SILENT
    assert model_metrics(1) == {}


def test_a_key_is_one_when_it_opens_and_nothing_else_does(serve: Serve) -> None:
    port = serve({"key": "k3y"})
    assert open_without_key(port) is None
    assert closed_with_key(port, "k3y") is None
    assert closed_with_key(port, "other") == "/v1/chat/completions 401"
    assert open_without_key(serve({"/v1/chat/completions": 400})) == "/v1/chat/completions 400"
    assert open_without_key(1) == "/v1/chat/completions no answer"


def test_metrics_are_summed_over_labels_and_nonsense_is_passed_over(serve: Serve) -> None:
    text = (
        "# TYPE vllm:generation_tokens_total counter\n"
        'vllm:generation_tokens_total{model="a b"} 40\nvllm:generation_tokens_total{model="c"} 2.5\n'
        "llamacpp:requests_deferred NaN\nunknown 7\n"
    )
    assert model_metrics(serve({"/metrics": text})) == {"tokens_written": 42.5, "requests_waiting": 0.0}
    assert model_metrics(serve({"/metrics": "vllm:generation_tokens_total many\n"})) == {}
    assert model_metrics(serve({"/metrics": 401})) == {}
