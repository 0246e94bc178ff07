"""Layouts worked by hand, random ones, and small methods to run them through."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latbench.model.backbone import Backbone
from latbench.model.layout import Pieces
from methods.latent_sft import LatentSFT, LatentSFTConfig
from methods.latent_sft.condenser import Latents
from tests.conftest import CHAINS

EXAMPLES = CHAINS


def piece(
    question: Sequence[int], opened: Sequence[int], chain: Sequence[int], close: Sequence[int], answer: Sequence[int]
) -> Pieces:
    """Q, <t>, chain, </t> and A, whose last id is our EOS."""
    *text, eos = answer
    return Pieces(prompt=(*question, *opened), steps=tuple(chain), close=tuple(close), answer=tuple(text), eos=eos)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A layout of section 2.6 or 2.7.

    Args:
        encoder, decoder: ids, L and z for latents; positions: of the decoder; targets: predicting -> predicted.
        induction, supervision: rows of LTIM and LTSuM; None: not given by the section.
        beside: another row of the batch, longer by the case's padding.
    """

    piece: Pieces
    r: int
    encoder: str
    decoder: str
    positions: str
    targets: str
    induction: str | None = None
    supervision: str | None = None
    beside: tuple[Pieces, ...] = ()


CASES = {
    "A": Case(
        piece=piece([11, 12], [21], [31, 32, 33, 34], [22], [41, 42]),
        r=2,
        encoder="11 12 21 31 32 L 33 34 L 22",
        decoder="11 12 21 z 33 34 z 22 41 42",
        positions="0 1 2 3 4 5 4 5 6 7",
        targets="z1->33 33->34 z2->22 22->41 41->42",
        induction="""
            1000000000 1100000000 1110000000 1111000000 1111100000
            1111110000 1111101000 1111101100 1111101110 1111101101""",
        supervision="""
            1000000000 1100000000 1110000000 1111000000 0001100000
            0001110000 1111001000 1111001100 1111001110 1111001111""",
    ),
    "B": Case(
        piece=piece([11], [21], [31, 32, 33], [22], [41]),
        r=2,
        encoder="11 21 31 32 L 33 L 22 0 0",
        decoder="11 21 z 33 z 22 41 0 0",
        positions="0 1 2 3 3 4 5 0 0",
        targets="z1->33 z2->22 22->41",
        induction="""
            1000000000 1100000000 1110000000 1111000000 1111100000
            1111010000 1111011000 1111010100 0000000000 0000000000""",
        supervision="""
            100000000 110000000 111000000 001100000 111010000 111011000 111011100 000000000 000000000""",
        beside=(piece([11, 12], [21], [31, 32, 33, 34], [22], [41]),),
    ),
    "C": Case(
        piece=piece([11], [20, 21], [31, 32, 33, 34], [22, 23, 24], [41]),
        r=2,
        encoder="11 20 21 31 32 L 33 34 L 22 23 24",
        decoder="11 20 21 z 33 34 z 22 23 24 41",
        positions="0 1 2 3 4 5 4 5 6 7 8",
        targets="z1->33 33->34 z2->22 22->23 23->24 24->41",
        supervision="""
            10000000000 11000000000 11100000000 11110000000 00011000000 00011100000
            11110010000 11110011000 11110011100 11110011110 11110011111""",
    ),
    "D": Case(
        piece=piece([11], [21], [31], [22], [41]),
        r=2,
        encoder="11 21 31 L 22",
        decoder="11 21 z 22 41",
        positions="0 1 2 3 4",
        targets="z1->22 22->41",
        induction="10000 11000 11100 11110 11101",
        supervision="10000 11000 11100 11110 11111",
    ),
    "E": Case(
        piece=piece([11], [21], [31, 32], [22], [41]),
        r=1,
        encoder="11 21 31 L 32 L 22",
        decoder="11 21 z 32 z 22 41",
        positions="0 1 2 3 3 4 5",
        targets="z1->32 z2->22 22->41",
        supervision="1000000 1100000 1110000 0011000 1110100 1110110 1110111",
    ),
    "F": Case(
        piece=piece([11, 12, 13], [20, 21], range(31, 38), [22, 23], [41, 42]),
        r=3,
        encoder="11 12 13 20 21 31 32 33 L 34 35 36 L 37 L 22 23",
        decoder="11 12 13 20 21 z 34 35 36 z 37 z 22 23 41 42",
        positions="0 1 2 3 4 5 6 7 8 6 7 7 8 9 10 11",
        targets="z1->34 34->35 35->36 z2->37 z3->22 22->23 23->41 41->42",
    ),
}


def random_pieces(seed: int, num: int) -> tuple[list[Pieces], int]:
    """Rows and an r: few different ids, so that markers, EOS and the padding's id 0 turn up everywhere."""
    rng = random.Random(seed)

    def ids(least: int, most: int) -> list[int]:
        return [rng.randrange(6) for _ in range(rng.randint(least, most))]

    rows = [piece(ids(1, 5), ids(1, 3), ids(1, 12), ids(1, 3), ids(1, 4)) for _ in range(num)]
    return rows, rng.randint(1, 14)


def built(backbone: Backbone, **settings: Any) -> LatentSFT:
    """A method whose encoder is no longer a copy of its decoder, in evaluation mode."""
    method = LatentSFT(backbone, LatentSFTConfig(**settings))
    method.build_auxiliary()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * parameter.std(correction=0) * noise.to(parameter.dtype))
    return method.eval()


def superposition(latents: Latents) -> tuple[Tensor, Tensor]:
    """Entries and weights of latents that are mixtures of some entries: (latents, top_k) both."""
    assert latents.ids is not None
    assert latents.weights is not None
    return latents.ids, latents.weights


def random_latents(backbone: Backbone, num: int, seed: int = 0) -> Tensor:
    """Vectors of the size of the backbone's embeddings: (num, hidden)."""
    table: Tensor = backbone.model.get_input_embeddings().weight.detach()
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, table.shape[1], generator=generator, dtype=torch.float64).to(table.dtype) * table.std()
