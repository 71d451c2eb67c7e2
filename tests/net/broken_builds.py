"""The product with named guards taken out, to show that the attack each of them stops is real.

`python -m tests.net.broken_builds GUARD... -- serve …` is `cloned-proxy serve …` without these guards. Everything
else is the real thing: same composition root, same listeners, same files. `FAULTS` break a part on purpose instead;
whatever they break, nothing may pass.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from cloned_proxy.__main__ import main as command_line
from cloned_proxy.policy.callers.caller import CallerSource, Principal
from cloned_proxy.policy.deciding import decide as deciding
from cloned_proxy.proxy.enforce import record
from cloned_proxy.proxy.http1 import outgoing as plain_outgoing
from cloned_proxy.proxy.inspection.http1 import connection as inspected_connection
from cloned_proxy.proxy.inspection.requests.admission import Admission
from cloned_proxy.proxy.inspection.upstream import pool
from cloned_proxy.proxy.plain import admission as plain_admission
from cloned_proxy.proxy.serving import server
from cloned_proxy.proxy.transport import listener
from cloned_proxy.proxy.upstream import places
from cloned_proxy.store.audit.audit_writer import AuditWriter
from cloned_proxy.telemetry.events import AuditUnavailableError
from tests.net.guards import FRONT_GUARDS, GUARDS, Patch, everywhere_identify, replace_part
from tests.net.plane_guards import PLANE_GUARDS
from tests.net.replica_guards import REPLICA_GUARDS

# Faults: parts that break, where a fail-open design would let everything pass ----------------------------------------


def _raising(*arguments: Any, **options: Any) -> Any:
    raise RuntimeError("broken on purpose")


def _audit_is_full() -> None:
    def refuse(self: Any, event: Any, **_: Any) -> None:
        raise AuditUnavailableError("broken on purpose")

    replace_part(AuditWriter, "record", refuse)


async def _doing_nothing(*arguments: Any, **options: Any) -> None:
    return


SLOT: Final = "a slot for alpha@v1"
"""Not a guard: one more listener, as the sandbox runner opens it, that carries a tool's identity."""
SLOT_OFFSET: Final = 2500
"""From the port of the host listener to that of the slot."""


def _open_slot() -> None:
    original = server.Server.start

    async def start(self: Any) -> None:
        await original(self)
        host, port = self.address.rsplit(":", 1)
        sock = listener.bind_tcp(host, int(port) + SLOT_OFFSET)
        alpha = Principal("alpha@v1", "run-1", CallerSource.LISTENER)
        await self.open(listener.Listener(sock, alpha, "slot alpha"))

    replace_part(server.Server, "start", start)


def _beside_plain(patch: Patch) -> Patch:
    """The fault is of inspected tunnels: plain HTTP, which has no part in it, is broken beside it."""

    def both() -> None:
        patch()
        replace_part(plain_admission, "_decided", _raising)

    return both


def _beside_inspection(patch: Patch) -> Patch:
    """The fault is of plain HTTP: the inspection is broken beside it."""

    def both() -> None:
        patch()
        replace_part(Admission, "admit", _raising)

    return both


FAULTS: Final[dict[str, Patch]] = {
    "decide raises": lambda: replace_part(deciding, "_decide", _raising),
    "addresses raise": lambda: replace_part(places, "decide_addresses", _raising),
    "the admission raises": _beside_plain(lambda: replace_part(Admission, "admit", _raising)),
    "the admission does nothing": _beside_plain(lambda: replace_part(Admission, "admit", _doing_nothing)),
    "the admission is gone": _beside_plain(lambda: delattr(Admission, "admit")),
    "the check of the dial raises": _beside_plain(lambda: replace_part(pool, "_check", _raising)),
    "the inspection raises": _beside_plain(lambda: replace_part(inspected_connection, "Pool", _raising)),
    "the request's head raises": _beside_inspection(lambda: replace_part(plain_outgoing, "encode_request", _raising)),
    "identification raises": lambda: everywhere_identify(lambda original: _raising),
    "the audit log is full": _audit_is_full,
    "metrics raise": lambda: replace_part(record.Recorder, "event_of", _raising),
}

OPEN: Final = ("the decision", "address classes", "own listeners", "SNI", "TLS in tunnels", "strict lines", "framing",
               "Host", "inner Host", "the grant of each dial", "header stripping", "identity is proved",
               "identity of each request", "upstream verification", "no record, no request")  # fmt: skip
"""Every guard that can be out at the same time."""


def main() -> None:
    wanted, rest = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    for name in wanted:
        ({**GUARDS, **FRONT_GUARDS, **PLANE_GUARDS, **REPLICA_GUARDS, **FAULTS, SLOT: _open_slot}[name])()
    sys.argv = ["cloned-proxy", *rest]
    command_line()


if __name__ == "__main__":
    main()
