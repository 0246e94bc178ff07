"""`cot` and `direct`: what is supervised, and that both learn a small set by heart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from latbench.config import GenerateConfig, ModelConfig, TrainConfig
from latbench.decoding.loop import Prompt
from latbench.method import Method, Stage
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX
from latbench.task import Example
from latbench.training.trainer import train_method
from methods.cot import Cot, CotConfig
from methods.direct import Direct, DirectConfig

EXAMPLE = Example(id="0", question="n0 = 3 + 4 ; n0 * 2", steps=("<<3+4=7>>", "<<7*2=14>>"), answer="14")
STAGE = Stage(name="sft")
BackboneOf = Callable[..., Backbone]


def supervised(method: Method[Any], example: Example = EXAMPLE) -> tuple[list[int], list[int]]:
    """Ids without loss and ids with loss, in order."""
    tokens = method.batch([example], STAGE).tokens
    length = int(tokens.lengths[0])
    ids, labels = tokens.ids[0].tolist(), tokens.labels[0].tolist()
    free = next(i for i, label in enumerate(labels) if label != IGNORE_INDEX) + 1
    assert labels[free - 1 : length - 1] == ids[free:length], "from the first label on, every next token is a label"
    assert set(labels[: free - 1]) | set(labels[length - 1 :]) <= {IGNORE_INDEX}
    return ids[:free], ids[free:length]


@pytest.mark.parametrize("layout", ["default", "plain_hash_answer"])
def test_cot_supervises_everything_after_the_question(backbone_of: BackboneOf, layout: str) -> None:
    backbone = backbone_of("gpt2", layout=layout)
    prompt, target = supervised(Cot(backbone, CotConfig()))
    pieces = backbone.layout.encode(EXAMPLE)
    assert prompt == backbone.prompt(EXAMPLE.question)
    assert target == [*pieces.steps, *pieces.close, *pieces.answer, backbone.layout.eos]


@pytest.mark.parametrize("layout", ["default", "plain_hash_answer"])
def test_direct_supervises_the_answer_after_its_own_prompt(backbone_of: BackboneOf, layout: str) -> None:
    backbone = backbone_of("gpt2", layout=layout)
    method = Direct(backbone, DirectConfig())
    prompt, target = supervised(method)
    assert prompt == method.prompt_ids(EXAMPLE.question)
    assert target == [*backbone.layout.encode(EXAMPLE).answer, backbone.layout.eos]


@pytest.mark.parametrize(("cls", "config"), [(Cot, CotConfig), (Direct, DirectConfig)])
@pytest.mark.parametrize("ask", [None, "", "Be brief."])
def test_a_model_without_think_tokens_is_trained_on_what_it_is_asked(
    backbone_of: BackboneOf, cls: Any, config: Any, ask: str | None
) -> None:
    method = cls(backbone_of("gpt2", layout="plain_boxed"), config(ask=ask))
    prompt, _ = supervised(method)
    assert prompt == method.prompt_ids(EXAMPLE.question)


@pytest.mark.parametrize("layout", ["default", "plain_hash_answer"])
def test_direct_is_cot_with_its_steps_removed(backbone_of: BackboneOf, layout: str) -> None:
    backbone = backbone_of("gpt2", layout=layout)
    bare = EXAMPLE.without_steps(None)
    ours = Direct(backbone, DirectConfig()).batch([EXAMPLE], STAGE).tokens.ids
    assert torch.equal(ours, Cot(backbone, CotConfig()).batch([bare], STAGE).tokens.ids)


def test_the_coconut_layout_pieces_equal_the_whole_text() -> None:
    backbone = Backbone.load(ModelConfig(layout="plain_hash_answer", device="cpu"))
    tokens = Cot(backbone, CotConfig()).batch([EXAMPLE], STAGE).tokens
    text = EXAMPLE.question + "\n" + "".join(step + "\n" for step in EXAMPLE.steps) + "### " + EXAMPLE.answer
    assert tokens.ids[0].tolist() == [*backbone.tokenizer.encode(text), backbone.layout.eos]


def test_a_long_chain_keeps_nobody_from_training_direct(backbone_of: BackboneOf) -> None:
    backbone = backbone_of("llama")
    long = Example(id="1", question="n0 = 3", steps=("<<3+4=7>>",) * 300, answer="7")
    assert Direct(backbone, DirectConfig()).skip_reason(long, STAGE) is None
    assert Cot(backbone, CotConfig()).skip_reason(long, STAGE) == "longer than the context"


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "config"), [(Cot, CotConfig()), (Direct, DirectConfig())])
def test_32_examples_are_learnt_by_heart(tmp_path: Path, cls: Any, config: Any) -> None:
    examples = [
        Example(
            id=str(i),
            question=f"n{i} = {i} * {i + 3} + {7 * i % 10} ;",
            steps=(f"<<{i}*{i + 3}={i * (i + 3)}>>", f"<<{i * (i + 3)}+{7 * i % 10}={i * (i + 3) + 7 * i % 10}>>"),
            answer=str(i * (i + 3) + 7 * i % 10),
        )
        for i in range(32)
    ]
    method = cls(Backbone.load(ModelConfig(hidden_size=64, mlp_size=128, device="cpu"), seed=1), config)
    budget = TrainConfig(epochs=150, batch_size=8, lr=3e-3)
    train_method(method, examples, budget, folder=tmp_path, seed=0)
    found = method.generate([Prompt(id=e.id, text=e.question) for e in examples], GenerateConfig(max_new_tokens=48))
    assert [generation.text for generation in found] == [example.answer for example in examples]
    chains = [generation.num_reasoning_tokens for generation in found]
    gold = [method.backbone.num_step_tokens(example) for example in examples]
    assert chains == (gold if cls is Cot else [0] * 32)
