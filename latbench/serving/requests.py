"""What a client may ask for: the bodies of /v1/completions and /v1/chat/completions, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from latbench import registry
from latbench.config import GenerateConfig
from latbench.decoding.loop import Prompt
from latbench.serving.engine import Question

MAX_CHOICES = 64  # answers that one request may ask for, over all its prompts
MAX_STOPS = 16
IGNORED = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
# what of OpenAI's interface is not here, with the values at which it asks for nothing
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "echo": (False,),
    "best_of": (1,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
Text = Annotated[str, Field(min_length=1)]


class BadRequestError(ValueError):
    """A request that cannot be answered.

    Args:
        sentence: field, value and the way out.
        field: that is at fault; None: the whole.
        status: of the reply.
        code: OpenAI's name of the error; None: it has none.
    """

    def __init__(self, sentence: str, field: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(sentence)
        self.field, self.status, self.code = field, status, code


class StreamOptions(BaseModel):
    """How an answer is streamed."""

    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool = False
    """End with a chunk that has the usage."""


class Asking(BaseModel):
    """What both kinds of requests share."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: str
    """Name of the served run."""
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    """Answers to each prompt."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Emitted tokens, reasoning and answer together; latent steps do not count."""
    max_latents: Annotated[int, Field(ge=0)] | None = None
    """Latent steps; then the close marker is forced."""
    stop: Text | Annotated[list[Text | None], Field(max_length=MAX_STOPS)] | None = None
    """The answer ends before the first of these."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """Of all random draws, together with prompt and number of the answer; the run's own by default."""
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    """Of sampled tokens; 0: greedy; the run's own by default."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Sample among the most probable tokens that hold this share of the probability."""
    top_k: Annotated[int, Field(ge=0)] | None = None
    """Sample among so many most probable tokens; 0: among all."""
    stream: bool | None = None
    """Tell the answer as it grows."""
    stream_options: StreamOptions | None = None
    """How."""
    raw: bool = False
    """Feed the text as it is, without the run's prompt; all that comes is the answer."""
    latents: bool = False
    """Tell the top tokens of each latent step."""

    @property
    def stops(self) -> tuple[str, ...] | None:
        """Stop strings; None where the request says nothing of them."""
        if self.stop is None:
            return None
        return (self.stop,) if isinstance(self.stop, str) else tuple(stop for stop in self.stop if stop)


class CompletionRequest(Asking):
    """The body of /v1/completions."""

    is_chat: ClassVar[bool] = False
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]
    """One question, or several."""

    @property
    def texts(self) -> Sequence[str]:
        """The questions."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class ContentPart(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["text"]
    """Only text can be read."""
    text: str
    """The text."""


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)
    role: Literal["system", "developer", "user", "assistant"]
    """Who speaks."""
    content: str | list[ContentPart]
    """What is said."""
    name: str | None = None
    """Of who speaks; not read."""
    reasoning_content: str | None = None
    """Of an earlier answer; not read."""

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Asking):
    """The body of /v1/chat/completions."""

    is_chat: ClassVar[bool] = True
    messages: Annotated[list[Message], Field(min_length=1)]
    """The question; of several messages, their texts one after another."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """OpenAI's newer name of max_tokens."""

    @property
    def texts(self) -> Sequence[str]:
        """The one question: a run answers single questions, so that the messages before the last are part of it."""
        return ["\n\n".join(message.text for message in self.messages if message.text)]


Request = CompletionRequest | ChatRequest


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the server has, and what it grants."""

    model: str
    """Name of the run."""
    settings: GenerateConfig
    """The run's own decoding; `max_new_tokens` where a request says nothing."""
    max_tokens: int
    """Most emitted tokens that a request may ask for."""


def read_request(body: Any, kind: type[Request], limits: Limits) -> Request:
    """A request from its JSON value. Raises: BadRequestError: it cannot be answered, and why."""
    if not isinstance(body, dict):
        raise BadRequestError("the body must be a JSON object")
    given = {key: value for key, value in body.items() if key not in IGNORED}
    for key, neutral in NEUTRAL.items():
        if key in given and (value := given.pop(key)) is not None and value not in neutral:
            raise BadRequestError(f"{key} is not supported; leave it out", key)
    for key in given.keys() - kind.model_fields.keys():
        raise BadRequestError(str(registry.unknown("key", key, list(kind.model_fields))), key)
    try:
        request = kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"] if not str(part).startswith("constrained"))
        raise BadRequestError(f"{field}: {first['msg']}", field) from None
    if request.model != limits.model:
        sentence = f"unknown model {request.model!r}; this server has {limits.model!r}"
        raise BadRequestError(sentence, "model", 404, "model_not_found")
    if (num := len(request.texts) * (request.n or 1)) > MAX_CHOICES:
        raise BadRequestError(f"{num} answers are asked for, more than {MAX_CHOICES}; send several requests", "n")
    asked = _max_tokens(request)
    if asked is not None and asked > limits.max_tokens:
        sentence = f"max_tokens must be <= {limits.max_tokens}, got {asked}; ask for less, or serve with --max-tokens"
        raise BadRequestError(sentence, "max_tokens")
    return request


def questions(request: Request, limits: Limits) -> list[Question]:
    """The answers that a request asks for, prompt by prompt, each prompt `n` times."""
    own = limits.settings
    names: Mapping[str, Any] = {
        name: value
        for name in ("temperature", "top_p", "top_k", "max_latents")
        if (value := getattr(request, name)) is not None
    }
    settings = replace(own, **names, max_new_tokens=limits.max_tokens, until=[], samples=1)
    most, stops = _max_tokens(request), request.stops
    return [
        Question(
            prompt=Prompt(
                id=text,
                text=text,
                sample=sample,
                raw=request.raw,
                seed=request.seed,
                until=tuple(own.until) if stops is None else stops,
                max_new_tokens=own.max_new_tokens if most is None else most,
            ),
            settings=settings,
            latents=request.latents,
            live=bool(request.stream),
        )
        for text in request.texts
        for sample in range(request.n or 1)
    ]


def _max_tokens(request: Request) -> int | None:
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        return request.max_completion_tokens
    return request.max_tokens
