"""An unexpected exception is logged and closes the connection that it met: whatever it was, nothing may go on."""

from __future__ import annotations

from typing import Protocol


class Failing(Protocol):
    """A client, whoever serves it."""

    def failed(self) -> None:
        """Called while an unexpected exception is handled: logs it, and closes the client and what belongs to it."""


class ClosingOnFailure:
    """`with ClosingOnFailure(client): ...` lets no exception out but that of a task which is called off.

    On the way of every request, where even the making of this would be felt, an `except Exception` calls `failed`.
    """

    __slots__ = ("_client",)

    def __init__(self, client: Failing) -> None:
        self._client = client

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self._client.failed()
        return True
