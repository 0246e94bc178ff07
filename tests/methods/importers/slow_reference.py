"""A released model's answer by the slowest loop there is: the whole sequence again for every position, no cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latbench.decoding.loop import Generation
from latbench.runs.importing import plan_import
from latbench.runs.run import Run
from latbench.runs.train import train

Next = Callable[[Tensor, Tensor], Tensor]
Stop = Callable[[Tensor, int], bool]


@dataclass
class Slow:
    """An answer.

    Args:
        prompt_logits: (vocab,) at the prompt's end; latents: (latent, hidden) as fed; answer: ids, without EOS.
    """

    prompt_logits: Tensor
    latents: Tensor
    answer: list[int]


@torch.no_grad()
def slow_answer(
    model: Any,
    prompt: Sequence[int],
    *,
    next_embeds: Next,
    stop: Stop,
    close: Sequence[int],
    eos: int,
    num_new: int,
    never: Sequence[int] = (),
) -> Slow:
    """Prompt, latents until `stop`, the close marker, then greedy text.

    Args:
        model: a causal LM in float32, whose copy in float64 answers, so that it adds no rounding of its own.
        next_embeds: (hidden,), (vocab,) -> (hidden,) what is fed next, in float32.
        stop: (vocab,) logits and latents so far -> leave the thought; never: ids that text cannot have.
    """
    model = deepcopy(model).double()
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    seen: list[Tensor] = []
    head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    def last(embeds: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(inputs_embeds=embeds[None], use_cache=False).logits[0, -1]
        return seen.pop()[0, -1].float(), logits.float()

    embeds = table(torch.tensor(prompt))
    hidden, logits = last(embeds)
    prompt_logits, latents = logits, list[Tensor]()
    while not stop(logits, len(latents)):
        latents.append(next_embeds(hidden, logits))
        embeds = torch.cat([embeds, latents[-1][None].double()])
        hidden, logits = last(embeds)
    embeds = torch.cat([embeds, table(torch.tensor(list(close), dtype=torch.long))])
    answer: list[int] = []
    while len(answer) < num_new:
        _, logits = last(embeds)
        logits[list(never)] = -torch.inf
        token = int(logits.argmax())
        if token == eos:
            break
        answer.append(token)
        embeds = torch.cat([embeds, table(torch.tensor([token]))])
    return Slow(prompt_logits, torch.stack(latents) if latents else embeds[:0].float(), answer)


def exactly(num: int) -> Stop:
    """Stop after so many latents."""
    return lambda _, done: done == num


def imported(source: Path, runs: Path, **asked: Any) -> Run:
    """The run of a source; `asked` are settings with `__` for dots, but for `base` and `format`."""
    base, format = asked.pop("base", None), asked.pop("format", None)
    settings = {"model.device": "cpu", **{key.replace("__", "."): value for key, value in asked.items()}}
    plan = plan_import(str(source), base=base and str(base), format=format, settings=settings)
    return train(plan.config, runs_dir=runs, resume=True)


def answer_of(run: Run, question: str, num_new: int, **settings: Any) -> Generation:
    """The imported run's greedy answer, with its latents."""
    (answer,) = run.method.generate(
        [question], run.config.generate.__class__(**{"max_new_tokens": num_new, **settings}), trace=True
    )
    return answer


def assert_same(run: Run, slow: Slow, question: str, num_new: int, **settings: Any) -> Generation:
    """Logits, latents and text of the imported run are those of the reference, to 1e-6."""
    backbone = run.method.backbone
    ids = run.method.prompt_ids(question, run.config.generate)
    from latbench.model.batches import pad

    with torch.no_grad():
        state = backbone.prefill(pad([ids]))
    torch.testing.assert_close(state.logits[0], slow.prompt_logits, rtol=1e-6, atol=1e-6)
    answer = answer_of(run, question, num_new, **settings)
    assert answer.num_latents == len(slow.latents)
    if len(slow.latents):
        assert answer.trace is not None
        torch.testing.assert_close(answer.trace.embeds, slow.latents, rtol=2e-6, atol=1e-6)
    assert answer.text == backbone.layout.decode(slow.answer)
    return answer
