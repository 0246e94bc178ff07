"""Questions that come while others are answered get the answers that `decode` gives, told as they grow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from latbench.config import GenerateConfig
from latbench.decoding.loop import Generation, Prompt, decode
from latbench.decoding.rule import FixedLatents, Latent, LatentRule, Mixture, RowState, StepRule
from latbench.decoding.sampling import Sampling
from latbench.decoding.session import LatentReading, Session, Written
from latbench.decoding.superposition import top_k_mixture
from latbench.model.backbone import Backbone
from tests.generations import num_emitted

QUESTIONS = ["n0 = 3 + 4 ;n0 ?", "x", "n1 = 5 - 2 ;n2 = n1 + 1 ;n2 ?", "é", "hello world", "7", "n0 = 2 * 2 ;n0 ?"]


class Remembering(LatentRule):
    """Feeds mixtures; stops after as many steps as its own memory has counted, two more than the prompt's key says."""

    def latent(self, hidden: torch.Tensor, logits: torch.Tensor, rows: RowState) -> Latent:
        taken = rows.memory.get("taken", torch.zeros_like(rows.steps)) + 1
        rows.memory["taken"] = taken
        ids, weights = top_k_mixture(logits, 4)
        return Latent(self.backbone.mix(ids, weights), taken > 2 + rows.keys.abs() % 3, Mixture(ids, weights))


RULES: dict[str, Callable[[Backbone], StepRule]] = {
    "text": StepRule,
    "hidden": lambda b: FixedLatents(b, 3),
    "mixture": Remembering,
    "sampled": lambda b: StepRule(b, Sampling(temperature=1.5, top_k=50, top_p=0.9)),
}
CONFIG = GenerateConfig(batch_size=3, max_new_tokens=14)


def prompts() -> list[Prompt]:
    """With seeds, lengths and stops of their own."""
    plain = [Prompt(id=text, text=text) for text in QUESTIONS]
    plain[1] = replace(plain[1], seed=5, max_new_tokens=4)
    plain[2] = replace(plain[2], until=("e", "a"))
    plain[4] = replace(plain[4], raw=True, until=("\n",), max_new_tokens=99)
    return plain


def offline(backbone: Backbone, rule: StepRule, prompt: Prompt, seed: int = 3) -> Generation:
    """The answer of a call of its own, to which the prompt's own settings are those of the call."""
    config = replace(
        CONFIG,
        max_new_tokens=min(prompt.max_new_tokens or CONFIG.max_new_tokens, CONFIG.max_new_tokens),
        until=list(prompt.until or ()),
    )
    bare = replace(prompt, seed=None, until=None, max_new_tokens=None)
    chosen = seed if prompt.seed is None else prompt.seed
    return decode(backbone, [ids_of(backbone, prompt)], [bare], rule, config, seed=chosen)[0]


def ids_of(backbone: Backbone, prompt: Prompt) -> list[int]:
    return backbone.encode(prompt.text) if prompt.raw else backbone.prompt(prompt.text)


def drain(session: Session, found: dict[int, Generation]) -> None:
    while len(session):
        found.update(session.step())


@pytest.mark.parametrize("name", RULES)
def test_settings_of_a_prompt_win_over_those_of_the_call(backbone: Backbone, name: str) -> None:
    backbone.model.generation_config.eos_token_id = list(range(0, len(backbone.tokenizer), 7))
    rule, asked = RULES[name](backbone), prompts()
    together = decode(backbone, [ids_of(backbone, p) for p in asked], asked, rule, CONFIG, seed=3)
    assert together == [offline(backbone, RULES[name](backbone), prompt) for prompt in asked]
    assert max(num_emitted(answer) for answer in together) > 4


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("every", [1, 5])
def test_questions_that_come_later_change_no_answer(backbone: Backbone, name: str, every: int) -> None:
    backbone.model.generation_config.eos_token_id = list(range(0, len(backbone.tokenizer), 7))
    asked = prompts()
    expected = [offline(backbone, RULES[name](backbone), prompt) for prompt in asked]
    session, found, numbers, rows = Session(backbone, RULES[name](backbone), CONFIG, seed=3), {}, [], set()
    for prompt in [*asked, *asked]:  # the second time all slots have been used
        numbers.append(session.add(ids_of(backbone, prompt), prompt))
        for _ in range(every):
            found.update(session.step())
            rows.add(len(session.slots.stop))
    drain(session, found)
    assert [found[number] for number in numbers] == [*expected, *expected]
    assert session.prompts == {}
    assert session.prompt_ids == {}
    assert len(rows) > 1  # it grew
    assert max(rows) <= CONFIG.batch_size


def test_the_batch_shrinks_and_grows_again(llama: Backbone) -> None:
    session = Session(llama, StepRule(llama), replace(CONFIG, batch_size=8), seed=3)
    found: dict[int, Generation] = {}
    sizes = []
    for wave in (8, 1, 8):
        for prompt in (prompts() * 2)[:wave]:
            session.add(ids_of(llama, prompt), replace(prompt, max_new_tokens=3 if wave == 8 else 9))
        session.step()
        sizes.append(len(session.slots.stop))
        drain(session, found)
    assert sizes[0] == sizes[2] == 8
    assert len(found) == 17
    first, last = [found[n] for n in range(8)], [found[n] for n in range(9, 17)]
    assert first == last


def test_a_cancelled_question_leaves_and_disturbs_nobody(llama: Backbone) -> None:
    asked = prompts()
    session = Session(llama, StepRule(llama), replace(CONFIG, batch_size=2), seed=3)
    numbers = [session.add(ids_of(llama, prompt), prompt) for prompt in asked[:4]]
    found = session.step()
    assert session.num_waiting == 2
    session.cancel(numbers[0])  # runs
    session.cancel(numbers[3])  # waits
    session.cancel(numbers[3])
    assert len(session) == 2
    drain(session, found)
    session.cancel(numbers[1])  # has its answer
    assert set(found) == {numbers[1], numbers[2]}
    assert [found[n] for n in numbers[1:3]] == [offline(llama, StepRule(llama), p) for p in asked[1:3]]


def test_what_is_told_grows_into_the_answer(backbone: Backbone) -> None:
    rule, prompt = FixedLatents(backbone, 3), Prompt(id="q", text=QUESTIONS[0])
    session = Session(backbone, rule, CONFIG, top_k=4)
    number = session.add(ids_of(backbone, prompt), prompt, latents=True)
    silent = session.add(ids_of(backbone, prompt), prompt)
    told: list[LatentReading] = []
    written = [Written(reasoning=(), answer=())]
    done: dict[int, Generation] = {}
    while len(session):
        done.update(session.step())
        told += session.feed.take().get(number, [])
        for state in session.written({number}).values():
            assert state.answer[: len(written[-1].answer)] == written[-1].answer
            assert state.reasoning[: len(written[-1].reasoning)] == written[-1].reasoning
            written.append(state)
    assert done[number] == done[silent]
    answer = backbone.layout.decode(written[-1].answer)
    assert done[number].text.startswith(answer)
    assert len(written[-1].answer) >= done[number].num_answer_tokens - 1 > 3
    call = decode(backbone, [ids_of(backbone, prompt)], [prompt], rule, replace(CONFIG, trace_top_k=4), trace=True)
    trace = call[0].trace
    assert trace is not None
    assert [list(step.ids) for step in told] == trace.ids.tolist()
    torch.testing.assert_close(torch.tensor([step.weights for step in told]), trace.weights)
    assert [step.entropy for step in told] == pytest.approx(trace.entropy.tolist())


def test_a_prompt_beyond_the_context_is_refused(llama: Backbone) -> None:
    session = Session(llama, StepRule(llama), CONFIG)
    with pytest.raises(ValueError, match=rf"has {llama.context + 1} tokens, more than the context of {llama.context}"):
        session.add([1] * (llama.context + 1), Prompt(id="long", text=""))
    assert len(session) == 0
    assert session.step() == {}
