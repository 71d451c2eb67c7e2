"""`init`: a workspace with a policy of its own, from three answers."""

from __future__ import annotations

from typing import Annotated

import typer

from cloned_proxy.cli.place.options import DryRunOption, JsonOption, PolicyOption, WorkspaceOption


def init(
    *,
    run: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="WHAT", help="claude-code, codex, gemini-cli, or a tool id; repeatable."),
    ] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option("--preset", metavar="NAME", help="More hosts for it (`preset list`), or none; repeatable."),
    ] = None,
    sandbox: Annotated[
        bool | None, typer.Option("--sandbox/--no-sandbox", help="Whether it is to run in a sealed container.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: the default for what no option says.")] = False,
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask what you run here, show the policy and write it. Then say the next command."""
    import sys
    from dataclasses import replace

    from cloned_proxy.cli.commands.workspace.asking import GivenAnswers, ask
    from cloned_proxy.cli.commands.workspace.images_here import images_here
    from cloned_proxy.cli.commands.workspace.initial import check_free, place_for, write
    from cloned_proxy.cli.show.errors import CommandError, say
    from cloned_proxy.cli.show.output import put, put_json

    place = place_for(workspace)
    check_free(place, policy)
    open_questions = run is None or preset is None or sandbox is None
    if open_questions and not yes and not sys.stdin.isatty():
        raise CommandError(
            "there is no terminal to ask at; say --yes for the defaults, or answer by --run, --preset and --sandbox"
        )
    answers = ask(GivenAnswers(run, preset, sandbox), place, at_terminal=not yes)
    made = write(answers, place, policy, dry_run=dry_run)
    if answers.sandbox:
        made = replace(made, images=images_here())
    if as_json:
        put_json(made.as_data())
        return
    put(made.text.rstrip("\n"))
    for line in made.messages():
        say(line)
