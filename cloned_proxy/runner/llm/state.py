"""What `llm up` made, kept in the workspace for `down`, `status` and whoever shows the model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cloned_proxy.runner.llm.engines import USUAL_HEALTH
from cloned_proxy.runner.namespaces.netns import start_time
from cloned_proxy.runner.values.errors import SandboxInputError
from cloned_proxy.store.files.atomic import write_atomically

CONTAINER: Final = "cloned-localai"
"""The name that the seed's Compose file gives it, whichever engine it is."""
PORT: Final = 8080
"""The port of the relay on this host."""
_STATE: Final = ("run", "llm.json")


@dataclass(frozen=True, slots=True)
class LlmState:
    container: str
    relay_pid: int
    relay_started: int
    engine: str = "localai"
    health: tuple[str, ...] = USUAL_HEALTH
    keyed: bool = False
    """Callers need a key, and one call without it was refused."""

    @property
    def relay_alive(self) -> bool:
        try:
            return start_time(self.relay_pid) == self.relay_started
        except (OSError, ValueError, IndexError):
            return False


def read_state(workspace: Path) -> LlmState | None:
    """What `up` left, or None. Raises SandboxInputError for a damaged file."""
    try:
        kept = json.loads(workspace.joinpath(*_STATE).read_text(encoding="utf-8"))
        return LlmState(**{**kept, "health": tuple(kept.get("health", USUAL_HEALTH))})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise SandboxInputError(f"{workspace.joinpath(*_STATE)} is damaged: delete it, then `llm down`") from error


def write_state(workspace: Path, state: LlmState) -> None:
    """Keeps it for `down` and `status`."""
    path = workspace.joinpath(*_STATE)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asdict(state)).encode())


def forget_state(workspace: Path) -> None:
    """After `down`."""
    workspace.joinpath(*_STATE).unlink(missing_ok=True)
