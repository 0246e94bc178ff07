"""The three sequences of Latent-SFT: ids, roles, positions, labels, and which position predicts what."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from latbench.method import Stage
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX
from latbench.model.layout import Pieces
from latbench.task import Example
from methods.latent_sft.method import STAGE2
from methods.latent_sft.sequences import (
    Role,
    RoleTokens,
    compressed_tokens,
    decoder_tokens,
    encoder_tokens,
    segment_shares,
    segments,
)
from tests.methods.latent_sft.latent_sft_cases import CASES, EXAMPLES, Case, built, piece, random_pieces

BackboneOf = Callable[..., Backbone]


@pytest.fixture(params=list(CASES.values()), ids=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    """Each worked layout."""
    chosen: Case = request.param
    return chosen


def shown(tokens: RoleTokens, latent: str) -> str:
    """Ids of the first row, latents by name."""
    pairs = zip(tokens.ids[0].tolist(), tokens.is_latent[0].tolist(), strict=True)
    return " ".join(latent if is_latent else str(id_) for id_, is_latent in pairs)


def targets(tokens: RoleTokens) -> str:
    """What the first row's positions predict."""
    found = []
    for position in (tokens.labels[0] != IGNORE_INDEX).nonzero()[:, 0].tolist():
        is_latent = bool(tokens.is_latent[0, position])
        name = f"z{int(tokens.slots[0, position])}" if is_latent else str(int(tokens.ids[0, position]))
        found.append(f"{name}->{int(tokens.labels[0, position])}")
    return " ".join(found)


def test_the_worked_layouts_are_met_exactly(case: Case) -> None:
    pieces = [case.piece, *case.beside]
    assert shown(encoder_tokens(pieces, case.r), "L") == case.encoder
    decoder = decoder_tokens(pieces, case.r)
    assert shown(decoder, "z") == case.decoder
    assert " ".join(map(str, decoder.positions[0].tolist())) == case.positions
    assert targets(decoder) == case.targets


def test_the_encoder_supervises_nothing_and_counts_every_position(case: Case) -> None:
    tokens = encoder_tokens([case.piece, *case.beside], case.r)
    assert (tokens.labels == IGNORE_INDEX).all()
    assert torch.equal(tokens.positions[0], torch.arange(tokens.ids.shape[1]))


def reference(piece: Pieces, r: int) -> tuple[list[int], list[int]]:
    """Positions and shifted labels of the decoder, written out as in sections 1 and 2.4."""
    prefix, chain = len(piece.prompt), piece.steps
    positions, aligned = list(range(prefix)), [IGNORE_INDEX] * prefix
    num = -(-len(chain) // r)
    for i in range(1, num + 1):
        positions.append(prefix - 1 + i)
        aligned.append(IGNORE_INDEX)
        for t, token in enumerate(chain[i * r : (i + 1) * r], start=1):
            positions.append(prefix - 1 + i + t)
            aligned.append(token)
    for t, token in enumerate((*piece.close, *piece.answer, piece.eos)):
        positions.append(prefix + num + t)
        aligned.append(token)
    return positions, [*aligned[1:], IGNORE_INDEX]


@pytest.mark.parametrize("seed", range(60))
def test_random_batches_follow_the_slow_reference(seed: int) -> None:
    pieces, r = random_pieces(seed, 5)
    decoder, encoder = decoder_tokens(pieces, r), encoder_tokens(pieces, r)
    for row, one in enumerate(pieces):
        positions, labels = reference(one, r)
        length = len(positions)
        assert int(decoder.lengths[row]) == length
        assert decoder.positions[row, :length].tolist() == positions
        assert decoder.labels[row, :length].tolist() == labels
        assert (decoder.positions[row, length:] == 0).all()
        assert (decoder.labels[row, length:] == IGNORE_INDEX).all()
        assert (decoder.roles[row, length:] == Role.PAD).all()
        num_latents = -(-len(one.steps) // r)
        assert int(encoder.is_latent[row].sum()) == int(decoder.is_latent[row].sum()) == num_latents
        assert int(encoder.lengths[row]) == len(one.prompt) + len(one.steps) + num_latents + len(one.close)
        supervised = len(one.steps[r:]) + len(one.close) + len(one.answer) + 1
        assert int((decoder.labels[row] != IGNORE_INDEX).sum()) == supervised


@pytest.mark.parametrize(("length", "r"), [(6, 2), (7, 2), (7, 1), (3, 5), (1, 1), (12, 4)])
def test_segments_hold_r_tokens_and_the_last_what_is_left(length: int, r: int) -> None:
    parts = segments(range(length), r)
    assert [token for part in parts for token in part] == list(range(length))
    assert len(parts) == -(-length // r)
    assert [len(part) for part in parts[:-1]] == [r] * (len(parts) - 1)
    assert 1 <= len(parts[-1]) <= r


def test_an_encoder_may_be_given_other_segments() -> None:
    tokens = encoder_tokens([piece([1, 2], [3], [4, 5, 6, 7], [9], [8])], 2, cuts=[[0, 3, 4]])
    assert shown(tokens, "L") == "1 2 3 4 5 6 L 7 L 9"
    assert tokens.slots[0].tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 2, 2]
    assert torch.equal(tokens.positions[0], torch.arange(10))


def test_roles_ignore_what_the_ids_say() -> None:
    """The close marker in question and chain, EOS equal to padding, the padding's id inside the text."""
    hostile = piece([22, 0, 21], [21], [22, 0, 21, 22], [22], [0, 0])
    plain = piece([1, 2, 3], [4], [5, 6, 7, 8], [9], [10, 11])
    for make in (encoder_tokens, decoder_tokens):
        found, expected = make([hostile], 2), make([plain], 2)
        for name in ("roles", "slots", "positions", "mask"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name
    labels = decoder_tokens([hostile], 2).labels
    assert labels[labels != IGNORE_INDEX].tolist() == [21, 22, 22, 0, 0], "an EOS of the padding's id is a target"


def test_stage_2_feeds_all_latents_in_a_row_and_supervises_what_follows() -> None:
    tokens = compressed_tokens([CASES["C"].piece, CASES["D"].piece], [2, 1])
    assert shown(tokens, "z") == "11 20 21 z z 22 23 24 41"
    assert targets(tokens) == "z2->22 22->23 23->24 24->41"
    assert torch.equal(tokens.positions[1], torch.arange(9)), "a restart would be taken for packed sequences"
    assert tokens.roles[1].tolist() == [1, 1, 3, 4, 4, 0, 0, 0, 0]


def test_a_sequence_without_latents_closes_after_the_prefix() -> None:
    tokens = compressed_tokens([CASES["A"].piece], [0])
    assert shown(tokens, "z") == "11 12 21 22 41 42"
    assert not tokens.is_latent.any()


def test_every_latent_counts_once_in_the_papers_reduction() -> None:
    """A: z1 has 33 34, z2 has 22 41 42; B: z1 has 33, z2 has 22 41."""
    shares = segment_shares(decoder_tokens([CASES["A"].piece, CASES["B"].piece], 2))
    torch.testing.assert_close(shares, torch.tensor([1 / 2] * 2 + [1 / 3] * 3 + [1.0] + [1 / 2] * 2))


@pytest.mark.parametrize("seed", range(20))
def test_shares_add_up_to_the_number_of_latents(seed: int) -> None:
    pieces, r = random_pieces(seed, 4)
    tokens = decoder_tokens(pieces, r)
    assert float(segment_shares(tokens).sum()) == pytest.approx(int(tokens.is_latent.sum()))


def test_interleaved_positions_count_every_token() -> None:
    tokens = decoder_tokens([CASES["A"].piece, CASES["F"].piece], 2, two_track=False)
    assert torch.equal(tokens.positions, torch.arange(tokens.ids.shape[1]).expand_as(tokens.ids))


def test_moving_keeps_every_field_in_its_place() -> None:
    tokens = decoder_tokens([CASES["A"].piece], 2)
    moved = tokens.to("cpu")
    assert isinstance(moved, RoleTokens)
    for name in ("ids", "positions", "mask", "labels", "roles", "slots"):
        assert torch.equal(getattr(moved, name), getattr(tokens, name)), name


def test_without_the_supervision_mask_positions_are_those_of_any_sequence(backbone_of: BackboneOf) -> None:
    pieces = [CASES["A"].piece]
    method = built(backbone_of("llama"), supervision_mask=False)
    assert torch.equal(method.decoder_tokens(pieces).positions, decoder_tokens(pieces, 2, two_track=False).positions)


@pytest.mark.parametrize("stage", ["stage1_encoder", STAGE2])
def test_an_empty_chain_is_skipped(backbone_of: BackboneOf, stage: str) -> None:
    method = built(backbone_of("llama"))
    assert method.skip_reason(EXAMPLES[0].without_steps(None), Stage(name=stage)) == "no reasoning steps"
    assert method.skip_reason(EXAMPLES[0], Stage(name=stage)) is None


def test_a_chain_that_the_encoder_cannot_hold_is_skipped_in_every_stage(backbone_of: BackboneOf) -> None:
    """Stage 2's own sequence is short, but its soft labels come from the encoder's long one."""
    method = built(backbone_of("gpt2"), tokens_per_latent=8)
    long = Example(id="long", question="n0 = 3", steps=("<<3+4=7>>",) * 36, answer="7")
    assert len(method.backbone.layout.encode(long)) > method.backbone.context
    for stage in method.stages():
        assert method.skip_reason(long, stage) == "longer than the context", stage.name
