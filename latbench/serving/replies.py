"""Answers in the form of OpenAI's interface, whole or chunk by chunk."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from latbench.decoding.loop import Generation
from latbench.measures.measure_files import LatentStep
from latbench.serving.engine import Told
from latbench.task import StopReason

FINISH: dict[StopReason, str] = {"eos": "stop", "stop": "stop", "length": "length", "prompt_too_long": "length"}


@dataclass
class Choice:
    """One answer while it comes."""

    latents: list[LatentStep] = field(default_factory=list)
    """So far."""
    done: Generation | None = None
    """The whole of it."""


@dataclass(kw_only=True)
class Reply:
    """One request's answers."""

    is_chat: bool
    """In the form of a chat."""
    model: str
    """Name of the run."""
    fingerprint: str
    """Of the run's configuration."""
    with_latents: bool
    """Latent steps were asked for."""
    per_prompt: int
    """Answers to each prompt."""
    num_prompt_tokens: Sequence[int]
    """Of each answer."""
    choices: list[Choice] = field(init=False)
    """By place."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Of the reply."""
    created: int = field(default_factory=lambda: int(time.time()))
    """Unix time."""

    def __post_init__(self) -> None:
        self.choices = [Choice() for _ in self.num_prompt_tokens]

    def add(self, told: Told) -> None:
        """Note what is new."""
        choice = self.choices[told.place]
        choice.latents += told.latents
        choice.done = told.done

    @property
    def is_complete(self) -> bool:
        """All answers are there."""
        return all(choice.done is not None for choice in self.choices)

    def usage(self) -> dict[str, Any]:
        """Tokens of the complete answers; a latent step counts as one, as it is one step of decoding."""
        answers = [choice.done for choice in self.choices if choice.done is not None]
        latents = sum(answer.num_latents for answer in answers)
        reasoning = sum(answer.num_reasoning_tokens or 0 for answer in answers)
        prompt = sum(self.num_prompt_tokens[:: self.per_prompt])
        completion = latents + reasoning + sum(answer.num_answer_tokens for answer in answers)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "completion_tokens_details": {"reasoning_tokens": reasoning, "latent_tokens": latents},
        }

    def whole(self) -> dict[str, Any]:
        """The reply at once."""
        choices = [self._choice(place, choice) for place, choice in enumerate(self.choices)]
        return {**self._head("chat.completion"), "choices": choices, "usage": self.usage()}

    def first(self) -> list[dict[str, Any]]:
        """The chunks that open a streamed reply."""
        if not self.is_chat:
            return []
        opening = {"role": "assistant", "content": ""}
        return [self._chunk(place, opening, None) for place in range(len(self.choices))]

    def chunks(self, told: Told) -> list[dict[str, Any]]:
        """The chunks that tell what is new."""
        parts = {
            "reasoning_content": told.reasoning,
            "content" if self.is_chat else "text": told.text,
            "latents": _shown(told.latents),
        }
        news = {key: value for key, value in parts.items() if value}
        found = [self._chunk(told.place, news, None)] if news else []
        return found if told.done is None else [*found, self._chunk(told.place, {}, FINISH[told.done.stop_reason])]

    def last(self) -> dict[str, Any]:
        """The chunk with the usage."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage()}

    def _head(self, chat_object: str) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if self.is_chat else 'cmpl'}-{self.id}",
            "object": chat_object if self.is_chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _choice(self, place: int, choice: Choice) -> dict[str, Any]:
        answer = choice.done
        assert answer is not None
        more = {"latents": _shown(choice.latents)} if self.with_latents else {}
        finish = {"index": place, "finish_reason": FINISH[answer.stop_reason], "logprobs": None}
        if self.is_chat:
            text = {"role": "assistant", "content": answer.text, "reasoning_content": answer.reasoning}
            return {**finish, "message": {**text, **more}}
        return {**finish, "text": answer.text, "reasoning_content": answer.reasoning, **more}

    def _chunk(self, place: int, news: dict[str, Any], finish: str | None) -> dict[str, Any]:
        shared = {"index": place, "finish_reason": finish, "logprobs": None}
        choice = {**shared, "delta": news} if self.is_chat else {"text": "", **shared, **news}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}


def _shown(steps: Sequence[LatentStep]) -> list[dict[str, Any]]:
    return [
        {"entropy": step.entropy, "tokens": [{"token": text, "probability": weight} for text, weight in step.tokens]}
        for step in steps
    ]
