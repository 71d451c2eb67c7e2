"""Every view, light and dark, wide and narrow: what axe-core finds, what overflows, and the pictures that CI keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.cli.program import TOOL, Origin
from tests.control.browser.scene import VIEWS, WAIT, Scene, picture, show, tunnel, workspace_in
from tests.control.support import raw

pytestmark = pytest.mark.browser

TURNED = "for the \u202etropER"
POLICY = f"""version: 1
anonymous: global
global:
  allow: [{{host: 127.0.0.1, ports: [$PORT], protocols: [tcp], reason: "{TURNED}"}}]
tools:
  {TOOL}:
    inherit_global: false
    allow:
      - {{host: uploads.example.com, expires: 2126-12-01T00:00:00Z, max_uses: 5, reason: the weekly report}}
      - {{host: api.example.com, methods: [GET], paths: ["/v1/**"]}}
    on_deny: ask
"""
LONG = ".".join(["a-very-long-label-that-somebody-made-up-to-break-the-page"] * 4) + ".example"
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def full(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A workspace in which every view has something to show."""
    origin, workspace = Origin(), workspace_in(tmp_path_factory.mktemp("looks") / "ws")
    scene = Scene.start(workspace, origin, browser, POLICY.replace("$PORT", str(origin.port)))
    scene.curl("/seen", tool=None)
    scene.curl("/report")
    for host in ("api.search.example.com", LONG):
        scene.curl_to(f"http://{host}/v1/search")
        scene.curl_to(f"https://{host}/")
    scene.curl_to("http://127.0.0.9/", tool=None)
    raw(scene.serving.port, b"GET http://evil\x80/ HTTP/1.1\r\n\r\n")
    workspace.run("allow", "files.example.com", "--for", "2h", "--reason", "until the meeting")
    with tunnel(scene):
        yield scene
    scene.close()
    workspace.close()
    origin.close()
    assert scene.complaints == []


def ask(scene: Scene, host: str) -> bytes:
    """The answer to a call that curl would not make."""
    return raw(scene.serving.port, f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())


def serious(page: Page) -> list[tuple[str, str, Any]]:
    """What axe-core finds that would stop somebody."""
    found = Axe().run(page).response["violations"]
    return [
        (issue["impact"], issue["id"], [node["html"][:200] for node in issue["nodes"]])
        for issue in found
        if issue["impact"] in SERIOUS
    ]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing_serious_in_any_view(full: Scene, width: int, scheme: str) -> None:
    page = full.page(width=width, scheme=scheme)
    for view, title in VIEWS.items():
        show(full, page, view)
        if view == "history":
            page.locator("summary").first.click()
            expect(page.locator(".diff")).to_be_visible(timeout=WAIT)
        picture(page, f"{title} {width} {scheme}")
        assert serious(page) == [], f"{title} {width} {scheme}"
    show(full, page)
    page.locator("li.request").get_by_role("button", name="Approve").first.click()
    expect(page.get_by_role("dialog")).to_contain_text("It covers 1 call")
    picture(page, f"dialog {width} {scheme}")
    assert serious(page) == []
    page.keyboard.press("Escape")
    page.locator("li.group:not(.request)").get_by_role("button", name="Details").last.click()
    assert serious(page) == []
    show(full, page, "rules")
    for name in ("Add a rule", "Edit"):
        page.get_by_role("button", name=name).first.click()
        expect(page.get_by_role("dialog")).to_be_visible()
        picture(page, f"{name} {width} {scheme}")
        assert serious(page) == [], name
        page.keyboard.press("Escape")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_the_other_pictures(full: Scene, width: int, scheme: str) -> None:
    page = full.page(width=width, scheme=scheme)
    for view, title in VIEWS.items():
        show(full, page, view)
        picture(page, f"{title} {width} {scheme}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_the_pairing_page(full: Scene, scheme: str) -> None:
    page = full.page(width=390, scheme=scheme, paired=False)
    page.goto(full.url)
    picture(page, f"pair 390 {scheme}")
    assert serious(page) == []


def test_nothing_is_wider_than_a_small_phone(full: Scene) -> None:
    page = full.page(width=360, height=640)
    for view, title in VIEWS.items():
        show(full, page, view)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, title
        cut = page.evaluate(
            "[...document.querySelectorAll('main button, main a, main input')].filter(e => e.offsetParent"
            " && e.getBoundingClientRect().right > 361).map(e => e.textContent)"
        )
        assert cut == [], title


def test_text_that_turns_the_line_round_is_shown_for_what_it_is(full: Scene) -> None:
    """The proxy records no such host, but words of strangers come from elsewhere, too."""
    page = full.page()
    show(full, page, "rules")
    expect(page.get_by_text("for the \\u{202e}tropER")).to_be_visible()
    assert "\u202e" not in page.content()
    show(full, page)
    expect(page.get_by_text("(no readable host)").first).to_be_visible()


def test_what_was_blocked_and_why_is_in_the_first_window(full: Scene) -> None:
    """Without scrolling or clicking, on a desk, although several requests with names of any length wait above it."""
    page = full.page()
    show(full, page)
    for part in (".target", ".why"):
        box = page.locator(f"li.group:not(.request) {part}").first.bounding_box()
        assert box is not None, part
        assert box["y"] + box["height"] <= 900, part


def test_the_page_stays_small_whatever_the_log_holds(full: Scene) -> None:
    for number in range(60):
        assert b" 403 " in ask(full, f"h{number}.flood.example")
    page = full.page()
    show(full, page)
    assert page.locator("li.group:not(.request)").count() <= 40
    show(full, page, "live")
    assert page.locator(".decisions li").count() <= 200
