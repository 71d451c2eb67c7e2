"""The program's commands, in the order in which `--help` lists them."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import typer
import typer.main

from cloned_proxy.cli.commands.approvals import approvals
from cloned_proxy.cli.commands.clients import ca, connect, pair, proxy, setup, token, vault
from cloned_proxy.cli.commands.doctor import doctor
from cloned_proxy.cli.commands.fleet import fleet
from cloned_proxy.cli.commands.images import image
from cloned_proxy.cli.commands.log import audit, log
from cloned_proxy.cli.commands.mcp import mcp
from cloned_proxy.cli.commands.model import llm
from cloned_proxy.cli.commands.pipelines import run
from cloned_proxy.cli.commands.policy import policy, preset
from cloned_proxy.cli.commands.rules import edit, explain, rules
from cloned_proxy.cli.commands.sandbox import exec_tool, home, shell, verify
from cloned_proxy.cli.commands.serving import serve
from cloned_proxy.cli.commands.status import status
from cloned_proxy.cli.commands.workspace import init
from cloned_proxy.cli.start.help_examples import add_examples

# Typer's rich rendering doubles the time of `--help` and draws frames that no script wants to read.
app = typer.Typer(
    help="The egress firewall for AI-agent tools: default-deny, per tool, live, every decision on record.",
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(value: bool) -> None:
    if value:
        from cloned_proxy.cli.start.version import print_version

        print_version()
        raise typer.Exit


@app.callback()
def _program(
    context: typer.Context,
    *,
    version: Annotated[  # noqa: ARG001  its callback answers
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        from cloned_proxy.cli.commands.status.next_step import show_next_step

        show_next_step()


app.command("init")(init.init)
app.command("serve")(serve.serve)
app.command("status")(status.status)
app.command("allow")(edit.allow)
app.command("deny")(edit.deny)
app.command("remove")(edit.remove)
app.command("list")(rules.list_rules)
app.command("explain")(explain.explain)
app.command("log")(log.log)
app.add_typer(approvals.app, name="approvals")
app.add_typer(audit.app, name="audit")
app.add_typer(policy.app, name="policy")
app.add_typer(preset.app, name="preset")
app.add_typer(vault.app, name="vault")
app.command("proxy")(proxy.proxy)
app.command("token")(token.token)
app.command("connect")(connect.connect)
app.command("pair")(pair.pair)
app.add_typer(pair.app, name="devices")
app.command("doctor")(doctor.doctor)
app.command("ca")(ca.ca)
app.command("exec")(exec_tool.exec_tool)
app.command("shell", cls=shell.BehindDashes)(shell.shell)
app.add_typer(home.app, name="home")
app.add_typer(mcp.app, name="mcp")
app.command("setup")(setup.setup)
app.add_typer(image.app, name="image")
app.command("run")(run.run)
app.command("verify")(verify.verify)
app.add_typer(llm.app, name="llm")
app.add_typer(fleet.app, name="fleet")
add_examples(app)


@functools.cache
def program() -> Any:
    """The commands as Click's. Typer reads all their signatures for them, most of the time of a small command: once."""
    return typer.main.get_command(app)
