"""What tests read off an answer."""

from __future__ import annotations

from latbench.decoding.loop import Generation


def num_reasoning_tokens(answer: Generation) -> int:
    """Explicit tokens of the chain, of an answer whose model tells where its chain ends."""
    assert answer.num_reasoning_tokens is not None
    return answer.num_reasoning_tokens


def num_emitted(answer: Generation) -> int:
    """Tokens of chain and answer together."""
    return num_reasoning_tokens(answer) + answer.num_answer_tokens
