"""One rule, read densely or in blocks: the same pairs, the same forward pass, and dense where blocks do not apply."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from latbench.model import attention
from latbench.model.attention import BLOCK, CausalMask, SequenceMask
from latbench.model.backbone import Backbone
from latbench.model.batches import Tokens
from latbench.model.layout import Pieces
from latbench.training.cost import FlopMeter
from methods.latent_sft.masks import InductionMask, SupervisionMask
from methods.latent_sft.sequences import decoder_tokens, encoder_tokens

BackboneOf = Callable[..., Backbone]
Rule = tuple[Tokens, SequenceMask]
CHAINS = (290, 40, 3)  # tokens of reasoning per row: several blocks, less than one, and nearly none


def pieces(chain: int, *, vocab: int = 60) -> Pieces:
    draw = random.Random(chain)
    question, steps = ([draw.randrange(10, vocab) for _ in range(count)] for count in (6, chain))
    return Pieces(prompt=tuple(question), steps=tuple(steps), close=(4,), answer=(5, 6), eos=1)


def example(rule: str, chains: Sequence[int] = CHAINS) -> Rule:
    """A right-padded batch of rows of mixed lengths and a mask over it."""
    rows = [pieces(chain) for chain in chains]
    if rule == "induction":
        encoder = encoder_tokens(rows, r=3)
        return encoder, InductionMask(encoder)
    decoder = decoder_tokens(rows, r=4)
    return decoder, SupervisionMask(decoder) if rule == "supervision" else CausalMask(decoder.mask)


RULES = ["induction", "supervision", "causal"]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="FlexAttention on a CPU needs a C++ compiler")


def pairs(mask: BlockMask) -> Tensor:
    """(batch, 1, seq, seq) bool that a block mask stands for: all of its full blocks, the rule in partial ones."""
    batch, _, queries, keys = mask.shape
    assert mask.full_kv_num_blocks is not None
    assert mask.full_kv_indices is not None
    partial, full = torch.zeros(2, batch, 1, -(-queries // BLOCK), -(-keys // BLOCK), dtype=torch.bool)
    for chosen, counts, indices in (
        (partial, mask.kv_num_blocks, mask.kv_indices),
        (full, mask.full_kv_num_blocks, mask.full_kv_indices),
    ):
        for place in torch.cartesian_prod(*map(torch.arange, counts.shape)).tolist():
            chosen[(*place, indices[tuple(place)][: counts[tuple(place)]].long())] = True
    partial, full = (
        part.repeat_interleave(BLOCK, -1).repeat_interleave(BLOCK, -2)[..., :queries, :keys] for part in (partial, full)
    )
    allowed: Tensor = full | (partial & create_mask(mask.mask_mod, batch, 1, queries, keys, device="cpu"))
    return allowed


def both_ways(backbone: Backbone, tokens: Tokens, mask: SequenceMask) -> tuple[list[Tensor], list[Tensor]]:
    """Logits and final hidden states on real tokens, dense and in blocks."""
    results = []
    for flex in (False, True):
        backbone.flex = flex
        embeds = backbone.embed(tokens.ids)
        output = backbone.forward(embeds, tokens.positions, mask)
        states = backbone.states(embeds, tokens.positions, mask)
        results.append([part[tokens.mask] for part in (output.logits, output.hidden, states)])
    return results[0], results[1]


@pytest.mark.parametrize("rule", RULES)
def test_blocks_hold_the_pairs_of_the_dense_mask_and_padding_sees_itself(rule: str) -> None:
    tokens, mask = example(rule)
    assert tokens.ids.shape[1] % BLOCK != 0
    padding = torch.diag_embed(~tokens.mask)[:, None]
    assert torch.equal(pairs(mask.blocks()), mask.dense() | padding)


@pytest.mark.parametrize("seq", [BLOCK // 2, BLOCK, 3 * BLOCK, 3 * BLOCK + 1])
def test_blocks_are_those_of_the_library(seq: int) -> None:
    lengths = torch.tensor([seq, seq // 2, 1])
    ours = CausalMask(torch.arange(seq) < lengths[:, None]).blocks()
    theirs = create_block_mask(ours.mask_mod, len(lengths), None, seq, seq, device="cpu", BLOCK_SIZE=BLOCK)
    assert ours.shape == theirs.shape
    for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices", "q_num_blocks", "q_indices"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_flex_attention_equals_dense_attention_on_real_tokens(backbone_of: BackboneOf, name: str, rule: str) -> None:
    backbone = backbone_of(name, dtype=torch.float32)
    tokens, mask = example(rule)
    assert backbone.takes_blocks
    torch.compiler.reset()  # sizes seen to vary turn dynamic, for which CPU kernels may not compile
    with torch.no_grad():
        dense, blocks = both_ways(backbone, tokens, mask)
        for ours, theirs in zip(blocks, dense, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


class Spy:
    """Stands in for FlexAttention, whose backward pass no CPU has: SDPA under the pairs of the block mask."""

    def __init__(self) -> None:
        self.calls = 0
        self.dtypes: set[torch.dtype] = set()

    def __call__(self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, **rest: Any) -> Any:
        self.calls += 1
        self.dtypes |= {query.dtype, key.dtype, value.dtype}
        return sdpa_attention_forward(module, query, key, value, pairs(mask), **rest)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy = Spy()
    monkeypatch.setattr(attention, "flex_attention_forward", spy)
    return spy


@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["full", "lora"])
def test_gradient_checkpointing_recomputes_with_the_blocks(backbone_of: BackboneOf, spy: Spy, lora: Any) -> None:
    tokens, mask = example("supervision")
    gradients, calls = [], []
    for flex in (False, True):
        backbone = backbone_of("llama", gradient_checkpointing=True, lora=lora).train()
        backbone.flex = flex
        embeds = backbone.embed(tokens.ids).detach().requires_grad_()
        output = backbone.forward(embeds, tokens.positions, mask)
        output.logits[tokens.mask].logsumexp(-1).sum().backward()
        gradients.append(embeds.grad)
        calls.append(spy.calls)
    layers = backbone.text_config.num_hidden_layers
    assert calls == [0, 2 * layers]  # every layer twice: forward, and again in the backward pass
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("gpt2", {}),
        ("qwen2_sliding", {}),
        ("mistral_sliding", {}),
        ("gemma3", {}),
        ("llama", {"attention": "eager"}),
    ],
)
def test_models_that_cannot_take_blocks_stay_dense(
    backbone_of: BackboneOf, spy: Spy, name: str, config: dict[str, Any]
) -> None:
    tokens, mask = example("induction", chains=(40, 3))
    dense, asked_for_blocks = both_ways(backbone_of(name, **config), tokens, mask)
    assert spy.calls == 0
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(asked_for_blocks, dense, strict=True))


def test_a_cpu_stays_dense_unless_told_otherwise(llama: Backbone, spy: Spy) -> None:
    tokens, mask = example("induction")
    llama.states(llama.embed(tokens.ids), tokens.positions, mask)
    assert spy.calls == 0


def test_under_autocast_queries_keys_and_values_share_its_precision(backbone_of: BackboneOf, spy: Spy) -> None:
    tokens, mask = example("induction")
    backbone = backbone_of("llama", dtype=torch.float32)
    backbone.flex = True
    with torch.autocast("cpu", dtype=torch.bfloat16):
        backbone.states(backbone.embed(tokens.ids), tokens.positions, mask)
    assert spy.dtypes == {torch.bfloat16}


def test_the_meter_counts_blocks_as_the_dense_mask(llama: Backbone, spy: Spy) -> None:
    tokens, mask = example("supervision")
    meter = FlopMeter(llama)
    counts = []
    for flex in (False, True):
        llama.flex = flex
        llama.forward(llama.embed(tokens.ids), tokens.positions, mask)
        counts.append(meter.take())
    meter.close()
    assert spy.calls > 0
    assert counts[0] == counts[1] > 0
