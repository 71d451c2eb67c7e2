"""The next step for someone who was denied something of a package registry for its age."""

from __future__ import annotations

import shlex
from typing import Final

from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.registry import INDEX_OF, Registry
from cloned_proxy.policy.terms.units import format_duration
from cloned_proxy.policy.terms.vocabulary import Reason

_LEASE: Final = "30m"


def registry_hint(decision: Decision) -> str:
    """The next step after a refusal by a rule with `registry`; "" for any other decision."""
    rule = decision.rule
    if rule is None or rule.registry is None or rule.denies:
        return ""
    if decision.reason is Reason.PROTOCOL_NOT_ALLOWED:
        return "a registry is asked by https: in the clear nobody leaves out what is too young"
    if decision.reason is not Reason.TOO_YOUNG:
        return ""
    words = _exempting_words(decision)
    return "; or ".join(filter(None, (age_told(decision), shlex.join(("cloned-proxy", *words)) if words else "")))


def age_told(decision: Decision) -> str:
    """What is too young, and what there is instead: for owner and tool alike. "" without an age."""
    age, rule = decision.age, decision.rule
    if age is None or rule is None or rule.registry is None:
        return ""
    name = " ".join(filter(None, (age.package or "this", age.version)))
    wanted = format_duration(rule.registry.min_age)
    if age.problem:
        told = f"nobody knows the age of {name}: {age.problem}"
    elif age.published is None and age.version:
        told = f"nobody knows the age of {name}: its registry gives no date"
    elif age.version:
        told = f"{name} is younger than {wanted}"
    else:
        told = f"all of {name} is younger than {wanted}"
    return f"{told}; newest that is old enough: {age.newest}" if age.newest else told


def _exempting_words(decision: Decision) -> list[str]:
    """The words of the `allow` command that lets this package through for a while; [] where there is no package."""
    age, rule, host = decision.age, decision.rule, decision.host
    if age is None or rule is None or rule.registry is None or host is None or not age.package:
        return []
    port = decision.request.port
    words = ["allow", host.authority if port == 443 else f"{host.authority}:{port}"]  # noqa: PLR2004  HTTPS
    words += [] if decision.tool is None else ["--tool", decision.tool]
    words += _registry_words(rule.registry)
    words += [f"--method={method}" for method in sorted(rule.methods or ())]
    words += [f"--path={path.text}" for path in rule.paths or ()]
    words += [f"--{word}" for word in sorted(rule.addresses)]
    return [*words, "--package", age.package, "--for", _LEASE]


def _registry_words(registry: Registry) -> list[str]:
    """The options of `allow` that make a rule with this registry, its exempt packages left out."""
    words = ["--registry", registry.kind.value, "--min-age", format_duration(registry.min_age)]
    return words + ([] if registry.index == INDEX_OF[registry.kind] else ["--index", registry.index])
