"""The product with named guards taken out, to show that the attack each of them stops is real.

`python -m tests.net.broken_builds GUARD... -- serve …` is `cloned-proxy serve …` without these guards. Everything
else is the real thing: same composition root, same listeners, same files. `FAULTS` break a part on purpose instead;
whatever they break, nothing may pass.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from OpenSSL import SSL

from cloned_proxy.cli import main as command_line
from cloned_proxy.policy import decide as deciding
from cloned_proxy.policy import identity
from cloned_proxy.policy.address import AddressClass
from cloned_proxy.policy.host import parse_host
from cloned_proxy.policy.model import CallerSource, Decision, Principal, Reason, Verdict
from cloned_proxy.proxy import connect, connection, enforcer, head, listener, server
from cloned_proxy.proxy.inspection import connection as inspected_connection
from cloned_proxy.proxy.inspection import egress_addon, fields, http_layers, tls
from cloned_proxy.store.audit_writer import AuditWriter
from cloned_proxy.telemetry.events import AuditUnavailableError

type Patch = Callable[[], None]


def _set(target: Any, name: str, value: Any) -> None:
    if not hasattr(target, name):
        raise AttributeError(f"{target} has no {name}: the guard has moved, and this table must follow it")
    setattr(target, name, value)


# The decision ------------------------------------------------------------------------------------------------------


def _no_decision() -> None:
    def allow(policy: Any, caller: Any, request: Any, now: float, spent: Any = ()) -> Decision:
        return Decision(Verdict.ALLOW, Reason.ALLOWED, request, caller.tool, parse_host(request.host))

    _set(enforcer, "decide", allow)


def _no_deny_rules() -> None:
    _set(deciding, "_denying_rule", lambda scopes, host, now: None)


def _no_ports() -> None:
    original = deciding._miss_of
    _set(deciding, "_miss_of", lambda rule, *rest: original(replace(rule, ports=frozenset(range(65_536))), *rest))


def _no_methods_and_paths() -> None:
    _set(deciding, "_inner_miss_of", lambda rule, method, path: None)


def _report_everything() -> None:
    _set(deciding, "NEVER_REPORTED", frozenset())


# Addresses ---------------------------------------------------------------------------------------------------------


def _no_address_classes() -> None:
    _set(deciding, "classify", lambda address: AddressClass.PUBLIC)


def _no_own_listener_check() -> None:
    _set(listener.OwnListeners, "__contains__", lambda self, item: False)


def _resolve_before_deciding() -> None:
    original = enforcer.Enforcer.authorise

    async def authorise(self: Any, caller: Any, request: Any, kind: Any, **options: Any) -> Any:
        await self._resolver.resolve(parse_host(request.host))
        return await original(self, caller, request, kind, **options)

    _set(enforcer.Enforcer, "authorise", authorise)


def _resolve_again_for_the_dial() -> None:
    original = enforcer.Enforcer.authorise

    async def authorise(self: Any, *arguments: Any, **options: Any) -> Any:
        granted = await original(self, *arguments, **options)
        if isinstance(granted, enforcer.Grant) and granted.decision.host is not None:
            return replace(granted, addresses=await self._resolver.resolve(granted.decision.host))
        return granted

    _set(enforcer.Enforcer, "authorise", authorise)


# Tunnels -----------------------------------------------------------------------------------------------------------


def _no_sni_check() -> None:
    original = deciding.decide_tunnel
    _set(connect, "decide_tunnel", lambda decision, names: original(decision, names) if names is None else decision)


def _no_tls_check() -> None:
    original = deciding.decide_tunnel
    _set(connect, "decide_tunnel", lambda decision, names: decision if names is None else original(decision, names))


# Heads -------------------------------------------------------------------------------------------------------------


def _everywhere_parse_head(parse: Callable[..., Any]) -> None:
    for module in (connection, http_layers):
        _set(module, "parse_head", parse)


def _lenient_lines() -> None:
    """Bare LF and obs-fold are mended, as a helpful parser would."""

    def parse(data: bytes, **options: Any) -> Any:
        mended = re.sub(rb"\r?\n[ \t]+", b" ", re.sub(rb"\r?\n", b"\r\n", data))
        return head.parse_head(mended, **options)

    _everywhere_parse_head(parse)


def _no_framing_check() -> None:
    def read(singles: dict[str, str], method: str, minor: int) -> tuple[int | None, bool]:
        length = singles.get("content-length", "")
        return (int(length) if length.isdigit() else None), "chunked" in singles.get("transfer-encoding", "")

    _set(head, "_read_framing", read)


def _no_host_check() -> None:
    _set(head, "_check_host_field", lambda *arguments: None)


def _no_inner_host_check() -> None:
    _set(egress_addon, "_same_target", lambda inner, tunnel: True)


def _no_dial_guard() -> None:
    async def permit(self: Any, connection: Any, data: Any) -> None:
        return

    _set(egress_addon.EgressAddon, "server_connect", permit)


def _no_stripping() -> None:
    _set(fields, "_OURS", ("no-such-prefix-",))
    _set(fields, "_HOP_BY_HOP", frozenset())
    _set(fields, "options_of", lambda found: frozenset())


# Identity ----------------------------------------------------------------------------------------------------------


def _everywhere_identify(make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    for module in (connect, egress_addon):
        _set(module, "identify", make(module.identify))


def _no_signature_check() -> None:
    original = identity._verified

    def verified(key: bytes, token: str) -> Any:
        signed = token.rpartition(".")[0]
        return original(key, f"{signed}.{identity._signature(key, signed)}")

    _set(identity, "_verified", verified)


def _no_expiry() -> None:
    _everywhere_identify(lambda original: lambda found, **options: original(found, **{**options, "now": 0.0}))


def _believe_headers() -> None:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def identify(found: Sequence[tuple[str, str]], **options: Any) -> Any:
            claimed = dict(found).get("x-cloned-tool")
            return Principal(claimed) if claimed else original(found, **options)

        return identify

    _everywhere_identify(make)


def _believe_credentials_over_listeners() -> None:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def identify(found: Sequence[tuple[str, str]], **options: Any) -> Any:
            if any(name == "proxy-authorization" for name, _ in found):
                options["listener"] = None
            return original(found, **options)

        return identify

    _everywhere_identify(make)


def _identify_once_a_connection() -> None:
    original = egress_addon.EgressAddon.caller_of

    def caller_of(self: Any, connection: Any, asked: Any) -> Any:
        if not hasattr(connection, "first_caller"):
            connection.first_caller = original(self, connection, asked)
        return connection.first_caller

    _set(egress_addon.EgressAddon, "caller_of", caller_of)


def _anonymous_is_fine() -> None:
    _set(deciding, "_identity_refusal", lambda policy, caller: None)


# Upstream ----------------------------------------------------------------------------------------------------------


def _no_upstream_verification() -> None:
    original = tls._verifying_context

    def context(extra_ca: Any) -> SSL.Context:
        made = original(extra_ca)
        made.set_verify(SSL.VERIFY_NONE)
        return made

    _set(tls, "_verifying_context", context)


# Records -----------------------------------------------------------------------------------------------------------


def _no_refusal_without_record() -> None:
    original = enforcer.Enforcer._record

    def record(self: Any, event: Any, seconds: float) -> None:
        try:
            original(self, event, seconds)
        except AuditUnavailableError:
            return

    _set(enforcer.Enforcer, "_record", record)


# Faults: parts that break, where a fail-open design would let everything pass ----------------------------------------


def _raising(*arguments: Any, **options: Any) -> Any:
    raise RuntimeError("broken on purpose")


def _audit_is_full() -> None:
    def record(self: Any, event: Any) -> None:
        raise AuditUnavailableError("broken on purpose")

    _set(AuditWriter, "record", record)


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

    _set(server.Server, "start", start)


GUARDS: Final[dict[str, Patch]] = {
    "the decision": _no_decision,
    "deny rules": _no_deny_rules,
    "ports": _no_ports,
    "methods and paths": _no_methods_and_paths,
    "what report mode never opens": _report_everything,
    "address classes": _no_address_classes,
    "own listeners": _no_own_listener_check,
    "decide before DNS": _resolve_before_deciding,
    "dial the checked address": _resolve_again_for_the_dial,
    "SNI": _no_sni_check,
    "TLS in tunnels": _no_tls_check,
    "strict lines": _lenient_lines,
    "framing": _no_framing_check,
    "Host": _no_host_check,
    "inner Host": _no_inner_host_check,
    "server_connect": _no_dial_guard,
    "header stripping": _no_stripping,
    "token signature": _no_signature_check,
    "token expiry": _no_expiry,
    "identity is proved": _believe_headers,
    "listener-bound identity": _believe_credentials_over_listeners,
    "identity of each request": _identify_once_a_connection,
    "anonymous": _anonymous_is_fine,
    "upstream verification": _no_upstream_verification,
    "no record, no request": _no_refusal_without_record,
}

FAULTS: Final[dict[str, Patch]] = {
    "decide raises": lambda: _set(deciding, "_decide", _raising),
    "addresses raise": lambda: _set(enforcer, "decide_addresses", _raising),
    "the hook raises": lambda: _set(egress_addon.EgressAddon, "requestheaders", _raising),
    "the hook does nothing": lambda: _set(egress_addon.EgressAddon, "requestheaders", _doing_nothing),
    "the hook is gone": lambda: delattr(egress_addon.EgressAddon, "requestheaders"),
    "the dial hook raises": lambda: _set(egress_addon.EgressAddon, "server_connect", _raising),
    "the inspection raises": lambda: _set(inspected_connection, "make_layers", _raising),
    "identification raises": lambda: _everywhere_identify(lambda original: _raising),
    "the audit log is full": _audit_is_full,
    "metrics raise": lambda: _set(enforcer.Enforcer, "_event", _raising),
}

OPEN: Final = ("the decision", "address classes", "own listeners", "SNI", "TLS in tunnels", "strict lines", "framing",
               "Host", "inner Host", "server_connect", "header stripping", "identity is proved",
               "identity of each request", "upstream verification", "no record, no request")  # fmt: skip
"""Every guard that can be out at the same time."""


def main() -> None:
    wanted, rest = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    for name in wanted:
        ({**GUARDS, **FAULTS, SLOT: _open_slot}[name])()
    sys.argv = ["cloned-proxy", *rest]
    command_line()


if __name__ == "__main__":
    main()
