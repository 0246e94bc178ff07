"""OpenR1-Math: competition problems with reasoning traces of DeepSeek-R1, for training; traces of at most 4k tokens.

Data set open-r1/OpenR1-Math-220k, configuration `default` (93,733 problems). The chain is the shortest complete
generation that Math-Verify found correct, without its think tags, a step is a paragraph. Problems without such a
generation and those whose chain exceeds `task.max_tokens` are left out; the fingerprint says under which limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from latbench.data import FileTask, Source
from latbench.data.hub import HubSource, Row
from latbench.registry import register_task
from latbench.task import STRICT, Example, TaskConfig

CHARACTERS_PER_TOKEN = (
    3  # R1's mathematical English has 3 to 4 under today's vocabularies; the count errs to the long side
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OpenR1MathConfig(TaskConfig):
    """Which traces are kept."""

    max_tokens: Annotated[int, Field(ge=1)] = 4096
    """Longest chain that is kept, in tokens."""
    tokenizer: str | None = None
    """Tokenizer that counts them, a Hugging Face id or a path; null: a third of the characters is taken."""


def hub_row(hub: Mapping[str, Any], index: int) -> Row | None:
    """Columns problem, answer, uuid; one entry a trace: generations, is_reasoning_complete, correctness_math_verify."""
    generations = zip(hub["generations"], hub["is_reasoning_complete"], hub["correctness_math_verify"], strict=True)
    chains = [reasoning(text) for text, complete, correct in generations if complete and correct]
    if not any(chains) or not (hub["answer"] or "").strip():
        return None
    return {
        "id": f"openr1-math-{hub['uuid']}-{index}",
        "question": hub["problem"],
        "steps": paragraphs(min(filter(None, chains), key=len)),
        "answer": hub["answer"],
    }


def reasoning(generation: str) -> str:
    """What stands between the think tags; the opening one may be part of the prompt and missing."""
    return generation.partition("</think>")[0].replace("<think>", "").strip()


def paragraphs(text: str) -> list[str]:
    """Pieces between blank lines."""
    return [piece.strip() for piece in text.split("\n\n") if piece.strip()]


@register_task("openr1_math", config=OpenR1MathConfig)
class OpenR1Math(FileTask[OpenR1MathConfig]):
    kind = "math"
    sources: ClassVar = {
        "train": Source(
            file="openr1_math_train.jsonl.gz",  # rows {id, question, steps, answer}
            hub=HubSource(
                id="open-r1/OpenR1-Math-220k",
                revision="e4e141ec9dea9f8326f4d347be56105859b2bd68",
                split="train",
                row=hub_row,
            ),
        )
    }

    def select(self, split: str, examples: list[Example]) -> tuple[list[Example], str]:
        count = token_counter(self.config.tokenizer)
        kept = [example for example in examples if count("\n\n".join(example.steps)) <= self.config.max_tokens]
        return kept, f"max_tokens={self.config.max_tokens} by {self.config.tokenizer or 'characters'}"


def token_counter(tokenizer: str | None) -> Callable[[str], int]:
    """Number of tokens of a text: exact under the named tokenizer, else a third of its characters, rounded up."""
    if tokenizer is None:
        return lambda text: -(-len(text) // CHARACTERS_PER_TOKEN)
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)  # never asks
    return lambda text: len(loaded.encode(text, add_special_tokens=False))
