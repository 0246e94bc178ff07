"""The meter of floating-point operations against PyTorch's own counter, and against 6 N per token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from latbench.config import LoraConfig
from latbench.method import Method
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX
from latbench.training.cost import FlopMeter, TrainReport, count_tokens
from latbench.training.trainer import set_trainable
from methods.cot import Cot, CotConfig
from tests.training.toy_run import toy_examples

BackboneOf = Callable[..., Backbone]


def measured(method: Method[CotConfig], *, backward: bool = True) -> tuple[int, int]:
    """Operations of one training pass: ours, and PyTorch's by kernel."""
    stage = method.stages()[0]
    set_trainable(method, stage)
    batch = method.batch(toy_examples(5), stage)
    meter = FlopMeter(method)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        objective = method(batch, stage).objective()
        if backward:
            objective.backward()
    return meter.take(), counter.get_total_flops()


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama_untied", "qwen2", "gemma3"])
@pytest.mark.parametrize("backward", [True, False])
def test_operations_equal_those_of_the_kernels_that_run(backbone_of: BackboneOf, name: str, backward: bool) -> None:
    ours, theirs = measured(Cot(backbone_of(name, attention="eager"), CotConfig()), backward=backward)
    assert ours == pytest.approx(theirs, rel=0.01)  # rotary tables are a tiny product of their own


def test_adapters_cost_less_than_full_training(backbone_of: BackboneOf) -> None:
    lora = Cot(backbone_of("llama", attention="eager", lora=LoraConfig(rank=1)), CotConfig())
    full = Cot(backbone_of("llama", attention="eager"), CotConfig())
    ours, theirs = measured(lora)
    assert ours == pytest.approx(theirs, rel=0.03)
    assert ours < measured(full)[0]


def test_full_training_costs_six_operations_per_weight_and_position(backbone_of: BackboneOf) -> None:
    method = Cot(backbone_of("llama"), CotConfig())
    tokens = method.batch(toy_examples(5), method.stages()[0]).tokens
    layers, head = 0, method.backbone.model.lm_head.weight.numel()
    for name, parameter in method.backbone.named_parameters():
        layers += parameter.numel() * (".layers." in name and parameter.dim() == 2)
    positions, supervised = tokens.ids.numel(), int((tokens.labels != IGNORE_INDEX).sum())
    attention = 12 * 3 * 32 * positions * tokens.ids.shape[1]  # layers, width
    assert measured(method)[0] == 6 * layers * positions + 6 * head * supervised + attention


def test_padding_is_not_counted_as_tokens(backbone_of: BackboneOf) -> None:
    method = Cot(backbone_of("llama"), CotConfig())
    examples = toy_examples(5)
    pieces = [method.backbone.layout.encode(example) for example in examples]
    seen, supervised = count_tokens(method.batch(examples, method.stages()[0]))
    assert seen == sum(len(piece) for piece in pieces)
    assert supervised == sum(len(piece) - len(piece.prompt) for piece in pieces)


def test_costs_of_stages_add_up_and_an_example_is_skipped_once() -> None:
    first = TrainReport(optimiser_steps=2, flops=1e9, peak_memory_bytes=5, skipped={"long": 3, "odd": 1})
    second = TrainReport(optimiser_steps=3, flops=2e9, peak_memory_bytes=4, skipped={"long": 4})
    total = TrainReport.total([first, second])
    assert (total.optimiser_steps, total.flops, total.peak_memory_bytes) == (5, 3e9, 5)
    assert total.skipped == {"long": 4, "odd": 1}
