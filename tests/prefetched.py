"""Fetches what the tests take from registries, while something else goes on: `python -m tests.prefetched` in `.ci/run`.

Without it each test fetches what it needs by itself, and its process of the suite waits for the network. What cannot be
had is said here and judged there.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Final

from cloned_proxy.runner.docker.engine import Engine
from tests.compose.images import bring_base, build_all
from tests.control.browser.test_walls import NODE as POLICY_JUDGE
from tests.docs.test_python import SDKS
from tests.e2e.test_registries import PACKAGERS
from tests.net.clients import NODE_DIRECTORY, installed
from tests.pinned_wheels import unpacked
from tests.runner import real_model
from tests.runner.kept_images import bring_sandbox_images
from tests.runner.mcp import real_servers
from tests.runner.trust.test_tls_clients import DENO
from tests.runner.trust.test_trust_clients import BOTO3

PACKAGES: Final[dict[str, Callable[[], object]]] = {
    "MCP servers": real_servers.fetch,
    "a model": real_model.fetch,
    "SDKs of agents": lambda: unpacked(SDKS),
    "Deno": lambda: unpacked(DENO),
    "boto3": lambda: unpacked(BOTO3),
    "clients for Node": lambda: installed(NODE_DIRECTORY, "undici", "ws", "https-proxy-agent", "@grpc/grpc-js"),
    "package managers for Node": lambda: installed(PACKAGERS, "pnpm", "yarn", "@yarnpkg/cli-dist"),
    "the judge of a content security policy": lambda: installed(POLICY_JUDGE, "csp_evaluator"),
}


def main() -> None:
    """The images first: they take longest, and two steps of theirs wait for a mirror."""
    with contextlib.closing(Engine.connect()) as engine:
        bring_sandbox_images(engine, _say)
        bring_base(engine)
        # At the end, when the native plane, a part of one of them, is built: its build is then in the engine's cache.
        _try_each(PACKAGES | {"the images of the stack": lambda: build_all(engine)})


def _try_each(packages: dict[str, Callable[[], object]]) -> None:
    for name, fetch in packages.items():
        try:
            fetch()
        except BaseException as error:  # pytest's `fail` and `skip`, too: the tests say what it means
            if isinstance(error, KeyboardInterrupt):
                raise
            _say(f"{name}: not fetched: {error}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201  minutes without a word look like a hang


if __name__ == "__main__":
    main()
