"""One sequence per example, labels only where they belong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from latbench.config import ModelConfig
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX, SequenceBatch, pad, sequence_batch
from latbench.model.layout import BOXED, LAYOUTS, Layout
from latbench.task import Example

ANN = Example(
    id="ann",
    question="Ann fills 3 bags with 4 apples each and eats 2. How many are left?",
    steps=("<<3*4=12>>", "<<12-2=10>>"),
    answer="10",
)


def supervised(batch: SequenceBatch, row: int = 0) -> list[int]:
    labels = batch.tokens.labels[row]
    ids: list[int] = labels[labels != IGNORE_INDEX].tolist()
    return ids


def test_the_default_layout_is_prompt_open_steps_close_answer_eos(llama: Backbone) -> None:
    layout = llama.layout
    ids = layout._tokenize
    pieces = layout.encode(ANN)
    assert pieces.prompt == (*ids(ANN.question), *ids("<think>"))
    assert pieces.steps == (*ids("<<3*4=12>>"), *ids("\n"), *ids("<<12-2=10>>"))
    batch = llama.batch_sequences([ANN], "steps")
    assert batch.tokens.ids[0].tolist() == [*pieces.prompt, *pieces.steps, *ids("</think>"), *ids("10"), layout.eos]
    assert supervised(batch) == [*pieces.steps, *ids("</think>"), *ids("10"), layout.eos]
    assert batch.num_items == {"ce": len(pieces.steps) + 1 + 2 + 1}


def test_the_coconut_layout_follows_the_spec(backbone_of: Callable[..., Backbone]) -> None:
    """The layout of Coconut (facebookresearch/coconut): question, each step on a line, `### ` and the answer."""
    backbone = backbone_of("llama", layout="plain_hash_answer")
    batch = backbone.batch_sequences([ANN], "steps")
    text = f"{ANN.question}\n<<3*4=12>>\n<<12-2=10>>\n### 10"
    assert batch.tokens.ids[0].tolist() == [*backbone.layout._tokenize(text), backbone.layout.eos]
    labels = batch.tokens.labels[0]
    num_question = len(backbone.layout._tokenize(ANN.question + "\n"))
    assert (labels[: num_question - 1] == IGNORE_INDEX).all()
    assert labels[num_question - 1 : -1].tolist() == batch.tokens.ids[0, num_question:].tolist()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hash_answer", "{q}\n<think>{a}\n{b}\n</think>### 10"),
        ("answer_sentence", "{q}<think>{a} {b}</think>The answer is: 10"),
        ("clause", "{q}<think>{a}{b}</think> 10"),
        ("question_clause", "Question: {q}<think>{a}{b}</think> 10"),
        ("plain_clause", "{q}{a}{b} The answer is: 10"),
        ("question_plain_clause", "Question: {q}{a}{b} The answer is: 10"),
        ("question_answer", "Question: {q} Let's think step by step:<think>{a}\n{b}</think>Answer:10"),
        ("question_answer_joined", "Question: {q} Let's think step by step:<think>{a}\n{b}</think>Answer:10"),
    ],
)
def test_layouts_of_releases_word_a_whole_sequence(name: str, text: str, backbone_of: Callable[..., Backbone]) -> None:
    layout = backbone_of("llama", layout=name).layout
    pieces = layout.encode(ANN)
    ids = [*pieces.prompt, *pieces.steps, *pieces.close, *pieces.answer]
    asked = text.format(q=ANN.question, a=ANN.steps[0], b=ANN.steps[1])
    assert layout.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == asked


def test_a_boxed_chain_ends_where_the_box_opens(backbone_of: Callable[..., Backbone]) -> None:
    layout = backbone_of("llama", layout="boxed_chain").layout
    pieces = layout.encode(ANN)
    chain = f"{BOXED}\n{ANN.question}{ANN.steps[0]}\n{ANN.steps[1]}\n\\"
    assert layout.decode([*pieces.prompt, *pieces.steps]) == chain
    assert layout.decode(pieces.close) == "boxed"
    assert layout.answer_text(pieces.answer) == r"\boxed{10}"
    assert layout.answer_text([]) == ""


def test_every_layout_can_be_chosen() -> None:
    hints = get_type_hints(ModelConfig)
    assert set(get_args(hints["layout"])) == set(LAYOUTS)


def test_markers_may_be_texts_of_several_ids(backbone_of: Callable[..., Backbone]) -> None:
    layout = backbone_of("llama", markers=("[[", "]]")).layout
    assert layout.open == (*layout._tokenize("[["),)
    assert len(layout.close) == 2
    assert layout.prompt("1+1?") == (*layout._tokenize("1+1?"), *layout.open)
    assert layout.is_closed([*layout.prompt("1+1?"), *layout.close])


def test_where_both_markers_are_one_text_a_prompt_is_closed_by_two(backbone_of: Callable[..., Backbone]) -> None:
    layout = backbone_of("llama", markers=("###", "###")).layout
    assert not layout.is_closed(layout.prompt("1+1?"))
    assert layout.is_closed([*layout.prompt("1+1?"), *layout.close])


def test_labels_are_shifted_targets_and_padding_has_none(llama: Backbone) -> None:
    short = Example(id="s", question="1+1", steps=("<<1+1=2>>",), answer="2")
    batch = llama.batch_sequences([ANN, short], "steps")
    tokens = batch.tokens
    targets = tokens.labels != IGNORE_INDEX
    assert (tokens.labels[targets] == tokens.ids.roll(-1, 1)[targets]).all()
    assert not targets[:, -1].any()
    assert not targets[~tokens.mask].any()
    assert tokens.lengths.tolist() == [len(llama.layout.encode(e)) for e in (ANN, short)]
    assert supervised(batch, 1) == supervised(llama.batch_sequences([short], "steps"))
    assert batch.num_items["ce"] == int(targets.sum())


def test_supervising_the_answer_leaves_steps_and_marker_alone(llama: Backbone) -> None:
    layout = llama.layout
    assert supervised(llama.batch_sequences([ANN], "answer")) == [*layout._tokenize("10"), layout.eos]
    bare = ANN.without_steps(None)
    direct = llama.batch_sequences([bare], "answer")
    assert direct.tokens.ids[0].tolist() == [*llama.closed_prompt(ANN.question), *layout._tokenize("10"), layout.eos]


def test_without_steps_drops_from_the_front() -> None:
    assert ANN.without_steps(1).steps == ("<<12-2=10>>",)
    assert ANN.without_steps(9).steps == ()
    assert ANN.without_steps(None).steps == ()
    assert ANN.without_steps(0) == ANN


def word_tokenizer(**extra: object) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **extra)


TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def test_a_chat_template_words_the_prompt_and_may_open_the_think_block() -> None:
    tokenizer = word_tokenizer(eos_token="<eos>", extra_special_tokens=["<think>", "</think>"])
    tokenizer.chat_template = TEMPLATE
    layout = Layout("default", tokenizer, chat_template=True)
    assert layout.decode(layout.prompt("1+1?")) == "[user]1+1?[assistant]"
    assert layout.prompt("1+1?")[-1:] == layout.open
    tokenizer.chat_template = TEMPLATE.replace("[assistant]", "[assistant]<think>\n")
    opening = Layout("default", tokenizer, chat_template=True)
    assert list(opening.prompt("1+1?")).count(opening.open[0]) == 1
    assert tokenizer.decode(opening.prompt("1+1?")).endswith("<think>\n")


def test_an_instruction_stands_before_the_question_in_every_prompt(llama: Backbone) -> None:
    told = Backbone(llama.model, llama.tokenizer, replace(llama.config, instruction="Add."), name="told")
    assert told.prompt("1+1?") == llama.prompt("Add.\n\n1+1?")
    assert told.layout.encode(ANN).prompt == tuple(llama.prompt(f"Add.\n\n{ANN.question}"))
    tokenizer = word_tokenizer(eos_token="<eos>", extra_special_tokens=["<think>", "</think>"])
    tokenizer.chat_template = TEMPLATE
    layout = Layout("default", tokenizer, chat_template=True, instruction="Add.")
    assert layout.decode(layout.prompt("1+1?")) == "[user]Add.\n\n1+1?[assistant]"


def test_a_tokenizer_without_eos_is_refused_and_one_without_pad_is_not() -> None:
    with pytest.raises(ValueError, match="end-of-sequence"):
        Layout("default", word_tokenizer())
    tokenizer = word_tokenizer(eos_token="<eos>")
    assert tokenizer.pad_token is None
    pieces = Layout("plain_hash_answer", tokenizer).encode(ANN)
    assert sequence_batch([pieces, pieces], "steps").tokens.mask.all()


def test_padding_is_known_from_lengths_not_from_ids() -> None:
    tokens = pad([[0, 0], [0]], [[IGNORE_INDEX, 0], [0]])
    assert tokens.mask.tolist() == [[True, True], [True, False]]
    assert tokens.labels.tolist() == [[IGNORE_INDEX, 0], [0, IGNORE_INDEX]]


def test_a_batch_moves_whole(llama: Backbone) -> None:
    batch = llama.batch_sequences([ANN], "steps").to(torch.device("meta"))
    assert batch.tokens.ids.device.type == "meta"
    assert batch.num_items["ce"] > 0
