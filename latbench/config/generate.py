"""The section `generate.*`: how a run is decoded."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from latbench.config.fields import NonNegativeFloat, Positive
from latbench.task import STRICT, YOUNGER

OwnT = TypeVar("OwnT")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GenerateConfig:
    """Decoding: batch, caps, sampling, stop strings."""

    batch_size: Positive = 64
    """Rows decoded at once; a finished row's place goes to the next question of the chunk."""
    chunk: Positive = 256
    """Questions, in file order, whose records are appended together."""
    max_new_tokens: Positive = 256
    """Emitted tokens per row, reasoning and answer together."""
    max_latents: Annotated[int, Field(ge=0)] = 128
    """Latent steps per row; then the close marker is forced."""
    temperature: NonNegativeFloat = 0.0
    """Temperature of sampled tokens; 0: greedy."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample among so many most probable tokens; 0: among all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample among the most probable tokens that hold this share of the probability."""
    samples: Positive = 1
    """Answers per question."""
    until: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Stop strings; the answer ends before the first that occurs in it."""
    compiled: bool = Field(default=False, json_schema_extra=YOUNGER)
    """Compile the decoding step for one shape, on CUDA into a graph: up to minutes at the start, less time at every
    step of a small model or batch."""
    trace_top_k: Positive = 50
    """Entries of a latent step's distribution that a trace keeps."""
    method: Any = None
    """Decoding settings that one method alone reads; `latbench list keys --method M` shows them."""

    def own(self, kind: type[OwnT]) -> OwnT:
        """The method's own decoding settings; their defaults where none were given.

        Args:
            kind: the class that the method registered as `decoding`.
        Raises: ValueError: the settings are those of another method.
        """
        if self.method is None:
            return kind()
        if isinstance(self.method, dict):
            return kind(**self.method)
        if not isinstance(self.method, kind):
            raise ValueError(f"generate.method holds {type(self.method).__name__}, expected {kind.__name__}")
        return self.method
