"""Properties of the one decoding loop, on every architecture and in float64, where equal computations agree."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from latbench.config import GenerateConfig
from latbench.decoding.loop import Generation, Prompt, decode
from latbench.decoding.rule import FixedLatents, Latent, LatentRule, Mixture, Mode, RowState, Step, StepRule
from latbench.decoding.sampling import Sampling
from latbench.decoding.superposition import top_k_mixture
from latbench.model.backbone import Backbone
from latbench.model.batches import pad
from latbench.model.cache import GrowingCache, SlotCache
from tests.generations import num_emitted, num_reasoning_tokens

QUESTIONS = [
    "n0 = 3 + 4 ;n0 ?",
    "x",
    "n1 = 5 - 2 ;n2 = n1 + 1 ;n2 ?",
    "é",
    "hello world",
    "n3 = 1 + 1 ;",
    "a longer question of many bytes, to be padded to",
    "7",
    "n0 = 2 * 2 ;n0 ?",
]


class MixtureRule(LatentRule):
    """Feeds a top-k mixture until think-close wins; a growing bonus makes random models stop at different steps."""

    def __init__(self, backbone: Backbone, k: int = 5, bonus: float = 1.0) -> None:
        super().__init__(backbone)
        self.k, self.bonus = k, bonus

    def latent(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Latent:
        scores = logits.clone()
        scores[:, self.backbone.layout.close[0]] += self.bonus * rows.num_latents
        ids, weights = top_k_mixture(scores, self.k)
        stop = scores.argmax(-1) == self.backbone.layout.close[0]
        return Latent(self.backbone.mix(ids, weights), stop, Mixture(ids, weights))


RULES: dict[str, Callable[[Backbone], StepRule]] = {
    "text": StepRule,
    "hidden": lambda b: FixedLatents(b, 3),
    "mixture": MixtureRule,
    "sampled": lambda b: StepRule(b, Sampling(temperature=1.5, top_k=50, top_p=0.9)),
}


def run(
    backbone: Backbone, rule: StepRule, *, batch_size: int, questions: Sequence[str] = QUESTIONS, **settings: Any
) -> list[Generation]:
    settings = {"max_new_tokens": 12, "max_latents": 9, **settings}
    trace = settings.pop("trace", False)
    raw = settings.pop("raw", False)
    prompts = [Prompt(id=f"q{QUESTIONS.index(q)}", text=q, raw=raw) for q in questions]
    ids = [backbone.encode(q) if raw else backbone.prompt(q) for q in questions]
    return decode(backbone, ids, prompts, rule, GenerateConfig(batch_size=batch_size, **settings), seed=3, trace=trace)


def vary_length(backbone: Backbone) -> None:
    """Let a third of the vocabulary end an answer, so that random models stop at different steps."""
    backbone.model.generation_config.eos_token_id = list(range(0, len(backbone.tokenizer), 3))


def without_cache(
    backbone: Backbone, rule: StepRule, question: str, *, max_new_tokens: int, max_latents: int
) -> tuple[list[int], int]:
    """Slow reference: one row, everything recomputed at every step. Returns: emitted ids without EOS, latent steps."""
    close = list(backbone.layout.close)
    embeds = backbone.embed(torch.tensor([backbone.prompt(question)]))
    rows = RowState.fresh(torch.zeros(1, dtype=torch.long), rule.start)
    emitted: list[int] = []
    while len(emitted) < max_new_tokens:
        out = backbone.model(inputs_embeds=embeds, use_cache=False, output_hidden_states=True)
        step = rule.step(out.hidden_states[-1][:, -1], out.logits[:, -1], rows)
        thinks = step.mode is not None and int(step.mode) == Mode.LATENT
        at_cap = thinks and int(rows.num_latents) >= max_latents
        if at_cap or (step.forced is not None and int(step.forced[0, 0]) >= 0):
            following, rows.mode = backbone.embed(torch.tensor([close])), torch.tensor([Mode.TEXT])
        elif thinks:
            following, rows.num_latents = step.embeds[:, None], rows.num_latents + 1
        else:
            if int(step.token) in backbone.eos_ids:
                break
            emitted.append(int(step.token))
            following = step.embeds[:, None]
        embeds = torch.cat([embeds, following], dim=1)
    return emitted, int(rows.num_latents)


@pytest.mark.parametrize("rule", RULES)
def test_a_batch_equals_single_rows_and_refill_changes_nothing(backbone: Backbone, rule: str) -> None:
    vary_length(backbone)
    whole = run(backbone, RULES[rule](backbone), batch_size=len(QUESTIONS))
    assert len({num_emitted(answer) for answer in whole}) > 1, "rows must end at different steps"
    assert run(backbone, RULES[rule](backbone), batch_size=3) == whole
    assert [run(backbone, RULES[rule](backbone), batch_size=1, questions=[q])[0] for q in QUESTIONS] == whole


@pytest.mark.parametrize("rule", ["text", "hidden", "mixture"])
def test_cached_equals_recomputed(backbone: Backbone, rule: str) -> None:
    vary_length(backbone)
    for question, got in zip(QUESTIONS, run(backbone, RULES[rule](backbone), batch_size=4), strict=True):
        ids, latents = without_cache(backbone, RULES[rule](backbone), question, max_new_tokens=12, max_latents=9)
        assert got.num_latents == latents
        assert got.reasoning + got.text == backbone.layout.decode(ids)
        assert num_emitted(got) == len(ids)


@pytest.mark.parametrize("rule", ["text", "hidden", "mixture"])
def test_eager_attention_equals_sdpa(backbone_of: Callable[..., Backbone], rule: str) -> None:
    for name in ("llama", "gpt2", "gemma3", "qwen2_sliding"):
        sdpa, eager = (backbone_of(name, attention=kind) for kind in ("sdpa", "eager"))
        assert run(sdpa, RULES[rule](sdpa), batch_size=4) == run(eager, RULES[rule](eager), batch_size=4)


def test_greedy_text_agrees_with_generate_token_by_token(backbone: Backbone) -> None:
    vary_length(backbone)
    for question, got in zip(QUESTIONS, run(backbone, StepRule(backbone), batch_size=4), strict=True):
        ids = torch.tensor([backbone.prompt(question)])
        out = backbone.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=backbone.eos_ids,
            pad_token_id=0,
        )
        expected = [token for token in out[0, ids.shape[1] :].tolist() if token not in backbone.eos_ids]
        assert num_emitted(got) == len(expected)
        assert got.reasoning + got.text == backbone.layout.decode(expected)


def test_zero_latents_is_plain_decoding_after_the_close_marker(backbone: Backbone) -> None:
    vary_length(backbone)
    latent = run(backbone, FixedLatents(backbone, 0), batch_size=4)
    prompts = [Prompt(id=q, text=q) for q in QUESTIONS]
    ids = [backbone.closed_prompt(q) for q in QUESTIONS]
    plain = decode(backbone, ids, prompts, StepRule(backbone), GenerateConfig(batch_size=4, max_new_tokens=12))
    assert [g.text for g in latent] == [g.text for g in plain]
    assert all(g.closed and g.num_latents == 0 and g.num_reasoning_tokens == 0 for g in latent + plain)
    assert [g.decode_steps for g in latent] == [g.decode_steps + 1 for g in plain]  # the forced marker


def test_a_multi_token_close_marker_is_forced_whole(backbone_of: Callable[..., Backbone]) -> None:
    backbone = backbone_of("llama", layout="plain_hash_answer")
    assert len(backbone.layout.close) == 3
    for rule in ("hidden", "mixture"):
        for question, got in zip(QUESTIONS, run(backbone, RULES[rule](backbone), batch_size=4), strict=True):
            ids, latents = without_cache(backbone, RULES[rule](backbone), question, max_new_tokens=12, max_latents=9)
            assert (got.text, got.num_latents) == (backbone.layout.decode(ids), latents)
            assert got.closed
            assert got.decode_steps == latents + 3 + len(ids) - (got.stop_reason == "length")


class Scripted(StepRule):
    """Emits given ids, so that counting can be checked by hand."""

    def __init__(self, backbone: Backbone, script: list[int]) -> None:
        super().__init__(backbone)
        self.script = torch.tensor(script)

    def step(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Step:
        token = self.script[rows.steps.clamp(max=len(self.script) - 1)]
        return Step(self.backbone.embed(token), torch.full_like(token, Mode.TEXT), token)


@pytest.mark.parametrize("layout", ["default", "plain_hash_answer"])
def test_an_emitted_marker_divides_reasoning_from_answer(backbone_of: Callable[..., Backbone], layout: str) -> None:
    backbone = backbone_of("llama", layout=layout)
    encode = backbone.layout._tokenize
    marker, eos = list(backbone.layout.close), backbone.layout.eos
    script = [*encode("abc"), *marker, *encode("42"), eos]
    (got,) = run(backbone, Scripted(backbone, script), batch_size=1, questions=["x"])
    assert (got.reasoning, got.text, got.closed, got.stop_reason) == ("abc", "42", True, "eos")
    assert (got.num_reasoning_tokens, got.num_answer_tokens, got.num_latents) == (3, 2, 0)
    assert not got.capped
    assert got.decode_steps == 3 + len(marker) + 2


def test_an_answer_begins_with_the_box_that_the_marker_opens(backbone_of: Callable[..., Backbone]) -> None:
    backbone = backbone_of("llama", layout="boxed_chain")
    encode = backbone.layout._tokenize
    script = [*encode("abc\\"), *backbone.layout.close, *encode("{42} km"), backbone.layout.eos]
    settings: dict[str, Any] = {"batch_size": 1, "questions": ["x"], "max_new_tokens": 40}
    (got,) = run(backbone, Scripted(backbone, script), **settings)
    assert (got.reasoning, got.text, got.num_answer_tokens) == ("abc\\", r"\boxed{42} km", len(encode("{42} km")))
    (cut,) = run(backbone, Scripted(backbone, script), **settings, until=["}"])
    assert cut.text == r"\boxed{42"
    (raw,) = run(backbone, Scripted(backbone, script), **settings, raw=True)
    assert raw.text == r"abc\boxed{42} km"
    (unanswered,) = run(backbone, Scripted(backbone, script), **settings | {"max_new_tokens": 2})
    assert unanswered.text == ""


def test_a_latent_rule_thinks_on_raw_prompts_and_without_markers(backbone_of: Callable[..., Backbone]) -> None:
    backbone = backbone_of("llama")
    (with_marker,) = run(backbone, FixedLatents(backbone, 3), batch_size=1, questions=["x"], raw=True)
    assert (with_marker.num_latents, with_marker.closed, with_marker.num_reasoning_tokens) == (3, True, 0)
    backbone.layout.open = backbone.layout.close = ()
    for raw in (True, False):
        (got,) = run(backbone, FixedLatents(backbone, 3), batch_size=1, questions=["x"], raw=raw)
        assert (got.num_latents, got.closed, got.num_answer_tokens) == (3, True, 12)
        assert got.decode_steps == 3 + 12 - 1  # nothing is forced
    (capped,) = run(backbone, FixedLatents(backbone, 3), batch_size=1, questions=["x"], max_latents=2)
    assert (capped.num_latents, capped.stop_reason, capped.text) == (2, "length", "")


class Restless(StepRule):
    """Asks for latent steps whenever it may decide."""

    start = Mode.LATENT

    def step(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Step:
        return Step(hidden, torch.full_like(rows.mode, Mode.LATENT), torch.full_like(rows.mode, -1))


class Quitting(StepRule):
    """Ends every row after two tokens."""

    def step(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Step:
        step = super().step(hidden, logits, rows)
        done = rows.steps == 2
        return Step(step.embeds, torch.where(done, Mode.DONE, Mode.TEXT), torch.where(done, -1, step.token))


def test_a_rule_that_will_not_stop_is_closed_once_and_then_ended(llama: Backbone) -> None:
    for got in run(llama, Restless(llama), batch_size=4, max_latents=4):
        assert (got.num_latents, got.stop_reason, got.closed, got.text) == (4, "length", True, "")
        assert got.capped
        assert got.decode_steps == 5


def test_a_rule_may_end_a_row(llama: Backbone) -> None:
    for got in run(llama, Quitting(llama), batch_size=4):
        assert (got.num_reasoning_tokens, got.stop_reason) == (2, "eos")


def test_float32_batches_differ_from_single_rows_in_near_ties_alone(
    backbone_of: Callable[..., Backbone], record_property: Callable[[str, object], None]
) -> None:
    differing = total = 0
    for name in ("gpt2", "llama", "qwen2"):
        backbone = backbone_of(name, dtype=torch.float32)
        vary_length(backbone)
        for rule in RULES:
            whole = run(backbone, RULES[rule](backbone), batch_size=4)
            alone = [run(backbone, RULES[rule](backbone), batch_size=1, questions=[q])[0] for q in QUESTIONS]
            differing += sum(a != b for a, b in zip(whole, alone, strict=True))
            total += len(whole)
    record_property("float32_differences", f"{differing} of {total}")
    assert differing <= 0.05 * total


def test_an_answer_needs_the_close_marker(llama: Backbone) -> None:
    script = [*llama.layout._tokenize("42"), llama.layout.eos]
    (got,) = run(llama, Scripted(llama, script), batch_size=1, questions=["x"])
    assert (got.text, got.reasoning, got.closed, got.stop_reason) == ("", "42", False, "eos")


def test_every_cap_has_its_stop_reason(llama: Backbone) -> None:
    digits = llama.layout._tokenize("0123456789" * 30)
    (got,) = run(llama, Scripted(llama, list(digits)), batch_size=1, questions=["x"], max_new_tokens=7)
    assert (got.stop_reason, got.num_reasoning_tokens) == ("length", 7)
    (got,) = run(llama, Scripted(llama, list(digits)), batch_size=1, questions=["x"], max_new_tokens=900)
    assert got.stop_reason == "length"
    assert got.num_prompt_tokens + got.decode_steps == llama.context  # the last token needs no position
    (got,) = run(llama, FixedLatents(llama, 50), batch_size=1, questions=["x"], max_latents=4)
    assert (got.num_latents, got.closed) == (4, True)
    long = "y" * llama.context
    generations = decode(
        llama, [llama.prompt(long), llama.prompt("x")], [Prompt(id="a", text=long), Prompt(id="b", text="x")],
        StepRule(llama), GenerateConfig(max_new_tokens=2),
    )  # fmt: skip
    assert [g.stop_reason for g in generations] == ["prompt_too_long", "length"]
    assert generations[0].decode_steps == 0


def test_stop_strings_end_and_cut_the_answer_of_raw_prompts(llama: Backbone) -> None:
    script = [*llama.layout._tokenize("one stöp two"), llama.layout.eos]
    settings: dict[str, Any] = {"batch_size": 2, "questions": ["x", "7"], "raw": True, "max_new_tokens": 30}
    for got in run(llama, Scripted(llama, script), until=["never", "stöp"], **settings):
        assert (got.text, got.reasoning, got.closed, got.stop_reason) == ("one ", "", True, "stop")
    for got in run(llama, Scripted(llama, script), **settings):
        assert (got.text, got.stop_reason) == ("one stöp two", "eos")


def test_an_empty_raw_prompt_starts_from_eos(llama: Backbone) -> None:
    (got,) = decode(llama, [[]], [Prompt(id="a", text="", raw=True)], StepRule(llama), GenerateConfig(max_new_tokens=3))
    out = llama.model.generate(torch.tensor([[llama.layout.eos]]), max_new_tokens=3, do_sample=False)
    assert got.text == llama.layout.decode(out[0, 1:].tolist())


class BackAndForth(StepRule):
    """Emits a token and feeds a blend, forces ids, thinks for two latent steps, and goes back to text."""

    def step(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Step:
        step = super().step(hidden, logits, rows)
        latent = (rows.steps >= 2) & (rows.steps < 4)
        blend = (step.embeds + self.backbone.embed(logits.argmin(-1))) / 2
        forced = torch.where((rows.steps == 1)[:, None], torch.tensor([[5, 6]]), -1)
        mode = torch.where(latent, Mode.LATENT, Mode.TEXT)
        return Step(torch.where(latent[:, None], hidden, blend), mode, torch.where(latent, -1, step.token), forced)


def test_a_rule_may_blend_force_and_switch_back(llama: Backbone) -> None:
    whole = run(llama, BackAndForth(llama), batch_size=4)
    assert [run(llama, BackAndForth(llama), batch_size=1, questions=[q])[0] for q in QUESTIONS] == whole
    for got in whole:
        assert got.num_latents == 2
        assert got.decode_steps == 2 + 2 + num_reasoning_tokens(got) - 1  # latents, forced ids, tokens but the last
    embeds = llama.embed(torch.tensor([llama.prompt("x")]))
    for number in range(6):  # token, token then 5 and 6 forced, latent, latent, token, token
        out = llama.model(inputs_embeds=embeds, output_hidden_states=True)
        hidden, logits = out.hidden_states[-1][:, -1], out.logits[:, -1]
        blend = (llama.embed(logits.argmax(-1)) + llama.embed(logits.argmin(-1))) / 2
        following = [hidden[:, None]] if number in (2, 3) else [blend[:, None]]
        if number == 1:
            following.append(llama.embed(torch.tensor([[5, 6]])))
        embeds = torch.cat([embeds, *following], 1)
        last = int(logits.argmax(-1))
    (short,) = run(llama, BackAndForth(llama), batch_size=1, questions=["x"], max_new_tokens=4)
    assert short.reasoning.endswith(llama.layout.decode([last]))


def test_sampled_output_depends_on_seed_and_id_alone(llama: Backbone) -> None:
    def sampled(questions: list[str], seed: int = 0, sample: int = 0) -> dict[str, str]:
        prompts = [Prompt(id=q, text=q, sample=sample) for q in questions]
        rule = StepRule(llama, Sampling(temperature=2.0))
        config = GenerateConfig(batch_size=3, max_new_tokens=8)
        out = decode(llama, [llama.prompt(q) for q in questions], prompts, rule, config, seed=seed)
        return {q: g.reasoning for q, g in zip(questions, out, strict=True)}

    whole = sampled(QUESTIONS)
    assert sampled(QUESTIONS[::-1]) == whole
    assert sampled(QUESTIONS[2:5]) == {q: whole[q] for q in QUESTIONS[2:5]}
    assert sampled(QUESTIONS, seed=1) != whole
    assert sampled(QUESTIONS, sample=1) != whole


def test_traces_hold_each_latent_step_of_each_row(llama: Backbone) -> None:
    whole = run(llama, MixtureRule(llama), batch_size=4, trace=True, trace_top_k=3)
    for question, got in zip(QUESTIONS, whole, strict=True):
        (alone,) = run(llama, MixtureRule(llama), batch_size=1, questions=[question], trace=True, trace_top_k=3)
        if got.num_latents == 0:
            assert got.trace is None
            continue
        assert got.trace is not None
        assert alone.trace is not None
        assert got.trace.ids.shape == (got.num_latents, 3)
        for part in dataclasses.fields(got.trace):
            torch.testing.assert_close(getattr(got.trace, part.name), getattr(alone.trace, part.name))
    assert any(g.num_latents > 1 for g in whole)


def test_a_hidden_state_trace_is_the_reading_of_the_lm_head(llama: Backbone) -> None:
    (got,) = run(llama, FixedLatents(llama, 1), batch_size=1, questions=["x"], trace=True, trace_top_k=4)
    logits = llama.model(torch.tensor([llama.prompt("x")])).logits[0, -1]
    weights, ids = logits.softmax(-1).topk(4)
    assert got.trace is not None
    assert got.trace.ids[0].tolist() == ids.tolist()
    torch.testing.assert_close(got.trace.weights[0], weights.float())


def written(layer: Any) -> Tensor:
    """(slots,) columns that hold a key."""
    columns: Tensor = (layer.keys != 0).any(-1).any(1).sum(-1)
    return columns


def test_the_cache_grows_and_a_checkpointing_backbone_is_refused(backbone: Backbone) -> None:
    tokens = pad([backbone.prompt(q) for q in QUESTIONS[:3]])
    growing = GrowingCache()
    state = backbone.prefill(tokens, growing)
    assert len(growing) == tokens.ids.shape[1]
    backbone.step(state, state.hidden)
    assert len(growing) == tokens.ids.shape[1] + 1
    slots = SlotCache(3, 3)
    with torch.inference_mode():
        state = backbone.prefill(tokens, slots)
        before = [written(layer) for layer in slots.layers]
        backbone.step(state, state.hidden)
    for layer, columns in zip(slots.layers, before, strict=True):
        assert (columns >= tokens.lengths).all()  # padding may write one column more, which the next token overwrites
        assert (written(layer) > tokens.lengths).all()
    backbone.model.gradient_checkpointing_enable()
    backbone.train()
    with pytest.raises(ValueError, match="gradient_checkpointing"):
        run(backbone, StepRule(backbone), batch_size=2)
    backbone.eval()
    run(backbone, StepRule(backbone), batch_size=2)


def test_a_slot_cache_outgrows_its_first_capacity(llama: Backbone) -> None:
    digits = list(llama.layout._tokenize("0123456789" * 30))
    whole = run(llama, Scripted(llama, digits), batch_size=3, max_new_tokens=150, trace=False)
    assert [g.num_reasoning_tokens for g in whole] == [150] * len(QUESTIONS)
    free = run(llama, StepRule(llama), batch_size=3, max_new_tokens=100)
    assert (
        free[0].reasoning
        == run(llama, StepRule(llama), batch_size=1, questions=QUESTIONS[:1], max_new_tokens=100)[0].reasoning
    )
