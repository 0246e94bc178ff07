"""The written chain of a model without think tokens: before the last marker, throughout where cut, else unknown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from latbench.answers.markers import answer_start
from latbench.config import GenerateConfig, ModelConfig
from latbench.decoding.loop import Generation, Prompt
from latbench.decoding.written import with_written_chain
from latbench.model.backbone import Backbone
from latbench.model.layout import Layout
from latbench.registry import get_method

TEXT = r"She has 3*4=12 apples. The answer is 12, so \boxed{12}."
GENERATE = GenerateConfig(max_new_tokens=12)


@pytest.fixture(scope="module")
def plain() -> Backbone:
    """A model whose layout has no markers."""
    backbone = Backbone.load(ModelConfig(hidden_size=16, num_heads=2))
    backbone.layout = Layout("default", backbone.tokenizer, markers=None)
    return backbone


def answer(backbone: Backbone, text: str, stop: Any = "eos") -> Generation:
    num_tokens = len(backbone.tokenizer.encode(text, add_special_tokens=False))
    return Generation(
        text=text, reasoning="", closed=True, num_latents=0, num_reasoning_tokens=0, num_answer_tokens=num_tokens,
        num_prompt_tokens=3, decode_steps=num_tokens, stop_reason=stop,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "chain"),
    [
        (TEXT, "She has 3*4=12 apples. The answer is 12, so "),
        (r"\boxed{12}", ""),
        (r"First \boxed{3}. Then \fbox{12}.", r"First \boxed{3}. Then "),
        ("3*4=12\n#### 12", "3*4=12\n"),
        ("#### 3 and #### 12, so the answer: 12", "#### 3 and "),
        ("3*4=12. **Final Answer**: 12", "3*4=12. **"),
        ("3*4=12. So the answer is 12. The answers are fine", "3*4=12. So the answer is 12. "),
        ("#### 1. First step\nAdd. The answer is 12", "#### 1. First step\nAdd. "),
        ("3*4=12.\n### Final answer\n12", "3*4=12.\n"),
        ("3*4=12.\n<answer>12</answer>", "3*4=12.\n"),
        ('3*4=12. {"answer": 12}', "3*4=12. {"),
        ("3*4=12. La respuesta es 12", "3*4=12. La "),
        ("3*4=12. So 12 is the answer.", None),
        ("It is 12, answering all.", None),
        (r"\boxedness 12", None),
        ("", None),
    ],
)
def test_the_chain_ends_at_the_last_marker_of_the_strongest_kind(text: str, chain: str | None) -> None:
    end = answer_start(text)
    assert (None if end is None else text[:end]) == chain


def test_tokens_before_the_marker_are_the_chain_and_none_is_lost(plain: Backbone) -> None:
    found = with_written_chain(answer(plain, TEXT), plain)
    chain = TEXT[: TEXT.index("\\boxed")]
    assert found.num_reasoning_tokens == len(plain.tokenizer.encode(chain, add_special_tokens=False))
    assert found.num_reasoning_tokens + found.num_answer_tokens == answer(plain, TEXT).num_answer_tokens
    assert (found.text, found.reasoning, found.closed) == (TEXT, "", True)


def test_an_answer_alone_has_a_chain_of_length_zero(plain: Backbone) -> None:
    assert with_written_chain(answer(plain, r"\boxed{12}"), plain).num_reasoning_tokens == 0
    assert with_written_chain(answer(plain, "12."), plain).num_reasoning_tokens == 0
    assert with_written_chain(answer(plain, "12 apples"), plain).num_reasoning_tokens is None
    empty = answer(plain, "")
    assert with_written_chain(empty, plain) == empty


def test_without_a_marker_the_length_is_unknown_unless_the_text_was_cut(plain: Backbone) -> None:
    text = "She has 12 apples."
    unknown = with_written_chain(answer(plain, text), plain)
    assert unknown == replace(answer(plain, text), num_reasoning_tokens=None)
    cut = with_written_chain(answer(plain, text, "length"), plain)
    assert (cut.num_reasoning_tokens, cut.num_answer_tokens) == (answer(plain, text).num_answer_tokens, 0)


def method(backbone: Backbone, name: str, **settings: Any) -> Any:
    entry = get_method(name)
    return entry.cls(backbone, entry.config(**settings))


def asked(backbone: Backbone, name: str, **settings: Any) -> str:
    return str(backbone.tokenizer.decode(method(backbone, name, **settings).prompt_ids("How many?")))


def test_cot_asks_for_reasoning_and_direct_for_the_answer_alone(plain: Backbone) -> None:
    assert asked(plain, "cot").endswith("How many?\n\nReason step by step, then put the final answer within \\boxed{}.")
    assert asked(plain, "direct").endswith(
        "How many?\n\nDo not explain. Reply with nothing but the final answer within \\boxed{}."
    )
    for name in ("cot", "direct"):
        assert asked(plain, name, ask="Say a letter.").endswith("How many?\n\nSay a letter.")
        assert asked(plain, name, ask="").endswith("How many?")


def test_a_model_with_markers_is_asked_the_question_alone() -> None:
    backbone = Backbone.load(ModelConfig(hidden_size=16, num_heads=2))
    assert method(backbone, "cot").prompt_ids("How many?") == backbone.prompt("How many?")
    assert method(backbone, "direct").prompt_ids("How many?") == backbone.closed_prompt("How many?")


@pytest.mark.parametrize("name", ["cot", "direct"])
def test_generate_counts_the_written_chain(plain: Backbone, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def says(text: str, stop: str = "eos") -> Callable[..., list[Generation]]:
        return lambda *_, **__: [answer(plain, text, stop)]

    monkeypatch.setattr("latbench.method.decode", says(TEXT))
    (found,) = method(plain, name).generate(["How many?"], GENERATE)
    assert found == with_written_chain(answer(plain, TEXT), plain)
    assert found.num_reasoning_tokens
    monkeypatch.setattr("latbench.method.decode", says("It is 12"))
    (found,) = method(plain, name).generate([Prompt(id="a", text="How many?", raw=True)], GENERATE)
    assert found.num_reasoning_tokens is None


def test_a_model_with_markers_keeps_its_counts() -> None:
    backbone = Backbone.load(ModelConfig(hidden_size=16, num_heads=2))
    for found in method(backbone, "cot").generate(["How many?", "Who?"], GENERATE):
        assert found.num_reasoning_tokens is not None
        assert found.num_reasoning_tokens + found.num_answer_tokens <= GENERATE.max_new_tokens
