"""Tags in token ids: which are found, where, and what becomes of their places in a sequence."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from latbench.model.batches import pad
from latbench.model.tiny import tiny_tokenizer
from methods.litereason.tags import TAG, Tags
from tests.methods.litereason.nudged import merging_tokenizer


def tags(tokenizer: PreTrainedTokenizerBase | None = None, texts: tuple[str, str] | None = None) -> Tags:
    return Tags(tokenizer or merging_tokenizer(), texts, most=5, spaced=True, name="toy")


def tag(number: object) -> str:
    return f"{TAG[0]}{number}{TAG[1]}"


@pytest.mark.parametrize(("number", "steps"), [("1", 1), ("3", 3), ("5", 5), ("12", 5), (" 4 ", 4), ("007", 5)])
def test_numbers_of_a_tag_are_read_and_capped(number: str, steps: int) -> None:
    found = tags()
    if number == " 4 ":
        assert [found.steps(each) for each in found.find(found.encode(f"a{tag(number)}b"))] == [steps]
    ids = found.encode(f"a{tag(number.strip())}b")
    (only,) = found.find(ids)
    assert found.steps(only) == steps
    assert only.budget == int(number)
    assert found.tokenizer.decode(ids[only.start : only.end]) == tag(number.strip())


@pytest.mark.parametrize("number", ["0", "-1", "3.5", "number", "³", "", "1234", "٣"])
def test_what_is_no_number_is_no_tag(number: str) -> None:
    found = tags()
    assert found.find(found.encode(f"a{tag(number)}b")) == []


@pytest.mark.parametrize("beside", ["\n", "\n\n", "\n\n\n", ".", " ", '"', " more", ". More"])
@pytest.mark.parametrize("before", ["", " ", "\n", "end.", "x"])
def test_characters_beside_a_tag_may_be_merged_with_it(before: str, beside: str) -> None:
    found = tags()
    ids = found.encode(f"{before}{tag(2)}{beside}")
    (only,) = found.find(ids)
    assert tag(2) in found.tokenizer.decode(ids[only.start : only.end])
    assert found.at_end(ids[: only.end]) == only


def test_the_tokenizer_of_these_tests_does_merge() -> None:
    tokenizer = merging_tokenizer()
    assert tokenizer.convert_ids_to_tokens([tokenizer.encode(".<")[0], tokenizer.encode(">\n")[0]]) == [".<", ">Ċ"]
    assert len(tags(tokenizer).starts) == 2
    assert len(tags(tokenizer).ends) == 2


def test_adjacent_tags_follow_each_other() -> None:
    for found, text in ((tags(), tag(1) + tag(2)), (tags(tiny_tokenizer()), "[1][2]")):
        first, second = found.find(found.encode(text))
        assert second.start == first.end
        assert [first.budget, second.budget] == [1, 2]


@pytest.mark.parametrize("before", ["a>", "<b>", ">"])
def test_a_tag_is_found_behind_a_bracket_that_is_merged_with_it(before: str) -> None:
    found = tags(merging_tokenizer((">", "<")))
    ids = found.encode(f"{before}{tag(2)} more")
    assert len(ids) < len(tags().encode(f"{before}{tag(2)} more"))  # they are merged
    (only,) = found.find(ids)
    assert only.budget == 2
    assert found.at_end(ids[: only.end]) == only


def test_of_two_tags_that_share_a_token_the_first_is_one() -> None:
    found = tags(merging_tokenizer((">", "<")))
    ids = found.encode(tag(3) + tag(2))
    (only,) = found.find(ids)
    assert (only.start, only.budget) == (0, 3)
    assert found.tokenizer.decode(ids[: only.end]) == tag(3) + "<"


@pytest.mark.parametrize("text", [TAG[0] + "3", f"3{TAG[1]}", TAG[1] + "3" + TAG[0], f"{TAG[0]}3{TAG[0]}"])
def test_half_a_tag_is_none(text: str) -> None:
    found = tags()
    assert found.find(found.encode(text)) == []


def test_a_tag_within_a_broken_one_is_found() -> None:
    found = tags(tiny_tokenizer())
    (only,) = found.find(found.encode("[[3]"))
    assert (only.start, only.end) == (1, 4)


def test_read_token_by_token_each_tag_ends_exactly_once() -> None:
    found = tags()
    ids = found.encode(f"So.{tag(3)}\nThen {tag(1)}{tag(12)}. {tag(0)} Done")
    ends = [end for end in range(1, len(ids) + 1) if found.at_end(ids[:end])]
    assert ends == [each.end for each in found.find(ids)]
    assert len(ends) == 3
    assert {ids[end - 1] for end in ends} <= set(found.last_ids)


# layout


def test_the_worked_example() -> None:
    """p0 p1 S S S G E E E t0 t1: a tag of three, one and three tokens that asks for 3."""
    found = tags(tiny_tokenizer(), ("<((", "))>"))
    ids = [300, 301, *found.encode("<((3))>"), 302, 303]
    (only,) = found.find(ids)
    assert (len(ids), only.start, only.end) == (11, 2, 9)
    expanded = found.expanded(ids, 0)
    assert len(expanded.ids) == 14
    assert [at for at, says in enumerate(expanded.says) if not says] == [8, 9, 10]
    assert sum(expanded.says) == 11
    assert [at for at, latent in enumerate(expanded.is_latent) if latent] == [9, 10, 11]
    assert expanded.ids[12:] == [302, 303]
    assert expanded.tag_ends == [9]
    two = pad([[0, 0], expanded.ids])  # padding is on the right here
    assert two.mask.sum(1).tolist() == [2, 14]


def test_two_tags_add_as_many_places_as_they_ask_for() -> None:
    found = tags(tiny_tokenizer())
    ids = found.encode("a[2]bc[1]d")
    expanded = found.expanded(ids, 0)
    assert len(expanded.ids) == len(ids) + 3
    assert sum(not says for says in expanded.says) == 3
    assert found.expanded(found.encode("abc"), 0).is_latent == [False] * 3


# refusals


def test_the_tag_follows_the_tokenizer_where_none_is_named() -> None:
    assert tags().texts == TAG
    assert tags(tiny_tokenizer()).texts == ("[", "]")  # 38 bytes would be too long


def test_a_tag_that_the_tokenizer_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"method.tag .*the tokenizer of toy: it takes up to 40 tokens"):
        tags(tiny_tokenizer(), TAG)
    words = {"<unk>": 0, "a": 1, "1": 2}
    lossy = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    lossy.pre_tokenizer = pre_tokenizers.Whitespace()
    deaf = PreTrainedTokenizerFast(tokenizer_object=lossy, unk_token="<unk>")
    with pytest.raises(ValueError, match=r"it reads \[1\] as something else; choose other texts, such as"):
        tags(deaf)
