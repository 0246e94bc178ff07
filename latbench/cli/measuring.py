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
    DataOption,
    DeviceOption,
    JsonOption,
    LimitOption,
    OneTaskOption,
    RunArgument,
    RunsOption,
    SamplesOption,
    SetOption,
    SplitOption,
    TrustOption,
    eval_changes,
)
from latbench.data.folder import use_data_dir
from latbench.runs.run import Run, find_run, load_run

if TYPE_CHECKING:
    from latbench.evaluation.job import EvalJob


@dataclass(frozen=True)
class Asked:
    """The values of the shared options, and what follows from them."""

    run: str | None
    task: str | None
    split: str
    limit: int | None
    samples: int | None
    settings: list[str] | None
    device: str | None
    trust: bool
    runs_dir: Path
    data_dir: Path | None
    as_json: bool

    @cached_property
    def target(self) -> Run:
        """The run that the command names. Raises: ValueError: there is none."""
        return self.load(self.run)

    def load(self, name: str | None) -> Run:
        """A run by name. Raises: ValueError: there is none."""
        return load_run(find_run(name, self.runs_dir), device=self.device, trust_remote_code=self.trust)

    @cached_property
    def job(self) -> EvalJob:
        """The evaluation of the named run that the command looks into."""
        return self.job_of(self.target)

    def job_of(self, run: Run, usual: Mapping[str, Any] | None = None) -> EvalJob:
        """The evaluation of a run that the command looks into.

        Args:
            run: whose answers they are.
            usual: settings by dotted key that the command has unless told otherwise.
        """
        from latbench.evaluation.job import EvalJob

        changes = {**(usual or {}), **eval_changes(self.settings, self.samples)}
        task = self.task and registry.from_file("task", self.task)
        return EvalJob.of(run, task, split=self.split, limit=self.limit, changes=changes)


def _shared(
    run: RunArgument = None,
    task: OneTaskOption = None,
    split: SplitOption = "test",
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
