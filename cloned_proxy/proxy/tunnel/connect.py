"""What follows a CONNECT on the gate: it is identified and authorised, and then refused or let through."""

from __future__ import annotations

from cloned_proxy.policy.callers.caller import Caller, coming_from
from cloned_proxy.policy.callers.identity import identify
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.grants.grant import Grant, Refusal
from cloned_proxy.proxy.tunnel.connection import ClientConnection
from cloned_proxy.proxy.tunnel.passage import Passage
from cloned_proxy.proxy.wire.head import Head
from cloned_proxy.telemetry.events import Kind


def serve(connection: ClientConnection, head: Head, data: bytes = b"") -> None:
    """Serves a CONNECT whose head came as `data`, if it came as bytes.

    Ends with the connection answered, closed, relaying, or with somebody who will see to it.
    """
    parts = connection.parts
    if parts.stopping():
        connection.answer(answers.unavailable())
        return
    caller = identify(head.fields, tokens=parts.tokens, now=parts.clock(), listener=connection.listener.principal)
    caller = coming_from(caller, connection.source_address)
    request = Request(head.host, head.port)
    granted = parts.enforcer.authorise_now(caller, request, Kind.TUNNEL)
    if granted is None:
        connection.run(_authorise(connection, caller, head))
    elif isinstance(granted, Refusal):
        answer = answers.refused(granted)
        if data and not connection.source_address:  # what is kept is told, and recorded, as it was the first time
            parts.refusals.keep(connection.listener, data, caller, granted, answer.encode())
        connection.answer(answer)
    else:
        _decided(connection, granted, head)


async def _authorise(connection: ClientConnection, caller: Caller, head: Head) -> None:
    request = Request(head.host, head.port)
    granted = await connection.parts.enforcer.authorise(caller, request, Kind.TUNNEL, client=connection)
    _decided(connection, granted, head)


def _decided(connection: ClientConnection, granted: Grant | Refusal, head: Head) -> None:
    if isinstance(granted, Refusal):
        connection.answer(answers.refused(granted))
    else:
        connection.parts.publish(connection.listener, head, granted)
        Passage(connection, granted).begin()
