"""Key-value caches behind one small interface, and the masks that go with them.

`SlotCache` (decoding): one preallocated slot per row with its own write column; a finished row's slot is refilled by
the next question without touching its neighbours, and no row needs left padding. transformers' StaticCache has one
write index for all rows and cannot be refilled.
`GrowingCache` (training): transformers' DynamicCache, whose concatenations keep the graph; its columns are shared by
all rows, and a row that sits a step out leaves an invalid column.

Both answer `reserve` with the position of every key column, -1 where the column holds nothing for that row. That one
vector gives causality and padding (query at position q sees key at position k iff 0 <= k <= q), and sliding windows,
which `Backbone` cuts where a layer has one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

MIN_CAPACITY = 64  # columns; grown by doubling
CALL_BYTES = 1 << 18  # of keys and values that attention reads in the time that one call of its own costs on a CPU


class RowSpan(NamedTuple):
    """Neighbouring rows of similar length, at one position each.

    Args:
        first: the first row.
        end: the row after the last one.
        width: columns that the longest of them uses.
        even: all use as many, so that attention to these columns needs no mask.
    """

    first: int
    end: int
    width: int
    even: bool


class DecodeCache(Protocol):
    """What `Backbone` needs of a cache."""

    hf: Cache

    @property
    def fixed(self) -> bool:
        """Every step has the same shapes."""
        ...

    def reserve(self, positions: Tensor, valid: Tensor, rows: Tensor | None = None) -> Tensor:
        """Say where the coming keys go.

        Args:
            positions: (batch, seq) of the coming tokens.
            valid: (batch, seq) bool, False for padding and idle rows.
            rows: (batch,) slots that these prompts begin in, after the columns of `begin`; None: every row goes on
                where it is.
        Returns: (batch, columns) position of every key column, -1 where it holds nothing.
        """
        ...

    def spans(self) -> list[RowSpan] | None:
        """All rows, in order, by the columns that they use; None: attention reads all columns."""
        ...


class GrowingCache:
    """Shared columns that grow by concatenation; safe for autograd."""

    fixed = False

    def __init__(self) -> None:
        self.hf: Cache = DynamicCache()  # without a config: sliding layers keep all columns, the mask cuts the window
        self._key_positions: Tensor | None = None

    def reserve(self, positions: Tensor, valid: Tensor, rows: Tensor | None = None) -> Tensor:
        """See DecodeCache; `rows` is not supported here."""
        assert rows is None, "a growing cache has no slots"
        new = torch.where(valid, positions, -1)
        self._key_positions = new if self._key_positions is None else torch.cat([self._key_positions, new], dim=1)
        return self._key_positions

    def repeat(self, rows: Tensor) -> None:
        """Go on with these rows in place of those that are here: (batch,) indices, each as often as it is given."""
        self.hf.batch_select_indices(rows)
        if self._key_positions is not None:
            self._key_positions = self._key_positions[rows]

    def spans(self) -> None:
        """See DecodeCache; the rows share their columns."""

    def __len__(self) -> int:
        return 0 if self._key_positions is None else int(self.hf.get_seq_length())


@dataclass
class _Columns:
    """Which columns of a SlotCache hold something and where the next go: what its layers must know, apart from it.

    A layer that knew the cache would close a cycle, which keeps the slots until the garbage is collected.
    """

    num_slots: int
    capacity: int
    fixed: bool
    rows: Tensor | None = None  # slots that prompts are being written to; None: all rows go on
    width: int = 0  # of what attention reads
    shared: int = 0  # that every prompt begins with
    lengths: Tensor | None = None  # (slots,) columns in use
    index: tuple[Tensor, slice, Tensor] | None = None  # (slots, heads, columns) where the coming keys go

    def used(self, device: torch.device) -> Tensor:
        """(slots,) columns in use."""
        if self.lengths is None:
            self.lengths = torch.zeros(self.num_slots, dtype=torch.long, device=device)
        return self.lengths

    def __len__(self) -> int:
        """Columns in use by the longest row."""
        return 0 if self.lengths is None else int(self.lengths.max())

    def target(self, device: torch.device) -> tuple[Tensor, slice, Tensor]:
        """Where the coming keys go, for a layer on this device."""
        assert self.index is not None, "reserve comes first"
        rows, heads, columns = self.index
        return self.index if rows.device == device else (rows.to(device), heads, columns.to(device))


class SlotCache:
    """One slot per row; writes at each row's own columns, in place.

    Args:
        num_slots: rows decoded at once.
        num_layers: of the model.
        capacity: columns to start with.
        fixed: attention reads all columns at every step, whose shapes then stay the same as long as the capacity does.
    """

    def __init__(self, num_slots: int, num_layers: int, capacity: int = MIN_CAPACITY, *, fixed: bool = False) -> None:
        self.columns = _Columns(num_slots, max(capacity, MIN_CAPACITY), fixed)
        self.layers = [_SlotLayer(self.columns) for _ in range(num_layers)]
        self.hf: Cache = Cache(layers=list(self.layers))
        self._longest = 0  # an upper bound of the lengths

    @property
    def fixed(self) -> bool:
        """Every step has the same shapes, once the slots are allocated: by the first prompt, or else the first step."""
        return self.columns.fixed and self.layers[0].is_initialized

    @property
    def shared(self) -> int:
        """Columns that every prompt begins with."""
        return self.columns.shared

    def reserve(self, positions: Tensor, valid: Tensor, rows: Tensor | None = None) -> Tensor:
        """See DecodeCache. A slot's column equals the position, so a token overwrites what stood there.

        Padding writes go to the column after the row's last real token, which the next real token overwrites.
        """
        at, device = self.columns, positions.device
        lengths = at.used(device) if rows is None else at.used(device)[rows]
        lengths = torch.maximum(torch.where(valid, positions + 1, 0).amax(1), lengths)
        if rows is None:
            at.lengths = lengths
        else:
            at.used(device)[rows] = lengths
        at.rows = rows
        slots = torch.arange(at.num_slots, device=device) if rows is None else rows
        at.index = slots[:, None], slice(None), torch.where(valid, positions, lengths[:, None])
        if rows is None and positions.shape[1] == 1:
            self._longest += 1  # at most; asking the device at every step would stall it
            if self._longest >= at.capacity:  # the longest row may have been finished long ago
                self._longest = int(lengths.max())
            at.width = self._longest + 1
        else:
            at.width = int(lengths.max()) + 1
            self._longest = max(self._longest, at.width - 1)
        self._grow(at.width)
        if rows is not None:  # they see the shared columns and themselves
            first = torch.arange(at.shared, device=device).expand(len(rows), -1)
            return torch.cat([first, torch.where(valid, positions, -1)], dim=1)
        if self.fixed:
            at.width = at.capacity
        columns = torch.arange(at.width, device=device)
        return torch.where(columns < lengths[:, None], columns, -1)

    def spans(self) -> list[RowSpan] | None:
        """See DecodeCache. None where one call over all slots and columns costs no more, as it does on a GPU."""
        layer, used = self.layers[0], self.columns.lengths
        if self.fixed or used is None or used.device.type != "cpu" or layer.keys is None:
            return None
        lengths = used.tolist()
        allowed = CALL_BYTES // layer.column_bytes
        if self.columns.width * len(lengths) - sum(lengths) <= allowed and min(lengths) < max(lengths):
            return None
        bounds, widest, total = [0], 1, 0
        for slot, length in enumerate(lengths):
            widest, total = max(widest, length), total + length
            if slot > bounds[-1] and widest * (slot + 1 - bounds[-1]) - total > allowed:
                bounds.append(slot)
                widest, total = max(1, length), length
        parts = [(first, end, lengths[first:end]) for first, end in pairwise([*bounds, len(lengths)])]
        return [RowSpan(first, end, max(1, *part), even=min(part) == max(1, *part)) for first, end, part in parts]

    def share(self, slot: int, length: int) -> None:
        """Let every prompt from now on begin with the first columns of this slot."""
        self.columns.shared = length
        for layer in self.layers:
            layer.share(slot, length)

    def begin(self, rows: Tensor) -> None:
        """Empty these slots but for the shared columns; what else they hold is overwritten by the next question."""
        self.columns.used(rows.device)[rows] = self.shared
        self._longest = len(self.columns)
        for layer in self.layers:
            layer.begin(rows)

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Give slots the columns of others: (n,) indices each."""
        if not len(target):
            return
        lengths = self.columns.used(source.device)
        lengths[target] = lengths[source]
        width = int(lengths[source].max())
        for layer in self.layers:
            layer.copy(source, target, width)

    def keep(self, rows: Tensor) -> None:
        """Shrink to these slots, in this order (the others are finished and nothing is left to refill them).

        Args:
            rows: (n,) slots; one that keeps its number is not copied.
        """
        order = torch.arange(len(rows), device=rows.device)
        moved = (rows != order).nonzero()[:, 0]
        self.copy(rows[moved], moved)
        self.columns.num_slots = len(rows)
        self.columns.lengths = self.columns.used(rows.device)[: len(rows)]
        self._longest = len(self.columns)
        for layer in self.layers:
            layer.replace(lambda tensor: tensor[: len(rows)])

    def add(self, num: int, device: torch.device) -> None:
        """Append empty slots."""
        self.columns.lengths = functional.pad(self.columns.used(device), (0, num))
        self.columns.num_slots += num
        for layer in self.layers:
            layer.replace(lambda tensor: torch.cat([tensor, tensor.new_zeros(num, *tensor.shape[1:])]))

    def __len__(self) -> int:
        return len(self.columns)

    def _grow(self, needed: int) -> None:
        at = self.columns
        if needed > at.capacity:
            at.capacity = max(needed, 2 * at.capacity)
            for layer in self.layers:
                layer.replace(lambda t: functional.pad(t, (0, 0, 0, at.capacity - t.shape[2])))


class _SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, (slots, heads, capacity, head_dim)."""

    is_sliding = False

    def __init__(self, columns: _Columns) -> None:
        super().__init__()
        self.columns = columns
        self.first: tuple[Tensor, Tensor] | None = None  # of the shared columns

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the slots; zeros, because a masked column of NaN would still poison the softmax-weighted sum."""
        shape = (self.columns.num_slots, key_states.shape[1], self.columns.capacity)
        self.keys = key_states.new_zeros(*shape, key_states.shape[3])
        self.values = value_states.new_zeros(*shape, value_states.shape[3])
        self.is_initialized = True
        self._stay()

    def _stay(self) -> None:
        """Tell a captured graph that it writes to these tensors in place; it is captured anew for others."""
        if self.columns.fixed:
            for part in (self.keys, self.values):
                torch._dynamo.mark_static_address(part, guard=False)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write (batch, heads, seq, head_dim) at the reserved columns; return all that the rows may see."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        at = self.columns
        assert self.keys is not None
        assert self.values is not None
        index = at.target(key_states.device)
        self.keys[index] = key_states.transpose(1, 2)
        self.values[index] = value_states.transpose(1, 2)
        if at.rows is None:
            return self.keys[:, :, : at.width], self.values[:, :, : at.width]
        if self.first is None:
            return key_states, value_states
        first = (part.expand(len(key_states), -1, -1, -1) for part in self.first)
        keys, values = (torch.cat(pair, dim=2) for pair in zip(first, (key_states, value_states), strict=True))
        return keys, values

    @property
    def column_bytes(self) -> int:
        """Of one row's keys and values at one position."""
        assert self.keys is not None
        assert self.values is not None
        return sum(part.shape[1] * part.shape[3] * part.element_size() for part in (self.keys, self.values))

    def share(self, slot: int, length: int) -> None:
        """See SlotCache."""
        assert self.keys is not None
        assert self.values is not None
        self.first = (
            self.keys[slot : slot + 1, :, :length].clone(), self.values[slot : slot + 1, :, :length].clone()
        )  # fmt: skip

    def begin(self, rows: Tensor) -> None:
        """See SlotCache."""
        if self.first is not None and self.keys is not None and self.values is not None:
            rows = rows.to(self.keys.device)
            self.keys[rows, :, : self.columns.shared] = self.first[0]
            self.values[rows, :, : self.columns.shared] = self.first[1]

    def copy(self, source: Tensor, target: Tensor, width: int) -> None:
        """See SlotCache."""
        if self.keys is not None and self.values is not None:
            source, target = source.to(self.keys.device), target.to(self.keys.device)
            for part in (self.keys, self.values):
                part[target, :, :width] = part[source, :, :width]

    def replace(self, change: Any) -> None:
        """Apply a function to both tensors."""
        if self.is_initialized:
            self.keys, self.values = change(self.keys), change(self.values)
            self._stay()

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(columns, offset); unused because the mask is given, 4-D."""
        return self.columns.width, 0

    def get_seq_length(self) -> int:
        """Columns in use by the longest row."""
        return len(self.columns)

    def get_max_length(self) -> int:
        """Capacity grows."""
        return -1


def causal_mask(query_positions: Tensor, key_positions: Tensor) -> Tensor:
    """Which key each query sees.

    Args:
        query_positions: (batch, query).
        key_positions: (batch, key), -1 where the column holds nothing.
    Returns: (batch, 1, query, key) bool.
    """
    queries, keys = query_positions[:, None, :, None], key_positions[:, None, None, :]
    return (keys >= 0) & (keys <= queries)
