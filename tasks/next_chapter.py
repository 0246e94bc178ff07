"""Next-Chapter Prediction: plans that make a book's next chapter likelier (Gurung and Lapata, arXiv:2503.22828).

The model reads what came before and writes a plan. A plan is worth its contrastive improvement, the metric of
LiteReason (arXiv:2512.02240), which gives it in words alone; the formula is ours:

    I(y; p) = 100 (1 - PPL(y | x, p) / PPL(y | x))       CI(p) = I(next chapter; p) - mean of I(another chapter; p)

with the perplexities of a frozen model per token, for context x, plan p, chapter y, and four chapters of other books
that are closest in length. Absolute values are not comparable to the paper's. CI is the reward, unclipped, and what a
record shows as extracted; a plan counts as correct where it is above 0.

Local files only, with the columns that the authors' code writes (get_datapoints in setup_data/compile_dataset.py of
asgundogdu/ReasoningNCP@ede9f22, a copy of Alex-Gurung/ReasoningNCP); the books are not free, and no data are published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from latbench.config import Positive
from latbench.data import FileTask, Source
from latbench.data.hub import Row
from latbench.registry import register_task
from latbench.task import STRICT, Example, Score, TaskConfig

NUM_OTHERS = 4
PLAN = "In the next chapter:"
PROMPT = (
    "You read a book and say what its next chapter will hold.\n\n"
    "### Plot of the whole book ###\n{high_level_plot_summary}\n\n"
    "### What has happened so far ###\n{prior_plot_summary}\n\n### Characters ###\n{characters}\n\n"
    "### The chapter before ###\n{story_text}\n\n### Synopsis of the next chapter ###\n{next_chapter_synopsis}\n\n"
    "Reason about what follows and cite the parts above that you build on. Then write a plan of the next chapter that "
    f'begins with "{PLAN}".'
)
COLUMNS = (
    "story_text", "next_chapter_header", "prior_plot_summary", "high_level_plot_summary", "character_sheets",
    "next_chapter_synopsis", "last_n_chapters", "chapter_index", "story_id",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NextChapterConfig(TaskConfig):
    """The frozen model whose perplexities say what a plan is worth."""

    scorer_model: str = Field(default="Qwen/Qwen2.5-7B-Instruct")
    """Hugging Face id or path of a language model; `tiny`: the embedded one with fresh weights, which knows nothing."""
    scorer_device: str = "auto"
    """Where it lives."""
    scorer_tokens: Positive = 4096
    """Most tokens that it reads at once; of a longer context the beginning is left out."""
    plan_tokens: Positive = 1024
    """Most tokens of a plan that count; the first ones are kept."""
    chapter_tokens: Positive = 1024
    """Most tokens of a chapter that count; the first ones are kept."""

    def __post_init__(self) -> None:
        if self.plan_tokens + self.chapter_tokens >= self.scorer_tokens:
            raise ValueError(
                f"task.plan_tokens + task.chapter_tokens = {self.plan_tokens + self.chapter_tokens} leave no room for "
                f"the context in task.scorer_tokens = {self.scorer_tokens}; raise it"
            )


def published_row(published: Mapping[str, Any], index: int) -> Row:
    """Columns COLUMNS and next_chapter; the question is the prompt."""
    sheets = published["character_sheets"]
    if not isinstance(sheets, Mapping):
        raise ValueError(f"field 'character_sheets' is no object but {type(sheets).__name__}")
    characters = "\n\n".join(f"{name}: {sheet}" for name, sheet in sheets.items())
    return {
        "id": f"{published['story_id']}-{published['chapter_index']}",
        "question": PROMPT.format(characters=characters, **{name: published[name] for name in COLUMNS}),
        "steps": [],
        "answer": published["next_chapter"],
        **{name: published[name] for name in ("story_id", "chapter_index", "next_chapter_header")},
    }


def source(split: str) -> Source:
    """File of a split."""
    return Source(file=f"next_chapter_{split}.jsonl", row=published_row, check_gold=False)


@register_task("next_chapter", config=NextChapterConfig)
class NextChapter(FileTask[NextChapterConfig]):
    kind = "text"
    answers_teach = False  # a plan is to be written, and the chapter judges it
    sources: ClassVar = {"train": source("train"), "validation": source("val"), "test": source("test")}

    def select(self, split: str, examples: list[Example]) -> tuple[list[Example], str]:
        """All, each with the chapters that it is told from.

        Raises: ValueError: there are fewer than four chapters of other books.
        """
        return [replace(e, meta={**e.meta, "others": _others(e, examples, split)}) for e in examples], ""

    def score_many(self, pairs: Sequence[tuple[str, Example]]) -> list[Score]:
        """Correct where the improvement is above 0; the improvement is what is shown."""
        improvements = self.rewards(pairs)
        return [
            Score(status="no_answer", extracted=None)
            if not plan_of(text)
            else Score(status="correct" if improvement > 0 else "incorrect", extracted=f"{improvement:.6g}")
            for (text, _), improvement in zip(pairs, improvements, strict=True)
        ]

    def rewards(self, pairs: Sequence[tuple[str, Example]]) -> list[float]:
        """Contrastive improvements, in percent; 0 without a plan."""
        from latbench.model.perplexity import perplexities, scorer

        config = self.config
        model = scorer(config.scorer_model, config.scorer_device)
        room = min(config.scorer_tokens, model.context) - config.plan_tokens - config.chapter_tokens
        if room < 1:
            raise ValueError(
                f"task.scorer_model {config.scorer_model} reads {model.context} tokens, too few for task.plan_tokens "
                "and task.chapter_tokens; lower them"
            )
        rows, num_chapters = list[tuple[list[int], list[int]]](), 1 + NUM_OTHERS
        for text, example in pairs:
            context = model.encode(example.question)[-room:]
            plan = model.encode("\n\n" + plan_of(text) + "\n\n")[: config.plan_tokens]
            for chapter in (example.answer, *example.meta["others"]):
                ids = model.encode(chapter)[: config.chapter_tokens]
                rows += [(context, ids), ([*context, *plan], ids)]
        found = iter(perplexities(model, rows))
        result = []
        for text, _ in pairs:
            improvements = [100 * (1 - after / before) for before, after in _in_pairs(found, num_chapters)]
            contrast = improvements[0] - sum(improvements[1:]) / NUM_OTHERS
            result.append(contrast if plan_of(text) else 0.0)
        return result


def plan_of(text: str) -> str:
    """The plan in an answer: what follows its last heading, else all of it."""
    return text.rsplit(PLAN, 1)[-1].strip()


def _in_pairs(values: Any, num: int) -> list[tuple[float, float]]:
    return [(next(values), next(values)) for _ in range(num)]


def _others(example: Example, examples: Sequence[Example], split: str) -> tuple[str, ...]:
    """Chapters of other books in the split that are closest in length."""
    apart = [other for other in examples if other.meta["story_id"] != example.meta["story_id"]]
    if len(apart) < NUM_OTHERS:
        raise ValueError(
            f"task 'next_chapter', split {split!r}: {example.id!r} has {len(apart)} chapters of other books to be told "
            f"from and needs {NUM_OTHERS}; use data of more books"
        )
    nearest = sorted(apart, key=lambda other: (abs(len(other.answer) - len(example.answer)), other.id))
    return tuple(other.answer for other in nearest[:NUM_OTHERS])
