"""Each guard of the gate's places is taken out once, and a test of it fails.

What ships has no switch: the source of a module is compiled with the guard changed, and its functions take the places
of those that run.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final, NamedTuple

import pytest

from cloned_proxy.policy.callers.caller import ANONYMOUS
from cloned_proxy.proxy.transport.listener import Listener

_SECONDS: Final = 3.0
"""For what waits in vain. On a slow machine a test that would have gone well fails for this, and so proves nothing."""
_FAILURES: Final = (
    AssertionError, TimeoutError, OSError, ValueError, asyncio.InvalidStateError, pytest.fail.Exception,
)  # fmt: skip
"""Of a test, and none of a row that is wrong."""

_GUARDS: Final = r"""
== the cap: grants.connection_cap: grants.test_connection_cap
  test_the_cap_holds_and_a_place_that_is_left_is_free
- if self.everybody > self._places or (contended
+ if (contended

== who gets none takes none: grants.connection_cap: grants.test_connection_cap
  test_the_cap_holds_and_a_place_that_is_left_is_free
-             self.leave(party)
-             return False
+             return False

== the share of a party: grants.connection_cap: grants.test_connection_cap
  test_a_listener_leaves_a_fifth_to_the_others
-  or (contended and self.held_by(party) > self._share):
+ :

== the share over all workers: grants.connection_cap: gate.test_siblings
  test_the_share_of_the_hosts_listener_is_one_over_all_workers
- self._by_party[party] + self._parties.elsewhere(party)
+ self._by_party[party]

== others' listeners: gate.siblings: gate.test_siblings
  test_a_listener_in_one_worker_makes_the_places_contended_in_all
- max(self._listeners.values) > 1
+ self._listeners.values[self._listeners.own] > 1

== others who wait: gate.siblings: gate.test_siblings
  test_who_waits_in_one_worker_is_known_in_all
- any(self._waiting.values)
+ self._waiting.values[self._waiting.own]

== own counts are not others': gate.siblings: gate.test_siblings
  test_a_process_that_serves_alone_counts_nobody_twice
- sum(cells.values) - cells.values[cells.own]
+ sum(cells.values)

== a place for whom nobody came: gate.door: gate.test_door_alone
  test_a_place_for_which_nobody_came_is_given_back
-                 self._leave(connection)

== no spinning without descriptors: gate.door: gate.test_door_alone
  test_where_nobody_can_be_accepted_it_pauses_and_gives_the_place_back
- if error.errno in _OUT_OF_MEANS:
+ if False:

== some are kept for who has come in: gate.door: gate.test_door_alone
  test_nobody_is_accepted_with_one_of_the_last_descriptors
- is_among_the_last(sock.fileno())
+ False

== a look when somebody leaves: gate.door: gate.test_door_alone
  test_who_waits_is_served_when_somebody_leaves_and_not_at_the_next_look
- if self._full and self._again is not None:
+ if False:

== some at once: gate.door: gate.test_door_alone
  test_those_who_are_open_have_their_turn_beside_a_rush
- range(_AT_ONCE)
+ range(1000)

== closed for good: gate.door: gate.test_door_alone
  test_a_door_that_closes_while_it_is_paused_does_not_open_again
-             self._again.cancel()
-         self._full = False
+             pass
+         self._full = False

== nobody leaves for nobody: gate.room: gate.test_room
  test_heads_that_do_not_become_whole_leave_for_who_waits
- return bool(waiting.poll(0)) and
+ return

== a place that is there: gate.room: gate.test_room
  test_who_asks_for_nothing_makes_room_where_descriptors_run_out
- and (closed or are_scarce(fd))

== a listener that is closed: gate.room: gate.test_room
  test_a_listener_that_is_closed_wants_nothing
-         if fd < 0:
-             return False

== nobody leaves for a party that has its share: gate.room: gate.test_room
  test_nobody_leaves_for_a_party_that_has_its_share
- return listener.party if contended and self._cap.has_its_share(listener.party) else None
+ return None

== a party makes room by its own: gate.room: gate.test_room
  test_nobody_leaves_for_a_party_that_has_its_share
- if party is None or each.listener.party == party]
+ ]

== no header leaves for such a party: gate.room: gate.test_room
  test_no_proxy_header_leaves_for_a_party_that_has_its_share
- for porch in porches if party is None else ():
+ for porch in porches:

== headers make room: gate.room: gate.test_room
  test_proxy_headers_that_do_not_become_whole_leave_for_who_waits
- porch.let_go(patience)
+ pass

== a header that has just begun: gate.porch: gate.test_room
  test_a_proxy_header_that_has_just_begun_stays
- if timer.when() - self._seconds <= latest:
+ if True:

== heads make room: gate.room: gate.test_room
  test_heads_that_do_not_become_whole_leave_for_who_waits
-             if connection.begun:
+             if False:

== a head that has just begun: gate.room: gate.test_room
  test_who_has_just_come_stays
- if connection.quiet_since <= now - seconds:
+ if connection.begun or connection.quiet_since <= now - seconds:

== who has just come: gate.room: gate.test_room
  test_who_has_just_come_stays
- if connection.quiet_since <= now - seconds:
+ if True:

== who asks or has a tunnel: gate.room: gate.test_room
  test_a_tunnel_in_which_nothing_moves_stays
- elif connection.quiet:
+ elif True:

== not all of them at once: gate.room: gate.test_door
  test_who_asks_for_nothing_makes_room_for_who_does
- itertools.islice(self._leaving(of_party, patience), waiting)
+ self._leaving(of_party, patience)

== the longest quiet first: gate.room: gate.test_room
  test_the_longest_quiet_leave_first
- late.sort()
+ late.sort(reverse=True)

== room without descriptors: gate.room: gate.test_room
  test_who_asks_for_nothing_makes_room_where_descriptors_run_out
- (closed or are_scarce(fd))
+ closed

== room for other workers: gate.room: gate.test_room
  test_who_waits_in_another_worker_gets_room_here
- return (None,) if self._cap.full and self._siblings.somebody_waits and not of_all else ()
+ return ()

== other workers are told: gate.room: gate.test_room
  test_who_waits_here_is_told_to_the_other_workers_and_nobody_else
- self._siblings.wait(waiting=self._cap.full and of_all)
+ pass

== a body that does not come makes room: plain.kept_client: plain.test_plain_http_places
  test_who_keeps_back_the_body_of_a_refused_request_leaves_for_who_waits
- is RequestPhase.HEAD and self._head_began
+ is RequestPhase.HEAD and self._head_began and self.intake.body.complete

== no reset for such a body: plain.kept_client: plain.test_plain_http_places
  test_who_sends_that_body_meanwhile_gets_the_whole_answer_and_a_fin
- if is_settled(self.transport) and (self.intake.body.complete or not answered):
+ if is_settled(self.transport):

== who takes nothing behind its own FIN: gate.stalled: plain.test_plain_http_places
  test_who_takes_nothing_behind_its_own_fin_leaves_for_who_waits
- left := unsent(each.transport)
+ left := 0 if each.transport.is_closing() else unsent(each.transport)

== a time for what is taken behind it: plain.kept_client: plain.test_plain_http_places
  test_who_takes_nothing_behind_its_own_fin_has_the_idle_timeout_for_it
- self.deadline = time.monotonic() + (self.services.settings.idle_timeout if slow else LINGER_SECONDS)
+ self.deadline = NEVER if self.eof else time.monotonic() + LINGER_SECONDS

== who has all of its last answer: plain.kept_client: plain.test_plain_http_places
  test_who_has_all_of_its_last_answer_and_stays_is_let_go_of
- if self._phase is RequestPhase.CLOSING and not unsent(self.transport):
+ if False:

== room for who is in hand: gate.room: slots.test_service_relay
  test_who_asks_for_nothing_makes_room_for_who_asks_for_the_service
- (*listeners, *self._in_hand)
+ listeners

== a budget for each caller: grants.denial_budget: grants.test_denial_budget
  test_a_budget_is_for_each_caller_and_comes_back_with_time
- account = self._accounts.get(tool)
-         if account is None:
+ account = next(iter(self._accounts.values()), None)
+         if account is None:

== over the budget: grants.denial_budget: grants.test_denial_budget
  test_what_is_over_the_budget_does_not_prolong_it
-                 if account.total < most:
+                 if True:

== who is over it waits: grants.denial_budget: grants.test_denial_budget
  test_a_budget_is_for_each_caller_and_comes_back_with_time
- account.over_until = now + 1.0
+ pass

== some at a turn: grants.denial_budget: grants.test_denial_budget
  test_no_more_than_some_pass_at_a_turn
- self._waiting and passed < _AT_A_TURN
+ self._waiting

== who has left: grants.denial_budget: grants.test_denial_budget
  test_turns_come_in_order_some_at_a_time_and_who_has_left_takes_none
- if not first.done():
+ if True:

== so many wait: grants.denial_budget: grants.test_denial_budget
  test_so_many_wait_over_all_callers_and_who_is_one_more_is_answered_at_once
-         if self._waiting >= self._most_waiting:
-             return

== who has waited waits no more: grants.denial_budget: grants.test_denial_budget
  test_so_many_wait_over_all_callers_and_who_is_one_more_is_answered_at_once
-             self._waiting -= 1
+             pass
"""
"""Name, module of the guard, and test that fails without it; what stands there once, and what stands there instead."""


class Guard(NamedTuple):
    module: ModuleType
    old: str
    new: str
    test: Callable[..., Any]


def _guards() -> Iterator[tuple[str, Guard]]:
    for section in _GUARDS.split("\n== ")[1:]:
        title, test, *lines = section.rstrip().splitlines()
        name, module, test_module = title.split(": ")
        old, new = ("\n".join(line[2:] for line in lines if line.startswith(sign)) for sign in "-+")
        tests = importlib.import_module(f"tests.proxy.{test_module}")
        yield (
            name,
            Guard(importlib.import_module(f"cloned_proxy.proxy.{module}"), old, new, getattr(tests, test.strip())),
        )


GUARDS: Final = dict(_guards())


def take_out(patch: pytest.MonkeyPatch, guard: Guard) -> None:
    """Raises LookupError where the guard is not found: it has moved, and its row must follow it."""
    place = guard.module.__file__
    assert place is not None
    source = Path(place).read_text()
    count = source.count(guard.old)
    if count != 1:
        raise LookupError(f"{place}: {guard.old!r} stands there {count} times")
    names: dict[str, Any] = {"__name__": guard.module.__name__}
    exec(compile(source.replace(guard.old, guard.new), place, "exec"), names)
    for owner, name, function in _functions(guard.module, names):
        patch.setattr(owner, name, function)


def _functions(module: ModuleType, broken: dict[str, Any]) -> Iterator[tuple[object, str, object]]:
    """Each function and method of the module, with what it is in the broken one."""
    for name, value in broken.items():
        if getattr(value, "__module__", "") != module.__name__ or not hasattr(module, name):
            continue
        if isinstance(value, FunctionType):
            yield module, name, _at_home(value, module)
        for attribute, member in vars(value).items() if isinstance(value, type) else ():
            if isinstance(member, FunctionType):
                yield getattr(module, name), attribute, _at_home(member, module)
            elif isinstance(member, property) and isinstance(member.fget, FunctionType):
                yield getattr(module, name), attribute, property(_at_home(member.fget, module))


def _at_home(function: FunctionType, module: ModuleType) -> FunctionType:
    """The same, with the names of the module that runs: its classes, and what a test has set there."""
    moved = FunctionType(
        function.__code__, vars(module), function.__name__, function.__defaults__, function.__closure__
    )
    moved.__kwdefaults__ = function.__kwdefaults__
    return moved


@pytest.mark.parametrize("name", GUARDS)
async def test_without_its_guard_the_test_fails(name: str, tmp_path: Path) -> None:
    guard = GUARDS[name]
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        listener = Listener(stack.enter_context(socket.socket()), ANONYMOUS, "host")
        given = {"tmp_path": tmp_path, "monkeypatch": patch, "host": listener}
        arguments = {each: given[each] for each in inspect.signature(guard.test).parameters}
        take_out(patch, guard)
        stack.enter_context(pytest.raises(_FAILURES))
        async with asyncio.timeout(_SECONDS):
            outcome = guard.test(**arguments)
            if inspect.isawaitable(outcome):
                await outcome
