"""The way of a person through the control UI, with real calls through a real proxy on the other side."""

from __future__ import annotations

import contextlib
import re
import time

import pytest
from playwright.sync_api import Locator, Page, expect

from cloned_proxy.store.approvals.approval_mirror import ApprovalMirror, Settled, as_message, from_message
from cloned_proxy.store.approvals.approval_rules import checked, key_of
from cloned_proxy.store.files.policy_bytes import version_of
from tests.cli.program import TOOL, eventually, policy_text
from tests.control.browser.scene import WAIT, Scene, last_for, picture, show, tunnel

pytestmark = pytest.mark.browser

LEASE = "8s"
"""Long enough for a few calls, and a test may wait for its end."""
ASKING = f"""version: 1
tools:
  {TOOL}:
    allow:
      - {{host: 127.0.0.1, ports: [$PORT], methods: [GET], paths: ["/open"]}}
    on_deny: ask
"""
ASKED_ELSEWHERE = {
    "asker": TOOL, "origin": "tool", "run": None, "replica": "", "tool": TOOL, "action": "allow",
    "entries": [{"host": "api.example.com"}], "for_seconds": 600, "uses": None, "reason": "docs", "count": 0,
    "policy": "",
}  # fmt: skip
NARROW = ASKING.replace("    on_deny: ask\n", "")
TUNNELS = "version: 1\nanonymous: global\nglobal:\n  allow: [{host: 127.0.0.1, ports: [$PORT], protocols: [tcp]}]\n"


def row_of(page: Page, scene: Scene) -> Locator:
    """The group of blocked calls to the origin."""
    return page.locator("li.group:not(.request)", has_text=scene.target)


def test_pairs_sees_a_block_appear_allows_it_for_a_moment_and_sees_it_expire(scene: Scene) -> None:
    page = scene.page(paired=False)
    page.goto(scene.url)
    assert page.url == f"{scene.url}/pair"
    page.get_by_label("One-time code").fill(scene.control.code())
    page.get_by_label("A name for this browser").fill("desk")
    page.get_by_role("button", name="Pair").click()
    page.wait_for_url(f"{scene.url}/")
    expect(page.get_by_text("Nothing was blocked in this time.")).to_be_visible(timeout=WAIT)

    assert scene.curl("/report") == 403
    row = row_of(page, scene)
    expect(row).to_contain_text("An IP address that no rule names", timeout=WAIT)
    row.get_by_role("button", name="Details").click()
    expect(row).to_contain_text(f"cloned-proxy allow {scene.target} --tool {TOOL}")
    picture(page, "overview blocked")

    row.get_by_role("button", name="For 30 min").click()
    last_for(page, LEASE)
    page.get_by_label("Reason").fill("the weekly report")
    rule = page.locator("dialog code.rule")
    expect(rule).to_contain_text(f"host: 127.0.0.1, ports: [{scene.origin.port}]")
    expect(rule).to_contain_text(TOOL)
    page.get_by_role("button", name="Write this rule").click()
    expect(page.locator("dialog")).to_have_count(0, timeout=WAIT)

    eventually(lambda: scene.curl("/report") == 200, what="the call that the rule allows")
    assert [path for _, path, _ in scene.origin.seen] == ["/report"]
    edit = next(entry for entry in scene.workspace.run("log", "--json").stdout.splitlines() if "weekly report" in entry)
    assert "device:desk" in edit
    show(scene, page, "rules")
    expect(page.get_by_role("row", name="127.0.0.1")).to_contain_text("left")
    eventually(lambda: scene.curl("/report") == 403, what="the end of the lease")
    expect(page.get_by_role("row", name="127.0.0.1")).to_contain_text("expired", timeout=WAIT)
    page.get_by_role("link", name="Overview").click()
    expect(row).to_contain_text("has expired", timeout=WAIT)


def test_a_link_with_the_code_pairs_and_no_request_and_no_address_keeps_it(scene: Scene) -> None:
    page = scene.page(paired=False)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(f"{request.url} {request.headers}"))
    told = scene.workspace.json("pair")
    assert told["link"] == f"{scene.url}/pair#code={told['code']}"
    page.goto(told["link"])
    expect(page.get_by_label("One-time code")).to_have_value(told["code"])
    assert page.evaluate("location.href") == f"{scene.url}/pair"
    assert not [each for each in asked if told["code"] in each]
    page.keyboard.press("Enter")
    page.wait_for_url(f"{scene.url}/")
    page.go_back()
    assert told["code"] not in page.evaluate("location.href")


@pytest.mark.parametrize("scene", [ASKING], indirect=True)
def test_approves_the_narrowest_rule_for_a_moment_and_sees_it_end(scene: Scene) -> None:
    page = scene.page()
    show(scene, page)
    assert scene.curl("/report") == 403
    request = page.locator("li.request")
    expect(request).to_contain_text("The narrowest that covers what was denied", timeout=WAIT)
    expect(request).to_contain_text("/report")
    picture(page, "overview approval")

    request.get_by_role("button", name="Approve").click()
    last_for(page, LEASE)
    page.get_by_label("Reason").fill("once")
    page.get_by_role("button", name="Approve", exact=True).click()
    expect(request).to_have_count(0, timeout=WAIT)
    eventually(lambda: scene.curl("/report") == 200, what="the approved call")
    assert scene.curl("/other") == 403, "the narrowest rule names one path"
    eventually(lambda: scene.curl("/report") == 403, what="the end of the approval")
    expect(row_of(page, scene)).to_contain_text("has expired", timeout=WAIT)
    decided = scene.workspace.json("approvals", "list", "--all")
    assert "device:window 1280" in str(decided)
    answer = page.locator("li.decided")
    expect(answer.locator("p.target")).to_contain_text("approved 127.0.0.1", timeout=WAIT)
    expect(answer.locator("bdi.decider")).to_have_text("device:window 1280")


@pytest.mark.parametrize("scene", [NARROW], indirect=True)
def test_a_request_of_another_replica_says_where_it_was_asked(scene: Scene) -> None:
    """As the store of a fleet brings it; whose name is not to be believed, and is text."""
    scene.workspace.write_policy(NARROW.replace("$PORT", str(scene.origin.port)))
    mirror = ApprovalMirror(scene.workspace.path / "state.db")
    told = as_message(from_message(ASKED_ELSEWHERE, "a-0123456789"), "edge-7<img src=x>")
    assert mirror.receive(from_message(told, "a-0123456789"), 600)
    page = scene.page()
    page.goto(scene.url)
    request = page.locator("li.request", has_text="api.example.com")
    expect(request).to_be_visible(timeout=WAIT)
    expect(request.locator("bdi.replica")).to_have_text("edge-7<img src=x>")
    expect(request.locator("p.why")).to_contain_text(f"for {TOOL} on edge-7")
    assert request.locator("img").count() == 0
    expect(page.get_by_role("heading", name="Answered lately")).to_have_count(0)

    asked = from_message(told, "a-0123456789")
    key = key_of(asked.asker, asked.origin, checked(asked.proposal)[1])
    by, at = "device:\u202ephone@desk<img src=x>", time.time()
    assert mirror.settle(key, Settled("rejected", by, at, "not today"))
    answer = page.locator("li.decided", has_text="api.example.com")
    expect(answer).to_be_visible(timeout=WAIT)
    expect(request).to_have_count(0, timeout=WAIT)
    expect(answer.locator("p.target")).to_contain_text("rejected api.example.com")
    expect(answer.locator("p.why")).to_contain_text(f"for {TOOL}, asked on edge-7")
    expect(answer.locator("bdi.decider")).to_have_text(by.replace("\u202e", "\\u{202e}"))
    expect(answer.locator("time")).to_have_attribute("data-at", re.compile(str(int(at))))
    expect(answer.locator("blockquote")).to_have_text("not today")
    assert answer.locator("img").count() == 0


def test_a_path_with_a_star_is_never_offered_as_a_pattern(scene: Scene) -> None:
    page = scene.page()
    assert scene.curl("/**") == 403
    show(scene, page)
    row = row_of(page, scene)
    expect(row.get_by_role("button", name="Allow this host")).to_be_visible(timeout=WAIT)
    row.get_by_role("button", name="Details").click()
    expect(row.get_by_role("button", name="Allow this path")).to_have_count(0)
    row.get_by_role("button", name="Allow this host").click()
    page.get_by_label("This path only").check()
    expect(page.get_by_label("Path", exact=True)).to_have_value("")
    page.get_by_role("button", name="Cancel").click()

    assert scene.curl("/report") == 403
    row.get_by_role("button", name="Allow this path").click(timeout=WAIT)
    expect(page.get_by_label("Path", exact=True)).to_have_value("/report")


@pytest.mark.parametrize("scene", [ASKING], indirect=True)
def test_a_rejection_leaves_the_policy_byte_for_byte(scene: Scene) -> None:
    page = scene.page()
    before = scene.workspace.policy.read_bytes()
    assert scene.curl("/report") == 403
    show(scene, page)
    request = page.locator("li.request")
    request.get_by_role("button", name="Reject").click()
    page.get_by_label("Reason").fill("not today")
    page.get_by_role("button", name="Reject", exact=True).click()
    expect(request).to_have_count(0, timeout=WAIT)
    assert scene.workspace.policy.read_bytes() == before
    assert scene.curl("/report") == 403
    assert scene.origin.seen == []


@pytest.mark.parametrize("scene", [TUNNELS], indirect=True)
def test_cuts_a_tunnel(scene: Scene) -> None:
    page = scene.page()
    with tunnel(scene) as client:
        show(scene, page, "tunnels")
        page.get_by_role("button", name=f"Cut the tunnel to {scene.target}").click()
        expect(page.get_by_text("No tunnel is open.")).to_be_visible(timeout=WAIT)
        client.settimeout(60)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(4096) == b"", "the tunnel still carries bytes"


def test_a_hand_edit_between_look_and_click_is_a_conflict_that_is_shown(scene: Scene) -> None:
    page = scene.page()
    assert scene.curl() == 403
    show(scene, page)
    row_of(page, scene).get_by_role("button", name="Allow this host").click()
    by_hand, desk = policy_text(allow=["example.com"]), scene.control.paired("desk")
    scene.workspace.write_policy(by_hand)
    # The second press is for the version that the proxy tells then; it may take the file in later than the first click.
    wanted = version_of(by_hand.encode())
    eventually(lambda: desk.api("/overview")["policy"]["version"] == wanted, what="the hand edit in force")
    page.get_by_role("button", name="Write this rule").click()
    alert = page.locator("dialog").get_by_role("alert")
    expect(alert).to_contain_text("Nothing was changed", timeout=WAIT)
    assert scene.workspace.policy.read_text() == by_hand
    page.get_by_role("button", name="Write this rule").click()
    expect(page.locator("dialog")).to_have_count(0, timeout=WAIT)
    assert "example.com" in scene.workspace.policy.read_text()
    eventually(lambda: scene.curl() == 200, what="the call that the rule allows")
    scene.complaints[:] = [text for text in scene.complaints if "409" not in text]


def test_rolls_back_a_version(scene: Scene) -> None:
    before = scene.workspace.policy.read_text()
    assert scene.workspace.run("allow", "example.com", "--reason", "a mistake").returncode == 0
    page = scene.page()
    show(scene, page, "history")
    newest = page.get_by_role("listitem").filter(has_text="a mistake")
    newest.get_by_text("Difference").click()
    expect(newest.locator(".diff")).to_contain_text("example.com", timeout=WAIT)
    page.get_by_role("button", name="Roll back to this").first.click()
    expect(page.locator("dialog .diff .removed").last).to_contain_text("example.com")
    page.get_by_label("Reason").fill("undone")
    page.get_by_role("button", name="Roll back", exact=True).click()
    expect(page.get_by_text("undone")).to_be_visible(timeout=WAIT)
    assert scene.workspace.policy.read_text() == before


def test_removes_a_rule(scene: Scene) -> None:
    assert scene.workspace.run("allow", scene.target, "--tool", TOOL).returncode == 0
    eventually(lambda: scene.curl() == 200, what="the call that the rule allows")
    page = scene.page()
    show(scene, page, "rules")
    page.get_by_role("button", name="Remove the rule for 127.0.0.1").click()
    page.get_by_role("button", name="Remove", exact=True).click()
    expect(page.get_by_text("everything is denied")).to_be_visible(timeout=WAIT)
    eventually(lambda: scene.curl() == 403, what="the call without its rule")


def test_the_live_view_follows_and_filters_what_happens(scene: Scene) -> None:
    assert scene.workspace.run("allow", scene.target).returncode == 0
    eventually(lambda: scene.curl("/first") == 200, what="the call that the rule allows")
    page = scene.page()
    show(scene, page, "live")
    items = page.locator(".decisions li")
    expect(items.first).to_contain_text("/first")
    scene.curl("/second")
    expect(items.first).to_contain_text("/second", timeout=WAIT)
    page.get_by_role("button", name="Pause").click()
    scene.curl("/third")
    expect(page.get_by_text("Paused; 1 newer.")).to_be_visible(timeout=WAIT)
    page.get_by_role("button", name="Resume").click()
    expect(items.first).to_contain_text("/third")
    page.get_by_label("Any verdict").select_option("deny")
    expect(items).to_have_count(scene.recorded("deny"), timeout=WAIT)
    assert page.url.endswith("verdict=deny")
    page.get_by_label("Any verdict").select_option("")
    items.first.get_by_role("button").click()
    expect(page.get_by_role("dialog")).to_contain_text("/third")
    page.keyboard.press("Escape")
    expect(items.first.get_by_role("button")).to_be_focused()


def test_a_revoked_browser_is_out_at_once(scene: Scene) -> None:
    mine, other = scene.page(), scene.page(width=1000)
    show(scene, other)
    show(scene, mine, "devices")
    mine.get_by_role("button", name="Revoke window 1000").click()
    mine.get_by_role("button", name="Revoke", exact=True).click()
    other.wait_for_url(f"{scene.url}/pair", timeout=WAIT)
    expect(mine.get_by_role("row", name="window 1000")).to_have_count(0)
    scene.complaints[:] = [text for text in scene.complaints if "401" not in text]


def test_a_server_that_is_gone_is_said_and_found_again(scene: Scene) -> None:
    page = scene.page()
    show(scene, page)
    page.context.set_offline(True)
    page.get_by_label("Time span").select_option("1")
    banner = page.locator("#banner")
    expect(banner).to_contain_text("does not answer", timeout=WAIT)
    page.context.set_offline(False)
    banner.get_by_role("button", name="Try now").click()
    expect(banner).to_be_hidden(timeout=WAIT)
    scene.complaints[:] = [text for text in scene.complaints if "ERR_INTERNET_DISCONNECTED" not in text]


def test_the_main_way_works_with_the_keyboard_alone(scene: Scene) -> None:
    page = scene.page(paired=False)
    page.goto(scene.url)
    keys = page.keyboard
    keys.type(scene.control.code())  # the field has the focus
    keys.press("Enter")
    page.wait_for_url(f"{scene.url}/")
    assert scene.curl() == 403
    expect(row_of(page, scene)).to_be_visible(timeout=WAIT)
    keys.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    keys.press("Enter")
    tab_to(page, "Allow this host")
    keys.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible(timeout=WAIT)
    keys.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert focused(page).startswith("Allow this host"), "the focus returns"
    keys.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible(timeout=WAIT)
    tab_to(page, "Write this rule")
    keys.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0, timeout=WAIT)
    eventually(lambda: scene.curl() == 200, what="the call that the rule allows")


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.textContent"))


def tab_to(page: Page, text: str) -> None:
    """Presses Tab until an element with this text has the focus, and the focus can be seen."""
    for _ in range(60):
        page.keyboard.press("Tab")
        outline = page.evaluate(
            "(() => { const style = getComputedStyle(document.activeElement.matches('.option input') ? "
            "document.activeElement.nextElementSibling : document.activeElement);"
            " return [style.outlineStyle, style.outlineWidth] })()"
        )
        assert outline[0] != "none", f"no visible focus on {focused(page)!r}"
        if focused(page).startswith(text):
            return
    raise AssertionError(f"{text!r} cannot be reached with the Tab key")
