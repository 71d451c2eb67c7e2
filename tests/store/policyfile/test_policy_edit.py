from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.share import share_path
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.policyfile import rule_text
from cloned_proxy.store.policyfile.policy_edit import PolicyEditor
from cloned_proxy.store.policyfile.policy_entry import Addition, Entry
from cloned_proxy.store.policyfile.policy_file import load_policy

FORK = multiprocessing.get_context("fork")
NOW = 1_000_000_000.0
LATER = 2_000_000_000.0


def _editor(path: Path) -> PolicyEditor:
    return PolicyEditor(path, clock=lambda: NOW)


def _allow(*hosts: str, tool: str | None = None) -> list[Addition]:
    return [Addition(tuple(Entry(host) for host in hosts), tool)]


def _begun(host: str) -> str:
    """The shipped file with this host in place of its own example: what an edit makes of no file."""
    example = "    - example.com      # for the first try: curl -x http://127.0.0.1:8081 https://example.com/\n"
    shipped = share_path("config", "policy.yaml").read_text()
    assert example in shipped
    return shipped.replace(example, f"    - {host}\n")


LAYOUTS = [
    pytest.param("", _begun("new.test"), id="empty file"),
    pytest.param(
        "# closed for now\n#global:\n", f"# closed for now\n#global:\n\n{_begun('new.test')}", id="only comments"
    ),
    pytest.param("version: 1", "version: 1\nglobal:\n  allow:\n    - new.test\n", id="no final newline"),
    pytest.param(
        "version: 1\nglobal:\n  allow: [a.test]  # few\n",
        "version: 1\nglobal:\n  allow: [a.test, new.test]  # few\n",
        id="list on one line",
    ),
    pytest.param(
        "version: 1\nglobal:\n  allow: []  # none yet\n  deny: []\n",
        "version: 1\nglobal:\n  allow:  # none yet\n    - new.test\n  deny: []\n",
        id="empty list",
    ),
    pytest.param(
        "version: 1\nglobal:\n  allow:\n    # - old.test\n  deny: [x.test]\n",
        "version: 1\nglobal:\n  allow:\n    - new.test\n    # - old.test\n  deny: [x.test]\n",
        id="all of it commented out",
    ),
    pytest.param(
        "version: 1\nglobal:\n  allow:  # none\n",
        "version: 1\nglobal:\n  allow:  # none\n    - new.test\n",
        id="nothing below the key",
    ),
    pytest.param(
        "version: 1\nglobal:\n  allow: ~\ntools:\n",
        "version: 1\nglobal:\n  allow:\n    - new.test\ntools:\n",
        id="null",
    ),
    pytest.param(
        "version: 1\nglobal:\n# nothing at all\ntests:\n",
        "version: 1\nglobal:\n  allow:\n    - new.test\n# nothing at all\ntests:\n",
        id="an empty section",
    ),
    pytest.param(
        "version: 1\nglobal: {allow: , deny: [x.test]}\n",
        "version: 1\nglobal: {allow: [new.test], deny: [x.test]}\n",
        id="nothing, on one line",
    ),
    pytest.param("version: 1\nglobal: {}\n", "version: 1\nglobal:\n  allow:\n    - new.test\n", id="empty section"),
    pytest.param(
        "version: 1\nglobal: {deny: [x.test]}\n",
        "version: 1\nglobal: {deny: [x.test], allow: [new.test]}\n",
        id="section on one line",
    ),
    pytest.param(
        "version: 1\nglobal:\n  allow:\n  - a.test   # first\n\n  # refused:\n  deny: []\n",
        "version: 1\nglobal:\n  allow:\n  - a.test   # first\n  - new.test\n\n  # refused:\n  deny: []\n",
        id="comment behind the list stays behind it, dashes where the neighbours have them",
    ),
    pytest.param(
        "version: 1\nglobal:\n  allow:\n    - host: a.test\n      ports: [443]  # tls\n# end\n",
        "version: 1\nglobal:\n  allow:\n    - host: a.test\n      ports: [443]  # tls\n    - new.test\n# end\n",
        id="after a mapping in block style",
    ),
    pytest.param(
        "version: 1\r\nglobal:\r\n  allow:\r\n    - a.test\r\n",
        "version: 1\r\nglobal:\r\n  allow:\r\n    - a.test\r\n    - new.test\r\n",
        id="line endings of Windows",
    ),
]


@pytest.mark.parametrize(("before", "after"), LAYOUTS)
def test_an_addition_changes_nothing_else(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(before.encode())
    result = _editor(path).add(_allow("new.test"))
    assert path.read_bytes().decode() == after
    assert result.changed
    assert result.version == load_policy(path, NOW).version
    assert result.rule_ids[0] in {rule.id for rule in load_policy(path, NOW).rules}


@pytest.mark.parametrize(("before", "after"), LAYOUTS[2:])
def test_taking_it_back_leaves_the_rest(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(after.encode())
    result = _editor(path).remove(["new.test", "never.test"])
    assert result.missing == ("never.test",)
    assert len(result.rule_ids) == 1
    left = {str(rule.pattern) for rule in load_policy(path, NOW).rules}
    path.write_bytes(before.encode())
    assert left == {str(rule.pattern) for rule in load_policy(path, NOW).rules}


@pytest.mark.parametrize(
    "tools", ["tools:\n", "tools:\n  # demo@v1: {}\n", "tools:\n  demo@v1:\n", "tools: {demo@v1: }\n"]
)
def test_an_emergency_deny_finds_its_place_where_nothing_is(tmp_path: Path, tools: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(f"version: 1\nglobal:\n  allow:\n  deny:\n    # none so far\n{tools}tests:\n")
    _editor(path).add([Addition((Entry("evil.test"),), action="deny"), Addition((Entry("x.test"),), "demo@v1", "deny")])
    rules = load_policy(path, NOW).rules
    assert [(rule.scope, rule.denies, str(rule.pattern)) for rule in rules] == [
        ("global", True, "evil.test"), ("demo@v1", True, "x.test"),
    ]  # fmt: skip
    assert "# none so far" in path.read_text()


def test_a_missing_file_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    _editor(path).add([Addition((Entry("a.test", ports=(8443,), methods=("GET",), paths=("/v1/**",)),), "demo@v1")])
    assert path.stat().st_mode & 0o777 == 0o600
    assert '- {host: a.test, ports: [8443], methods: [GET], paths: ["/v1/**"]}' in path.read_text()


def test_what_is_there_already_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    first = _editor(path).add(_allow("a.test", tool="demo@v1"))
    stamp = path.stat().st_mtime_ns
    again = _editor(path).add(_allow("A.test.", tool="demo@v1"))
    assert (again.changed, again.diff, again.version) == (False, "", first.version)
    assert again.rule_ids == first.rule_ids
    assert path.stat().st_mtime_ns == stamp


WIDER = [
    pytest.param("a.test  # plain", Entry("a.test", addresses=("private",)),
                 "{host: a.test, addresses: [private]}  # plain", id="addresses"),
    pytest.param("{host: a.test, reason: why}", Entry("a.test", protocols=("tcp",), addresses=("reserved", "private")),
                 "{host: a.test, reason: why, protocols: [tcp], addresses: [private, reserved]}", id="both"),
    pytest.param("{host: a.test, ports: [22], protocols: [ssh]}", Entry("a.test", ports=(22,), protocols=("tcp",)),
                 "{host: a.test, ports: [22], protocols: [tcp]}", id="anything for SSH"),
    pytest.param("{host: a.test, addresses: [private]}", Entry("a.test", addresses=("private", "reserved")),
                 "{host: a.test, addresses: [private, reserved]}", id="one more"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "entry", "after"), WIDER)
def test_a_rule_that_only_opens_more_widens_the_one_that_is_there(
    tmp_path: Path, before: str, entry: Entry, after: str
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(f"version: 1\nglobal:\n  allow:\n    - {before}\n    - b.test\n")
    result = _editor(path).add([Addition((entry,))])
    assert path.read_text() == f"version: 1\nglobal:\n  allow:\n    - {after}\n    - b.test\n"
    assert result.rule_ids == (load_policy(path, NOW).rules[0].id,)


@pytest.mark.parametrize(
    "before",
    ["{host: a.test, max_uses: 3}", "{host: a.test, ports: [8443]}", "{host: a.test, paths: [/v1]}", "'*.a.test'",
     "{host: a.test, ports: [443], inject: {header: X-Key, value: '${vault:key}'}}"],
)  # fmt: skip
def test_a_rule_that_says_something_else_stays_as_it_is(tmp_path: Path, before: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(f"version: 1\nglobal:\n  allow:\n    - {before}\n")
    _editor(path).add([Addition((Entry("a.test", addresses=("private",)),))])
    assert f"    - {before}\n    - {{host: a.test, addresses: [private]}}\n" in path.read_text()


def test_a_lease_that_opens_more_stands_beside_the_lasting_rule(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\nglobal:\n  allow:\n    - a.test\n")
    _editor(path).add([Addition((Entry("a.test", addresses=("private",), expires=LATER),))])
    assert len(load_policy(path, NOW).rules) == 2


def _lease(expires: float | None = None, uses: int | None = None) -> list[Addition]:
    return [Addition((Entry("a.test", expires=expires, max_uses=uses),))]


def test_a_lease_is_renewed_in_place(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    rule_id = _editor(path).add(_lease(LATER, 5)).rule_ids[0]
    renewed = _editor(path).add(_lease(LATER + 60, 3), used={rule_id: 4})
    (rule,) = load_policy(path, NOW).rules
    assert renewed.rule_ids == (rule_id,) == (rule.id,)
    assert (rule.expires, rule.max_uses) == (LATER + 60, 7)


def test_a_permanent_rule_is_not_shortened_by_a_lease_but_a_lease_can_become_permanent(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    _editor(path).add(_allow("a.test"))
    assert not _editor(path).add(_lease(LATER)).changed
    _editor(path).remove(["a.test"])
    _editor(path).add(_lease(LATER))
    _editor(path).add(_allow("a.test"))
    assert load_policy(path, NOW).rules[0].expires is None
    assert "- a.test\n" in path.read_text()


@pytest.mark.parametrize("host", ["*.com", "https://a.test/", "a b", "*"])
def test_an_entry_that_the_parser_refuses_changes_nothing(tmp_path: Path, host: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\n")
    with pytest.raises(PolicyError):
        _editor(path).add(_allow(host))
    assert path.read_text() == "version: 1\n"


@pytest.mark.parametrize("text", ["version: 1\nglobal: {allow: ['*.com']}\n", "a: [\n", "version: 1\nx: 1\n"])
def test_a_file_that_is_invalid_now_is_not_edited(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises((PolicyError, StoreError)):
        _editor(path).add(_allow("a.test"))
    assert path.read_text() == text


def test_a_dry_run_shows_the_change_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\n")
    result = _editor(path).add(_allow("a.test"), dry_run=True)
    assert "+    - a.test\n" in result.diff
    assert path.read_text() == "version: 1\n"
    assert [file.name for file in tmp_path.iterdir()] == ["policy.yaml"]


def test_reasons_that_look_like_yaml_come_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    for number, reason in enumerate(["yes", "a: b # c", '"quoted"', "2026-01-01", "- x", "ü\u2028x", "12"]):
        _editor(path).add([Addition((Entry(f"h{number}.test", reason=reason),))])
        assert load_policy(path, NOW).rules[-1].reason == reason


def _add_many(path: Path, worker: int) -> None:
    for number in range(10):
        _editor(path).add(_allow(f"h{number}.w{worker}.test"))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_edits_of_several_processes_at_once_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    processes = [FORK.Process(target=_add_many, args=(path, worker)) for worker in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(load_policy(path, NOW).rules) == 40


def test_a_text_change_that_means_more_than_the_edit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\n")
    monkeypatch.setattr(rule_text, "add_items", lambda text, _path, _items: text + "mode: report\n")
    with pytest.raises(StoreError, match="edit it by hand"):
        _editor(path).add(_allow("a.test"))
    assert path.read_text() == "version: 1\n"


def test_an_entry_that_no_policy_takes_is_named_without_a_place_that_nobody_wrote(tmp_path: Path) -> None:
    entries = (Entry("*.com"), Entry("a.test", methods=("get",)), Entry("b.test", ports=(70000,)))
    with pytest.raises(PolicyError) as caught:
        _editor(tmp_path / "policy.yaml").add([Addition(entries)])
    lines = str(caught.value).splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["'*.com'", "a.test:", "b.test:"]
    assert [problem.path for problem in caught.value.problems] == ["", "methods[0]", "ports[0]"]


def test_a_rule_of_a_preset_is_not_what_an_edit_widens(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\nglobal:\n  use: [openai]\n")
    host, ports = next((str(rule.pattern), rule.ports) for rule in load_policy(path, NOW).rules if not rule.paths)
    _editor(path).add([Addition((Entry(host, ports=tuple(ports), addresses=("private",)),))])
    assert f"- {{host: {host}, ports: [443], addresses: [private]}}\n" in path.read_text()
