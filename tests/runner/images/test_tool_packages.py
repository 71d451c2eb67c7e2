"""Images with baked packages, as values: what may be asked for, what they are called, what npx and uvx know of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.runner.images import pip_client
from cloned_proxy.runner.images.baked import npm_programs, npx_table, uvx_table
from cloned_proxy.runner.images.image_check import PARTS
from cloned_proxy.runner.images.images import base_images
from cloned_proxy.runner.images.npm_client import check_lock, scripted
from cloned_proxy.runner.images.pip_client import download
from cloned_proxy.runner.images.tool_packages import ToolImage
from cloned_proxy.runner.values.errors import FetchError, SandboxInputError
from tests.cli.conftest import workspace as workspace  # noqa: PLC0414  a fixture of these tests, too
from tests.cli.program import Workspace
from tests.runner.wheels import make_wheel

NAMES = [
    (ToolImage(npm=("@scope/server-memory@1.2.3",)), "cloned-tool-scope-server-memory:1.2.3"),
    (ToolImage(npm=("semver@7.7.1-beta.1+x",)), "cloned-tool-semver:7.7.1-beta.1_x"),
    (ToolImage(pypi=("mcp-server-time==2025.9.25",)), "cloned-tool-mcp-server-time:2025.9.25"),
    (ToolImage(pypi=("Pkg.Name[cli]==1!2.0",)), "cloned-tool-pkg-name:1_2.0"),
    (ToolImage(npm=("a@1.0.0",), tag="mine"), "mine:latest"),
    (ToolImage(npm=("a@1.0.0",), tag="host/mine:2"), "host/mine:2"),
]


@pytest.mark.parametrize(("wanted", "name"), NAMES)
def test_an_image_is_called_after_its_package(wanted: ToolImage, name: str) -> None:
    assert wanted.name == name


def test_what_differs_in_content_differs_in_name() -> None:
    names = {
        ToolImage(npm=("a@1.0.0",)).name,
        ToolImage(npm=("a@1.0.0",), scripts=True).name,
        ToolImage(npm=("a@1.0.0",), pypi=("b==1",)).name,
        ToolImage(npm=("a@1.0.0",), pypi=("b==2",)).name,
        ToolImage(npm=("a@1.0.0", "c@1.0.0")).name,
    }
    assert len(names) == 5
    assert ToolImage(npm=("a@1.0.0",), pypi=("b==1",)).name == ToolImage(npm=("a@1.0.0",), pypi=("b==1",)).name


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"npm": ("semver",)}, "exact version"),
    ({"npm": ("semver@latest",)}, "exact version"),
    ({"npm": ("semver@^7.0.0",)}, "exact version"),
    ({"npm": ("git+https://x/y@1.0.0",)}, "exact version"),
    ({"pypi": ("mcp-server-time",)}, "NAME==VERSION"),
    ({"pypi": ("mcp-server-time>=1",)}, "NAME==VERSION"),
    ({"pypi": ("--index-url==x",)}, "NAME==VERSION"),
    ({"pypi": ("a==1' ; touch /x; '",)}, "NAME==VERSION"),
    ({"pypi": ("a==1",), "scripts": True}, "wheels of --pypi have none"),
    ({"npm": ("a@1.0.0",), "tag": "Not A Name"}, "write a name"),
    ({}, "at least one package"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_is_no_exact_package_is_refused_with_the_form(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SandboxInputError, match=message):
        ToolImage(**options)


def test_the_command_refuses_before_it_asks_the_engine(workspace: Workspace) -> None:
    for words, message in [
        (("--npm", "semver"), "exact version"),
        (("--with", "java"), "not a part of the worker"),
        (("--tool", "a@v1"), "go with --npm or --pypi"),
        (("--npm", "a@1.0.0", "--with", "uv"), "only `--with node`"),
        (("--npm", "a@1.0.0", "--tool", "a b"), "not a tool id"),
    ]:
        done = workspace.call("image", "build", *words)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_another_choice_of_parts_is_another_base() -> None:
    names = {base_images("trixie", parts)["base"] for parts in (tuple(PARTS), (), ("node",), ("uv",))}
    assert len(names) == 4
    assert base_images("trixie", ("uv", "node")) == base_images("trixie", ("node", "uv"))


def test_npx_knows_each_way_to_write_a_package_with_one_program_or_one_of_its_name(tmp_path: Path) -> None:
    for name, bins in {
        "@scope/server": '{"mcp-server": "dist/index.js"}',
        "two": '{"two": "a.js", "other": "b.js"}',
        "unclear": '{"a": "a.js", "b": "b.js"}',
        "@scope/short": '"cli.js"',
    }.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "package.json").write_text(f'{{"bin": {bins}}}')
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "package.json").write_text("{}")
    versions = dict.fromkeys(("@scope/server", "two", "unclear", "@scope/short", "library"), "1.0.0")
    programs = {name: npm_programs(tmp_path, name) for name in versions}
    assert programs["@scope/short"] == {"short": "cli.js"}
    assert npx_table(versions, programs).splitlines() == [
        "@scope/server mcp-server",
        "@scope/server@latest mcp-server",
        "@scope/server@1.0.0 mcp-server",
        "two two",
        "two@latest two",
        "two@1.0.0 two",
        "@scope/short short",
        "@scope/short@latest short",
        "@scope/short@1.0.0 short",
    ]


def test_a_program_cannot_leave_its_directory(tmp_path: Path) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "package.json").write_text('{"bin": {"../../../etc/x": "a.js"}}')
    assert npm_programs(tmp_path, "evil") == {"x": "a.js"}


def test_uvx_reads_programs_out_of_the_wheels(tmp_path: Path) -> None:
    make_wheel(tmp_path, "my_server", "[console_scripts]\nmy-server = my:main\nmore = my:more\n")
    make_wheel(tmp_path, "plain", "")
    assert uvx_table({"My.Server": "1.0", "plain": "1.0"}, tmp_path) == ""
    assert uvx_table({"my-server": "1.0"}, tmp_path).splitlines() == [
        "my-server my-server",
        "my-server@latest my-server",
        "my-server@1.0 my-server",
        "my-server==1.0 my-server",
    ]


def test_a_wheel_that_is_not_what_its_hash_says_is_not_taken(tmp_path: Path) -> None:
    index = tmp_path / "index"
    index.mkdir()
    make_wheel(index, "my_server", "")
    lock = tmp_path / "lock"
    lock.write_text(f"my_server==1.0 --hash=sha256:{'0' * 64}\n")
    words = ("--no-index", "--find-links", str(index), "--require-hashes", "--requirement", str(lock))
    with pytest.raises(FetchError, match=r"(?i)hash"):
        download(tmp_path / "out", *words, python="3.13", newest_glibc=41)
    with pytest.raises(FetchError, match="No matching distribution"):
        download(tmp_path / "out", "--no-index", "no-such-package==1", python="3.13", newest_glibc=41)


def test_pip_is_not_imported_from_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    make_wheel(tmp_path, "my_server", "")
    monkeypatch.chdir(tmp_path)
    pip_client.pip_command.cache_clear()
    words = ("--no-index", "--find-links", str(tmp_path), "my_server==1.0")
    download(tmp_path / "out", *words, python="3.13", newest_glibc=41)
    assert ((tmp_path / "ran").exists(), len(list((tmp_path / "out").iterdir()))) == (False, 1)


def test_the_packages_with_install_scripts_are_known_by_name() -> None:
    entries = {"": {}, "node_modules/a": {}, "node_modules/a/node_modules/@s/b": {"hasInstallScript": True}}
    assert scripted({"packages": entries}) == ["@s/b"]


def test_a_package_that_nothing_vouches_for_is_refused() -> None:
    good = {"": {}, "node_modules/a": {"integrity": "sha512-x"}, "node_modules/a/node_modules/b": {"inBundle": True}}
    check_lock({"packages": good})
    with pytest.raises(FetchError, match="@s/c has no integrity"):
        check_lock({"packages": good | {"node_modules/@s/c": {"resolved": "git+ssh://x"}}})
