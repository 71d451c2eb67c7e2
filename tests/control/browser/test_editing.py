"""Rules made, changed and extended on the page, and hosts that nobody wants to see: one `serve` for all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.cli.program import TOOL, Origin, eventually
from tests.control.browser.scene import WAIT, Scene, show, workspace_in

pytestmark = pytest.mark.browser

POLICY = f"""version: 1
anonymous: global
global:
  allow: [shown.example]
tools:
  {TOOL}:
    allow:
      - {{host: lease.example, expires: 2126-12-01T00:00:00Z, max_uses: 5, reason: kept}}  # of ours
tests:
  - {{deny: ["https://forbidden.example/"]}}
"""


COVERED = """() => {
  const toast = document.querySelector(".toast").getBoundingClientRect();
  const bar = document.querySelector("header.top").getBoundingClientRect();
  const under = (element) => {
    const box = element.getBoundingClientRect();
    return box.left < toast.right && box.right > toast.left && box.top < toast.bottom && box.bottom > toast.top;
  };
  const links = [...document.querySelectorAll("nav a")].filter(under).map((link) => link.textContent);
  return [links, toast.bottom > bar.bottom];
}"""


@pytest.fixture(scope="module")
def scene(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    origin, workspace = Origin(), workspace_in(tmp_path_factory.mktemp("editing") / "ws")
    made = Scene.start(workspace, origin, browser, POLICY)
    yield made
    made.close()
    workspace.close()
    origin.close()
    # An edit that is refused is an answer of 422, and a browser's console tells of it.
    assert [text for text in made.complaints if "422" not in text] == []


@pytest.fixture(scope="module")
def window(scene: Scene) -> Page:
    return scene.page()


@pytest.fixture
def page(window: Page) -> Page:
    """The one window, without what a test before may have left open in it."""
    window.goto("about:blank")
    return window


def blocked(page: Page, host: str) -> Locator:
    return page.locator("li.group:not(.request)", has=page.get_by_text(host, exact=True))


def write(page: Page) -> None:
    page.get_by_role("button", name="Write this rule").click()


def closed(page: Page) -> None:
    expect(page.get_by_role("dialog")).to_have_count(0, timeout=WAIT)


def test_a_rule_is_added_as_the_preview_and_the_command_say(scene: Scene, page: Page) -> None:
    show(scene, page, "rules")
    page.get_by_role("button", name="Add a rule").click()
    page.get_by_role("textbox", name="Host").fill("added.example")
    page.get_by_label("For which tool").fill(TOOL)
    page.get_by_label("Ports").fill("8443")
    page.get_by_role("textbox", name="Reason").fill("it's needed")
    dialog = page.get_by_role("dialog")
    entry = '- {host: added.example, ports: [8443], reason: "it\'s needed"}'
    expect(dialog.locator("code.rule")).to_contain_text(entry)
    dialog.get_by_text("The same in a terminal").click()
    command = f"cloned-proxy allow added.example:8443 --tool {TOOL} --reason 'it'\"'\"'s needed'"
    expect(dialog.locator("code.command")).to_have_text(command)
    expect(dialog).to_contain_text("It opens port 8443.")
    write(page)
    closed(page)
    row = page.get_by_role("table", name=f"Rules for {TOOL}").get_by_role("row", name="added.example")
    expect(row).to_contain_text("port 8443", timeout=WAIT)
    assert entry in scene.workspace.policy.read_text()


def test_a_lease_is_extended_and_a_rule_changed_in_place(scene: Scene, page: Page) -> None:
    show(scene, page, "rules")
    row = page.get_by_role("row", name="lease.example")
    row.get_by_role("button", name="Extend").click()
    page.get_by_role("radio", name="2 h").check()
    page.get_by_role("button", name="Extend", exact=True).click()
    closed(page)
    expect(row).to_contain_text("1 h 59 min left", timeout=WAIT)
    row.get_by_role("button", name="Edit").click()
    page.get_by_label("Methods").fill("get, head")
    page.get_by_label("Uses left").fill("")
    page.get_by_role("button", name="Write the change").click()
    closed(page)
    expect(row).to_contain_text("GET, HEAD", timeout=WAIT)
    expect(row).not_to_contain_text("uses")
    line = next(line for line in scene.workspace.policy.read_text().splitlines() if "lease.example" in line)
    assert line.endswith("reason: kept, methods: [GET, HEAD]}  # of ours"), line


def test_a_test_of_the_file_that_forbids_an_edit_is_named_and_changed_with_a_button(scene: Scene, page: Page) -> None:
    scene.curl_to("http://forbidden.example/", tool=None)
    show(scene, page)
    before = scene.workspace.policy.read_bytes()
    blocked(page, "forbidden.example").get_by_role("button", name="Allow this host").click(timeout=WAIT)
    write(page)
    alert = page.get_by_role("dialog").get_by_role("alert")
    line = before.decode().splitlines().index('  - {deny: ["https://forbidden.example/"]}') + 1
    expect(alert).to_contain_text(f"tests[0].deny[0], line {line}", timeout=WAIT)
    expect(alert).to_contain_text("'https://forbidden.example/' should be denied")
    assert scene.workspace.policy.read_bytes() == before
    alert.get_by_role("button", name="Change that test as well").click()
    closed(page)
    text = scene.workspace.policy.read_text()
    assert "- forbidden.example" in text.partition("tools:")[0] or "forbidden.example]" in text.partition("tools:")[0]
    assert "https://forbidden.example/" not in text


def test_an_ignored_host_goes_stays_refused_and_comes_back(scene: Scene, page: Page) -> None:
    scene.curl_to("http://noise.example/", tool=None)
    show(scene, page)
    row = blocked(page, "noise.example")
    row.get_by_role("button", name="Details").click(timeout=WAIT)
    row.get_by_role("button", name="Ignore this host").click()
    expect(row).to_have_count(0, timeout=WAIT)
    assert scene.curl_to("http://noise.example/", tool=None) == 403
    page.get_by_role("button", name="1 ignored host").click()
    row.get_by_role("button", name="Details").click(timeout=WAIT)
    row.get_by_role("button", name="Show again").click()
    expect(row).to_have_count(0, timeout=WAIT)
    page.get_by_role("button", name="Back to the others").click()
    expect(row).to_contain_text("2\u00d7", timeout=WAIT)


def test_rows_are_low_and_a_message_covers_no_button(scene: Scene, page: Page) -> None:
    scene.curl_to("http://low.example/", tool=None)
    show(scene, page)
    row = blocked(page, "low.example")
    expect(row).to_be_visible(timeout=WAIT)
    box = row.bounding_box()
    assert box is not None
    assert box["height"] <= 64
    row.get_by_role("button", name="Details").click()
    row.get_by_role("button", name="Copy").click()
    expect(page.locator(".toast")).to_be_visible()
    covered, below = page.evaluate(COVERED)
    assert covered == []
    assert not below, "it stays in the bar at the top"


def test_a_broken_file_is_told_once_and_whole(scene: Scene, page: Page) -> None:
    good = scene.workspace.policy.read_text()
    scene.workspace.write_policy("version: 1\nmystery: 1\n")
    show(scene, page)
    expect(page.locator(".trouble")).to_contain_text("mystery", timeout=WAIT)
    said = page.locator("main").inner_text()
    assert said.count("mystery: unknown key") == 1
    expect(page.locator(".strip")).to_contain_text("through 1 worker")
    expect(page.locator(".strip")).to_contain_text("the last good version stays in force")
    expect(blocked(page, "low.example")).to_be_visible()
    scene.workspace.write_policy(good)
    eventually(lambda: scene.control.paired("again").api("/overview")["policy"]["error"] is None, what="the good file")


def test_nothing_is_claimed_about_traffic_that_cannot_be_seen(scene: Scene, page: Page) -> None:
    """A serving process that does not answer may serve all the same."""
    (sock,) = (scene.workspace.path / "run" / "control").glob("*.sock")
    sock.rename(sock.with_suffix(".away"))
    try:
        show(scene, page)
        expect(page.locator(".trouble")).to_contain_text("cannot be seen from here", timeout=WAIT)
        expect(page.locator(".strip")).to_contain_text("no answer")
        expect(page.locator(".strip")).not_to_contain_text("enforcing")
    finally:
        sock.with_suffix(".away").rename(sock)
    page.reload()
    expect(page.locator(".strip")).to_contain_text("enforcing", timeout=WAIT)
