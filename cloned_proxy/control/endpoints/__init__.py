"""The operations of the API, one module a subject."""

from __future__ import annotations

from typing import Final

from cloned_proxy.control.endpoints import decisions, devices, stream

ALL: Final = (*devices.OPERATIONS, *decisions.OPERATIONS, *stream.OPERATIONS)
