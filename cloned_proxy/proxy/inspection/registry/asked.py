"""One exchange under a rule with `registry`: what it asks for, and how that is asked upstream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qs, quote, urlsplit

from cloned_proxy.policy.paths.registry_path import PackagePart, Target, metadata_path, project_json_path, target_of
from cloned_proxy.policy.terms.registry import Registry, RegistryKind
from cloned_proxy.policy.terms.vocabulary import Mode
from cloned_proxy.proxy.inspection.examining.examiners import Admitted
from cloned_proxy.proxy.inspection.registry import pypi
from cloned_proxy.proxy.inspection.registry.lookup import ACCEPT, url_of

READING = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Asked:
    admitted: Admitted
    registry: Registry
    target: Target

    @classmethod
    def by(cls, admitted: Admitted) -> Self | None:
        """None for an exchange under another rule."""
        rule = admitted.grant.decision.rule
        if rule is None or rule.denies or rule.registry is None:
            return None
        return cls(admitted, rule.registry, target_of(rule.registry, admitted.head.path))

    @property
    def reads_metadata(self) -> bool:
        return self.target.part is PackagePart.METADATA and self.admitted.head.method in READING

    @property
    def reads_file(self) -> bool:
        return self.target.part is PackagePart.FILE and self.admitted.head.method in READING

    @property
    def is_exempt(self) -> bool:
        return self.registry.exempts(self.target.package)

    @property
    def is_filtered(self) -> bool:
        """Whether it is metadata that is shown without what is too young.

        Not in `report` mode, not of an exempt package, and not to a client that will write it back.
        """
        reporting = self.admitted.grant.decision.mode is Mode.REPORT
        return self.reads_metadata and not (reporting or self.is_exempt or self.is_for_writing)

    @property
    def is_for_writing(self) -> bool:
        """Whether npm is to change it and send it back: it says `write=true` then, and the rule must let it do so.

        What was left out of it would be taken for unpublished.
        """
        rule = self.admitted.grant.decision.rule
        query = parse_qs(urlsplit(self.admitted.head.path).query)
        may_write = rule is not None and (rule.methods is None or "PUT" in rule.methods)
        return self.registry.kind is RegistryKind.NPM and may_write and query.get("write") == ["true"]

    @property
    def path(self) -> str:
        """The path of metadata upstream. Of npm it is the whole packument, which alone has dates."""
        target = self.target
        if target.whole:
            path = project_json_path(self.registry, target.package)
            return f"{path.removesuffix('json')}{_segment(target.version)}/json" if target.version else path
        path = metadata_path(self.registry, target.package)
        if self.is_for_writing:
            return f"{path}?write=true"
        return f"{path}/{_segment(target.version)}" if target.version and not self.is_filtered else path

    @property
    def file_path(self) -> str:
        """The path of a file upstream, in the spelling that holds no escape."""
        return quote(self.target.path + self.target.beside, safe="/!$&'()*+,=:@~")

    @property
    def url(self) -> str:
        """The URL of the metadata upstream."""
        return url_of(self.admitted.grant, self.path)

    @property
    def accept(self) -> str:
        """What is asked for upstream, whatever the client wants to have."""
        return "application/json" if self.target.whole else ACCEPT[self.registry.kind]

    @property
    def wants_html(self) -> bool:
        """Whether the client gets a page in HTML: only PyPI's simple API has one."""
        if self.registry.kind is not RegistryKind.PYPI or self.target.whole:
            return False
        return not pypi.wants_json(value for name, value in self.admitted.head.fields if name == "accept")


def _segment(text: str) -> str:
    return quote(text, safe="!+")
