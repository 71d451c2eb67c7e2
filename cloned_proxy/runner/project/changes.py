"""What a run did to the files that this machine later acts upon: looked at before it and after it.

Links are not followed, and nothing that the tool left is opened: names, sizes and times of the directory are enough.
"""

from __future__ import annotations

import enum
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from cloned_proxy.runner.project.guarded import GIT_PARTS, TRUSTED
from cloned_proxy.runner.project.survey import Look
from cloned_proxy.store.workspaces.workspace import DIRECTORY_NAME


class GuardedKind(enum.Enum):
    """Why a path is looked at."""

    WORKSPACE = "a workspace of this program, with a policy in it"
    REPOSITORY = "a git repository"
    TRUSTED = "acted upon by itself: by git, an editor, a shell, an agent"
    RECIPE = "acted upon when somebody builds, tests, installs or asks an agent"


_RECIPES: Final = frozenset({
    "makefile", "gnumakefile", "bsdmakefile", "justfile", ".justfile", "taskfile.yml", "taskfile.yaml", "rakefile",
    "gemfile", "vagrantfile", "jenkinsfile", "procfile", "package.json", ".npmrc", ".yarnrc", ".yarnrc.yml",
    ".pnpmfile.cjs", ".pnp.cjs", "deno.json", "bunfig.toml", "setup.py", "setup.cfg", "pyproject.toml", "tox.ini",
    "noxfile.py", "conftest.py", "pytest.ini", "sitecustomize.py", "requirements.txt", "cargo.toml", "build.rs",
    "cmakelists.txt", "meson.build", "configure", "configure.ac", "build.gradle", "build.gradle.kts",
    "settings.gradle", "gradlew", "pom.xml", "mvnw", "build.xml", "build.sbt", "mix.exs", "go.mod", "build.bazel",
    "build", "workspace", ".bazelrc", "dockerfile", "containerfile", "compose.yml", "compose.yaml",
    "docker-compose.yml", "docker-compose.yaml", ".pre-commit-config.yaml", "lefthook.yml", ".lefthook.yml",
    ".gitlab-ci.yml", ".travis.yml", "mise.toml", ".mise.toml", ".tool-versions", ".gitmodules", ".gitattributes",
    "agents.md", "claude.md", "gemini.md", ".cursorrules", "skill.md",
})  # fmt: skip
"""In lower case, as case-insensitive file systems and some of the programs take them."""
_RECIPE_ENDS: Final = (".mk", ".pth", ".dockerfile", ".config.js", ".config.cjs", ".config.mjs", ".config.ts")
_RECIPE_PLACES: Final = frozenset({".github", ".cargo", ".circleci", ".mvn"})
_PROGRAM_PLACES: Final = (("node_modules", ".bin"), (".venv", "bin"), ("venv", "bin"))
BROUGHT: Final = frozenset({"node_modules", ".venv", "venv", "site-packages", ".tox", ".nox"})
"""What installers fill: of its thousands of recipes none is looked at, only the programs that are started by name."""
_GIT_DATA: Final = frozenset({"refs", "logs", "objects", "lfs", "rr-cache"})


def kind_of(path: str) -> GuardedKind | None:
    """Why a path of a project is looked at; None for one that is not."""
    parts = path.split("/")
    if DIRECTORY_NAME in parts:
        return GuardedKind.WORKSPACE
    if ".git" in parts:
        inside = parts[parts.index(".git") + 1 :]
        if not inside:
            return GuardedKind.REPOSITORY
        return None if inside[0] in _GIT_DATA or not set(inside) & set(GIT_PARTS) else GuardedKind.TRUSTED
    if parts[-1] == "HEAD":  # of a repository without a working tree: git takes it for one wherever it is
        return GuardedKind.REPOSITORY
    if not TRUSTED.isdisjoint(parts) and BROUGHT.isdisjoint(parts):
        return GuardedKind.TRUSTED
    return GuardedKind.RECIPE if _is_recipe(parts) else None


def _is_recipe(parts: list[str]) -> bool:
    if not BROUGHT.isdisjoint(parts):
        return tuple(parts[-3:-1]) in _PROGRAM_PLACES or parts[-1].endswith(".pth")
    name = parts[-1].lower()
    by_name = name in _RECIPES or name.endswith(_RECIPE_ENDS) or name.startswith(("dockerfile.", "makefile."))
    return by_name or not _RECIPE_PLACES.isdisjoint(parts)


class Stamp(NamedTuple):
    """An entry of a directory, as lstat(2) has it. A directory has only its type: what is in it has its own stamps."""

    mode: int
    inode: int = 0
    size: int = 0
    modified_ns: int = 0
    changed_ns: int = 0
    """The inode's change, which no program can set."""


def stamp_of(info: os.stat_result) -> Stamp:
    """The stamp of what lstat(2) said."""
    if stat.S_ISDIR(info.st_mode):
        return Stamp(stat.S_IFDIR)
    return Stamp(info.st_mode, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


class Marks:
    """Collects the stamps of what is looked at: a visitor of a survey."""

    def __init__(self) -> None:
        self.stamps: dict[str, Stamp] = {}

    def __call__(self, look: Look) -> None:
        if kind_of(look.path) is not None:
            try:
                self.stamps[look.path] = stamp_of(look.entry.stat(follow_symlinks=False))
            except FileNotFoundError:
                return


class Letter(enum.StrEnum):
    """Kinds of change, in the letters of git and svn."""

    ADDED = "A"
    MODIFIED = "M"
    DELETED = "D"


@dataclass(frozen=True, slots=True, order=True)
class Change:
    path: str
    letter: Letter


def compare(before: Mapping[str, Stamp], after: Mapping[str, Stamp]) -> list[Change]:
    """The changes by path. A directory that was one before is no change."""
    changes = [Change(path, Letter.DELETED) for path in before.keys() - after.keys()]
    changes += [Change(path, Letter.ADDED) for path in after.keys() - before.keys()]
    changes += [Change(path, Letter.MODIFIED) for path in before.keys() & after.keys() if before[path] != after[path]]
    return sorted(changes)
