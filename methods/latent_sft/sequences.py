"""The three sequences of Latent-SFT, as ids with the role of every token.

    encoder    Q <t>  S_1 L_1  S_2 L_2 ... S_N L_N  </t>      a compress slot after every r-th token of the chain
    decoder    Q <t>  z_1  S_2 z_2  S_3 z_3 ... S_N z_N  </t> A    S_1 is dropped: nothing predicts it
    stage 2    Q <t>  z_1 z_2 ... z_N  </t> A                  also what inference feeds

Roles come from known lengths, never from a search for token ids, so that a question may contain the close marker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import torch
from torch import Tensor

from latbench.model.batches import IGNORE_INDEX, Tokens, pad
from latbench.model.layout import Pieces


class Role(IntEnum):
    """What a token is."""

    PAD = 0
    PREFIX = 1  # Q and <t>
    SEGMENT = 2  # explicit reasoning text
    LATENT = 3  # compress slot L_i (encoder) or latent z_i (decoder)
    FINAL = 4  # </t> and A


@dataclass
class RoleTokens(Tokens):
    """Tokens with their roles.

    Args:
        roles: (batch, seq) Role; latent tokens carry a placeholder id, their embeddings are put in by the method.
        slots: (batch, seq) i for z_i, for the segment that hangs off z_i (S_{i+1}), and N for FINAL; 0 elsewhere.
    """

    roles: Tensor
    slots: Tensor

    @property
    def is_latent(self) -> Tensor:
        """(batch, seq) bool; row-major order of its True entries is the order of latents everywhere."""
        return self.roles == Role.LATENT


@dataclass
class _Row:
    """One sequence under construction."""

    ids: list[int]
    roles: list[int]
    slots: list[int]

    @classmethod
    def prefix(cls, ids: Sequence[int]) -> _Row:
        return cls(list(ids), [Role.PREFIX] * len(ids), [0] * len(ids))

    def add(self, ids: Sequence[int], role: Role, slot: int) -> None:
        self.ids += ids
        self.roles += [role] * len(ids)
        self.slots += [slot] * len(ids)


PLACEHOLDER = (0,)  # id of a latent token: any valid row of the table


def segments(chain: Sequence[int], r: int) -> list[Sequence[int]]:
    """S_1 .. S_N, N = ceil(T / r): every r tokens of the chain, the last with what is left."""
    return [chain[start : start + r] for start in range(0, len(chain), r)]


def encoder_tokens(pieces: Sequence[Pieces], r: int, cuts: Sequence[Sequence[int]] | None = None) -> RoleTokens:
    """The encoder's input; nothing is supervised, positions count every token.

    Args:
        cuts: of each chain, 0 .. T: the bounds of its segments, where they are not every r tokens.
    """
    rows = []
    for index, piece in enumerate(pieces):
        row = _Row.prefix(piece.prompt)
        chain = piece.steps
        parts = segments(chain, r) if cuts is None else [chain[start:end] for start, end in pairwise(cuts[index])]
        for number, segment in enumerate(parts, start=1):
            row.add(segment, Role.SEGMENT, number - 1)
            row.add(PLACEHOLDER, Role.LATENT, number)
        row.add(piece.close, Role.FINAL, len(parts))
        rows.append(row)
    return _padded(rows, supervised=(), two_track=False)


def decoder_tokens(pieces: Sequence[Pieces], r: int, *, two_track: bool = True) -> RoleTokens:
    """The decoder's input in stage 1; segments, close marker and answer are supervised.

    Args:
        two_track: latents at consecutive positions, each segment going on from its own latent (as at inference, where
            there are no segments); else positions count every token, as in the paper's first code.
    """
    rows = []
    for piece in pieces:
        row = _Row.prefix(piece.prompt)
        parts = segments(piece.steps, r)
        for number in range(1, len(parts) + 1):
            row.add(PLACEHOLDER, Role.LATENT, number)
            row.add(parts[number] if number < len(parts) else (), Role.SEGMENT, number)
        row.add((*piece.close, *piece.answer, piece.eos), Role.FINAL, len(parts))
        rows.append(row)
    return _padded(rows, supervised=(Role.SEGMENT, Role.FINAL), two_track=two_track)


def compressed_tokens(pieces: Sequence[Pieces], num_latents: Sequence[int]) -> RoleTokens:
    """The sequence of stage 2 and inference; close marker and answer are supervised."""
    rows = []
    for piece, num in zip(pieces, num_latents, strict=True):
        row = _Row.prefix(piece.prompt)
        for number in range(1, num + 1):
            row.add(PLACEHOLDER, Role.LATENT, number)
        row.add((*piece.close, *piece.answer, piece.eos), Role.FINAL, num)
        rows.append(row)
    return _padded(rows, supervised=(Role.FINAL,), two_track=False)


def segment_shares(tokens: RoleTokens) -> Tensor:
    """One over the number of targets of its latent, for every supervised token in row-major order: (items,).

    Summed with these the loss counts every latent once (the paper's reduction); the last latent's targets are the
    close marker and the answer.
    """
    supervised = tokens.labels != IGNORE_INDEX
    group = tokens.slots + torch.arange(len(tokens.ids))[:, None] * (int(tokens.slots.max()) + 1)
    return 1 / group[supervised].bincount()[group[supervised]]


def _padded(rows: Sequence[_Row], *, supervised: Sequence[Role], two_track: bool) -> RoleTokens:
    labels = []
    for row in rows:
        own = [id_ if role in supervised else IGNORE_INDEX for id_, role in zip(row.ids, row.roles, strict=True)]
        labels.append(own[1:])  # a position predicts the next id; before a latent it predicts no id
    tokens = pad([row.ids for row in rows], labels)
    roles = pad([row.roles for row in rows]).ids  # Role.PAD is what `pad` fills in
    slots = pad([row.slots for row in rows]).ids
    positions = _two_track_positions(roles, slots) if two_track else tokens.positions
    return RoleTokens(tokens.ids, positions, tokens.mask, tokens.labels, roles=roles, slots=slots)


def _two_track_positions(roles: Tensor, slots: Tensor) -> Tensor:
    """(batch, seq) positions: prefix 0 .. P-1, z_i at P-1+i, its segment from there, FINAL after z_N; padding 0."""
    num_prefix = (roles == Role.PREFIX).sum(1, keepdim=True)
    index = torch.arange(roles.shape[1]).expand_as(roles)
    branch = roles == Role.SEGMENT
    off_line = branch.cumsum(1)  # tokens of side branches so far: the main line does not count them
    latent = num_prefix - 1 + slots  # position of z_i, where a segment hangs off it
    before = torch.where(roles == Role.LATENT, index, 0).cummax(1).values  # index of z_i in the sequence
    positions = torch.where(branch, latent + index - before, index - off_line)
    return torch.where(roles == Role.PAD, 0, positions)
