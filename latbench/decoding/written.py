"""The written chain of a model without think tokens: what it says before it says where its answer stands.

Such a model answers in one text, so nothing in the tokens tells where its reasoning ends. The rule:

- the chain is everything before the marker that the answer checker would read: the last of the strongest kind, such as
  `\\boxed{`, `####` or "the answer is" (`latbench/answers/markers.py`);
- a text that was cut at a cap before any marker is chain throughout, as the text of a model with think tokens is that
  never closes them;
- before a text of one word, such as a number alone, there is nothing: its chain is empty;
- of any other text without a marker the length of the chain is unknown, and shown as a dash.

Lengths are in tokens of the chain's own text, so that they can be recomputed from the record. The text stays whole: the
checker reads all of it.
"""

from __future__ import annotations

from dataclasses import replace

from latbench.answers.markers import answer_start
from latbench.decoding.loop import Generation
from latbench.model.backbone import Backbone


def with_written_chain(answer: Generation, backbone: Backbone) -> Generation:
    """The answer of a model without think tokens, all of whose tokens count as answer, with its chain counted apart.

    That of a model with think tokens stays as it is.
    """
    num_tokens = answer.num_answer_tokens
    if backbone.layout.close or not num_tokens:
        return answer
    end = answer_start(answer.text)
    if end is None:
        if answer.stop_reason == "length":
            return replace(answer, num_reasoning_tokens=num_tokens, num_answer_tokens=0)
        return answer if len(answer.text.split()) == 1 else replace(answer, num_reasoning_tokens=None)
    num_chain = len(backbone.tokenizer.encode(answer.text[:end], add_special_tokens=False))
    num_chain = min(num_chain, num_tokens - 1)  # text and tokens may part differently at the marker
    return replace(answer, num_reasoning_tokens=num_chain, num_answer_tokens=num_tokens - num_chain)
