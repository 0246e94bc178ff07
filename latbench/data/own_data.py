"""Own data: a file or a Hub data set of the user's, as a task without a class of its own.

A row needs a question and an answer and may have steps and an id; `task.columns` says what they are called. Settings
come from `--task FILE`, which `latbench.config.own_data` spells out.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass

from latbench.answers.extract import AnswerKind
from latbench.answers.scoring import gold_fault, score_answers
from latbench.config.own_data import HUB_ID
from latbench.data.choices import choice_fields
from latbench.data.file_task import SHORT_HASH, Split
from latbench.data.hub import HubSource, Row, hub_rows, is_cached
from latbench.data.overlap import normalised_row
from latbench.data.rows import examples_of, file_rows, mapped, rows_hash
from latbench.data.solutions import gsm8k_solution, number_text
from latbench.registry import unknown
from latbench.task import STRICT, Example, Fingerprint, Score, Task, TaskConfig
from latbench.util.data_dir import DATA_DIR
from latbench.util.files import sha256_of

ALL = "all"  # the split of a file that is not divided; it answers to the usual names too
USUAL = ("train", "validation", "test")
NOT_SHOWN = ("id", "steps", "answer")  # of a row; a prompt asks for what is in the others
HIDDEN = (*NOT_SHOWN, "solution")  # fields whose columns a prompt may not name, whatever these are called
FIELD = re.compile(r"\{\{|\}\}|\{(\w+)\}")  # of a prompt template
Column = Literal["id", "question", "steps", "answer", "solution", "choices"]


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class OwnDataConfig(TaskConfig):
    """A data file or a Hub data set, what its columns are, and how its answers are compared."""

    path: str = ""
    """File of rows, or Hub id of a data set; `--task` fills it in. No part of an identity."""
    sha256: str = ""
    """Hash of the file's content, by which it is known wherever it lies; `--task` fills it in."""
    columns: dict[Column, str] = Field(default_factory=dict)
    """What the columns id, question, steps, answer, solution and choices are called in the data; by default just so. A
    `solution` holds steps as lines and the answer after `####`, as in GSM8K, in place of steps and answer."""
    kind: AnswerKind = "number"
    """How answers are read and compared: `number`, `math` (LaTeX), `text` or `choice` (the letter)."""
    labels: list[str] = Field(default_factory=list)
    """The only answers there are, of kind text, such as Yes and No; a sentence answers with the one that it names."""
    prompt: str = "{question}"
    """What the model is asked: `{question}` and `{column}` stand for the row's texts, `{{` and `}}` for braces. It
    names at least one column."""
    held_out: Annotated[int, Field(ge=0)] = 0
    """Rows that are kept for the split `test` and left out of `train`, chosen by a hash of their question, so that
    neither order nor other rows matter much; rows with one question stay together. 0: every split is all rows."""
    subset: str = "default"
    """Configuration of a Hub data set."""
    revision: str | None = None
    """Commit of a Hub data set; null: the newest, or the one in the cache."""
    part: str | None = None
    """The one split of a Hub data set whose rows are all rows, as in `--task org/name:split`; null: its splits are the
    splits of the task."""

    def __post_init__(self) -> None:
        if self.is_hub and not HUB_ID.fullmatch(self.path):
            raise ValueError(f"task.path must be a whole path or a Hub id such as openai/gsm8k, got {self.path!r}")
        if self.held_out and self.is_hub and self.part is None:
            raise ValueError(
                f"task.held_out is {self.held_out}, but {self.path} has splits of its own; name the one to divide with "
                "task.part, or set task.held_out=0"
            )
        if re.search("[{}]", FIELD.sub("", self.prompt)):
            raise ValueError(
                f"task.prompt has a brace that belongs to no column, got {self.prompt!r}; write a column as "
                "{question}, and {{ or }} for a brace of the text"
            )
        if not any(FIELD.findall(self.prompt)):
            raise ValueError(
                f"task.prompt names no column, so that every row would be asked the same, got {self.prompt!r}; name "
                "one, such as {question}"
            )
        kept = {name: name for name in NOT_SHOWN}
        kept |= {column: field for field, column in self.columns.items() if field in HIDDEN}
        if hidden := [name for name in FIELD.findall(self.prompt) if name in kept]:
            raise ValueError(
                f"task.prompt names the {kept[hidden[0]]} of a row, which a model is not shown, got {self.prompt!r}; "
                f"name another column, or rename one of the question that is called {hidden[0]!r}"
            )

    @property
    def is_hub(self) -> bool:
        """Whether the data are on the Hub: the path of a file is absolute."""
        return bool(self.path) and not self.path.startswith("/")


class OwnData(Task[OwnDataConfig]):
    """The rows of a data file or of a Hub data set of the user's own."""

    def __init__(self, config: OwnDataConfig) -> None:
        super().__init__(config)
        by_hub = config.is_hub and config.part is None
        self.splits = USUAL if by_hub else ("train", "test") if config.held_out else (ALL,)  # type: ignore[misc]
        self._read: dict[str, Split] = {}
        self._prompt_fields = [name for name in FIELD.findall(config.prompt) if name]

    def load(self, split: str) -> list[Example]:
        """All rows of a split, in their order in the data."""
        return list(self._split(split).examples)

    def fingerprint(self, split: str) -> Fingerprint:
        """Name of the file or origin on the Hub, hash of the file or of the rows, number of rows."""
        return self._split(split).fingerprint

    def is_at_hand(self, split: str) -> bool:
        """Whether the file lies where it was, or in the data folder, unchanged; of a Hub data set, in the cache."""
        if self.config.is_hub:
            return is_cached(self._hub_source(split))
        try:
            self._file()
        except ValueError:
            return False
        return True

    def prompt(self, example: Example) -> str:
        """The template `task.prompt` with the row's texts."""
        texts = {**example.meta, "question": example.question}

        def text(found: re.Match[str]) -> str:
            return str(texts[found[1]]) if found[1] else found[0][0]

        return FIELD.sub(text, self.config.prompt)

    def score_many(self, pairs: Sequence[tuple[str, Example]]) -> list[Score]:
        """Verdicts by `task.kind`, or by the paper scorer that the configuration names."""
        config = self.config
        answers = [(text, example.answer) for text, example in pairs]
        return score_answers(answers, config.kind, config.scorer, config.run_on, config.labels)

    def _split(self, split: str) -> Split:
        if split not in self.splits and self.splits != (ALL,):
            raise unknown(f"{self.name} split", split, self.splits)
        if split not in (*self.splits, *USUAL):
            raise unknown(f"{self.name} split", split, (*self.splits, *USUAL))
        if split not in self._read:
            whole = self._whole(split)
            self._read[split] = self._part(whole, split) if self.config.held_out else whole
        return self._read[split]

    def _whole(self, split: str) -> Split:
        """All rows, as they stand in the data."""
        if self.config.is_hub:
            try:
                found = hub_rows(self._hub_source(split))
            except LookupError as error:
                raise ValueError(f"no data for task {self.name!r}, split {split!r}: {error}") from error
            raw = ((f"{found.origin}, row {number}", row) for number, row in enumerate(found.rows, 1))
            rows, _ = mapped(raw, self._row)
            name, sha256 = found.origin, rows_hash(rows)
        else:
            path = self._file()
            rows, _ = mapped(file_rows(path, path.read_bytes()), self._row)
            name, sha256 = path.name, sha256_of(path)
        if not rows:
            raise ValueError(f"{name} holds no rows; give data with at least one")
        examples = [replace(example, beside=self._beside(example)) for example in examples_of(rows, None)]
        fingerprint = Fingerprint(source=name, sha256=sha256, num_examples=len(examples))
        return Split(examples=examples, fingerprint=fingerprint)

    def _part(self, whole: Split, split: str) -> Split:
        """The rows held out, or the others."""
        wanted, total = self.config.held_out, len(whole.examples)
        if wanted >= total:
            raise ValueError(
                f"task.held_out is {wanted}, but {whole.fingerprint.source} holds {total} rows; hold out fewer"
            )
        keys = [_place(normalised_row(example)) for example in whole.examples]
        last = sorted(keys)[wanted - 1]
        rows = [row for row, key in zip(whole.examples, keys, strict=True) if (key <= last) == (split == "test")]
        if not rows:
            raise ValueError(f"{whole.fingerprint.source} asks too few questions to hold out {wanted} rows")
        what = "only" if split == "test" else "without"
        name = f"{whole.fingerprint.source} {what} {wanted} held out"
        fingerprint = Fingerprint(source=name, sha256=whole.fingerprint.sha256, num_examples=len(rows))
        return Split(examples=rows, fingerprint=fingerprint)

    def _beside(self, example: Example) -> tuple[str, ...]:
        return tuple(str(example.meta[name]) for name in self._prompt_fields if name in example.meta)

    def _hub_source(self, split: str) -> HubSource:
        config = self.config
        part = config.part or split
        return HubSource(id=config.path, name=config.subset, split=part, revision=config.revision, row=self._row)

    def _file(self) -> Path:
        """The file. Raises: ValueError: it is gone, or its content has changed."""
        config = self.config
        if not config.path:
            raise ValueError(f"task {self.name!r} does not say where its data are; give its file as the task")
        places = [stored := Path(config.path)]
        if folder := os.environ.get(DATA_DIR):
            places.append(Path(folder).expanduser() / stored.name)
        there = [path for path in places if path.is_file()]
        for path in there:
            if sha256_of(path) == config.sha256:
                return path
        known = config.sha256[:SHORT_HASH]
        if there:
            raise ValueError(
                f"{there[0]} is not the file that task {self.name!r} names (sha256 {sha256_of(there[0])[:SHORT_HASH]} "
                f"instead of {known}); put that one back, or give the file as it is now by its path, such as "
                f"./{stored.name}, as data of its own"
            )
        raise ValueError(
            f"the data of task {self.name!r} are no longer at {stored}; put the file (sha256 {known}) back, or into "
            f"the folder that {DATA_DIR} names"
        )

    def _row(self, raw: Mapping[str, Any], index: int) -> Row:
        """Id, question, steps and answer of a row, and the fields that the prompt names.

        Raises: ValueError: a column is missing, or holds what it may not.
        """
        question = self._text(raw, "question")
        row: Row = {"steps": self._steps(raw)}
        if "choices" in self.config.columns or (self.config.kind == "choice" and "choices" in raw):
            row |= self._choice(raw, question)
        elif "solution" in self.config.columns:
            steps, answer = gsm8k_solution(self._text(raw, "solution"))
            row |= {"question": question, "steps": steps, "answer": answer}
        else:
            row |= {"question": question, "answer": self._text(raw, "answer")}
        self._check_answer(str(row["answer"]))
        identifier = raw.get(self._column("id"))
        row["id"] = f"row-{index:05d}" if identifier in (None, "") else str(identifier)
        for name in self._prompt_fields:
            if name not in ("question", *row):
                if name not in raw:
                    raise ValueError(f"field {name!r}, which task.prompt names, is missing; the row has {_names(raw)}")
                row[name] = "" if raw[name] is None else str(raw[name])
        return row

    def _column(self, field: Column) -> str:
        return self.config.columns.get(field, field)

    def _value(self, raw: Mapping[str, Any], field: Column) -> Any:
        name = self._column(field)
        if name not in raw:
            without = ", or name the other columns alone" if field == "steps" else ""
            raise ValueError(
                f"field {name!r} is missing; the row has {_names(raw)}: say which is the {field} with "
                f"--columns {field}=NAME (task.columns){without}"
            )
        return raw[name]

    def _text(self, raw: Mapping[str, Any], field: Column) -> str:
        """A text, or a number as it is written. Raises: ValueError: absent, empty or something else."""
        value, name = self._value(raw, field), self._column(field)
        if type(value) in (int, float) and math.isfinite(value):
            return number_text(value)
        if not isinstance(value, str):
            raise ValueError(f"field {name!r} is {type(value).__name__}, not text; it is the {field}")
        if not value.strip():
            raise ValueError(f"field {name!r} is empty; it is the {field}")
        return value

    def _steps(self, raw: Mapping[str, Any]) -> list[str]:
        """A list of texts, or the lines of a text; none where the column is absent, unless it was named."""
        if "steps" not in self.config.columns and "steps" not in raw:
            return []
        value, name = self._value(raw, "steps"), self._column("steps")
        if value is None:
            return []
        steps = value.split("\n") if isinstance(value, str) else value
        if not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
            raise ValueError(f"field {name!r} is no list of texts and no text; it holds the steps")
        return [step.strip() for step in steps if step.strip()]

    def _choice(self, raw: Mapping[str, Any], question: str) -> Row:
        """Question with its choices below, and the letter of the answer: of a letter, a text or an index from 0."""
        choices, name = self._value(raw, "choices"), self._column("choices")
        answer, answer_name = self._value(raw, "answer"), self._column("answer")
        own: list[Any] = []
        if isinstance(choices, Mapping):  # as in AI2 ARC: texts, and the labels by which the answer names them
            own, choices = list(choices.get("label", ())), choices.get("text")
        if not isinstance(choices, list) or not choices or not all(isinstance(text, str) for text in choices):
            raise ValueError(f"field {name!r} is no list of texts; it holds the choices")
        named = own or [chr(ord("A") + place) for place in range(len(choices))]
        if type(answer) is int and not own:
            place = answer
        elif answer in named or answer in choices:
            place = named.index(answer) if answer in named else choices.index(answer)
        else:
            raise ValueError(f"field {answer_name!r} is {answer!r}, none of the choices: a letter, a text, or from 0")
        row = choice_fields(question, choices, place)
        return {"question": row["question"], "answer": row["answer"]}

    def _check_answer(self, answer: str) -> None:
        """Raises: ValueError: it can be no gold answer, so that every answer to it would be wrong."""
        config = self.config
        name = self._column("solution" if "solution" in config.columns else "answer")
        if reason := gold_fault(answer, config.kind):
            raise ValueError(
                f"field {name!r} {reason}; say how answers are compared with --kind number, math, text or choice "
                "(task.kind)"
            )
        if config.labels and answer not in config.labels:
            raise ValueError(f"field {name!r} is {answer!r}, none of task.labels: {', '.join(config.labels)}")


def _place(normalised: str) -> bytes:
    """Where a question in normal form stands in the order by which rows are held out."""
    return hashlib.sha256(normalised.encode()).digest()


def _names(raw: Mapping[str, Any]) -> str:
    return ", ".join(map(str, list(raw)[:12])) or "no field"
