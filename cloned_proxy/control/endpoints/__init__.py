"""The operations of the API, one module a subject."""

from __future__ import annotations

from typing import Final

from cloned_proxy.control.endpoints import (
    approvals,
    blocked,
    decisions,
    devices,
    history,
    ignored,
    model,
    overview,
    rules,
    runs,
    stream,
    tunnels,
)

ALL: Final = (
    *devices.OPERATIONS,
    *overview.OPERATIONS,
    *decisions.OPERATIONS,
    *stream.OPERATIONS,
    *blocked.OPERATIONS,
    *ignored.OPERATIONS,
    *rules.OPERATIONS,
    *history.OPERATIONS,
    *approvals.OPERATIONS,
    *tunnels.OPERATIONS,
    *runs.OPERATIONS,
    *model.OPERATIONS,
)
