"""Open tunnels of every serving process, and the button that cuts one."""

from __future__ import annotations

from typing import Any, Final

from cloned_proxy.control.endpoints.decisions import DECISION_ID
from cloned_proxy.control.errors import ApiError
from cloned_proxy.control.operation import Call, Nothing, Operation, Strict
from cloned_proxy.local.control_client import MAX_CAUSE, ask_all


class TunnelAnswer(Strict):
    id: str
    """Id of the tunnel's decision."""
    worker: int
    tool: str | None
    host: str
    port: int
    rule: str
    policy: str
    since: float
    bytes_up: int | None
    """None where TLS is opened: each request in it is counted for itself."""
    bytes_down: int | None
    inspected: bool


class TunnelsAnswer(Strict):
    items: list[TunnelAnswer]


class CutAnswer(Strict):
    cut: bool


def _tunnels(call: Call) -> TunnelsAnswer:
    answers = ask_all(call.services.workspace.root, {"op": "tunnels"})
    found: list[dict[str, Any]] = [
        {**tunnel, "worker": answer["worker"]} for answer in answers for tunnel in answer.get("tunnels", ())
    ]
    found.sort(key=lambda tunnel: -tunnel["since"])
    return TunnelsAnswer(items=[TunnelAnswer.model_validate(tunnel) for tunnel in found])


def _cut(call: Call) -> CutAnswer:
    cause = f"cut:{call.actor}"[:MAX_CAUSE]
    answers = ask_all(call.services.workspace.root, {"op": "cut", "id": call.path["id"], "cause": cause})
    if not any(answer.get("cut") for answer in answers):
        raise ApiError(404, "there is no such tunnel; it may have ended by itself")
    return CutAnswer(cut=True)


OPERATIONS: Final = (
    Operation("GET", "/tunnels", "Open tunnels, the newest first", _tunnels, TunnelsAnswer),
    Operation("POST", "/tunnels/{id}/cut", "Cut a tunnel, at once and on record", _cut, CutAnswer,
              body=Nothing, places={"id": DECISION_ID}, refusals=(404,)),
)  # fmt: skip
