"""Tags such as `<implicit_thought>3</implicit_thought>` in token ids (arXiv:2512.02240).

A tag is ordinary text: no token is added for it. Tokenizers may merge its ends with a character beside it (`.<`, `>`
and a newline), so that there are several token sequences that open it and several that close it; they are found by
encoding the tag beside common characters, as the released code does (Alex-Gurung/LiteReason@cf68f72
litereason/token_utils.py, get_implicit_thought_patterns).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

TAG = ("<implicit_thought>", "</implicit_thought>")
SHORT_TAG = ("[", "]")
MAX_TOKENS = 15  # of a tag, so that decoding looks at few
MAX_NUMBER_TOKENS = 3
BEFORE = ("", " ", "\n", *".,!?:;\"')([]>")
AFTER = ("", " ", "\n", "\n\n", "\n\n\n", *'.,!?"', "</")  # and another tag
_NUMBER = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class Tag:
    """A tag in a sequence: its ids are start .. end - 1, and it asks for `budget` latent steps, as written."""

    start: int
    end: int
    budget: int


class Tags:
    """Finds tags in token ids, and writes them.

    Args:
        tokenizer: encodes and decodes.
        texts: what opens and what closes a tag; None: TAG, or SHORT_TAG where TAG takes too many tokens.
        most: N_max, latent steps of a tag at most.
        spaced: write a space before and after a tag.
        name: of the model, for errors.
    Raises: ValueError: the tokenizer cannot hold the tag.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, texts: tuple[str, str] | None, *, most: int, spaced: bool, name: str
    ) -> None:
        self.tokenizer, self.most, self.spaced = tokenizer, most, spaced
        self._number = lru_cache(maxsize=4096)(self._read_number)
        fault = self._learn(texts or TAG)
        if fault and texts is None:
            fault = self._learn(SHORT_TAG)
        if fault:
            raise ValueError(
                f"method.tag {list(self.texts)!r} cannot be used with the tokenizer of {name}: {fault}; choose other "
                f"texts, such as {list(SHORT_TAG)!r}"
            )

    def _learn(self, texts: tuple[str, str]) -> str | None:
        """Find the token sequences of a tag. Returns: why there are none, as a clause."""
        self.texts = texts
        starts, ends = set[tuple[int, ...]](), set[tuple[int, ...]]()
        contexts = [(before, "") for before in BEFORE if not before or not texts[0].startswith(before)]
        contexts += [("", after) for after in (*AFTER, texts[0])]
        for before, after in contexts:
            found = self._parts(before, after)
            if found is None:
                return f"it reads {before}{texts[0]}1{texts[1]}{after} as something else"
            starts.add(found[0])
            ends.add(found[1])
        self.longest = max(map(len, starts)) + MAX_NUMBER_TOKENS + max(map(len, ends))
        if self.longest > MAX_TOKENS:
            return f"it takes up to {self.longest} tokens, of which {MAX_TOKENS} are looked at"
        self.starts, self.ends = sorted(starts), sorted(ends)
        self._by_first: dict[int, list[tuple[int, ...]]] = {}
        for start in self.starts:
            self._by_first.setdefault(start[0], []).append(start)
        self.last_ids = sorted({end[-1] for end in self.ends})
        for budget in range(1, self.most + 1):
            if [tag.budget for tag in self.find(self.encode(self.text(budget)))] != [budget]:
                return f"it reads the number of {self.text(budget).strip()} as something else"
        return None

    def _parts(self, before: str, after: str) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """The shortest token sequences that hold the opening and the closing text of a tag in a context."""
        opening, closing = self.texts
        ids = self.encode(f"{before}{opening}1{closing}{after}")
        opened = next((end for end in range(len(ids) + 1) if self._holds(ids[:end], opening)), None)
        if opened is None:
            return None
        closed = next((end for end in range(opened, len(ids) + 1) if self._holds(ids[opened:end], closing)), None)
        if closed is None:
            return None
        start = next(at for at in range(opened, -1, -1) if self._holds(ids[at:opened], opening))
        first = next(at for at in range(closed, -1, -1) if self._holds(ids[at:closed], closing))
        if self._number(tuple(ids[opened:first])) != 1:
            return None
        return tuple(ids[start:opened]), tuple(ids[first:closed])

    def _holds(self, ids: Sequence[int], text: str) -> bool:
        return text in self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)

    def _read_number(self, ids: tuple[int, ...]) -> int | None:
        """What so few tokens say as a positive number; None: they say something else."""
        if not 0 < len(ids) <= MAX_NUMBER_TOKENS or min(ids) < 0:
            return None
        text = str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)).strip()
        return (int(text) or None) if _NUMBER.fullmatch(text) else None  # a superscript is no number

    def encode(self, text: str) -> list[int]:
        """Ids of a text by itself."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    # write

    def text(self, budget: int) -> str:
        """A tag as a sentence of a masked trace."""
        tag = f"{self.texts[0]}{budget}{self.texts[1]}"
        return f" {tag} " if self.spaced else tag

    @property
    def pattern(self) -> re.Pattern[str]:
        """A tag in a text."""
        return re.compile(rf"{re.escape(self.texts[0])}\s*[0-9]+\s*{re.escape(self.texts[1])}")

    @property
    def mention(self) -> re.Pattern[str]:
        """A tag with a word or letter in place of its number, as a text writes that tells how to use it."""
        return re.compile(rf"{re.escape(self.texts[0])}\s*[A-Za-z]\w*\s*{re.escape(self.texts[1])}")

    # find

    def find(self, ids: Sequence[int]) -> list[Tag]:
        """All tags, from left to right; they do not overlap, and a token that ends one begins no other, as in decoding,
        where latents come between."""
        found, at = list[Tag](), 0
        while at < len(ids):
            tag = self._at(ids, at)
            at = at + 1 if tag is None else tag.end
            if tag is not None:
                found.append(tag)
        return found

    def at_end(self, ids: Sequence[int]) -> Tag | None:
        """The tag that these ids end with."""
        for start in range(max(0, len(ids) - self.longest), len(ids)):
            tag = self._at(ids, start)
            if tag is not None and tag.end == len(ids):
                return tag
        return None

    def steps(self, tag: Tag) -> int:
        """Latent steps that a tag leads to."""
        return min(tag.budget, self.most)

    def _at(self, ids: Sequence[int], at: int) -> Tag | None:
        for start in self._by_first.get(ids[at], ()):
            number = at + len(start)
            if tuple(ids[at:number]) != start:
                continue
            for end_of_number in range(number + 1, number + MAX_NUMBER_TOKENS + 1):
                budget = self._number(tuple(ids[number:end_of_number]))
                for end in self.ends if budget else ():
                    if tuple(ids[end_of_number : end_of_number + len(end)]) == end:
                        assert budget is not None
                        return Tag(at, end_of_number + len(end), budget)
        return None

    def expanded(self, ids: Sequence[int], placeholder: int) -> Expanded:
        """The sequence with a place for each latent, right behind its tag."""
        tags = self.find(ids)
        whole, is_latent, done = list[int](), list[bool](), 0
        ends = list[int]()
        for tag in tags:
            whole += [*ids[done : tag.end], *[placeholder] * self.steps(tag)]
            is_latent += [False] * (tag.end - done) + [True] * self.steps(tag)
            ends.append(len(whole) - self.steps(tag))
            done = tag.end
        return Expanded([*whole, *ids[done:]], [*is_latent, *[False] * (len(ids) - done)], ends)


@dataclass(frozen=True)
class Expanded:
    """A sequence with its latents.

    Args:
        ids: tokens, and a placeholder for each latent.
        is_latent: which of them are latents.
        tag_ends: of each tag, the place after its last token.
    """

    ids: list[int]
    is_latent: list[bool]
    tag_ends: list[int]

    @property
    def says(self) -> list[bool]:
        """Of each position, whether its output predicts a token: all but those that a latent follows."""
        return [not follows for follows in [*self.is_latent[1:], False]]
