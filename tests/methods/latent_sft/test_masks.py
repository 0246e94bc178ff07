"""The two masks of stage 1: exact matrices, a slow reference, and what they mean for a model's outputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from latbench.model.attention import CausalMask
from latbench.model.backbone import Backbone, Output
from latbench.model.layout import Pieces
from methods.latent_sft.encoder import Encoder
from methods.latent_sft.masks import InductionMask, SupervisionMask
from methods.latent_sft.sequences import RoleTokens, compressed_tokens, decoder_tokens, encoder_tokens
from tests.methods.latent_sft.latent_sft_cases import CASES, Case, built, piece, random_latents, random_pieces

BackboneOf = Callable[..., Backbone]
CHANGED = 1e-7  # of logits and hidden states of size one
PIECES = [
    piece([5, 6, 7], [3], [40, 41, 42, 43, 44], [4], [50, 51, 1]),
    piece([8], [3], [45, 46, 47, 48, 49, 50, 51], [4, 9], [52, 1]),
    piece([9, 10], [3], [53], [4], [1]),
]


def matrix(text: str) -> Tensor:
    return torch.tensor([[cell == "1" for cell in row] for row in text.split()])


@pytest.mark.parametrize("case", list(CASES.values()), ids=list(CASES))
def test_the_worked_matrices_are_met_exactly(case: Case) -> None:
    pieces = [case.piece, *case.beside]
    if case.induction is not None:
        assert torch.equal(InductionMask(encoder_tokens(pieces, case.r)).dense()[0, 0], matrix(case.induction))
    if case.supervision is not None:
        assert torch.equal(SupervisionMask(decoder_tokens(pieces, case.r)).dense()[0, 0], matrix(case.supervision))


Item = tuple[str, int]


def encoder_items(one: Pieces, r: int) -> list[Item]:
    items = [("text", 0)] * len(one.prompt)
    for i in range(-(-len(one.steps) // r)):
        items += [("text", i)] * len(one.steps[i * r : (i + 1) * r]) + [("slot", i + 1)]
    return items + [("text", 0)] * len(one.close)


def decoder_items(one: Pieces, r: int) -> list[Item]:
    items = [("init", 0)] * len(one.prompt)
    for i in range(1, -(-len(one.steps) // r) + 1):
        items += [("lat", i)] + [("seg", i)] * len(one.steps[i * r : (i + 1) * r])
    return items + [("fin", 0)] * (len(one.close) + len(one.answer) + 1)


def induces(items: list[Item], i: int, j: int) -> bool:
    return j <= i and (items[j][0] != "slot" or j == i)


def supervises(items: list[Item], i: int, j: int) -> bool:
    if j > i:
        return False
    if items[i][0] == "seg":
        return items[j][0] in ("seg", "lat") and items[j][1] == items[i][1]
    return items[j][0] != "seg"


def by_loop(items: list[Item], rule: Callable[[list[Item], int, int], bool], width: int) -> Tensor:
    mask = torch.zeros(width, width, dtype=torch.bool)
    for i in range(len(items)):
        for j in range(len(items)):
            mask[i, j] = rule(items, i, j)
    return mask


@pytest.mark.parametrize("seed", range(100))
def test_random_layouts_follow_the_slow_reference(seed: int) -> None:
    pieces, r = random_pieces(seed, 4)
    induction = InductionMask(encoder_tokens(pieces, r)).dense()
    supervision = SupervisionMask(decoder_tokens(pieces, r)).dense()
    for row, one in enumerate(pieces):
        assert torch.equal(induction[row, 0], by_loop(encoder_items(one, r), induces, induction.shape[-1]))
        assert torch.equal(supervision[row, 0], by_loop(decoder_items(one, r), supervises, supervision.shape[-1]))


@pytest.mark.parametrize("seed", range(100, 160))
def test_masks_are_causal_hold_their_diagonal_and_keep_branches_apart(seed: int) -> None:
    pieces, r = random_pieces(seed, 4)
    encoder, decoder = encoder_tokens(pieces, r), decoder_tokens(pieces, r)
    induction, supervision = InductionMask(encoder).dense()[:, 0], SupervisionMask(decoder).dense()[:, 0]
    for mask, tokens in ((induction, encoder), (supervision, decoder)):
        assert not mask.triu(1).any()
        assert torch.equal(mask.diagonal(dim1=1, dim2=2), tokens.mask)
        assert not mask[~tokens.mask].any()
        assert not mask.transpose(1, 2)[~tokens.mask].any()
    columns = induction.sum(1)  # how many rows see each key
    assert (columns[encoder.is_latent] == 1).all()
    segment = decoder.roles == 2
    for row in range(len(pieces)):
        seen = supervision[row]
        assert not seen[~segment[row]][:, segment[row]].any(), "a row of the main line sees a segment"
        assert (seen[segment[row]][:, decoder.is_latent[row]].sum(1) == 1).all(), "a segment hangs off one latent"


def test_a_close_marker_in_the_question_opens_no_view_of_later_latents() -> None:
    """Section 10, pitfall 1: searching for the marker let row 22 see z1 and z2, and z2 see 33 34."""
    hostile = piece([11, 22], [21], [31, 32, 33, 34], [22], [41])
    mask = SupervisionMask(decoder_tokens([hostile], 2)).dense()[0, 0].int()
    assert mask[1].tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert mask[6].tolist() == [1, 1, 1, 1, 0, 0, 1, 0, 0]


def test_a_close_marker_inside_a_segment_stays_in_its_branch() -> None:
    ids = [([31, 32, 22, 34], [22]), ([31, 32, 33, 34], [29])]
    masks = [SupervisionMask(decoder_tokens([piece([11], [21], *each, [41])], 2)).dense() for each in ids]
    assert torch.equal(*masks)


def test_an_eos_of_the_paddings_id_is_attended_like_any_token() -> None:
    """Section 10, pitfall 2: the last row of 11 21 z 22 41 0 was all zero."""
    mask = SupervisionMask(decoder_tokens([piece([11], [21], [31], [22], [41, 0])], 2)).dense()
    assert mask[0, 0, -1].all()


# what the masks mean for a model


@pytest.fixture(params=["llama", "qwen2", "gpt2"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest, architecture: str, backbone_of: BackboneOf) -> Backbone:
    """Random Llama, Qwen2 and GPT-2 in float64 under both kinds of attention."""
    return backbone_of(architecture, attention=request.param)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # eager attention has a float32 softmax


def filled(backbone: Backbone, tokens: RoleTokens, latents: Tensor) -> Tensor:
    """Embeddings with the latents in their places, row by row."""
    embeds = backbone.embed(tokens.ids).clone()
    embeds[tokens.is_latent] = latents
    return embeds


def supervised_logits(backbone: Backbone, tokens: RoleTokens, latents: Tensor) -> Tensor:
    """The decoder of stage 1: (batch, seq, vocab)."""
    with torch.no_grad():
        output: Output = backbone(filled(backbone, tokens, latents), tokens.positions, SupervisionMask(tokens))
    return output.logits


def compressed_logits(backbone: Backbone, tokens: RoleTokens, latents: Tensor) -> Tensor:
    """A plain causal pass over the compressed sequences: (items, vocab)."""
    with torch.no_grad():
        return backbone.causal(filled(backbone, tokens, latents), tokens.positions, select=tokens.mask).logits


@pytest.mark.parametrize("r", [1, 2, 9])
def test_the_main_line_is_a_plain_causal_pass_over_the_compressed_sequence(model: Backbone, r: int) -> None:
    decoder = decoder_tokens(PIECES, r)
    counts = decoder.is_latent.sum(1).tolist()
    latents = random_latents(model, sum(counts))
    main_line = decoder.mask & (decoder.roles != 2)
    found = supervised_logits(model, decoder, latents)[main_line]
    close(found, compressed_logits(model, compressed_tokens(PIECES, counts), latents))


def test_interleaved_positions_break_the_main_line(model: Backbone) -> None:
    decoder = decoder_tokens(PIECES[:2], 2, two_track=False)
    counts = decoder.is_latent.sum(1).tolist()
    latents = random_latents(model, sum(counts))
    found = supervised_logits(model, decoder, latents)[decoder.mask & (decoder.roles != 2)]
    off = (found - compressed_logits(model, compressed_tokens(PIECES[:2], counts), latents)).abs().max()
    assert off > 1e-3


def test_a_compress_slot_is_a_plain_pass_without_the_other_slots(model: Backbone) -> None:
    """At the positions of the whole sequence, gaps kept."""
    encoder = Encoder(model).eval()
    tokens = encoder_tokens(PIECES, 2)
    with torch.no_grad():
        encoder.slot.copy_(random_latents(model, 1)[0])
        states = iter(encoder(tokens))
        for row in range(len(PIECES)):
            for slot in tokens.is_latent[row].nonzero()[:, 0].tolist():
                kept = [i for i in range(slot) if not tokens.is_latent[row, i]] + [slot]
                embeds = model.embed(tokens.ids[row, kept])
                embeds[-1] = encoder.slot
                alone = model(embeds[None], torch.tensor([kept]), CausalMask(torch.ones(1, len(kept)).bool()))
                close(next(states), alone.hidden[0, -1])
    assert next(states, None) is None


def test_without_the_induction_mask_slots_are_a_plain_causal_pass(model: Backbone) -> None:
    encoder = Encoder(model, induction_mask=False).eval()
    tokens = encoder_tokens(PIECES, 2)
    with torch.no_grad():
        plain = model.causal(
            torch.where(tokens.is_latent[..., None], encoder.slot, model.embed(tokens.ids)),
            tokens.positions,
            select=tokens.is_latent,
        ).hidden
        close(encoder(tokens), plain)
        assert (Encoder(model).eval()(tokens) - plain).abs().max() > 1e-3


def test_without_the_supervision_mask_the_decoder_is_a_plain_causal_pass(model: Backbone) -> None:
    method = built(model, supervision_mask=False)
    tokens = method.decoder_tokens(PIECES)
    latents = random_latents(model, int(tokens.is_latent.sum()))
    with torch.no_grad():
        plain = model.causal(filled(model, tokens, latents), tokens.positions, select=tokens.mask).logits
        close(method.decode_latents(tokens, latents, select=tokens.mask), plain)


def test_right_padding_changes_nothing(model: Backbone) -> None:
    encoder = Encoder(model).eval()
    decoder = decoder_tokens(PIECES, 2)
    counts = decoder.is_latent.sum(1).tolist()
    latents = random_latents(model, sum(counts))
    together = supervised_logits(model, decoder, latents)
    with torch.no_grad():
        states = encoder(encoder_tokens(PIECES, 2)).split(counts)
    for row, one in enumerate(PIECES):
        alone = decoder_tokens([one], 2)
        close(
            together[row, : int(decoder.lengths[row])], supervised_logits(model, alone, latents.split(counts)[row])[0]
        )
        with torch.no_grad():
            close(states[row], encoder(encoder_tokens([one], 2)))


def changed_rows(model: Backbone, one: Pieces, other: Pieces, latents: Tensor, moved: Tensor) -> list[bool]:
    """Rows of the decoder whose logits differ between two inputs of the same layout."""
    tokens = decoder_tokens([one], 2)
    before = supervised_logits(model, tokens, latents)[0]
    after = supervised_logits(model, decoder_tokens([other], 2), moved)[0]
    return ((after - before).abs().amax(-1) > CHANGED).tolist()


def test_a_segment_reaches_only_itself(model: Backbone) -> None:
    one = PIECES[1]
    tokens = decoder_tokens([one], 2)
    latents = random_latents(model, 4)
    for slot in (1, 2, 3):
        steps = list(one.steps)
        steps[2 * slot] += 30  # the first token of the segment that hangs off the slot
        other = piece(one.prompt, [], steps, one.close, [*one.answer, one.eos])
        own = ((tokens.roles == 2) & (tokens.slots == slot))[0].tolist()
        assert changed_rows(model, one, other, latents, latents) == own


def test_a_latent_reaches_the_line_after_it_and_its_own_segment_and_those_of_later_latents(model: Backbone) -> None:
    """A segment sees one latent, but the deeper layers of that latent have seen the line before it."""
    one = PIECES[1]
    tokens = decoder_tokens([one], 2)
    latents = random_latents(model, 4)
    for slot in (1, 2, 3, 4):
        moved = latents.clone()
        moved[slot - 1] += random_latents(model, 1, seed=5)[0]
        at_or_after = tokens.slots[0] >= slot
        assert changed_rows(model, one, one, latents, moved) == at_or_after.tolist()


def test_a_segment_reaches_its_own_slot_and_later_ones(model: Backbone) -> None:
    encoder = Encoder(model).eval()
    one = PIECES[1]
    for segment in range(4):
        steps = list(one.steps)
        steps[2 * segment] += 30
        other = piece(one.prompt, [], steps, one.close, [*one.answer, one.eos])
        with torch.no_grad():
            before, after = (encoder(encoder_tokens([each], 2)) for each in (one, other))
        changed = (after - before).abs().amax(-1) > CHANGED
        assert changed.tolist() == [slot >= segment for slot in range(4)]


def test_sliding_windows_count_positions_of_the_compressed_line(backbone_of: BackboneOf) -> None:
    model = backbone_of("mistral_sliding")
    decoder = decoder_tokens(PIECES, 2)
    counts = decoder.is_latent.sum(1).tolist()
    latents = random_latents(model, sum(counts))
    found = supervised_logits(model, decoder, latents)[decoder.mask & (decoder.roles != 2)]
    close(found, compressed_logits(model, compressed_tokens(PIECES, counts), latents))
