"""Reasoning traces as sentences, and the same with tags in place of some (arXiv:2512.02240).

Own traces are answers that the model draws itself and that the task's checker finds right. They are kept in
`traces.jsonl` of the stage's folder, a line for each question, appended chunk by chunk: draws are keyed, so that a
killed session's file goes on to the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from latbench.answers.markers import answer_start
from latbench.config import GenerateConfig
from latbench.decoding.loop import Generation, Prompt
from latbench.decoding.rule import StepRule
from latbench.decoding.sampling import Sampling
from latbench.method import HeldOut, Method
from latbench.task import Example
from latbench.util.files import write_whole
from latbench.util.progress import progress
from methods.litereason.tags import Tags

TRACES = "traces.jsonl"
CHUNK = 256  # questions whose traces are written together
SPLITTER = 1  # version of `sentences`: traces of another are drawn anew
_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[A-Z0-9\"'(\[<\\$])|\n+")
_WORD = re.compile(r"\w")

Trace = tuple[str, ...]  # sentences


def sentences(text: str, tags: Tags) -> Trace:
    """The sentences of a text: parts between ends of sentences and of lines that hold a letter or a digit.

    A tag is a unit of its own.
    """
    parts, done = list[str](), 0
    for tag in tags.pattern.finditer(text):
        parts += [*_END.split(text[done : tag.start()]), tag.group()]
        done = tag.end()
    parts += _END.split(text[done:])
    return tuple(part.strip() for part in parts if _WORD.search(part))


def choosable(trace: Sequence[str], tags: Tags) -> list[int]:
    """Sentences that a tag may replace: all without one."""
    return [place for place, sentence in enumerate(trace) if not tags.pattern.search(sentence)]


def num_replaced(num: int, share: float) -> int:
    """Of so many sentences, how many are replaced."""
    return max(1, int(num * share + 1e-9))


def masked(
    trace: Sequence[str], share: float, draws: Sequence[float], tags: Tags, tokens_per_latent: int
) -> tuple[str, ...]:
    """The trace with tags in place of a share of its sentences.

    Args:
        draws: a uniform number for each sentence; the smallest are replaced.
    Returns: sentences and tags; a tag that was there before stays as it is.
    """
    free = choosable(trace, tags)
    chosen = sorted(free, key=lambda place: draws[place])[: num_replaced(len(free), share)]
    result = list(trace)
    for place in chosen:
        num_tokens = len(tags.encode(trace[place]))
        result[place] = tags.text(max(1, min(num_tokens // tokens_per_latent, tags.most)))
    return tuple(result)


def reasoning(answer_text: str) -> str | None:
    """The written chain of an answer without think tokens, before its last marker; None without one."""
    end = answer_start(answer_text)
    return None if end is None else answer_text[:end]


class TraceFile:
    """Own traces of a training set.

    Args:
        examples: of the training set.
        kept: of each example's id, its traces.
    """

    def __init__(self, examples: Sequence[Example], kept: dict[str, list[Trace]]) -> None:
        self.kept = {name: traces for name, traces in kept.items() if traces}
        self.pool = [(example, trace) for example in examples for trace in self.kept.get(example.id, [])]

    @classmethod
    def collect(
        cls,
        method: Method[Any],
        examples: Sequence[Example],
        held_out: HeldOut,
        folder: Path,
        tags: Tags,
        fits: Callable[[Example], bool],
    ) -> TraceFile:
        """Draw answers to all questions, or the rest of them, and keep the traces of those that are right.

        Args:
            fits: whether an example with such steps can be trained on.
        Raises: ValueError: the file was made with other settings, or no answer is right.
        """
        path, config = folder / TRACES, method.config
        header = {
            "splitter": SPLITTER, "samples": config.samples, "temperature": config.sample_temperature,
            "top_p": config.sample_top_p, "top_k": config.sample_top_k, "tokens": config.sample_tokens,
            "seed": method.seed, "examples": len(examples),
        }  # fmt: skip
        done = _known(path, header, len(examples))
        if not done:
            write_whole(path, json.dumps(header) + "\n")
        with progress("traces", total=len(examples), done=len(done)) as advance:
            for start in range(len(done), len(examples), CHUNK):
                chunk = examples[start : start + CHUNK]
                rows = _drawn(method, chunk, held_out, tags)
                new = [{"id": example.id, "traces": row} for example, row in zip(chunk, rows, strict=True)]
                with path.open("a", encoding="utf-8") as file:
                    file.write("".join(json.dumps(row) + "\n" for row in new))
                done += new
                advance(len(chunk))
        drawn = {
            example.id: [trace for trace in map(tuple, row["traces"]) if fits(replace(example, steps=trace))]
            for example, row in zip(examples, done, strict=True)
        }
        found = cls(examples, drawn)
        if not found.pool:
            raise ValueError(
                f"none of {len(examples) * config.samples} answers to {len(examples)} training questions was right and "
                "had reasoning that fits the context, so there are no own traces; start from a run that answers some "
                "of them, or set method.traces=gold"
            )
        return found


def _known(path: Path, header: dict[str, Any], num_examples: int) -> list[dict[str, Any]]:
    """Rows of whole chunks that a killed session has left; what it left of another chunk is cut off."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if not whole or json.loads(whole[0]) != header:
        raise ValueError(f"{path} holds traces that were drawn with other settings; remove it to draw them anew")
    num = len(whole) - 1 if len(whole) > num_examples else (len(whole) - 1) // CHUNK * CHUNK
    if num + 1 < len(lines):
        write_whole(path, "".join(whole[: num + 1]))
    return [json.loads(line) for line in whole[1 : num + 1]]


def _drawn(method: Method[Any], examples: Sequence[Example], held_out: HeldOut, tags: Tags) -> list[list[Trace]]:
    config = method.config
    decoding = GenerateConfig(
        temperature=config.sample_temperature, top_p=config.sample_top_p, top_k=config.sample_top_k,
        max_new_tokens=config.sample_tokens, batch_size=CHUNK,
    )  # fmt: skip
    prompts = [Prompt(id=e.id, text=e.question, sample=sample) for e in examples for sample in range(config.samples)]
    plain = StepRule(method.backbone, Sampling.from_config(decoding))  # tags stay text
    answers = method.generate(prompts, decoding, seed=method.seed, rule=plain)
    asked = [example for example in examples for _ in range(config.samples)]
    rewards = held_out.task.rewards([(a.text, example) for a, example in zip(answers, asked, strict=True)])
    close = bool(method.backbone.layout.close)
    kept: list[list[Trace]] = [[] for _ in examples]
    for number, (answer, reward) in enumerate(zip(answers, rewards, strict=True)):
        trace = _trace(answer, close, tags) if reward > 0 else ()
        if choosable(trace, tags):
            kept[number // config.samples].append(trace)
    return kept


def _trace(answer: Generation, close: bool, tags: Tags) -> Trace:
    text = answer.reasoning if close else reasoning(answer.text)
    return sentences(text or "", tags)
