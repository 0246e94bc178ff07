"""Masks as rules over token vectors: one rule, read densely (SDPA, eager) or in blocks (FlexAttention)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from latbench.model.cache import RowSpan

BLOCK = 128  # tokens on a side of a block: FlexAttention's default, which its kernels are tuned for
SDPA_OR_FLEX = "sdpa_or_flex"  # the name under which transformers knows `sdpa_or_flex`


class SequenceMask(ABC):
    """Which key each query of a batch of sequences attends to.

    Args:
        real: (batch, seq) bool, False on padding, which attends to nothing and is attended by nothing.
    """

    def __init__(self, real: Tensor) -> None:
        self.real = real

    @abstractmethod
    def attends(self, row: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """The rule between real tokens, causality included.

        Args:
            row: indices into the batch; the three broadcast together.
            query: indices into the sequence, of what attends.
            key: indices into the sequence, of what is attended to.
        Returns: bool, of the broadcast shape.
        """

    def dense(self) -> Tensor:
        """(batch, 1, seq, seq) bool."""
        rows, index = self._indices()
        return self._between_real(rows, index[:, None], index)[:, None]

    def blocks(self) -> BlockMask:
        """The same in blocks of BLOCK x BLOCK; here padding attends to itself, as a softmax over nothing is NaN.

        Blocks are sorted into empty, partial and full one band of queries at a time, so that no (seq, seq) mask
        exists. `create_block_mask` avoids that only while compiled, and quietly builds the whole mask once it has
        been compiled for more shapes and rules than torch allows.
        """
        rows, index = self._indices()

        def visible(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return self._between_real(row, query, key) | ((query == key) & ~self.real[row, query])

        bands = [_per_block(visible(rows, rows, band[:, None], index)) for band in index.split(BLOCK)]
        counts = torch.stack(bands, dim=1)[:, None]  # (batch, 1, query blocks, key blocks) visible pairs
        full = counts == BLOCK * BLOCK
        return BlockMask.from_kv_blocks(
            *_first(~full & (counts > 0)), *_first(full), BLOCK, visible, seq_lengths=(len(index), len(index))
        )

    def _indices(self) -> tuple[Tensor, Tensor]:
        """Rows (batch, 1, 1) and tokens (seq,)."""
        batch, seq = (torch.arange(size, device=self.real.device) for size in self.real.shape)
        return batch[:, None, None], seq

    def _between_real(self, row: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return self.real[row, query] & self.real[row, key] & self.attends(row, query, key)


class CausalMask(SequenceMask):
    """Every earlier real token and the token itself."""

    def attends(self, row: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """See SequenceMask."""
        return key <= query


def _per_block(band: Tensor) -> Tensor:
    """True entries per block of keys: (batch, queries, seq) bool -> (batch, key blocks)."""
    ragged = -band.shape[-1] % BLOCK  # keys beyond the sequence are not visible: a ragged block is never full
    counts: Tensor = nn.functional.pad(band.sum(1), (0, ragged))
    return counts.view(len(counts), -1, BLOCK).sum(-1)


def _first(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Number of True entries in the last axis, and all its indices with theirs first, in order; int32."""
    order = chosen.int().argsort(dim=-1, descending=True, stable=True)
    return chosen.sum(-1, dtype=torch.int32), order.int()


def takes_blocks(model: PreTrainedModel) -> bool:
    """Whether FlexAttention can stand in for SDPA in this model.

    It has no dropout. Windows are cut from dense masks by position; no model here has both windows and block masks.
    """
    config = model.config.get_text_config()
    windows = getattr(config, "sliding_window", None) is not None
    return bool(model._supports_flex_attn) and not windows and not getattr(config, "attention_dropout", 0.0)


def sdpa_or_flex(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    *,
    spans: Sequence[RowSpan] | None = None,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention of a transformers model by the form of its mask: blocks for FlexAttention, anything else for SDPA.

    The mask decides rather than the model's configuration: gradient checkpointing runs a layer again during the
    backward pass, with the same mask, when a configuration changed for one call has long been changed back.

    Args:
        spans: of a step's rows; each is attended to by a call of its own, which reads the columns it uses. Beside a
            dense mask without windows.
    """
    if isinstance(attention_mask, BlockMask):
        allow_recompiling()
        device = query.device.type
        if torch.is_autocast_enabled(device):  # rotary embeddings leave query and key in float32; SDPA casts by itself
            query, key, value = (part.to(torch.get_autocast_dtype(device)) for part in (query, key, value))
        attended = flex_attention_forward(module, query, key, value, attention_mask, **rest)
    elif spans is not None and attention_mask is not None:
        parts = (
            (query[first:end], key[first:end, :, :width], value[first:end, :, :width],
             None if even else attention_mask[first:end, ..., :width]) for first, end, width, even in spans
        )  # fmt: skip
        outputs = [sdpa_attention_forward(module, *part, **rest)[0] for part in parts]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs), None
    else:
        attended = sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
    output: Tensor = attended[0]
    return output, None


@cache
def allow_recompiling() -> None:
    """Let FlexAttention compile for every rule, with and without gradients, for one row and many, and steps likewise.

    Torch stops at 8 by default; FlexAttention then runs an unfused version that holds all scores in memory.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)


AttentionInterface.register(SDPA_OR_FLEX, sdpa_or_flex)
AttentionMaskInterface.register(SDPA_OR_FLEX, sdpa_mask)
