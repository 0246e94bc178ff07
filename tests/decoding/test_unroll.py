"""`unroll` takes the same latent steps as `decode`, with gradients."""

from __future__ import annotations

import torch

from latbench.config import GenerateConfig
from latbench.decoding.loop import Prompt, decode, unroll
from latbench.decoding.rule import FixedLatents, Mode, RecordedLatents, RowState
from latbench.method import LossTerm
from latbench.model.backbone import Backbone, DecodeState
from latbench.model.batches import pad
from latbench.task import Example
from latbench.training.losses import token_cross_entropy
from tests.decoding.test_decode import QUESTIONS, MixtureRule

ANN = Example(id="a", question="3*4-2?", steps=("<<3*4=12>>", "<<12-2=10>>"), answer="10")
SHORT = Example(id="s", question="1+1", steps=("<<1+1=2>>",), answer="2")


def prefilled(backbone: Backbone, questions: list[str]) -> DecodeState:
    return backbone.prefill(pad([backbone.prompt(q) for q in questions]))


def test_latents_in_training_equal_latents_in_generation(backbone: Backbone) -> None:
    record = RecordedLatents()
    unroll(backbone, prefilled(backbone, QUESTIONS), FixedLatents(backbone, 3), record=record)
    prompts = [Prompt(id=q, text=q) for q in QUESTIONS]
    config = GenerateConfig(max_new_tokens=1, batch_size=4)
    ids = [backbone.prompt(q) for q in QUESTIONS]
    for row, got in enumerate(decode(backbone, ids, prompts, FixedLatents(backbone, 3), config, trace=True)):
        fed = torch.stack([step[row] for step in record.fed])
        assert got.trace is not None
        torch.testing.assert_close(got.trace.embeds, fed.float(), rtol=1e-6, atol=1e-6)


def test_rows_may_take_different_numbers_of_steps(backbone: Backbone) -> None:
    rule = MixtureRule(backbone)
    whole = unroll(backbone, prefilled(backbone, QUESTIONS), rule)
    target = pad([[*backbone.layout.close, 4, 5]] * len(QUESTIONS))
    lengths, logits = whole.lengths, backbone.extend(whole, target)
    assert len(set((lengths - torch.tensor([len(backbone.prompt(q)) for q in QUESTIONS])).tolist())) > 1
    for row, question in enumerate(QUESTIONS):
        alone = unroll(backbone, prefilled(backbone, [question]), MixtureRule(backbone))
        assert int(alone.lengths) == int(lengths[row])
        torch.testing.assert_close(backbone.extend(alone, pad([[*backbone.layout.close, 4, 5]]))[0], logits[row])


def test_unroll_equals_a_loop_without_cache_and_carries_gradients(backbone: Backbone) -> None:
    question, target = "n0 = 3 + 4 ;", [*backbone.layout.close, 7, 8]
    weight = backbone.model.get_input_embeddings().weight
    state = unroll(backbone, prefilled(backbone, [question]), FixedLatents(backbone, 2))
    cached = backbone.extend(state, pad([target]))[0]

    embeds = backbone.embed(torch.tensor([backbone.prompt(question)]))
    for _ in range(2):
        hidden = backbone.model(inputs_embeds=embeds, output_hidden_states=True).hidden_states[-1][:, -1:]
        embeds = torch.cat([embeds, hidden], 1)
    whole = torch.cat([embeds, backbone.embed(torch.tensor([target]))], 1)
    naive = backbone.model(inputs_embeds=whole).logits[0, -len(target) - 1 : -1]
    torch.testing.assert_close(cached, naive, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(logits.logsumexp(-1).sum(), weight)[0] for logits in (cached, naive)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)  # rotary angles and norms are float32 inside


def test_gradients_flow_through_the_latents_alone(llama: Backbone) -> None:
    """With text blocked from the question, the question still reaches the loss through what the latent carries."""
    embeds = llama.embed(torch.tensor([llama.prompt("n0 = 3")])).detach().requires_grad_()
    length = embeds.shape[1]
    positions = torch.arange(length)[None]
    causal = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    latent = llama(embeds, positions, causal).hidden[:, -1:]
    answer = torch.cat([latent, llama.embed(torch.tensor([[7]]))], 1)
    alone = llama(answer, torch.arange(2)[None], torch.ones(1, 1, 2, 2, dtype=torch.bool).tril())
    (gradient,) = torch.autograd.grad(alone.logits.logsumexp(-1).sum(), embeds)
    assert (gradient[0].norm(dim=-1) > 0).all()


def test_zero_latents_leave_the_prefilled_state(llama: Backbone) -> None:
    before = prefilled(llama, QUESTIONS)
    after = unroll(llama, before, FixedLatents(llama, 0))
    assert after is before


def test_extend_aligns_logits_with_shifted_labels(llama: Backbone) -> None:
    target = pad([[3, 4, 5], [6]])
    logits = llama.extend(prefilled(llama, ["x", "x"]), target)
    full = llama.model(torch.tensor([[*llama.prompt("x"), 3, 4]])).logits[:, -3:]
    torch.testing.assert_close(logits[:1], full)
    torch.testing.assert_close(logits[1, 0], full[0, 0])


def test_without_latents_the_rollout_is_plain_next_token_loss(llama: Backbone) -> None:
    """Every step token, the first one too, is supervised as in `cot`; without steps the forced marker is not."""
    for dropped in (0, 1, None):
        example = ANN.without_steps(dropped)
        rollout = llama.batch_rollout([example, SHORT])
        state = unroll(llama, llama.prefill(rollout.question), FixedLatents(llama, 0))
        plain = llama.batch_sequences([example, SHORT], "steps" if example.steps else "answer")
        got = token_cross_entropy(llama.extend(state, rollout.target), rollout.target.labels)
        if example.steps:
            expected = token_cross_entropy(*llama.logits_at_labels(plain.tokens))
        else:
            rows = [
                llama.batch_sequences([example], "answer"),
                llama.batch_sequences([SHORT], "steps"),
            ]
            terms = [token_cross_entropy(*llama.logits_at_labels(row.tokens)) for row in rows]
            expected = LossTerm(terms[0].total + terms[1].total, terms[0].num_items + terms[1].num_items)
        assert got.num_items == expected.num_items == rollout.num_items["ce"]
        torch.testing.assert_close(got.total, expected.total)


def test_a_rule_that_will_not_stop_is_stopped(llama: Backbone) -> None:
    state = prefilled(llama, QUESTIONS[:2])
    lengths = state.lengths
    assert (unroll(llama, state, FixedLatents(llama, 99), max_latents=4).lengths - lengths).tolist() == [4, 4]


def test_a_row_that_begins_in_text_takes_no_latent_step(llama: Backbone) -> None:
    state = prefilled(llama, QUESTIONS[:2])
    rows = RowState.fresh(torch.zeros(2, dtype=torch.long), Mode.LATENT)
    rows.mode[1] = Mode.TEXT
    lengths = state.lengths
    assert (unroll(llama, state, FixedLatents(llama, 2), rows=rows).lengths - lengths).tolist() == [2, 0]


def test_a_record_keeps_what_was_fed_with_gradients(backbone: Backbone) -> None:
    record = RecordedLatents()
    prompts = pad([backbone.prompt("ann has 3"), backbone.prompt("bob")])
    state = unroll(backbone, backbone.prefill(prompts), FixedLatents(backbone, torch.tensor([2, 1])), record=record)
    assert record.mask.tolist() == [[True, True], [True, False]]
    assert torch.equal(record.embeds[record.mask], record.hidden[record.mask]), "this rule feeds the state as it is"
    assert torch.equal(record.after, state.hidden)
    one = state.hidden[0, 0]  # the sum of a layer norm's outputs is a constant
    (gradient,) = torch.autograd.grad(one, record.fed[0], retain_graph=True)
    assert gradient[0].any()
    assert not gradient[1].any()


def test_a_record_of_no_steps_is_empty(backbone: Backbone) -> None:
    record = RecordedLatents()
    unroll(backbone, backbone.prefill(pad([backbone.prompt("bob")])), FixedLatents(backbone, 0), record=record)
    assert record.embeds.shape == (1, 0, backbone.hidden_size)
    assert record.mask.shape == (1, 0)
