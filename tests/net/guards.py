"""How each guard is taken out: one small patch a guard, at the place where the guard stands.

A patch that finds nothing to replace raises: a guard that has moved must not leave a test that proves nothing.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final

from OpenSSL import SSL

from cloned_proxy.policy.callers import identity
from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.deciding import decide as deciding
from cloned_proxy.policy.deciding import decide_addresses as addressing
from cloned_proxy.policy.deciding import refusal, rule_search
from cloned_proxy.policy.paths import path as paths
from cloned_proxy.policy.terms.address import AddressClass
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.host import parse_host
from cloned_proxy.policy.terms.vocabulary import Reason, Verdict
from cloned_proxy.proxy.enforce import answers, enforcer, review
from cloned_proxy.proxy.grants import grant
from cloned_proxy.proxy.inspection.certificates import tls
from cloned_proxy.proxy.inspection.connections import heads
from cloned_proxy.proxy.inspection.http1 import connection as inspected_connection
from cloned_proxy.proxy.inspection.registry import examiner as registry_examiner
from cloned_proxy.proxy.inspection.registry import lookup as registry_lookup
from cloned_proxy.proxy.inspection.registry import metadata as registry_metadata
from cloned_proxy.proxy.inspection.requests import admission
from cloned_proxy.proxy.inspection.upstream import pool
from cloned_proxy.proxy.own import requests_api
from cloned_proxy.proxy.plain import admission as plain_admission
from cloned_proxy.proxy.plain import client as plain_client
from cloned_proxy.proxy.secrets import leak
from cloned_proxy.proxy.transport import listener
from cloned_proxy.proxy.tunnel import client, connect_tunnel
from cloned_proxy.proxy.tunnel import transparent as transparent_connection
from cloned_proxy.proxy.upstream import ways
from cloned_proxy.proxy.upstream.chained import failure, front
from cloned_proxy.proxy.upstream.dial import Dial
from cloned_proxy.proxy.wire import fields, head
from cloned_proxy.proxy.wire import response as plain_response
from cloned_proxy.store.approvals import approval_rules, approvals
from cloned_proxy.store.audit import audit_writer
from cloned_proxy.telemetry.events import AuditUnavailableError

type Patch = Callable[[], None]


def replace_part(target: Any, name: str, value: Any) -> None:
    if not hasattr(target, name):
        raise AttributeError(f"{target} has no {name}: the guard has moved, and this table must follow it")
    setattr(target, name, value)


# The decision ------------------------------------------------------------------------------------------------------


def _no_decision() -> None:
    def allow(policy: Any, caller: Any, request: Any, now: float, spent: Any = (), **_: Any) -> Decision:
        return Decision(Verdict.ALLOW, Reason.ALLOWED, request, caller.tool, parse_host(request.host))

    for module in (enforcer, review):
        replace_part(module, "decide", allow)


def _no_deny_rules() -> None:
    replace_part(rule_search, "_denying_rule", lambda scopes, host, request, now: (None, None))
    replace_part(addressing, "_denied_network", lambda decision, address: None)


def _no_ports() -> None:
    original = rule_search._miss_of
    replace_part(
        rule_search, "_miss_of", lambda rule, *rest: original(replace(rule, ports=frozenset(range(65_536))), *rest)
    )


def _no_methods_and_paths() -> None:
    replace_part(rule_search, "_inner_miss_of", lambda rule, method, path: None)


def _paths_as_written() -> None:
    def matches(pattern: Any, target: str) -> bool:
        segments = tuple(target.partition("?")[0].split("/")[1:])
        return paths._glob(pattern.segments, segments, "**", paths._segment_matches)

    replace_part(rule_search, "path_matches", matches)


def _report_everything() -> None:
    replace_part(refusal, "NEVER_REPORTED", frozenset())


# Addresses ---------------------------------------------------------------------------------------------------------


def _no_address_classes() -> None:
    replace_part(addressing, "classify", lambda address: AddressClass.PUBLIC)


def _networks_open_everything() -> None:
    replace_part(addressing, "_is_opened", lambda decision, rule, address: True)


def _no_own_listener_check() -> None:
    replace_part(listener.OwnListeners, "__contains__", lambda self, item: False)


def _resolve_before_deciding() -> None:
    original = enforcer.Enforcer.authorise

    async def authorise(self: Any, caller: Any, request: Any, kind: Any, **options: Any) -> Any:
        await self._places.resolve(parse_host(request.host))
        return await original(self, caller, request, kind, **options)

    _authorise_by(authorise)


def _authorise_by(authorise: Callable[..., Any]) -> None:
    replace_part(enforcer.Enforcer, "authorise", authorise)
    replace_part(enforcer.Enforcer, "authorise_now", lambda *arguments: None)  # it may always leave it to the other


def _resolve_again_for_the_dial() -> None:
    original = enforcer.Enforcer.authorise

    async def authorise(self: Any, *arguments: Any, **options: Any) -> Any:
        granted = await original(self, *arguments, **options)
        if isinstance(granted, grant.Grant) and granted.decision.host is not None:
            return replace(granted, addresses=await self._places.resolve(granted.decision.host))
        return granted

    _authorise_by(authorise)


# Tunnels -----------------------------------------------------------------------------------------------------------


def _no_sni_check() -> None:
    original = vars(connect_tunnel)["decide_tunnel"]  # perhaps without the other guard already
    replace_part(
        connect_tunnel,
        "decide_tunnel",
        lambda decision, names: original(decision, names) if names is None else decision,
    )


def _no_further_hellos() -> None:
    """Only the first ClientHello of a tunnel is looked at."""
    replace_part(connect_tunnel, "HelloGuard", lambda *_: None)


def _no_tls_check() -> None:
    original = vars(connect_tunnel)["decide_tunnel"]  # perhaps without the other guard already
    replace_part(
        connect_tunnel,
        "decide_tunnel",
        lambda decision, names: decision if names is None else original(decision, names),
    )


def _no_ssh_check() -> None:
    """A tunnel under `protocols: [ssh]` is one under `[tcp]`."""
    replace_part(Decision, "must_be_ssh", property(lambda decision: False))


# The proxy in front ------------------------------------------------------------------------------------------------


def _front_is_a_destination() -> None:
    replace_part(front.UpstreamProxy, "closed_to", lambda self, decision: self._own)


def _falls_back_to_direct() -> None:
    """As clients with a PAC file do it: what the proxy in front does not give is dialled."""
    chained = ways.Ways.attempt

    def attempt(self: Any, granted: Any, on_end: Callable[[Any], None]) -> Any:
        def ended(outcome: Any) -> None:
            if isinstance(outcome, failure.UpstreamProxyError):
                Dial(granted.addresses, granted.decision.request.port, seconds=5, on_end=on_end).start()
            else:
                on_end(outcome)

        return chained(self, granted, ended)

    replace_part(ways.Ways, "attempt", attempt)
    replace_part(ways.Ways, "chained", lambda self, granted: False)


# Heads -------------------------------------------------------------------------------------------------------------


def _everywhere_parse_head(parse: Callable[..., Any]) -> None:
    for module in (client, inspected_connection, transparent_connection):
        replace_part(module, "parse_head", parse)


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

    replace_part(head, "read_framing", read)


def _no_host_check() -> None:
    replace_part(head, "_check_host_field", lambda *arguments: None)


def _no_account_of_bodies() -> None:
    """Behind an answer of ours the whole body is thrown away, however much of it had been read."""
    original = plain_client.PlainClient.answer

    def answer(self: Any, asked: Any, *rest: Any, **options: Any) -> None:
        self.intake.begin(asked)
        original(self, asked, *rest, **options)

    replace_part(plain_client.PlainClient, "answer", answer)


def _no_inner_host_check() -> None:
    replace_part(admission, "_same_target", lambda inner, tunnel: True)


def _lenient_http2() -> None:
    class Anything:
        @staticmethod
        def fullmatch(text: bytes) -> bool:
            return True

    replace_part(heads, "_NAME", Anything)
    replace_part(heads, "_VALUE", Anything)


def _no_dial_guard() -> None:
    replace_part(pool, "_check", lambda grant, tunnel: None)


def _no_stripping() -> None:
    replace_part(fields, "OURS", ("no-such-prefix-",))
    replace_part(fields, "_HOP_BY_HOP", frozenset())
    replace_part(fields, "options_of", lambda found: frozenset())
    replace_part(plain_response, "passes", lambda name, named: True)


# Identity ----------------------------------------------------------------------------------------------------------


def everywhere_identify(make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    for module in (connect_tunnel, plain_admission):
        replace_part(module, "identify", make(module.identify))


def _no_signature_check() -> None:
    original = identity._verified

    def verified(key: bytes, token: str) -> Any:
        signed = token.rpartition(".")[0]
        return original(key, f"{signed}.{identity._signature(key, signed)}")

    replace_part(identity, "_verified", verified)


def _no_expiry() -> None:
    everywhere_identify(lambda original: lambda found, **options: original(found, **{**options, "now": 0.0}))


def _believe_headers() -> None:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def identify(found: Sequence[tuple[str, str]], **options: Any) -> Any:
            claimed = dict(found).get("x-cloned-tool")
            return Principal(claimed) if claimed else original(found, **options)

        return identify

    everywhere_identify(make)


def _believe_credentials_over_listeners() -> None:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def identify(found: Sequence[tuple[str, str]], **options: Any) -> Any:
            if any(name == "proxy-authorization" for name, _ in found):
                options["listener"] = None
            return original(found, **options)

        return identify

    everywhere_identify(make)


def _identify_once_a_connection() -> None:
    admit = vars(plain_client)["admit"]
    first: dict[Any, Any] = {}

    def admit_as_the_first(client: Any, asked: Any) -> None:
        asked = replace(asked, fields=first.setdefault(client, asked).fields)
        admit(client, asked)

    replace_part(plain_client, "admit", admit_as_the_first)


def _anonymous_is_fine() -> None:
    replace_part(deciding, "_identity_refusal", lambda policy, caller: None)


# Upstream ----------------------------------------------------------------------------------------------------------


def _no_upstream_verification() -> None:
    original = tls._verifying_context

    def context(extra_ca: Any) -> SSL.Context:
        made = original(extra_ca)
        made.set_verify(SSL.VERIFY_NONE)
        return made

    replace_part(tls, "_verifying_context", context)


# Secrets -----------------------------------------------------------------------------------------------------------


def _no_search_for_secrets() -> None:
    replace_part(leak.LeakWatch, "in_head", lambda self, asked: "")
    replace_part(leak.LeakWatch, "scanner", lambda self, asked: None)


# Records -----------------------------------------------------------------------------------------------------------


def _no_refusal_without_record() -> None:
    for name in ("record", "denied"):
        replace_part(audit_writer.AuditWriter, name, _heedless(getattr(audit_writer.AuditWriter, name)))


def _heedless(original: Callable[..., Any]) -> Callable[..., Any]:
    def record(self: Any, event: Any, **options: Any) -> Any:
        try:
            return original(self, event, **options)
        except AuditUnavailableError:
            return getattr(event, "id", "")

    return record


# Asking for more ---------------------------------------------------------------------------------------------------


def _ask_for_anybody() -> None:
    replace_part(approvals, "check_permission", lambda *_: None)


def _look_at_any_request() -> None:
    async def look(self: Any, tool: str, approval_id: str) -> Any:
        approval = await self._asking.run(lambda: self._service.get(approval_id))
        return answers.own(HTTPStatus.OK, self._about(approval))

    replace_part(requests_api.RequestsApi, "_look", look)


def _our_name_is_a_name_like_others() -> None:
    replace_part(deciding, "OWN_HOST", "")


def _keep_what_is_written() -> None:
    replace_part(approval_rules, "redact", lambda text: text)


# Registries --------------------------------------------------------------------------------------------------------


def _no_age() -> None:
    for module in (registry_examiner, registry_metadata):
        replace_part(module, "decide_age", lambda decision, age, now: decision)


def _registries_in_the_clear() -> None:
    for module in (enforcer, review):
        replace_part(module, "decide_in_the_clear", lambda decision: decision)


def _no_age_beside_a_broad_rule() -> None:
    replace_part(rule_search, "preferred", lambda rules, path: None)


def _paths_as_they_came() -> None:
    """Any package may vouch for a file, and the path goes upstream in the spelling of the client."""
    original = registry_lookup.AgeLookup.age_of

    async def age_of(self: Any, grant: Any, head: Any, target: Any, now: float) -> Any:
        found = await original(self, grant, head, target, now)
        return replace(found, spelled=head.path)

    replace_part(registry_lookup.AgeLookup, "age_of", age_of)


GUARDS: Final[dict[str, Patch]] = {
    "the decision": _no_decision,
    "deny rules": _no_deny_rules,
    "ports": _no_ports,
    "methods and paths": _no_methods_and_paths,
    "every reading of a path": _paths_as_written,
    "what report mode never opens": _report_everything,
    "address classes": _no_address_classes,
    "what a network opens": _networks_open_everything,
    "own listeners": _no_own_listener_check,
    "decide before DNS": _resolve_before_deciding,
    "dial the checked address": _resolve_again_for_the_dial,
    "SNI": _no_sni_check,
    "the age of files": _no_age,
    "registries only by https": _registries_in_the_clear,
    "an age that no broad rule takes away": _no_age_beside_a_broad_rule,
    "the path that was judged": _paths_as_they_came,
    "further ClientHellos": _no_further_hellos,
    "TLS in tunnels": _no_tls_check,
    "SSH in tunnels": _no_ssh_check,
    "strict lines": _lenient_lines,
    "framing": _no_framing_check,
    "what is left of a body": _no_account_of_bodies,
    "Host": _no_host_check,
    "inner Host": _no_inner_host_check,
    "the grant of each dial": _no_dial_guard,
    "HTTP/2 fields": _lenient_http2,
    "header stripping": _no_stripping,
    "token signature": _no_signature_check,
    "token expiry": _no_expiry,
    "identity is proved": _believe_headers,
    "listener-bound identity": _believe_credentials_over_listeners,
    "identity of each request": _identify_once_a_connection,
    "anonymous": _anonymous_is_fine,
    "upstream verification": _no_upstream_verification,
    "secrets on their way out": _no_search_for_secrets,
    "no record, no request": _no_refusal_without_record,
    "who may ask": _ask_for_anybody,
    "whose request it is": _look_at_any_request,
    "our own name": _our_name_is_a_name_like_others,
    "redaction": _keep_what_is_written,
}

FRONT_GUARDS: Final[dict[str, Patch]] = {
    "the proxy in front": _front_is_a_destination,
    "never directly": _falls_back_to_direct,
}
"""Those that stand only where a proxy is in front: `tests/e2e/test_upstream_proxy.py` has their attacks."""
