"""Where the runner of sandboxes asks the serving process for slots."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

import structlog

from cloned_proxy.local.slot_protocol import SOCKET_PLACE
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.proxy.inspection.certificates.ca import certificate_path
from cloned_proxy.proxy.inspection.certificates.certificate_authority import CertificateAuthority
from cloned_proxy.proxy.serving.assembly import Core
from cloned_proxy.proxy.serving.sandbox_record import SandboxRecord
from cloned_proxy.proxy.slots.holders import Holders
from cloned_proxy.proxy.slots.slot_api import AnotherServesError, SlotApi
from cloned_proxy.store.workspaces.workspace import Workspace

_log = structlog.get_logger(__name__)


def open_slot_api(
    parts: AsyncExitStack,
    workspace: Workspace,
    core: Core,
    holders: Holders,
    *,
    address: str,
    clock: Callable[[], float],
) -> None:
    """Closed by `parts`. `address` is the `host:port` of the host listener.

    Where another process of the workspace takes the sandboxes already, this one serves without them; a standby proxy,
    which is for sandboxes alone, raises AnotherServesError.
    """
    slots = SlotApi(
        gate=core.gate,
        path=workspace.root.joinpath(*SOCKET_PLACE),
        on_run=SandboxRecord(core.state.audit, core.metrics).ran,
        on_slots=core.metrics.sandbox.slots_open,
        clock=clock,
        ca_for=lambda tool: _ca_for(tool, core.follower.live.current, workspace),
        address=lambda: address,
        policy=lambda: core.follower.live.current,
        holders=holders,
    )
    try:
        slots.start()
    except AnotherServesError as error:
        if holders.standby:
            raise
        _log.warning(
            "sandboxes of this workspace connect to the other proxy and follow its policy, not this one's",
            reason=str(error),
        )
        return
    core.gate.at_sweep.add(slots.policy_changed)
    parts.push_async_callback(slots.close)


def _ca_for(tool: str, policy: Policy | None, workspace: Workspace) -> str | None:
    """The workspace CA in PEM form, when a rule that the tool may use opens TLS."""
    if policy is None:
        return None
    # Denies with paths open TLS as well, the global ones for everybody.
    scopes = [policy.scope_of(tool), policy.global_scope]
    if policy.narrowed_by is not None:
        scopes += [policy.narrowed_by.scope_of(tool), policy.narrowed_by.global_scope]
    if not any(rule.needs_inspection for each in scopes for rule in each.rules):
        return None
    CertificateAuthority.open(workspace.ca_directory)  # made on first use
    return certificate_path(workspace.ca_directory).read_text(encoding="ascii")
