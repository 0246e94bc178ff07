"""The command that serves a run over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from latbench.cli.console import FAILED, note
from latbench.cli.options import (
    RUNS,
    DataOption,
    DeviceOption,
    MethodOption,
    ModelOption,
    PresetOption,
    RunArgument,
    RunsOption,
    SetOption,
    TrustOption,
    eval_changes,
)
from latbench.serving.settings import ServeSettings, is_loopback
from latbench.util.data_dir import use_data_dir

commands = typer.Typer()


@commands.command(rich_help_panel="Runs")
def serve(
    run: RunArgument = None,
    model: ModelOption = None,
    method: MethodOption = None,
    preset: PresetOption = None,
    host: Annotated[str, typer.Option(help="Address to listen at; the default is reached from this machine alone.")] = (
        ServeSettings.host
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = ServeSettings.port,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="LATBENCH_API_KEY", show_envvar=True, help="Key that clients must send; none by default."),
    ] = None,
    max_queue: Annotated[int, typer.Option(min=0, help="Answers that may wait beside those in the batch.")] = (
        ServeSettings.max_queue
    ),
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens that a request may ask for.")] = (
        ServeSettings.max_tokens
    ),
    name: Annotated[str | None, typer.Option(help="Name of the model for clients; the run's name by default.")] = None,
    settings: SetOption = None,
    device: DeviceOption = None,
    trust: TrustOption = False,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
) -> None:
    """Serve a run to any OpenAI client, with a page to ask at /.

    `--set generate.KEY=VALUE` sets what requests leave open.

    Ctrl-C stops it gracefully: what was asked is answered, nothing more is taken.
    """
    try:
        from latbench.serving.server import serve as serve_run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in ("starlette", "uvicorn"):
            raise
        note(f"error: {error.name} is not installed; run `pip install 'latbench[serve]'`")
        raise typer.Exit(FAILED) from None
    from latbench.evaluation.target import evaluation_target

    use_data_dir(data_dir)
    target, changes = evaluation_target(
        run,
        model,
        method,
        eval_changes(settings, None),
        preset=preset,
        device=device,
        runs_dir=runs_dir,
        trust_remote_code=trust,
    )
    if api_key is None and not is_loopback(host):
        note(f"mind: everybody who reaches {host} can ask this server; --api-key KEY asks for a key")
    serve_run(
        target,
        ServeSettings(host=host, port=port, api_key=api_key, max_queue=max_queue, max_tokens=max_tokens, name=name),
        changes=changes,
        on_start=lambda url: note(f"serving {target.folder} at {url}/v1, chat page at {url}/; Ctrl-C stops it"),
    )
