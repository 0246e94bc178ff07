"""A tiny random LiteReason, and sampling that writes tags where a test wants them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from latbench.decoding.sampling import Sampling, row_keys
from methods.litereason import LiteReason, LiteReasonConfig
from methods.litereason.tags import Tags
from tests.conftest import make_backbone

FREE = -1  # of a script: what the model chooses


def method(name: str = "llama", *, model: dict[str, Any] | None = None, **settings: Any) -> LiteReason:
    """Random weights in float64 over the tiny tokenizer, whose tags are `[3]`; a projector apart from the model."""
    made = LiteReason(make_backbone(name, **(model or {})), LiteReasonConfig(**{"spaced": False, **settings}))
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in made.projector.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made.eval()


def script(tags: Tags, *parts: str | int) -> list[int]:
    """Tokens by decision: a text's, or so many that the model chooses; latents take a decision each."""
    ids = [token for part in parts for token in ([FREE] * part if isinstance(part, int) else tags.encode(part))]
    return tags.expanded(ids, FREE).ids


@dataclass(frozen=True, kw_only=True)
class Nudged(Sampling):
    """Sampling that takes a row's tokens from its script, and chooses for itself where that is free."""

    scripts: dict[int, list[int]]

    @classmethod
    def of(cls, scripts: Sequence[list[int]], seed: int = 0, **sampling: Any) -> Nudged:
        """Scripts of prompts with the ids 0, 1, ..."""
        keys = row_keys(seed, [str(number) for number in range(len(scripts))], [0] * len(scripts)).tolist()
        return cls(scripts=dict(zip(keys, scripts, strict=True)), **sampling)

    def choose(self, logits: Tensor, keys: Tensor, steps: Tensor) -> Tensor:
        token = super().choose(logits, keys, steps)
        for row, (key, step) in enumerate(zip(keys.tolist(), steps.tolist(), strict=True)):
            own = self.scripts.get(key, [])
            if step < len(own) and own[step] != FREE:
                token[row] = own[step]
        return token


def merging_tokenizer(*more: tuple[str, str]) -> PreTrainedTokenizerFast:
    """Bytes, words of the tag, and tokens that join its ends with what is beside it: `.<`, `>` and a newline, more."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in ("implicit", "thought"):
        merges += [(word[:end], word[end]) for end in range(1, len(word))]
    merges += [(".", "<"), ("<", "/"), (">", "Ċ"), *more]
    pieces = [*alphabet, *("".join(merge) for merge in merges), "<eos>"]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", clean_up_tokenization_spaces=False)
