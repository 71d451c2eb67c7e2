"""`llm up|down|status`: the local model, sealed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cloned_proxy.cli.place.options import JsonOption, WorkspaceOption

app = typer.Typer(help="The local model, sealed, on 127.0.0.1:8080 only.", no_args_is_help=True, rich_markup_mode=None)


@app.command("up")
def up(
    *,
    engine: Annotated[
        Literal["localai", "llama.cpp", "ollama", "vllm"] | None,
        typer.Option("--engine", help="Default: `llm: {engine: …}` of config.yaml, else localai."),
    ] = None,
    image: Annotated[str | None, typer.Option("--image", metavar="IMAGE", help="Instead of the engine's own.")] = None,
    models: Annotated[
        Path | None, typer.Option("--models", metavar="DIR", help="Models; default: ./models beside the workspace.")
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option("--gpus", metavar="N|all|devices", help="By NVIDIA's toolkit, or the device nodes themselves."),
    ] = None,
    health: Annotated[
        str | None, typer.Option("--health", metavar="PATH", help="What answers 200 once the model is loaded.")
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", help="For the model to be ready; then it loads on.")
    ] = 120.0,
    workspace: WorkspaceOption = None,
) -> None:
    """Start the model without any way out. A relay on 127.0.0.1:8080 leads to it."""
    from cloned_proxy.cli.commands.model.llm_server import UpOptions, bring_up

    bring_up(
        UpOptions(workspace=workspace, models=models, wait=wait, engine=engine, image=image, gpus=gpus, health=health)
    )


@app.command("down")
def down(*, workspace: WorkspaceOption = None) -> None:
    """Stop both."""
    from cloned_proxy.cli.commands.model.llm_server import take_down

    take_down(workspace)


@app.command("status")
def status(*, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Whether the model runs and answers; exit 1 when it does not."""
    from cloned_proxy.cli.commands.model.llm_server import show_status

    raise typer.Exit(show_status(workspace, as_json=as_json))
