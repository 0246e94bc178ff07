"""Decoding a pretrained model on real questions with natural lengths, against transformers' `generate`.

    python benchmarks/decode_pretrained.py [--model FOLDER] [--questions 256] [--max-new-tokens 512] [--repeats 3]

Greedy answers to the first GSM8K test questions (read from LATBENCH_DATA_DIR), by our loop and by two peers: `generate`
over static batches in file order, and over batches of prompts sorted by length, both padded on the left. The peers run
the model as transformers loads it, with its own SDPA attention. Then single questions, batch 1, against `generate` on
the same question. The jobs take turns within a repetition, so that a busy machine slows all of them; ratios are shown
as minimum, median and maximum over the repetitions, and the answers of the loops are compared. On a CPU that others use
the ratio of CPU seconds (of all threads) is the steadier one.

Of our loop the time is also divided into prefill, decoding steps and everything outside the model's forward passes.
Without --model the weights are random, in the shape of SmolLM2-135M over the embedded tokenizer's ids; a random model
never ends an answer, so that each row gets a length of its own, the same for all jobs of a repetition.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from decode import left_padded
from tabulate import tabulate
from train import Seconds, Watch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, StoppingCriteria

from latbench import registry
from latbench.config import GenerateConfig, ModelConfig
from latbench.decoding.loop import Generation, Prompt, decode
from latbench.decoding.rule import RowState, Step, StepRule
from latbench.model.backbone import Backbone
from latbench.model.tiny import tiny_tokenizer

SMOLLM2_135M = LlamaConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, max_position_embeddings=8192, rope_parameters={"rope_type": "default", "rope_theta": 1e5},
    tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, pad_token_id=None,
)  # fmt: skip


@dataclass
class Workload:
    """What is decoded.

    Args:
        prompts: token ids; lengths: of the answers where the model cannot end them itself, None where it can.
    """

    backbone: Backbone
    plain: PreTrainedModel
    prompts: list[list[int]]
    lengths: list[int] | None
    max_new_tokens: int


@dataclass
class Clock:
    """CPU seconds in the model's forward passes during one call of our loop.

    Args:
        prefill, steps: passes over more than one position, and over one; num_steps: of the latter.
        row_steps: rows of all steps, idle ones included; positions: of all prefills, padding included.
    """

    prefill: float = 0.0
    steps: float = 0.0
    num_steps: int = 0
    row_steps: int = 0
    positions: int = 0
    _restore: Callable[[], None] = field(default=lambda: None)

    def watch(self, backbone: Backbone) -> None:
        """Time the model's forward passes of this backbone from now on."""
        model = backbone.model
        decoder = model.get_decoder()
        own, inner = model.forward, decoder.forward

        def timed(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            begin = time.process_time()
            out = call(*args, **kwargs)
            rows, width = kwargs["inputs_embeds"].shape[:2]
            took = time.process_time() - begin
            if width > 1:
                self.prefill += took
                self.positions += rows * width
            else:
                self.steps += took
                self.num_steps += 1
                self.row_steps += rows
            return out

        def whole(*args: Any, **kwargs: Any) -> Any:
            decoder.forward = inner  # the decoder's time is in that of the whole model
            try:
                return timed(own, *args, **kwargs)
            finally:
                decoder.forward = lone

        def lone(*args: Any, **kwargs: Any) -> Any:
            return timed(inner, *args, **kwargs)

        def restore() -> None:
            model.forward, decoder.forward = own, inner

        model.forward, decoder.forward = whole, lone
        self._restore = restore

    def stop(self) -> None:
        """Leave the model as it was."""
        self._restore()


class OfLength(StepRule):
    """Greedy text whose rows end at given lengths.

    Args:
        lengths: (questions,) tokens of each answer.
    """

    def __init__(self, backbone: Backbone, lengths: Sequence[int]) -> None:
        super().__init__(backbone)
        self.lengths = torch.tensor(lengths)

    def step(self, hidden: torch.Tensor, logits: torch.Tensor, rows: RowState) -> Step:
        """See StepRule."""
        step = super().step(hidden, logits, rows)
        ends = rows.steps >= self.lengths[rows.question] - 1
        step.token = torch.where(ends, self.backbone.layout.eos, step.token)
        return step


class AllAtLength(StoppingCriteria):
    """Ends the rows of a static batch at given lengths, for `generate`."""

    def __init__(self, start: int, lengths: Sequence[int]) -> None:
        self.ends = start + torch.tensor(lengths)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """(batch,) bool, which rows are done."""
        return input_ids.shape[1] >= self.ends


def ours(work: Workload, batch_size: int, chosen: Sequence[int]) -> list[Generation]:
    """Our loop over the chosen questions."""
    prompts = [Prompt(id=str(index), text="", raw=True) for index in chosen]
    if work.lengths is None:
        rule = StepRule(work.backbone)
    else:
        rule = OfLength(work.backbone, [work.lengths[index] for index in chosen])
    config = GenerateConfig(batch_size=batch_size, max_new_tokens=work.max_new_tokens)
    return decode(work.backbone, [work.prompts[index] for index in chosen], prompts, rule, config)


def generate(work: Workload, batch_size: int, chosen: Sequence[int]) -> dict[int, list[int]]:
    """`generate` over static batches of the chosen questions, in their order: the answers' ids."""
    answers = {}
    stops = work.backbone.eos_ids if work.lengths is None else None
    for start in range(0, len(chosen), batch_size):
        batch = chosen[start : start + batch_size]
        ids, mask = left_padded([work.prompts[index] for index in batch])
        criteria = None
        if work.lengths is not None:
            criteria = [AllAtLength(ids.shape[1], [work.lengths[index] for index in batch])]
        out = work.plain.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=work.max_new_tokens,
            do_sample=False,
            eos_token_id=stops,
            pad_token_id=0,
            stopping_criteria=criteria,
        )
        for index, row in zip(batch, out[:, ids.shape[1] :].tolist(), strict=True):
            ends = [place for place, token in enumerate(row) if token in (stops or ())]
            answers[index] = row[: ends[0]] if ends else row
    return answers


def timed(job: Callable[[], Any]) -> tuple[Seconds, Any]:
    """Seconds and result."""
    with Watch() as watch:
        result = job()
    return watch.seconds, result


def workload(model: str | None, num: int, max_new_tokens: int) -> Workload:
    """The model twice over one set of weights, and the questions."""
    task = registry.get_task_entry("gsm8k")
    gsm8k = task.cls(task.config())
    questions = [gsm8k.prompt(example) for example in gsm8k.load("test")[:num]]
    lengths = None
    if model is not None:
        backbone = Backbone.load(ModelConfig(id=model, device="cpu"), markers=False)
        shape = backbone.model.config
    else:
        shape = SMOLLM2_135M
        torch.manual_seed(0)
        random_weights = AutoModelForCausalLM.from_config(shape)
        config = ModelConfig(weights="random", device="cpu")
        backbone = Backbone(random_weights, tiny_tokenizer(), config, name="SmolLM2-135M_random", markers=False).eval()
        lengths = answer_lengths(num, max_new_tokens)
    plain = AutoModelForCausalLM.from_config(type(shape).from_dict(shape.to_dict()), attn_implementation="sdpa").eval()
    plain.load_state_dict(backbone.model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config.eos_token_id = None
    ids = [backbone.prompt(question) for question in questions]
    if model is None:  # one token per byte would make the questions five times as long as they are
        ids = [row[::5] for row in ids]
    return Workload(backbone, plain, ids, lengths, max_new_tokens)


def answer_lengths(num: int, cap: int) -> list[int]:
    """Lengths like those of SmolLM2-135M on GSM8K: around 180 tokens, and a quarter that never ends."""
    generator = random.Random(0)
    return [cap if generator.random() < 0.25 else min(cap, max(8, round(generator.gauss(180, 65)))) for _ in range(num)]


def batched(work: Workload, batch_size: int, repeats: int) -> None:
    """Print the figures of full batches."""
    order = list(range(len(work.prompts)))
    by_length = sorted(order, key=lambda index: len(work.prompts[index]))
    seconds: dict[str, list[Seconds]] = {"ours": [], "file order": [], "sorted": []}
    shares: list[list[float]] = []
    for _ in range(repeats):
        clock = Clock()
        clock.watch(work.backbone)
        took, answers = timed(lambda: ours(work, batch_size, order))
        clock.stop()
        seconds["ours"].append(took)
        shares.append([part / took.cpu for part in (clock.prefill, clock.steps)])
        took, static = timed(lambda: generate(work, batch_size, order))
        seconds["file order"].append(took)
        seconds["sorted"].append(timed(lambda: generate(work, batch_size, by_length))[0])
    num, num_tokens = len(order), sum(answer.num_answer_tokens for answer in answers)
    print(f"\nBatch {batch_size}: {num} questions, {num_tokens / num:.0f} tokens an answer, greedy")
    print(ratios(num, seconds))
    prefill, steps = (statistics.median(part) for part in zip(*shares, strict=True))
    print(
        f"Our time: prefill {100 * prefill:.1f} %, steps {100 * steps:.1f} %, "
        f"outside the model {100 * (1 - prefill - steps):.1f} %"
    )
    print(
        f"Our last call: {clock.num_steps} steps of {clock.row_steps / clock.num_steps:.1f} rows on average for "
        f"{num_tokens} tokens, {clock.positions} positions prefilled for {sum(map(len, work.prompts))} prompt tokens"
    )
    if work.lengths is None:
        texts = [work.backbone.layout.decode(static[index]) for index in order]
        same = sum(answer.text == text for answer, text in zip(answers, texts, strict=True))
        print(f"Answers equal to those of `generate` in float32: {same} of {num} (near-ties fall either way)")


def single(work: Workload, num: int, repeats: int) -> None:
    """Print the figures of batch 1; the order within a pair alternates."""
    seconds: dict[str, list[Seconds]] = {"ours": [], "generate": []}
    outside: list[float] = []
    for repetition in range(repeats):
        total = {name: Seconds(0.0, 0.0) for name in seconds}
        inside = 0.0
        for index in range(num):
            jobs = {"ours": ours, "generate": generate}
            for name in jobs if (index + repetition) % 2 else reversed(jobs):
                clock = Clock()
                if name == "ours":
                    clock.watch(work.backbone)
                took, _ = timed(partial(jobs[name], work, 1, [index]))
                clock.stop()
                total[name] = Seconds(total[name].wall + took.wall, total[name].cpu + took.cpu)
                inside += clock.prefill + clock.steps
        outside.append(1 - inside / total["ours"].cpu)
        for name, took in total.items():
            seconds[name].append(took)
    print(f"\nBatch 1: {num} questions one by one")
    print(ratios(num, seconds))
    print(f"Our time outside the model: {100 * statistics.median(outside):.1f} %")


def ratios(num: int, seconds: dict[str, list[Seconds]]) -> str:
    """A table of each job's answers per second, and of how many times faster ours is."""
    mine, rows = seconds["ours"], []
    for name, took in seconds.items():
        wall = [theirs.wall / own.wall for theirs, own in zip(took, mine, strict=True)]
        cpu = [theirs.cpu / own.cpu for theirs, own in zip(took, mine, strict=True)]
        rows.append([name, *(spread(values) for values in ([num / each.wall for each in took], wall, cpu))])
    return tabulate(rows, ["", "answers/s: min, median, max", "ours is faster by", "in CPU seconds"])


def spread(values: Sequence[float]) -> str:
    """Minimum, median, maximum."""
    return "  ".join(f"{value:.3g}" for value in (min(values), statistics.median(values), max(values)))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or id of the pretrained model; random weights without it")
    parser.add_argument("--questions", type=int, default=256)
    parser.add_argument("--single", type=int, default=8, help="questions of the batch-1 part; 0: leave it out")
    parser.add_argument("--batch-size", type=int, default=32, help="0: leave the batched part out")
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    work = workload(options.model, options.questions, options.max_new_tokens)
    print(f"{work.backbone.name}, {torch.get_num_threads()} threads, at most {options.max_new_tokens} new tokens")
    if options.batch_size:
        batched(work, options.batch_size, options.repeats)
    if options.single:
        single(work, min(options.single, options.questions), options.repeats)


if __name__ == "__main__":
    main()
