"""What can go wrong with a sandboxed run. Every message names the place and the fix."""

from __future__ import annotations


class SandboxError(Exception):
    """The base of all of them; catch this one to handle any failed run."""

    result = "error"
    """The `result` label of `cloned_proxy_sandbox_runs_total`."""

    @property
    def on_record(self) -> str:
        """The message as it may stand in the audit log."""
        return str(self)


class SandboxInputError(SandboxError):
    """Something that the caller wrote cannot be used: a tool id, a mount, a variable, a network."""

    result = "bad_input"


class EngineError(SandboxError):
    """The container engine is missing, refuses, or went away."""

    result = "engine"


class ImageMissingError(EngineError):
    pass


class FetchError(SandboxError):
    """A package could not be had, or is not what its hash says."""


class GoneError(EngineError):
    """A container or network that does not exist (any more)."""


class SlotError(SandboxError):
    """No sealed slot could be made or used; the tool has not been started."""

    result = "slot"


class ProxyLinkError(SandboxError):
    """No running proxy took the slot's listener; the tool has not been started."""

    result = "proxy"


class RunCancelledError(SandboxError):
    """Somebody ended the run from outside; its container is gone."""

    result = "cancelled"


class ToolTimeoutError(SandboxError):
    result = "timeout"


class ToolLimitError(SandboxError):
    """The tool went over a bound: output, or the size of its scratch directory."""

    result = "limit"


class ToolFailedError(SandboxError):
    """The tool ran and failed: it said so, or ended without the one JSON line that a worker owes."""

    result = "failed"

    @property
    def on_record(self) -> str:
        """A fixed sentence, not the message, which repeats what the tool said, and that may be a secret."""
        return "the tool failed; what it said is not kept"
