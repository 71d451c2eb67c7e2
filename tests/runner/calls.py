"""What the tests of calls from Python have in common."""

from __future__ import annotations

import contextlib

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.values.errors import GoneError
from cloned_proxy.runner.values.spec import TOOL_LABEL
from tests.runner.jobs import TOOL


def running(engine: Engine, tool: str = TOOL) -> list[str]:
    """The ids of this tool's containers that have started."""
    found = []
    for container, name in engine.owned(TOOL_LABEL):
        with contextlib.suppress(GoneError):  # removed since it was listed
            if name == tool and engine.state(container).running:
                found.append(container)
    return found
