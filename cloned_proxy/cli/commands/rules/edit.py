"""`allow`, `deny`, `remove`: edits of the policy file that act on a running proxy at once."""

from __future__ import annotations

from typing import Annotated

import typer

from cloned_proxy.cli.place.options import (
    DryRunOption,
    PolicyOption,
    PresetOption,
    ReasonOption,
    ToolOption,
    UpdateTestsOption,
    WorkspaceOption,
)


def allow(
    hosts: Annotated[
        list[str] | None, typer.Argument(metavar="HOST[:PORT]...", help="*.example.com, 192.0.2.1:8080, 10.20.0.0/16")
    ] = None,
    *,
    tool: ToolOption = None,
    preset: PresetOption = None,
    lasting: Annotated[str | None, typer.Option("--for", metavar="DURATION", help="Until then, such as 30m.")] = None,
    uses: Annotated[int | None, typer.Option("--uses", metavar="N", min=1, help="That many requests.")] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", metavar="METHOD", help="Only this; repeatable.")
    ] = None,
    path: Annotated[list[str] | None, typer.Option("--path", metavar="GLOB", help="Only '/v1/**'; repeatable.")] = None,
    port: Annotated[
        list[int] | None, typer.Option("--port", metavar="PORT", min=1, max=65535, help="As HOST:PORT; repeatable.")
    ] = None,
    tcp: Annotated[bool, typer.Option("--tcp", help="A tunnel may carry anything, not only TLS.")] = False,
    ssh: Annotated[bool, typer.Option("--ssh", help="A tunnel carries SSH, on port 22 or as you say.")] = False,
    private: Annotated[
        bool, typer.Option("--private", help="The name may resolve to loopback and private addresses.")
    ] = False,
    reserved: Annotated[
        bool, typer.Option("--reserved", help="The name may resolve to addresses that IANA reserves.")
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="EVERY public host, for a --tool within its --limit; stands alone.")
    ] = False,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="NAME=N", help="With --public: requests_per_minute=120; repeatable."),
    ] = None,
    registry: Annotated[
        str | None, typer.Option("--registry", metavar="npm|pypi", help="A registry: nothing too young of it.")
    ] = None,
    min_age: Annotated[
        str | None, typer.Option("--min-age", metavar="DURATION", help="With --registry; 7d if left out.")
    ] = None,
    package: Annotated[
        list[str] | None,
        typer.Option("--package", metavar="NAME", help="With --registry: of any age; repeatable."),
    ] = None,
    index: Annotated[
        str | None, typer.Option("--index", metavar="PATH", help="With --registry: where its metadata is.")
    ] = None,
    reason: ReasonOption = "",
    update_tests: UpdateTestsOption = False,
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
) -> None:
    """Allow hosts, for everybody or for one tool."""
    import time

    from cloned_proxy.cli.commands.rules.allowing import allow_hosts
    from cloned_proxy.cli.commands.rules.registry_rule import registry_value
    from cloned_proxy.cli.editing.editing import EditOptions
    from cloned_proxy.cli.place.arguments import typed
    from cloned_proxy.cli.show.errors import CommandError
    from cloned_proxy.policy.terms.host_port import split_port
    from cloned_proxy.policy.terms.units import parse_term
    from cloned_proxy.policy.terms.vocabulary import SSH_PORT
    from cloned_proxy.store.policyfile.policy_entry import Entry

    options = EditOptions(workspace, policy, reason, dry_run, update_tests)
    narrow = hosts or lasting or uses or method or path or port or tcp or ssh or private or reserved or registry
    if public:
        from cloned_proxy.cli.commands.rules.public_rule import allow_public

        if narrow or preset:
            raise CommandError("--public stands alone and covers every public host; allow others by another command")
        allow_public(limit or (), tool=tool, options=options)
        return
    if limit:
        raise CommandError(
            "--limit bounds a tool that has --public; the limits of others are edited in the policy file"
        )
    if preset:
        from cloned_proxy.cli.editing.presets import allow_presets

        if narrow:
            raise CommandError("--preset stands alone and brings its own hosts; allow others by another command")
        allow_presets(preset, tool=tool, options=options)
        return
    if not hosts:
        raise CommandError("name a HOST, or a --preset; `cloned-proxy preset list` shows the presets")
    if tcp and ssh:
        raise CommandError("--tcp lets anything pass, SSH as well; leave one out")
    expires = None if lasting is None else time.time() + typed(parse_term, lasting, "--for")
    places = [typed(split_port, text) for text in hosts]
    words = {"private": private, "reserved": reserved}
    dated = registry_value(registry, min_age, package or (), index)
    usual = (SSH_PORT,) if ssh else () if dated is None else (443,)
    entries = [
        Entry(
            host,
            ports=tuple(dict.fromkeys((*(() if given is None else (given,)), *(port or ())))) or usual,
            methods=tuple(name.upper() for name in method or ()),
            paths=tuple(path or ()),
            protocols=("tcp",) if tcp else ("ssh",) if ssh else (),
            addresses=tuple(word for word, wanted in words.items() if wanted),
            registry=dated,
            expires=expires,
            max_uses=uses,
            reason=reason,
        )
        for host, given in places
    ]
    allow_hosts(entries, tool=tool, options=options)


def deny(
    hosts: Annotated[list[str], typer.Argument(metavar="HOST...", help="Every port of it; **.example.com, 10.0.0.0/8")],
    *,
    tool: ToolOption = None,
    path: Annotated[
        list[str] | None, typer.Option("--path", metavar="GLOB", help="Only '/admin/**' of it; repeatable.")
    ] = None,
    exceptions: Annotated[
        list[str] | None, typer.Option("--except", metavar="HOST", help="But not this one below it; repeatable.")
    ] = None,
    reason: ReasonOption = "",
    update_tests: UpdateTestsOption = False,
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
) -> None:
    """Deny hosts; an explicit deny wins over every allow."""
    from cloned_proxy.cli.editing.editing import EditOptions, add_entries, hosts_only
    from cloned_proxy.store.policyfile.policy_entry import Entry

    entries = [
        Entry(host, paths=tuple(path or ()), exceptions=tuple(exceptions or ()), reason=reason)
        for host in hosts_only(hosts)
    ]
    add_entries("deny", entries, tool=tool, options=EditOptions(workspace, policy, reason, dry_run, update_tests))


def remove(
    hosts: Annotated[
        list[str] | None, typer.Argument(metavar="HOST...", help="As it stands in the rule; or one rule id.")
    ] = None,
    *,
    tool: ToolOption = None,
    preset: PresetOption = None,
    reason: ReasonOption = "",
    update_tests: UpdateTestsOption = False,
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
) -> None:
    """Take back an allow or a deny, with every port and path of it."""
    from cloned_proxy.cli.editing.editing import EditOptions, remove_hosts
    from cloned_proxy.cli.show.errors import CommandError

    options = EditOptions(workspace, policy, reason, dry_run, update_tests)
    if preset:
        from cloned_proxy.cli.editing.presets import remove_presets

        if hosts:
            raise CommandError("--preset stands alone; remove hosts by another command")
        remove_presets(preset, tool=tool, options=options)
        return
    if not hosts:
        raise CommandError("name a HOST, a rule id, or a --preset; `cloned-proxy list` shows what there is")
    remove_hosts(hosts, tool=tool, options=options)
