"""An export that was touched says so, and where. One that was not holds without the log that it came from."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.cli.commands.log.audit_export import verify_export
from cloned_proxy.fleet.audit import bundle, bundle_check
from cloned_proxy.fleet.audit import receipt as receipt_module
from cloned_proxy.fleet.audit.bundle import EXPORT_TYPE, LogSource, digest, export
from cloned_proxy.fleet.audit.bundle_check import BundleVerdict, check
from cloned_proxy.fleet.audit.notary import Notary
from cloned_proxy.fleet.audit.receipt import RECEIPT_TYPE, Receipt, open_receipt, own_key, seal_receipt
from cloned_proxy.fleet.signed.envelope import Trust, seal
from cloned_proxy.fleet.signed.errors import EnvelopeError, FleetError
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.store.audit.audit_log import AuditLog, prune_entries
from cloned_proxy.store.audit.chain import ChainLink, next_link
from cloned_proxy.store.audit.database import reading, writing
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.events import PolicyEvent

type Tamper = Callable[[list[str]], list[str]]

COUNT = 9
POLICY_TYPE = "application/vnd.cloned-proxy.policy+yaml"
OTHER = SigningKey.generate()


def event(number: int) -> PolicyEvent:
    return PolicyEvent(1000.0 + number, "edit", "cli:me", f"allow host{number}.example", "", "v")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A log of nine entries, with receipts behind the third and the sixth."""
    made = Workspace(tmp_path / ".cloned")
    made.create()
    notary = Notary(made, "r1", clock=lambda: 2000.0)
    with AuditLog(made.state_db) as log:
        for number in range(1, COUNT + 1):
            log.append(event(number))
            if number in {3, 6}:
                receipt = notary.sign()
                assert receipt is not None
                assert receipt.seq == number
                assert notary.sign() is None  # nothing has come since
    return made


def exported(workspace: Workspace, since: float | None = None, *, signed: bool = True) -> list[str]:
    key = own_key(workspace) if signed else None
    with writing(workspace.state_db) as database:
        return list(export(database, since, LogSource("r1", 3000.0, key)))


def checked(lines: list[str], *keys: str) -> BundleVerdict:
    return check([line.encode() for line in lines], Trust(keys) if keys else None)


def body_of(line: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(line)
    return found


# One line is the opening, then the entries 1 to 9.


def change_a_byte(lines: list[str]) -> list[str]:
    return [*lines[:4], lines[4].replace("host4", "hostX"), *lines[5:]]


def change_and_hash_anew(lines: list[str]) -> list[str]:
    """All of the chain that a forger without the key can make."""
    lines = change_a_byte(lines)
    last = ChainLink(**body_of(lines[0])["after"])
    for at in range(1, COUNT + 1):
        last = next_link(last, body_of(lines[at])["body"])
        lines[at] = json.dumps(body_of(lines[at]) | {"hash": last.hash})
    return lines


def add_one(lines: list[str]) -> list[str]:
    return [*lines[:6], json.dumps(body_of(lines[5]) | {"seq": 6, "body": '{"type":"policy"}'}), *lines[6:]]


def drop_the_tail(lines: list[str]) -> list[str]:
    return [*lines[:8], *lines[10:]]


def drop_the_tail_and_the_end(lines: list[str]) -> list[str]:
    return drop_the_tail(lines)[:-1]


TAMPERINGS: dict[str, tuple[Tamper, list[str]]] = {
    "a byte": (change_a_byte, ["entry 4 was changed"]),
    "a byte, and hashed anew": (change_and_hash_anew, ["entry 4 was changed"]),
    "one in the middle": (lambda lines: lines[:5] + lines[6:], ["entry 5 was left out"]),
    "the first": (lambda lines: lines[:1] + lines[2:], ["entry 1 was left out"]),
    "the tail": (drop_the_tail, ["entry 8 was left out", "entry 9 was left out"]),
    "the tail and the end": (drop_the_tail_and_the_end, ["no signed end"]),
    "one added": (add_one, ["an entry was added behind 5: it calls itself 6"]),
    "one added at the end": (
        lambda lines: [*lines[:10], json.dumps(body_of(lines[9]) | {"seq": 10, "body": "{}"}), *lines[10:]],
        ["an entry was added behind 9"],
    ),
    "two in another order": (
        lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
        ["entry 4 was moved"],
    ),
    "a number": (lambda lines: [*lines[:4], lines[4].replace('"seq": 4', '"seq": 5'), *lines[5:]], ["beside entry 4"]),
    "a hash": (lambda lines: [*lines[:4], lines[4].replace('"hash": "', '"hash": "0'), *lines[5:]], ["beside entry 4"]),
    "the first line": (lambda lines: [lines[0].replace("r1", "r2"), *lines[1:]], ["the first line was changed"]),
    "no first line": (lambda lines: lines[1:], ["the first line was changed, left out"]),
    "a line of something else": (lambda lines: [*lines[:4], '{"seq": 4}', *lines[4:]], ["line 5 is no line"]),
    "a member twice": (
        lambda lines: [*lines[:4], lines[4][:-1] + ', "body": "x"}', *lines[5:]],
        ["line 5 is no line", "entry 4 was left out"],
    ),
    "a receipt": (
        lambda lines: [line.replace('"sig": "', '"sig": "00') if "receipt" in line else line for line in lines],
        ["receipt 1 is not of this key", "receipt 2 is not of this key"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERINGS)
def test_what_was_done_to_an_export_is_said(workspace: Workspace, name: str) -> None:
    tamper, said = TAMPERINGS[name]
    key = own_key(workspace).public
    lines = exported(workspace)
    assert checked(lines, key).holds
    findings = checked(tamper(list(lines)), key).findings
    assert [any(each in finding for finding in findings) for each in said] == [True] * len(said), findings
    assert len(findings) == len(said)


def test_a_forger_who_hashes_anew_passes_where_nothing_is_signed(workspace: Workspace) -> None:
    """The broken build: the chain alone. It is what an unsigned export has, and `audit verify` says so."""
    lines = exported(workspace, signed=False)
    assert checked(change_and_hash_anew(list(lines))).holds
    assert not checked(change_a_byte(list(lines))).holds
    assert not checked(lines, own_key(workspace).public).holds


def test_digests_that_are_not_looked_at_leave_the_end_of_the_chain(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = own_key(workspace).public
    monkeypatch.setattr(bundle_check, "_differences", lambda *_: iter(()))
    findings = checked(change_and_hash_anew(exported(workspace)), key).findings
    assert any("do not lead to the hash that is signed" in each for each in findings)


def test_a_whole_export(workspace: Workspace) -> None:
    found = checked(exported(workspace), own_key(workspace).public)
    assert found.findings == []
    assert (found.replica, found.first, found.last, found.entries, found.receipts) == ("r1", 1, COUNT, COUNT, 2)


def test_a_part_of_the_log(workspace: Workspace) -> None:
    found = checked(exported(workspace, since=1004.5), own_key(workspace).public)
    assert (found.findings, found.first, found.last, found.receipts) == ([], 5, COUNT, 1)
    nothing = checked(exported(workspace, since=9999.0), own_key(workspace).public)
    assert (nothing.findings, nothing.entries) == ([], 0)


def test_what_is_left_of_a_log_that_was_pruned(workspace: Workspace) -> None:
    with reading(workspace.state_db) as database:
        assert prune_entries(database, before=1004.5) == 4
    found = checked(exported(workspace), own_key(workspace).public)
    assert (found.findings, found.first, found.last) == ([], 5, COUNT)


def test_an_export_of_another_replica(workspace: Workspace) -> None:
    assert "not of this key" in checked(exported(workspace), OTHER.public).findings[0]


def test_a_receipt_of_another_replica(workspace: Workspace) -> None:
    lines = exported(workspace)
    foreign = seal_receipt(Receipt("r2", "0" * 16, 6, "0" * 64, 1.0), OTHER)
    lines.insert(-1, json.dumps({"receipt": json.loads(foreign)}))
    assert checked(lines, own_key(workspace).public).findings == [
        "receipt 3 is not of this key: it is another replica's, or was changed"
    ]


def test_a_log_that_was_changed_after_a_receipt_and_hashed_anew(workspace: Workspace) -> None:
    """By somebody who can write the database, and even have it exported by the replica itself."""
    with writing(workspace.state_db) as database:
        rows = database.execute("SELECT seq, body FROM entries ORDER BY seq").fetchall()
        last = ChainLink(0, "0" * 64)
        for seq, body in rows:
            text = body.replace("host2.", "evil.")
            last = next_link(last, text)
            database.execute("UPDATE entries SET body = ?, hash = ? WHERE seq = ?", (text, last.hash, seq))
        database.execute("UPDATE meta SET value = ? WHERE key = 'head_hash'", (last.hash,))
    with AuditLog(workspace.state_db) as log:
        assert log.verify().holds  # as the chain alone sees it
    findings = checked(exported(workspace), own_key(workspace).public).findings
    assert findings == [
        f"receipt {number}, given at entry {seq}, is for other entries: the log was changed behind it"
        for number, seq in ((1, 3), (2, 6))
    ]


def test_a_receipt_is_no_policy_and_no_policy_a_receipt(workspace: Workspace) -> None:
    key = own_key(workspace)
    receipt = Receipt("r1", "1" * 16, 1, "0" * 64, 1.0)
    sealed = seal_receipt(receipt, key)
    assert open_receipt(sealed, Trust([key.public])) == receipt
    with pytest.raises(EnvelopeError):
        Trust([key.public]).open(sealed, POLICY_TYPE)
    for payload in (
        b"{}",
        b"[]",
        b"x",
        json.dumps({"replica": "r", "log": "l", "seq": "1", "hash": "", "at": 1.0}).encode(),
    ):
        with pytest.raises(EnvelopeError):
            open_receipt(seal(payload, RECEIPT_TYPE, [key]), Trust([key.public]))


def test_receipts_of_entries_that_are_gone_go_with_them(workspace: Workspace) -> None:
    with reading(workspace.state_db) as database:
        prune_entries(database, before=1007.5)
    assert Notary(workspace, "r1").sign() is not None
    with reading(workspace.state_db) as database:
        assert [seq for (seq,) in database.execute("SELECT seq FROM receipts ORDER BY seq")] == [6, 9]


def test_very_many_differences_take_no_time() -> None:
    signed = [digest(f"a{number}") for number in range(60_000)]
    held = [digest(f"b{number}") for number in range(60_000)]
    found = list(bundle_check._differences(signed, held, 1, [(0, "", "")] * 60_000))
    assert found == ["entry 1 and very many behind it were changed, left out or added"]


def test_more_than_an_envelope_holds_is_refused(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloned_proxy.fleet.audit.bundle.MOST_SIGNED", COUNT - 1)
    with pytest.raises(FleetError, match="--since"):
        exported(workspace)
    assert exported(workspace, signed=False)


@pytest.mark.parametrize("kept", [0, 1])
def test_receipts_that_were_taken_out(workspace: Workspace, kept: int) -> None:
    lines = exported(workspace)
    receipts = [line for line in lines if line.startswith('{"receipt"')]
    left = [line for line in lines if line not in receipts[kept:]]
    (finding,) = checked(left, own_key(workspace).public).findings
    assert finding == f"2 receipts are signed, and not the {kept} that are there: some were left out"


@pytest.mark.parametrize("broken", [False, True])
def test_receipts_of_ids_that_the_log_has_forgotten_are_left_out_and_told(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    """A store can make a log change its id again and again; the broken build exports what nobody can check."""
    monkeypatch.setattr(receipt_module, "MOST_FORMER", 2)
    monkeypatch.setattr(bundle, "MOST_FORMER", 10**6 if broken else 2)
    monkeypatch.setattr(bundle_check, "MOST_FORMER", 2)
    notary = Notary(workspace, "r1", clock=lambda: 2000.0)
    for number in range(3):
        with writing(workspace.state_db) as database:
            receipt_module.new_log_id(database)
        with AuditLog(workspace.state_db) as log:
            log.append(event(COUNT + 1 + number))
        assert notary.sign() is not None
    found = checked(exported(workspace), own_key(workspace).public)
    if broken:
        assert [each.partition("; ")[2] for each in found.findings] == ["export it again"] * 2
    else:
        assert (found.findings, found.receipts, found.forgotten) == ([], 3, 2)
        # What is left out is part of what is signed, and a receipt of another log is none that was forgotten.
        strange = seal_receipt(Receipt("r1", "f" * 16, COUNT + 2, "0" * 64, 1.0), own_key(workspace))
        with writing(workspace.state_db) as database:
            database.execute("UPDATE receipts SET envelope = ? WHERE seq = ?", (strange.decode(), COUNT + 2))
        (finding,) = checked(exported(workspace), own_key(workspace).public).findings
        assert finding == "receipt 2 is for another log"


def test_ids_of_entries_that_are_gone_are_not_kept(workspace: Workspace) -> None:
    for number in range(3):
        with writing(workspace.state_db) as database:
            receipt_module.new_log_id(database)
        with AuditLog(workspace.state_db) as log:
            log.append(event(COUNT + 1 + number))
    with reading(workspace.state_db) as database:
        prune_entries(database, before=1000.0 + COUNT + 1.5)
    with writing(workspace.state_db) as database:
        receipt_module.new_log_id(database)
        assert [each.until for each in receipt_module.former_ids(database)] == [COUNT + 1, COUNT + 2, COUNT + 3]


def as_0_2_0(workspace: Workspace) -> list[str]:
    """An export whose signed end does not say which receipts there are."""
    lines = exported(workspace)
    statement = json.loads(base64.b64decode(json.loads(lines[-1])["statement"]["payload"]))
    del statement["receipts"]
    sealed = seal(json.dumps(statement, sort_keys=True).encode(), EXPORT_TYPE, [own_key(workspace)])
    return [*lines[:-1], json.dumps({"statement": json.loads(sealed)})]


def test_an_export_of_0_2_0_holds_and_says_what_it_does_not_show(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = own_key(workspace).public
    lines = as_0_2_0(workspace)
    whole, without = checked(lines, key), checked([each for each in lines if '"receipt"' not in each[:12]], key)
    assert (whole.findings, whole.receipts, whole.names_receipts) == ([], 2, False)
    assert (without.findings, without.receipts) == ([], 0)  # nobody can tell
    file = tmp_path / "log.jsonl"
    file.write_text("\n".join(lines) + "\n")
    verify_export(file, key, as_json=False)
    assert "one that was taken out is not missed; export it again" in capsys.readouterr().err
    verify_export(file, key, as_json=True)
    assert json.loads(capsys.readouterr().out)["receipts_signed"] is False


@pytest.mark.parametrize("signed", [None, [], 7, {}, {"digest": "x"}])
def test_receipts_that_are_signed_as_nothing(workspace: Workspace, signed: object) -> None:
    lines = exported(workspace)
    statement = json.loads(base64.b64decode(json.loads(lines[-1])["statement"]["payload"])) | {"receipts": signed}
    sealed = seal(json.dumps(statement, sort_keys=True).encode(), EXPORT_TYPE, [own_key(workspace)])
    found = checked([*lines[:-1], json.dumps({"statement": json.loads(sealed)})], own_key(workspace).public)
    assert found.findings == ["the signed end says not which receipts there were"]
