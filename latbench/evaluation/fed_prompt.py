"""What a model reads before its first decision, as a text that a manifest can hold: see `Manifest.prompt`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from latbench.config import GenerateConfig
from latbench.evaluation.records import MAX_PROMPT
from latbench.task import Example

if TYPE_CHECKING:
    from latbench.method import Method


def fed_prompt(method: Method[Any], examples: Sequence[Example], config: GenerateConfig) -> dict[str, str] | None:
    """What stands `before` and `after` every question, where the prompt of each is these two texts around it; else the
    prompt of the `first` question. Special tokens are part of a text; None: it would be longer than a manifest takes.

    Args:
        method: that answers.
        examples: the questions, as they are asked.
        config: of the decoding.
    """
    if not examples:
        return None
    prompts = [_text(method, example, config) for example in examples]
    found = {"first": prompts[0]}
    for before, after in _around(prompts[0], examples[0].question):
        if all(before + example.question + after == prompt for example, prompt in zip(examples, prompts, strict=True)):
            found = {"before": before, "after": after}
            break
    return found if sum(map(len, found.values())) <= MAX_PROMPT else None


def _text(method: Method[Any], example: Example, config: GenerateConfig) -> str:
    ids = method.prompt_ids(example.question, config)
    return str(method.backbone.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _around(prompt: str, question: str) -> Iterator[tuple[str, str]]:
    """What is before and after the question, wherever it stands in a prompt."""
    place = prompt.find(question)
    while place >= 0:
        yield prompt[:place], prompt[place + len(question) :]
        place = prompt.find(question, place + 1)
