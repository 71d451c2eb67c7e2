"""Each command that a page shows is read by the program as it stands, and is run by a test, or says here why not."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from typer.main import get_command

from cloned_proxy.cli.start.app import app
from demo.tour import in_shell
from tests.cli.program import PROGRAM, Workspace

pytestmark = pytest.mark.checkout

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "RELEASING.md", "SECURITY.md", "examples/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]

AS_THEY_STAND: Final = {
    ("README.md", "transcript"): "tests/docs/test_readme.py",
    ("README.md", "sandbox"): "tests/docs/test_readme.py",
    ("README.md", "agent"): "tests/docs/test_agents.py",
    ("README.md", "mcp"): "tests/docs/test_agents.py",
    ("README.md", "setup"): "tests/docs/test_agents.py",
    ("commands.md", "help"): "tests/docs/test_readme.py",
    ("first-hour.md", "walk"): "tests/docs/test_first_hour.py",
    ("fleet.md", "fleet"): "tests/docs/test_fleet.py",
}
"""Blocks that a test runs whole, by page and mark."""

HERE: Final = (
    "cloned-proxy allow --preset github-read --tool my.tool@v1",
    'export $(cloned-proxy token my.tool@v1) GIT_SSL_CAINFO="$(cloned-proxy ca path)"',
    "cloned-proxy allow git.example.com --ssh --tool my.tool@v1",
    'echo "whsec_$(openssl rand -base64 32)" | cloned-proxy vault set notify.webhook',
)
"""Those that are run below, in this order."""

ELSEWHERE: Final = {
    "make install": ("tests/packaging/test_user_install.py", '"install"'),
    "cloned-proxy image build --npm @modelcontextprotocol": ("tests/runner/images/test_tool_packages.py", '"--npm"'),
    "cloned-proxy image build --npm @anthropic-ai": ("tests/docs/test_agents.py", '"agent"'),
    "cloned-proxy image build --pypi": ("tests/runner/images/test_tool_image.py", 'pypi=(f"{TIME}=='),
    "cloned-proxy image build": ("tests/runner/images/test_images.py", '"image", "build"'),
    "cloned-proxy exec time@v1 -- uvx": ("tests/runner/images/test_tool_packages.py", "uvx"),
    "cloned-proxy exec demo.tool@v1 --project rw": ("tests/runner/project/test_changes.py", "M Makefile"),
    "cloned-proxy exec -it": ("tests/runner/runs/test_terminal.py", '"-it"'),
    "cloned-proxy shell -- claude": ("tests/docs/test_agents.py", '"agent"'),
    "cloned-proxy shell": ("tests/runner/runs/test_shell.py", '"shell"'),
    "cloned-proxy allow --preset claude-code": ("tests/docs/test_agents.py", '"agent"'),
    "cloned-ask": ("tests/runner/test_asking.py", "cloned_ask("),
    "curl -sS http://cloned.internal/v1/egress/requests": ("tests/e2e/test_asking.py", "/v1/egress/requests"),
    "cloned-proxy approvals show": ("tests/cli/commands/approvals/test_approvals.py", '"show"'),
    "cloned-proxy approvals approve": ("tests/cli/commands/approvals/test_approvals.py", '"approve"'),
    "cloned-proxy approvals key": ("tests/cli/commands/fleet/test_fleet_rights.py", '"approvals", "key"'),
    "cloned-proxy fleet publish policy.yaml": ("tests/cli/commands/fleet/test_fleet.py", '"--output"'),
    "cloned-proxy doctor": ("tests/cli/commands/serving/test_notifying.py", '"doctor"'),
    "cd my-project && cloned-proxy init --yes": ("tests/cli/commands/workspace/test_init.py", '"init", "--yes"'),
    "cloned-proxy mcp wrap": ("tests/docs/test_agents.py", '"mcp"'),
    "cloned-proxy mcp check": ("tests/docs/test_agents.py", '"mcp"'),
    "cloned-proxy mcp unwrap": ("tests/docs/test_agents.py", '"mcp"'),
    "cloned-proxy mcp add": ("tests/cli/commands/mcp/test_add.py", '"mcp", "add"'),
    "cloned-proxy allow api.example.com --tool mcp.memory@v1": (
        "tests/cli/commands/rules/test_rules.py",
        '"allow", "api.example.com"',
    ),
    "cloned-proxy vault set llm.api_key": ("tests/cli/commands/clients/test_vault.py", '"set"'),
    "cloned-proxy vault canary": ("tests/cli/commands/clients/test_vault.py", '"vault", "canary"'),
    "cd compose && docker compose up": ("tests/compose/test_stack.py", '"up", "--detach"'),
    "docker compose run --rm tool": ("tests/compose/test_stack.py", '"run", "--rm", "-T", "tool"'),
    "docker compose exec proxy cloned-proxy pair": ("tests/compose/test_stack.py", '"pair"'),
}
"""By their first words, those that a test elsewhere runs with words of its own, and what is looked for in it."""

NOT_RUN: Final = {
    "git clone https://github.com/OWNER/REPOSITORY.git": "OWNER stands for a name; real clones are in tests/e2e",
    "kubectl apply": "needs a cluster, and none was run; kubectl builds the same objects in tests/deploy",
    "kubectl logs": "needs a cluster",
    "kubectl exec": "needs a cluster",
    "kubectl port-forward": "needs a cluster",
}
"""By their first words, those that no test runs, and why."""

_FENCE: Final = re.compile(
    r"(?:<!-- ([\w-]+) -->\n+)?^```(?:sh|bash|shell|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
_SPAN: Final = re.compile(r"`(cloned-proxy [^`\n]+)`")
_ENDS: Final = frozenset({"|", "&&", "||", ";", "&", ">", "<"})


@dataclass(frozen=True, slots=True)
class Shown:
    """A command line that a page shows in a block."""

    page: str
    mark: str
    text: str


def shown(path: Path) -> Iterator[Shown]:
    """The commands of a page's blocks: where there are prompts, what follows them, else every line."""
    for mark, block in _FENCE.findall(path.read_text(encoding="utf-8")):
        lines = block.splitlines()
        prompted = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        for line in prompted or [line for line in lines if not line.startswith("#")]:
            text = re.sub(r"\s{2,}#.*$", "", line).strip()
            if text:
                yield Shown(path.name, mark, text)


EVERY: Final = [command for path in PAGES for command in shown(path)]


def place_of(command: Shown) -> tuple[str, str] | None:
    """In which of the tables a command is, and under which words there."""
    if (command.page, command.mark) in AS_THEY_STAND:
        return "as they stand", f"{command.page} {command.mark}"
    if command.text in HERE:
        return "here", command.text
    for name, table in (("elsewhere", ELSEWHERE), ("not run", NOT_RUN)):
        if words := [words for words in table if command.text.startswith(words)]:
            return name, max(words, key=len)
    return None


def test_each_command_of_a_block_is_run_by_a_test_or_says_why_not() -> None:
    assert len(EVERY) > 60, "the blocks were not found"
    assert [f"{each.page}: {each.text}" for each in EVERY if place_of(each) is None] == []


def test_no_table_names_what_no_page_shows() -> None:
    used = {place_of(each) for each in EVERY}
    named = {("as they stand", f"{page} {mark}") for page, mark in AS_THEY_STAND}
    named |= {("here", text) for text in HERE}
    named |= {("elsewhere", words) for words in ELSEWHERE} | {("not run", words) for words in NOT_RUN}
    assert named - used == set()


def test_the_tests_that_are_named_are_there_and_run_it() -> None:
    looked_for = [(file, f'"{mark}"') for (_, mark), file in AS_THEY_STAND.items()] + list(ELSEWHERE.values())
    assert [one for one in looked_for if one[1] not in (ROOT / one[0]).read_text(encoding="utf-8")] == []


def test_the_small_ones_run_as_they_stand(workspace: Workspace) -> None:
    script = "\n".join(
        [
            "set -e",
            "cloned-proxy proxy --set http://127.0.0.1:9",
            *HERE,
            "cloned-proxy vault list",
            'echo "$GIT_SSL_CAINFO" "$HTTPS_PROXY"',
        ]
    )
    directory = workspace.path.parent
    said = in_shell(script, program=PROGRAM, environment=workspace.environment, directory=directory)
    assert "done: allow git.example.com" in said
    assert "notify.webhook" in said
    assert re.search(r"^/\S+ http://my\.tool%40v1:\S+@127\.0\.0\.1:9/?$", said, re.MULTILINE), said


def words_of(line: str) -> Iterator[list[str]]:
    """What a shell would hand to `cloned-proxy`, wherever that stands in a line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] | None = None
    for word in [*lexer, ";"]:
        if word == "cloned-proxy" and words is None:
            words = []
        elif words is not None and (word in _ENDS or word.startswith((">", "2>"))):
            yield words
            words = None
        elif words is not None:
            words.append(word)


@cache
def program() -> Any:
    return get_command(app)


def read(words: list[str]) -> None:
    """Reads the words as the program does, and runs nothing. Raises what its parser raises."""
    command = program()
    context = command.context_class(command, info_name="cloned-proxy")
    rest = list(words)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        found = command.get_command(context, rest[0])
        if found is None:
            raise LookupError(f"there is no command {rest[0]!r}")
        context = found.context_class(found, info_name=rest.pop(0), parent=context)
        command = found
    command.make_parser(context).parse_args(rest)


def test_the_program_knows_each_command_and_option_that_a_page_names() -> None:
    lines = [(each.page, each.text) for each in EVERY]
    lines += [(path.name, span) for path in PAGES for span in _SPAN.findall(path.read_text(encoding="utf-8"))]
    unknown = []
    seen = 0
    for page, line in lines:
        for words in words_of(line):
            seen += 1
            try:
                read(words)
            except Exception as error:  # noqa: BLE001  the parser has several families of them
                unknown.append(f"{page}: {line}: {error}")
    assert unknown == []
    assert seen > 200, "the commands were not found"


@pytest.mark.parametrize("line", ["cloned-proxy permit x", "cloned-proxy allow x --fore 3m", "true && cloned-proxy -q"])
def test_what_the_program_does_not_know_is_found(line: str) -> None:
    [words] = words_of(line)
    with pytest.raises(Exception, match=r"permit|fore|-q"):
        read(words)
