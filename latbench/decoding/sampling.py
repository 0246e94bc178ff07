"""Greedy, temperature, top-k, top-p, min-p, Gumbel, normal and Dirichlet from a stateless counter-based generator.

A draw is a pure function of (seed, example, sample, step, draw): neither the batch a row is decoded in nor a resumed
run changes it, and there is no generator object per row. Mixing: the finaliser of SplitMix64 (Steele, Lea and Flood,
OOPSLA 2014), in int64 arithmetic that wraps, on whatever device the keys are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latbench.config import GenerateConfig


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)
FEW = 16  # likeliest tokens that sampling looks at first
FLAT = 0.1  # mean probability of the likeliest token below which most draws would fall beyond these
MARGIN = 1e-5
_ROUNDS = 8  # of rejection; each accepts with probability 0.95 at least


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def row_keys(seed: int, ids: Sequence[str], samples: Sequence[int]) -> Tensor:
    """One 64-bit key per row from the run's seed, the example's id and the sample's number: (batch,) int64."""
    digests = (
        hashlib.blake2b(f"{seed}\0{sample}\0{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for name, sample in zip(ids, samples, strict=True)
    )
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.long)


def uniform(keys: Tensor, steps: Tensor, draw: int = 0, num: int | None = None) -> Tensor:
    """Uniform numbers in (0, 1), keyed.

    Args:
        keys: (batch,) from `row_keys`.
        steps: (batch,) decision number within the row.
        draw: which use within a step.
        num: how many per row; None: one.
    Returns: (batch,) or (batch, num) float64.
    """
    state = _mix(keys + (steps + 1) * _GOLDEN)
    state = _mix(state + _signed((draw + 1) * _GOLDEN & _MASK))
    if num is not None:
        state = _mix(state[:, None] + torch.arange(1, num + 1, device=keys.device) * _GOLDEN)
    return (_shift_right(state, 11).double() + 0.5) / float(1 << 53)


def gumbel(keys: Tensor, steps: Tensor, draw: int, num: int) -> Tensor:
    """Standard Gumbel noise -log(-log u), keyed as `uniform`: (batch, num) float32."""
    return -torch.log(-torch.log(uniform(keys, steps, draw, num))).float()


def normal(keys: Tensor, steps: Tensor, draw: int, num: int) -> Tensor:
    """Standard normal noise, keyed as `uniform`: (batch, num) float32."""
    noise: Tensor = torch.special.ndtri(uniform(keys, steps, draw, num))
    return noise.float()


def dirichlet(concentration: Tensor, keys: Tensor, steps: Tensor, draw: int) -> Tensor:
    """One draw per row of the Dirichlet distribution, keyed as `uniform`.

    Normalised Gamma draws (Marsaglia and Tsang, ACM TOMS 26(3), 2000: one of shape a + 1, brought down to a by a power
    of a uniform number), in logarithms: those of small concentrations underflow.

    Args:
        concentration: (batch, num); 0 where the weight is to be 0, not everywhere.
    Returns: (batch, num) float64, summing to one.
    """
    num = concentration.shape[-1]
    draws = uniform(keys, steps, draw, (2 * _ROUNDS + 1) * num).unflatten(-1, (-1, num))  # (batch, draw, num)
    z, accept, power = torch.special.ndtri(draws[:, :_ROUNDS]), draws[:, _ROUNDS:-1], draws[:, -1]
    shape = concentration.double()
    d = shape[:, None] + 1 - 1 / 3
    v = (1 + z / (9 * d).sqrt()).pow(3).clamp(min=1e-300)  # what is clamped is never accepted
    accepted = accept.log() < z**2 / 2 + d * (1 - v + v.log())
    first = accepted.int().argmax(1, keepdim=True)
    log_gamma = (d * v).gather(1, first)[:, 0].log() + power.log() / shape
    weights: Tensor = log_gamma.softmax(-1)
    return weights


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a text token is chosen; temperature 0 is greedy. The order is temperature, top-k, top-p, min-p."""

    temperature: float = 0.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    min_p: float = 0.0  # of the largest probability, what a token must have; 0: off

    @classmethod
    def from_config(cls, config: GenerateConfig) -> Sampling:
        """The sampling part of `generate.*`."""
        return cls(temperature=config.temperature, top_k=config.top_k, top_p=config.top_p)

    def choose(self, logits: Tensor, keys: Tensor, steps: Tensor) -> Tensor:
        """One token id per row.

        Args:
            logits: (batch, vocab).
            keys: (batch,), see `uniform`.
            steps: (batch,), see `uniform`.
        Returns: (batch,) ids.
        """
        if self.temperature == 0:
            return logits.argmax(-1)
        draws = uniform(keys, steps)
        likely = self._among_likeliest(logits, draws)
        if likely is None:
            return self._by_order(logits, draws)
        token, sure = likely
        others = (~sure).nonzero()[:, 0]
        if len(others):
            # two rows at least: the sum of a single one might be split among threads, and round otherwise
            rows = others if len(others) > 1 or len(sure) == 1 else torch.cat([others, 1 - others.clamp(max=1)])
            token = token.index_put((rows,), self._by_order(logits[rows], draws[rows]))
        return token

    def _by_order(self, logits: Tensor, draws: Tensor) -> Tensor:
        """(batch,) ids: where the draw falls when all tokens are ordered by falling probability."""
        ids, probabilities = self.distribution(logits)
        cumulative = probabilities.cumsum(-1)
        target = draws[:, None] * cumulative[:, -1:]
        index = (cumulative < target).sum(-1, keepdim=True).clamp(max=ids.shape[-1] - 1)
        return ids.gather(-1, index)[:, 0]

    def _among_likeliest(self, logits: Tensor, draws: Tensor) -> tuple[Tensor, Tensor] | None:
        """What `_by_order` finds where the draw falls among the likeliest tokens, without ordering the vocabulary.

        That order is most of the cost of sampling on a CPU. Masses are shares of one sum in float64 either way, of
        exponentials that two float32 roundings may set apart by some 1e-7; a draw within MARGIN of a bound between two
        tokens, beyond FEW tokens, or at tokens of equal score is left to `_by_order`.

        Returns: (batch,) ids, and (batch,) bool whether they are sure; None where it would not pay.
        """
        vocab = logits.shape[-1]
        filters = self.top_k or self.top_p < 1 or self.min_p > 0
        if filters or vocab < 4 * FEW or logits.device.type != "cpu":
            return None
        scaled = logits.float() / self.temperature
        total = (scaled - scaled.amax(-1, keepdim=True)).exp().double().sum(-1, keepdim=True)
        if not (1 / total).mean() > FLAT:  # of the likeliest token
            return None
        scores, ids = torch.topk(scaled, FEW)
        mass = ((scores - scores[:, :1]).exp().double() / total).cumsum(-1)
        index = (mass < draws[:, None]).sum(-1, keepdim=True).clamp(max=FEW - 2)
        here, after = scores.gather(-1, index), scores.gather(-1, index + 1)
        before = scores.gather(-1, (index - 1).clamp(min=0))
        apart = (here > after) & ((index == 0) | (before > here)) & (mass.gather(-1, index) > draws[:, None])
        near = (mass - draws[:, None]).abs().amin(-1) < MARGIN
        return ids.gather(-1, index)[:, 0], apart[:, 0] & ~near

    def distribution(self, logits: Tensor, most: int | None = None) -> tuple[Tensor, Tensor]:
        """What `choose` draws from, at a temperature above 0: (batch, vocab) logits -> ids and probabilities.

        Args:
            most: entries that are needed, which spares sorting the vocabulary where top-k is off; None: all.
        Returns: ids (batch, top_k) by falling probability, and their probabilities (batch, top_k), float64: 0 where
            top-p or min-p drop a token. All of them sum to one; `most` of them are in proportion alone.
        """
        vocab = logits.shape[-1]
        top = min(self.top_k or vocab, vocab)
        scaled = logits.float() / self.temperature
        if most is not None and most < top == vocab:  # the total over a vocabulary asks for no order
            scores, ids = torch.topk(scaled, most)
            if self.top_p == 1 and self.min_p == 0:
                return ids, scores.double().softmax(-1)
            probabilities = (scores - scaled.logsumexp(-1, keepdim=True)).exp().double()
        else:
            scores, ids = torch.topk(scaled, top)
            probabilities, ids = scores.softmax(-1).double()[:, :most], ids[:, :most]
        if most is None or self.top_p < 1:
            before = probabilities.cumsum(-1) - probabilities
            probabilities = torch.where(before < self.top_p, probabilities, 0.0)  # smallest set whose mass reaches it
        if self.min_p > 0:
            probabilities = torch.where(probabilities >= self.min_p * probabilities[:, :1], probabilities, 0.0)
        return ids, probabilities / probabilities.sum(-1, keepdim=True)
