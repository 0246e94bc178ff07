"""What every measuring command takes, declared once: which run, which questions, how it is loaded, how it answers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latbench import registry
from latbench.cli.options import (
    RUNS,
    ColumnsOption,
    DataOption,
    DeviceOption,
    JsonOption,
    KindOption,
    LimitOption,
    MeasuredArgument,
    OneTaskOption,
    PromptOption,
    RunsOption,
    SamplesOption,
    SetOption,
    SplitOption,
    TrustOption,
    eval_changes,
    own_data_options,
)
from latbench.runs.run import find_run, load_run
from latbench.util.data_dir import use_data_dir

if TYPE_CHECKING:
    from latbench.evaluation.job import EvalJob


@dataclass(frozen=True)
class Asked:
    """The values of the shared options, and what follows from them."""

    run: str | None
    task: str | None
    columns: str | None
    kind: str | None
    prompt: str | None
    split: str | None
    limit: int | None
    samples: int | None
    settings: list[str] | None
    device: str | None
    trust: bool
    runs_dir: Path
    data_dir: Path | None
    as_json: bool

    @cached_property
    def job(self) -> EvalJob:
        """The evaluation that the command looks into."""
        return self.job_named(self.run)

    def job_named(self, name: str | None, usual: Mapping[str, Any] | None = None) -> EvalJob:
        """An evaluation that the command looks into.

        Args:
            name: of a run, or its folder, or the folder of one of its evaluations, whose settings it then has.
            usual: settings by dotted key that the command has unless told otherwise.
        Raises: ValueError: there is no such run, or the task is named twice.
        """
        from latbench.evaluation import stored

        said = eval_changes(self.settings, self.samples) | own_data_options(self.columns, self.kind, self.prompt)
        changes = {**(usual or {}), **said}
        folder = find_run(name, self.runs_dir)
        within = stored.run_of(folder)
        run = load_run(within or folder, device=self.device, trust_remote_code=self.trust)
        if within is not None:
            if self.task is not None:
                raise ValueError(f"{folder} is an evaluation, which has its task; leave out --task, or name the run")
            return stored.job_in(folder, run, split=self.split, limit=self.limit, changes=changes)
        task = self.task and registry.from_file("task", self.task)
        return stored.job_on_file(run, task, split=self.split or "test", limit=self.limit, changes=changes)


def _shared(
    run: MeasuredArgument = None,
    task: OneTaskOption = None,
    columns: ColumnsOption = None,
    kind: KindOption = None,
    prompt: PromptOption = None,
    split: SplitOption = None,
    limit: LimitOption = None,
    samples: SamplesOption = None,
    settings: SetOption = None,
    device: DeviceOption = None,
    trust: TrustOption = False,
    runs_dir: RunsOption = RUNS,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """The options themselves, in the order of the help."""


def measuring(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the shared options: it takes an `Asked` first, then its own options.

    A command that names several runs by an argument of its own, `runs`, has no argument RUN.
    """
    shared = dict(inspect.signature(_shared, eval_str=True).parameters)
    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    several = any(parameter.name == "runs" for parameter in own)
    first = [] if several else [shared["run"]]

    def called(**values: Any) -> None:
        asked = Asked(**{name: values.pop(name, None) for name in shared})
        use_data_dir(asked.data_dir)
        command(asked, **values)

    parameters = [*first, *own, *(parameter for name, parameter in shared.items() if name != "run")]
    called.__name__, called.__doc__ = command.__name__, command.__doc__
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return called
