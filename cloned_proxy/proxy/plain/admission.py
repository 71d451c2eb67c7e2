"""What becomes of a plain request whose head has been read: an exchange, or an answer. Each one is decided anew."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from cloned_proxy.policy.callers.caller import Caller, coming_from
from cloned_proxy.policy.callers.identity import identify
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.grants.grant import Grant, Refusal
from cloned_proxy.proxy.plain.exchange import PlainExchange
from cloned_proxy.proxy.plain.own import OwnExchange, is_own
from cloned_proxy.proxy.tunnel.refused_head import answer_to_head, head_caller
from cloned_proxy.proxy.wire.head import Head, HeadError
from cloned_proxy.telemetry.events import Kind

if TYPE_CHECKING:
    from cloned_proxy.proxy.plain.client import PlainClient


def admit(client: PlainClient, head: Head) -> None:
    """Begins the exchange or answers, at once where nothing has to be waited for."""
    services = client.services
    if services.stopping():
        client.answer(head, answers.unavailable(), keep=False)
        return
    caller = identify(head.fields, tokens=services.tokens, now=services.clock(), listener=client.listener.principal)
    caller = coming_from(caller, client.source_address)
    if services.requests is not None and is_own(head.host):
        exchange = OwnExchange(client, head, caller, services.requests)
        _after_breath(client, caller, partial(client.begin, exchange))
        return
    request = Request(head.host, head.port, head.method, head.path)
    if services.leaks.armed and (secret := services.leaks.in_head(head)):
        _after_breath(client, caller, partial(_leaking, client, caller, head, secret))
        return
    outcome = services.enforcer.authorise_now(caller, request, Kind.HTTP)
    if outcome is None:
        client.wait_for(partial(_authorised, client, head, caller, request))
    else:
        _decided(client, head, outcome)


def refuse_head(client: PlainClient, error: HeadError) -> None:
    """Answers what is no request as it should be, on record; the connection ends behind that."""
    caller = head_caller(client.services, client.listener, error, client.source_address)
    _after_breath(client, caller, partial(_refused, client, caller, error))


def _refused(client: PlainClient, caller: Caller, error: HeadError) -> None:
    client.transport.write(answer_to_head(client.services, caller, error, Kind.HTTP).encode())
    client.exchange_ended(keep=False)


def _after_breath(client: PlainClient, caller: Caller, then: Callable[[], None]) -> None:
    """Does it now; when the log is slow and this caller has had its share of it, later: nobody is refused for that."""
    if client.services.enforcer.behind(caller):
        client.wait_for(partial(_breathed, client, caller, then))
    else:
        then()


async def _breathed(client: PlainClient, caller: Caller, then: Callable[[], None]) -> Callable[[], None]:
    await client.services.enforcer.breath(caller)
    return then


async def _authorised(client: PlainClient, head: Head, caller: Caller, request: Request) -> Callable[[], None]:
    outcome = await client.services.enforcer.authorise(caller, request, Kind.HTTP, client=client)
    return partial(_decided, client, head, outcome)


def _leaking(client: PlainClient, caller: Caller, head: Head, secret: str) -> None:
    services = client.services
    refusal = services.leaks.refuse(services.enforcer, caller, Kind.HTTP, head, secret)
    client.answer(head, answers.refused(refusal))


def _decided(client: PlainClient, head: Head, outcome: Grant | Refusal) -> None:
    if isinstance(outcome, Refusal):
        client.answer(head, answers.refused(outcome))
    else:
        client.goes_back = client.services.publish(client.listener, head, outcome)
        client.begin(PlainExchange(client, head, outcome))
