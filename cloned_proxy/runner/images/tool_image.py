"""`image build --npm --pypi`: an image with packages baked in, so that a tool needs no registry when it runs.

The packages are fetched on this machine by the user's own clients, checked, and put on top of the worker in a build
without a network. What was resolved is in a label of the image: the same words make the same image again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images import npm_client
from cloned_proxy.runner.images.baked import npm_programs, npx_table, uvx_table
from cloned_proxy.runner.images.image_check import NODE_LABEL
from cloned_proxy.runner.images.image_question import python_and_glibc
from cloned_proxy.runner.images.images import Say
from cloned_proxy.runner.images.pip_client import download
from cloned_proxy.runner.images.tool_packages import ToolImage
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE
from cloned_proxy.runner.values.errors import FetchError, ImageMissingError
from cloned_proxy.runner.values.spec import DEFAULT_USER
from cloned_proxy.share import share_path

PACKAGES_LABEL: Final = "cloned.packages"
"""What was asked for, as JSON: `["npm:NAME@VERSION", "pypi:NAME==VERSION"]`."""
LOCK_LABEL: Final = "cloned.lock"
"""What was resolved, as JSON: npm's package-lock.json and pip's requirements with hashes."""
WORDS_LABEL: Final = "cloned.words"
"""What else was asked for, as JSON: `{"node": …, "scripts": …}`."""
_STAGE_LABEL: Final = "cloned.stage"
"""Marks what is left of a build, with the name of the image that it was for."""
_TOOLS: Final = "/opt/uv-tools"
"""Where uv keeps programs of PyPI, each in an environment of its own."""
_MODULES: Final = "/usr/local/lib/node_modules"
"""Where `npm install --global` puts packages."""
_LAST_LINE: Final = f"USER {DEFAULT_USER}\n"
_UV_INSTALL: Final = (
    "uv tool install --quiet --no-index --find-links /wheels --no-cache --link-mode copy --compile-bytecode "
    "--python /usr/bin/python3"
)
"""Compiled, because nothing of it can be written in a sandbox: each start would compile every module anew."""


def build_tool_image(engine: Engine, wanted: ToolImage, say: Say, *, renew: bool = False) -> str:
    """Builds the image and returns its name. Raises SandboxError.

    One that is there, of the same words and on the worker of now, stays as it is, unless `renew` resolves its packages
    anew. On another worker it is built again from its lock.
    """
    known = {} if renew else _lock_of(engine, wanted)
    if known and _is_current(engine, wanted):
        say(f"{wanted.name} is there, unchanged; --rebuild resolves its packages anew")
        return wanted.name
    if known:
        say(f"{wanted.name} is there, on another worker: its lock says which versions; --rebuild resolves them anew")
    with tempfile.TemporaryDirectory(prefix="cloned-tool-image-") as directory:
        context = Path(directory)
        lock: dict[str, Any] = {}
        if wanted.npm:
            say(f"fetching {', '.join(wanted.npm)} with npm, and checking each integrity (seconds to a minute)")
            lock["npm"] = npm_client.fetch(context / "npm", wanted.npm_versions, known.get("npm"))
            if not wanted.scripts and (names := npm_client.scripted(lock["npm"])):
                say(f"install scripts of {', '.join(names)} do not run; a program that misses something: --scripts")
        if wanted.pypi:
            say(f"fetching {', '.join(wanted.pypi)} with pip, wheels alone (seconds to a minute)")
            lock["pypi"] = _fetch_wheels(engine, context / "wheels", wanted.pypi, known.get("pypi"))
        (context / "Dockerfile").write_text(_dockerfile(wanted, context))
        _readable(context)
        labels = {PACKAGES_LABEL: json.dumps(wanted.words), LOCK_LABEL: json.dumps(lock, sort_keys=True)}
        labels[WORDS_LABEL] = _words(wanted)
        if not _keeps_node(wanted):
            labels[NODE_LABEL] = ""
        say(f"building {wanted.name}")
        engine.build(directory, target="tool", tag=wanted.name, args={}, labels=labels)
        # The engine keeps stages for a next build, and with them every package a second time.
        engine.remove_unnamed(f"{_STAGE_LABEL}={wanted.name}")
    return wanted.name


def _words(wanted: ToolImage) -> str:
    return json.dumps({"node": _keeps_node(wanted), "scripts": wanted.scripts})


def _is_current(engine: Engine, wanted: ToolImage) -> bool:
    """Whether it was made by these words, and lies on the layers of the worker that is there."""
    facts, worker = engine.image(wanted.name), engine.image(PYTHON_IMAGE)
    labels = (facts.get("Config") or {}).get("Labels") or {}
    below = worker["RootFS"]["Layers"]
    return labels.get(WORDS_LABEL) == _words(wanted) and facts["RootFS"]["Layers"][: len(below)] == below


def _lock_of(engine: Engine, wanted: ToolImage) -> dict[str, Any]:
    try:
        labels = (engine.image(wanted.name).get("Config") or {}).get("Labels") or {}
    except ImageMissingError:
        return {}
    if labels.get(PACKAGES_LABEL) != json.dumps(wanted.words):
        return {}
    found: dict[str, Any] = json.loads(labels[LOCK_LABEL])
    return found


def _fetch_wheels(engine: Engine, wheels: Path, words: tuple[str, ...], lock: str | None) -> str:
    """Downloads the wheels, with all that they need; returns them as requirements with hashes."""
    python, glibc = python_and_glibc(engine, PYTHON_IMAGE)
    if lock is None:
        download(wheels, *words, python=python, newest_glibc=glibc)
    else:
        file = wheels.with_suffix(".lock")
        file.write_text(lock)
        download(wheels, "--no-deps", "--require-hashes", "--requirement", str(file), python=python, newest_glibc=glibc)
    lines = []
    for wheel in sorted(wheels.glob("*.whl")):
        name, version, *_ = wheel.name.split("-")
        lines.append(f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}")
    if not lines:
        raise FetchError(f"pip fetched no wheel for {', '.join(words)}")
    return "\n".join(lines) + "\n"


def _dockerfile(wanted: ToolImage, context: Path) -> str:
    """What is only needed to install stays in stages of its own."""
    stages = [f"FROM {PYTHON_IMAGE} AS base", "USER root"]
    stage = f'LABEL {_STAGE_LABEL}="{wanted.name}"'
    image = ["FROM base AS tool"]
    if wanted.npm:
        stages += ["FROM base AS npm", stage, f"COPY --chown={DEFAULT_USER} npm/ /build/"]
        if wanted.scripts:
            stages += [f"USER {DEFAULT_USER}", "RUN cd /build && HOME=/tmp npm rebuild --foreground-scripts"]
        image += [f"COPY --from=npm --chown=0:0 /build/node_modules/ {_MODULES}/"]
    if wanted.pypi:
        stages += [
            "FROM base AS pypi",
            stage,
            "COPY wheels/ /wheels/",
            f"ENV UV_TOOL_DIR={_TOOLS} UV_TOOL_BIN_DIR=/bins",
        ]
        stages += [f"RUN {_UV_INSTALL} '{word}'" for word in wanted.pypi]
        image += [f"COPY --from=pypi {_TOOLS} {_TOOLS}", "COPY --from=pypi /bins/ /usr/local/bin/"]
    if not _keeps_node(wanted):
        image += [f"RUN rm -rf /usr/local/bin/node /usr/local/bin/npm /usr/local/bin/npx {_MODULES}"]
    _lay_out_programs(wanted, context)
    return "\n".join([*stages, *image, "COPY bins/ /usr/local/bin/", "COPY baked/ /opt/cloned/baked/", _LAST_LINE])


def _keeps_node(wanted: ToolImage) -> bool:
    return bool(wanted.npm) or wanted.with_node


def _lay_out_programs(wanted: ToolImage, context: Path) -> None:
    """Links to the programs of npm packages, and npx and uvx that know what is baked in."""
    bins, tables, modules = context / "bins", context / "baked", context / "npm" / "node_modules"
    bins.mkdir()
    tables.mkdir()
    script = share_path("sandbox", "baked.sh")
    if wanted.npm:
        programs = {name: npm_programs(modules, name) for name in wanted.npm_versions}
        for name, paths in programs.items():
            for program, path in paths.items():
                (bins / program).unlink(missing_ok=True)
                (bins / program).symlink_to(f"../lib/node_modules/{name}/{path}")
        (tables / "npx").write_text(npx_table(wanted.npm_versions, programs))
        _copy_program(script, bins / "npx")
    if wanted.pypi:
        (tables / "uvx").write_text(uvx_table(wanted.pypi_versions, context / "wheels"))
        _copy_program(script, bins / "uvx")


def _copy_program(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(0o755)


def _readable(context: Path) -> None:
    """Whatever this user's umask, the tool's user can read what is copied into the image."""
    for path in context.rglob("*"):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
