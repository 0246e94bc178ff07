"""What a training will cost, said before it: operations as the training then counts them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from latbench.config import TrainConfig
from latbench.method import Method
from latbench.model.backbone import Backbone
from latbench.task import Example
from latbench.training.cost import FlopMeter
from latbench.training.estimate import estimate_training
from latbench.training.trainer import set_trainable
from methods.coconut import Coconut, CoconutConfig
from methods.cot import Cot, CotConfig
from tests.training.toy_run import toy_examples

BackboneOf = Callable[..., Backbone]


def counted(method: Method[CotConfig]) -> int:
    """Operations of a step over four examples, as training counts them."""
    stage = method.stages()[0]
    set_trainable(method, stage)
    method.train()
    meter = FlopMeter(method)
    method(method.batch(toy_examples(4), stage), stage).objective().backward()
    return meter.take()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_estimate_is_what_training_counts_repeated_forward_passes_included(
    backbone_of: BackboneOf, checkpointing: bool
) -> None:
    method = Cot(backbone_of("llama", gradient_checkpointing=checkpointing), CotConfig())
    weights = {name: parameter.clone() for name, parameter in method.named_parameters()}
    (stage,) = estimate_training(method, toy_examples(4), TrainConfig(batch_size=4, epochs=1))
    assert (stage.steps, stage.passes) == (1, 4)
    assert all(parameter.equal(weights[name]) for name, parameter in method.named_parameters())
    assert all(parameter.grad is None for parameter in method.parameters())
    assert stage.flops == counted(method)
    if checkpointing:
        without = Cot(backbone_of("llama"), CotConfig())
        assert 1.1 < stage.flops / counted(without) < 4 / 3, "a third more in the layers, none in the LM head"


def test_data_that_training_takes_are_estimated_though_their_long_chains_are_rare(backbone_of: BackboneOf) -> None:
    examples = [
        Example(id=str(number), question="1+1?", steps=("<<1+1=2>>",) * (3 if number == 5 else 1), answer="2")
        for number in range(40)
    ]
    method = Coconut(backbone_of("llama"), CoconutConfig(max_stage=3))
    stages = estimate_training(method, examples, TrainConfig(batch_size=4, epochs=1))
    assert [stage.name for stage in stages] == ["stage0", "stage1", "stage2", "stage3", "final"]
