"""How question, markers, steps, answer and EOS become token ids.

Every piece is tokenised on its own and the ids are concatenated: a sequence is never re-tokenised as a whole, so a
merge across a boundary (Llama-3 has one token for `>>` plus newline) cannot move a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from latbench.model import chat_template
from latbench.task import Example

OPEN_MARKER, CLOSE_MARKER = "<think>", "</think>"


@dataclass(frozen=True, kw_only=True)
class LayoutSpec:
    """The texts of a layout. With `markers` the markers are those of the model, else the layout's own plain text."""

    markers: bool
    """`<open>` and `<close>` are the model's: the texts of `model.markers`, else think tokens."""
    bos: bool = True
    """The prompt starts with what the tokenizer puts before a text (its BOS); False: with the question."""
    single_spaces: bool = False
    """The question is stripped, and each pair of spaces in it becomes one."""
    system: str = ""
    """What the system turn of a chat template says; "": there is no such turn."""
    question_prefix: str = ""
    """Before the question."""
    question_end: str = ""
    """After the question, before what a method adds to it (`Layout.prompt`'s `note`)."""
    question_suffix: str = ""
    """After question and note, where no chat template words them."""
    open_joined: bool = False
    """The open marker is read by the tokenizer together with what is before it; False: by itself."""
    joiner: str = "\n"
    """Between two steps."""
    after_steps: str = ""
    """After the last step."""
    close: str = ""
    """Text of the close marker where `markers` is off."""
    answer_opening: str = ""
    """What the text of an answer begins with that is in chain and close marker, such as the name of a box."""
    answer_prefix: str = ""
    """Before the answer."""
    answer_suffix: str = ""
    """After the answer."""


BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
CLAUSE = LayoutSpec(markers=True, joiner="", answer_prefix=" ")
QUESTION_ANSWER = LayoutSpec(
    markers=True,
    bos=False,
    question_prefix="Question: ",
    question_end=" Let's think step by step:",
    answer_prefix="Answer:",
)
LAYOUTS: dict[str, LayoutSpec] = {
    # prompt <open> steps joined by newline <close> answer EOS
    "default": LayoutSpec(markers=True),
    # Coconut's plain-text baselines: question newline, each step with a newline, `### ` answer EOS
    "plain_hash_answer": LayoutSpec(
        markers=False, question_suffix="\n", after_steps="\n", close="###", answer_prefix=" "
    ),
    # question newline <open> steps, each with a newline <close> `### ` answer (Coconut's own, arXiv:2412.06769;
    # facebookresearch/coconut@27273cb dataset.py)
    "hash_answer": LayoutSpec(markers=True, question_suffix="\n", after_steps="\n", answer_prefix="### "),
    # question <open> steps joined by a space <close> `The answer is: ` answer (CODI's own, arXiv:2502.21074;
    # zhenyi4/codi@4fd88d4 test.py)
    "answer_sentence": LayoutSpec(markers=True, single_spaces=True, joiner=" ", answer_prefix="The answer is: "),
    # question <open> steps <close> ` ` answer, whose close marker ends with ` The answer is:`; with `Question: ` before
    # the question; the same without markers (adaptive latent reasoning, arXiv:2511.21581;
    # apning/adaptive-latent-reasoning@4e7d7dd src/data_processing.py:290-320, 452-495)
    "clause": CLAUSE,
    "question_clause": replace(CLAUSE, question_prefix="Question: "),
    "plain_clause": replace(CLAUSE, markers=False, close=" The answer is:"),
    "question_plain_clause": replace(CLAUSE, markers=False, close=" The answer is:", question_prefix="Question: "),
    # no BOS, `Question: ` question ` Let's think step by step:` note <open> steps <close> `Answer:` answer (CoLaR's
    # own, arXiv:2505.16552; xiaomi-research/colar@4b6ae9a); in the other the prompt is read as one text
    "question_answer": QUESTION_ANSWER,
    "question_answer_joined": replace(QUESTION_ANSWER, open_joined=True),
    # the instruction to box the answer, newline, question: in the user turn of the chat template; in its system turn;
    # in Llama 3's user turn written out, without BOS and system turn (Latent-SFT, arXiv:2510.15522;
    # DJC-GO-SOLO/Latent-SFT@f361814 eval_latent_model_hf_batch.py:63-84)
    "boxed": LayoutSpec(markers=True, question_prefix=f"{BOXED}\n"),
    "boxed_system": LayoutSpec(markers=True, system=BOXED),
    # question, steps joined by newline, newline, the answer in a box: what a chat model writes by itself, without
    # markers, so that its whole output is the answer segment (LiteReason, arXiv:2512.02240;
    # Alex-Gurung/LiteReason@cf68f72 litereason/pipeline/prepare_sft.py, build_messages)
    "plain_boxed": LayoutSpec(markers=False, answer_prefix="\n\\boxed{", answer_suffix="}"),
    # the same text after the instruction of `boxed`, as a chain that ends at the word `boxed`: the backslash before it
    # begins other formulas too, and the brace after it is often one token with what is in the box
    "boxed_chain": LayoutSpec(
        markers=False,
        question_prefix=f"{BOXED}\n",
        after_steps="\n\\",
        close="boxed",
        answer_prefix="{",
        answer_suffix="}",
        answer_opening="\\boxed",
    ),
    "boxed_llama3": LayoutSpec(
        markers=True,
        bos=False,
        question_prefix=f"<|start_header_id|>user<|end_header_id|>\n\n{BOXED}\n",
        question_suffix="<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Token ids of one example, piece by piece, in sequence order."""

    prompt: tuple[int, ...]  # question with its template, and the open marker
    steps: tuple[int, ...]  # joiners included
    close: tuple[int, ...]
    answer: tuple[int, ...]
    eos: int

    def __len__(self) -> int:
        return len(self.prompt) + len(self.steps) + len(self.close) + len(self.answer) + 1


class Layout:
    """One layout over one tokenizer.

    Args:
        name: key of LAYOUTS.
        tokenizer: with EOS; markers already added where the layout wants them.
        chat_template: word the question through the tokenizer's chat template.
        instruction: stands before every question, with a blank line after it.
        markers: texts of the open and the close marker, as the tokenizer reads them (one id each where they are special
            tokens); None: the model has none, and its whole output is the answer segment.

    Raises: ValueError: the tokenizer has no EOS token.
    """

    def __init__(
        self,
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        chat_template: bool = False,
        instruction: str = "",
        markers: tuple[str, str] | None = (OPEN_MARKER, CLOSE_MARKER),
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError(
                "model.id: its tokenizer has no end-of-sequence token, so no answer can end; "
                "set tokenizer.eos_token and save it beside the model"
            )
        self.name = name
        self.spec = LAYOUTS[name]
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.instruction = instruction
        self.eos: int = tokenizer.eos_token_id
        self._ids = lru_cache(maxsize=1 << 17)(self._tokenize)
        self.raw = lru_cache(maxsize=1 << 17)(self._raw)
        self._worded = lru_cache(maxsize=1 << 17)(self._in_template)
        texts = markers if self.spec.markers and markers else ("", self.spec.close)
        self.open_text = texts[0]
        self.open: tuple[int, ...] = self._ids(texts[0])
        self.close: tuple[int, ...] = self._ids(texts[1])
        self.joiner: tuple[int, ...] = self._ids(self.spec.joiner)
        self.after_steps: tuple[int, ...] = self._ids(self.spec.after_steps)

    def prompt(self, question: str, note: str = "") -> tuple[int, ...]:
        """Ids fed before the first decision: the worded question and the open marker.

        Args:
            note: what a method adds to the question, such as how fast to think.
        """
        spec = self.spec
        if spec.single_spaces:
            question = question.strip().replace("  ", " ")
        question = f"{spec.question_prefix}{question}{spec.question_end}{note}"
        if self.instruction:
            question = f"{self.instruction}\n\n{question}"
        if not self.chat_template:
            text = question + spec.question_suffix
            text, open_ids = (text + self.open_text, ()) if spec.open_joined else (text, self.open)
            return (self.raw(text) if spec.bos else self._ids(text)) + open_ids
        text = self._worded(question)
        ids = self._ids(text)
        # some templates of reasoning models open the think block themselves
        opened = bool(self.open) and text.rstrip().endswith(self.open_text)
        return ids if opened else ids + self.open

    def is_closed(self, ids: Sequence[int]) -> bool:
        """Whether a prompt ends with the close marker, so that the model does not think; where both markers are one
        text, with two of it."""
        end = self.open + self.close if self.open == self.close else self.close
        return bool(end) and tuple(ids[-len(end) :]) == end

    def _in_template(self, question: str) -> str:
        system = [{"role": "system", "content": self.spec.system}] if self.spec.system else []
        return chat_template.render(self.tokenizer, [*system, {"role": "user", "content": question}])

    def _raw(self, text: str) -> tuple[int, ...]:
        """Ids of a text at the start of a sequence: with the tokenizer's BOS, without an EOS it may append."""
        ids = tuple(self.tokenizer.encode(text))
        return ids[:-1] if ids and ids[-1] == self.eos and not text.endswith(str(self.tokenizer.eos_token)) else ids

    def steps(self, steps: Sequence[str]) -> tuple[int, ...]:
        """Ids of the reasoning chain, joiners included."""
        ids: list[int] = []
        for number, step in enumerate(steps, start=1):
            ids += self._ids(step)
            ids += self.joiner if number < len(steps) else self.after_steps
        return tuple(ids)

    def encode(self, example: Example, note: str = "") -> Pieces:
        """All pieces of an example, whose question is the task's prompt; note: see `prompt`."""
        return Pieces(
            prompt=self.prompt(example.question, note),
            steps=self.steps(example.steps),
            close=self.close,
            answer=self._ids(self.spec.answer_prefix + example.answer + self.spec.answer_suffix),
            eos=self.eos,
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def answer_text(self, ids: Sequence[int], *, raw: bool = False) -> str:
        """Text of an answer, which follows the close marker unless its prompt is raw; "" without a token."""
        return self.decode(ids) if raw or not ids else self.spec.answer_opening + self.decode(ids)

    def _tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False)) if text else ()
