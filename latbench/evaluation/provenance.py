"""What a file about answers belongs to, and the one sentence that refuses a file about other answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass

from latbench.evaluation.records import Manifest
from latbench.task import STRICT


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class Provenance:
    """The answers that a file is about, and the software that wrote it. Fields as in the manifest of the evaluation."""

    run: str
    """Name of the run's folder."""
    setting: str
    """Hash of the configuration without its seed."""
    questions_sha256: str
    """Of the ids, prompts and golds asked."""
    n: Annotated[int, Field(ge=0)]
    """Number of answers."""
    git_commit: str | None
    """Of latbench's checkout; None outside one."""
    versions: dict[str, str]
    """Of Python and the packages that can change a result."""

    @classmethod
    def of(cls, manifest: Manifest, **more: Any) -> Self:
        """The provenance of a file about the answers of an evaluation.

        Args:
            manifest: of the evaluation.
            more: values of the fields that a subclass adds.
        """
        return cls(
            run=manifest.run,
            setting=manifest.setting,
            questions_sha256=manifest.questions_sha256,
            n=manifest.n,
            git_commit=manifest.git_commit,
            versions=manifest.versions,
            **more,
        )

    @property
    def answers(self) -> Mapping[str, object]:
        """What tells the answers from others: run, setting, questions and their number, by name."""
        return {name: getattr(self, name) for name in ("run", "setting", "questions_sha256", "n")}


def refuse_others(what: str, there: Mapping[str, object], here: Mapping[str, object], way_out: str) -> None:
    """Refuse a file that is about something else.

    Args:
        what: the file and what it is, such as `runs/a/eval/synth-test holds records`.
        there: what the file says of itself, by name.
        here: what it must say.
        way_out: what to do about it.
    Raises: ValueError: one sentence about the first name whose values differ.
    """
    for name, wanted in here.items():
        if there[name] != wanted:
            raise ValueError(f"{what} of another {name} ({there[name]}, now {wanted}); {way_out}")
