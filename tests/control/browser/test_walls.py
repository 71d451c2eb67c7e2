"""Pages of other origins, and browsers that nobody paired, get nothing: judged by what they read and what changed."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.control.browser.scene import Scene, chromium, launch
from tests.net.clients import installed, needed
from tests.net.world import ROOT

pytestmark = pytest.mark.browser

NODE = ROOT / "tests" / "control" / "browser" / "node"
ELSEWHERE = "evil.example"


@pytest.fixture(scope="module")
def program() -> str:
    """The whole browser, as people have it: here it is what stands between two sites."""
    return chromium()


class Hostile:
    """A site of somebody else on this machine, with the page that it was given."""

    def __init__(self) -> None:
        self.page = ""
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = site.page.encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    site = Hostile()
    yield site
    site.server.shutdown()
    site.server.server_close()


def test_the_content_security_policy_has_no_hole(scene: Scene) -> None:
    """csp_evaluator: nothing, but that `'self'` is as good as what the origin serves; the next test is about that."""
    installed(NODE, "csp_evaluator")
    policy = scene.control.get("/pair").headers["content-security-policy"]
    done = subprocess.run(
        [needed("node"), str(NODE / "evaluate.mjs"), policy], capture_output=True, text=True, check=True
    )
    findings = json.loads(done.stdout)
    assert [f["description"] for f in findings if f["value"] != "'self'"] == []
    assert all("if you host" in f["description"] for f in findings)


def test_only_the_shipped_scripts_can_run(scene: Scene) -> None:
    """Answers of the API hold text of strangers; a script element must not take one for a script."""
    scene.curl("/alert(1)")
    page = scene.page()
    page.goto(scene.url)
    ran = page.evaluate(
        """async (paths) => {
          const outcome = {};
          for (const path of paths) {
            const script = document.createElement("script");
            script.src = path;
            outcome[path] = await new Promise((done) => {
              script.onload = () => done("ran");
              script.onerror = () => done("refused");
              document.head.append(script);
            });
          }
          return outcome;
        }""",
        ["/static/pair.js", "/api/v1/decisions", "/static/app.css", "/"],
    )
    assert ran.pop("/static/pair.js") == "ran", "else this shows nothing"
    assert set(ran.values()) == {"refused"}
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hit = 1\">')")
    page.evaluate("setTimeout('window.hit = 2'); new Promise((done) => setTimeout(done, 200))")
    assert page.evaluate("window.hit ?? null") is None
    scene.complaints.clear()


def test_a_browser_that_nobody_paired_gets_the_pairing_page_and_nothing_else(scene: Scene) -> None:
    assert scene.curl("/a-secret-path") == 403
    page = scene.page(paired=False)
    page.goto(f"{scene.url}/")
    assert page.url == f"{scene.url}/pair"
    answers = page.evaluate(
        """(paths) => Promise.all(paths.map(async (path) => {
          const answer = await fetch(path);
          return [answer.status, await answer.text()];
        }))""",
        [f"/api/v1/{name}" for name in ("overview", "decisions", "stream", "blocked", "none")]
        + ["/static/overview.js", "/index.html"],
    )
    assert {status for status, _ in answers} == {401}
    assert not [text for _, text in answers if "a-secret-path" in text]
    scene.complaints.clear()


def test_a_name_rebound_to_this_machine_gets_nothing(scene: Scene) -> None:
    port = scene.control.port
    rebound = launch(scene.browser.browser_type, f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1")
    try:
        page = rebound.new_page()
        for path in ("/pair", "/", "/api/v1/decisions", "/static/api.js"):
            response = page.goto(f"http://{ELSEWHERE}:{port}{path}")
            assert response is not None
            assert response.status == 421, path
            assert "code" not in page.inner_text("body").lower(), path
        page.goto(f"http://{ELSEWHERE}:{port}/pair")
        paired = page.evaluate(
            """async (code) => (await fetch("/api/v1/pair", { method: "POST", body: JSON.stringify({ code, name: "x" }),
              headers: { "Content-Type": "application/json", "X-Cloned-Request": "1" } })).status""",
            scene.control.code(),
        )
        assert paired == 421
    finally:
        rebound.close()


def test_a_form_and_a_script_of_another_origin_change_nothing(scene: Scene, hostile: Hostile) -> None:
    before = scene.workspace.policy.read_bytes()
    page = scene.page()
    body = json.dumps({"action": "allow", "host": "evil.example", "ports": [443]})
    hostile.page = f"""<form method=post enctype=text/plain action="{scene.url}/api/v1/rules">
      <input name='{body[:-1]}, "x":"' value='"}}'></form><script>document.forms[0].submit()</script>"""
    with page.expect_response(f"{scene.url}/api/v1/rules") as posted:
        page.goto(hostile.url)
    assert posted.value.status == 403
    hostile.page = "<p>scripts</p>"
    page.goto(hostile.url)
    reached = page.evaluate(
        """([url, body]) => {
          const headers = { "Content-Type": "application/json", "X-Cloned-Request": "1" };
          const tries = [
            fetch(url + "/api/v1/decisions", { credentials: "include" }),
            fetch(url + "/api/v1/rules", { method: "POST", credentials: "include", body, headers }),
          ];
          return Promise.all(tries.map((one) => one.then(() => "read", () => "refused")));
        }""",
        [scene.url, body],
    )
    assert reached == ["refused", "refused"]
    hostile.page = f'<iframe src="{scene.url}/"></iframe><script src="{scene.url}/api/v1/decisions"></script>'
    page.goto(hostile.url)
    assert page.frames[1].evaluate("document.body.innerText").find("Overview") < 0
    assert scene.workspace.policy.read_bytes() == before
    page.close()  # what it still loads is refused as well, and would be told later
    scene.complaints.clear()
