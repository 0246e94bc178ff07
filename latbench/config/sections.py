"""The sections of a configuration: `model.*`, `train.*` and `generate.*` as frozen pydantic dataclasses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from latbench.task import STRICT

Positive = Annotated[int, Field(ge=1)]
ProblemCount = Annotated[int, Field(ge=1, le=1_000_000)]  # of a split that is generated
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Decay = Annotated[float, Field(ge=0, lt=1)]


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
TINY = "tiny"  # id of the embedded backbone, and name of the presets for it


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoraConfig:
    """Low-rank adapters through PEFT; rows of added tokens are trained beside them."""

    rank: Positive = 128
    alpha: PositiveFloat = 32.0
    dropout: Fraction = 0.0
    targets: list[str] | None = None  # module names; None: all linear layers but the LM head
    train_markers: bool = True  # rows of added markers are trained (the CODI paper's code leaves them frozen)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelConfig:
    """The backbone: which language model, how it is loaded, and the layout of its sequences."""

    id: str = TINY  # the embedded one; else a Hugging Face id or a local path
    revision: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"  # random: the architecture of `id`, fresh weights
    layout: Literal[
        "default",
        "coconut",
        "hash_answer",
        "answer_sentence",
        "clause",
        "question_clause",
        "plain_clause",
        "question_plain_clause",
        "question_answer",
        "question_answer_joined",
        "boxed",
        "boxed_system",
        "boxed_llama3",
    ] = "default"
    # texts that open and close the thought, as the tokenizer reads them; None: think tokens, added where it has none
    markers: tuple[str, str] | None = None
    chat_template: bool | None = None  # None: where the tokenizer has one and the weights are pretrained
    instruction: str = ""  # before every question, with a blank line after it; such as how to word the answer
    lora: LoraConfig | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float64"] = "float32"  # of the weights
    attention: Literal["sdpa", "eager"] = "sdpa"
    device: str = "auto"  # auto, cpu, cuda, cuda:1 ...
    gradient_checkpointing: bool = False
    # size of the embedded tiny Llama; ignored by others
    hidden_size: Positive = 128
    num_layers: Positive = 2
    num_heads: Positive = 4
    mlp_size: Positive = 384
    words: str | None = None  # a task whose words get tokens of their own in the embedded tokenizer, such as graphs

    def __post_init__(self) -> None:
        pairs = 2 * self.num_heads  # rotary embeddings turn pairs of a head's dimensions
        if self.id == TINY and self.hidden_size % pairs:
            raise ValueError(
                f"model.hidden_size must be a multiple of 2 * model.num_heads = {pairs}, got {self.hidden_size}"
            )

    @property
    def name(self) -> str:
        """Short name, fit for a table and a file name; a run's checkpoint has the name of the run."""
        if self.id == TINY:
            words = f"-{self.words}" if self.words else ""
            return f"{TINY}{words}-{self.hidden_size}x{self.num_layers}"
        path = Path(self.id)
        name = path.resolve().parent.name if path.name == "checkpoint" else path.name
        clean = re.sub(r"[^A-Za-z0-9._]+", "_", name) or "model"
        return f"{clean}_random" if self.weights == "random" else clean


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StageOverrides:
    """`train.stages.<name>.*`: replaces what the method's stage says."""

    epochs: PositiveFloat | None = None
    steps: Positive | None = None
    lr: PositiveFloat | None = None
    accumulation: Positive | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig:
    """Budget, optimiser and bookkeeping of training, shared by a method's stages."""

    split: str = "train"
    num_examples: Positive | None = None  # the first n of the split; None: all
    epochs: PositiveFloat = 1.0  # example-passes per example over all stages
    max_steps: Positive | None = None  # cap on optimiser steps in all
    batch_size: Positive = 32  # examples per device and micro-batch
    accumulation: Positive = 1  # micro-batches per optimiser step
    lr: PositiveFloat = 2e-3
    auxiliary_lr: PositiveFloat | None = None  # of helper models, such as SIM-CoT's decoder; None: as everything else
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    min_lr_ratio: Fraction = 0.0  # cosine ends at this fraction of lr
    warmup_ratio: Fraction = 0.05
    weight_decay: NonNegativeFloat = 0.01
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    clip_norm: NonNegativeFloat = 1.0  # 0: no clipping
    reset_optimizer: bool = True  # each stage starts with fresh moments; false: with those the stage before left
    precision: Literal["float32", "bfloat16"] = "float32"  # bfloat16: autocast over float32 weights
    bucket_by_length: bool = True  # batches of similar length, in an order keyed by (seed, epoch)
    save_every: Positive = 500  # optimiser steps between resume points
    log_every: Positive = 50
    trackers: list[str] = Field(default_factory=list)  # names known to Accelerate: tensorboard, wandb, trackio
    drop_contaminated: bool = False  # drop rows whose normalised question is a test question
    stages: dict[str, StageOverrides] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GenerateConfig:
    """Decoding: batch, caps, sampling, stop strings."""

    batch_size: Positive = 64  # rows decoded at once; finished rows are refilled inside a chunk
    chunk: Positive = 256  # questions in file order whose records are appended together
    max_new_tokens: Positive = 256  # emitted tokens per row, reasoning and answer together
    max_latents: Annotated[int, Field(ge=0)] = 128  # latent steps per row; then the close marker is forced
    temperature: NonNegativeFloat = 0.0  # 0: greedy
    top_k: Annotated[int, Field(ge=0)] = 0  # 0: off
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    samples: Positive = 1  # answers per question
    # of methods that mix the vocabulary: scale of Gumbel noise on a latent step's log-probabilities, and what divides
    # their sum; 0 and 1 leave them. Of methods that draw a latent: factor on its standard deviation; 0 takes the mean
    latent_noise: NonNegativeFloat = 0.0
    latent_noise_temperature: PositiveFloat = 1.0
    # of methods that are told in the prompt how much to compress: chain tokens per latent; 0: whatever suits ("auto");
    # None: the method's own
    thinking_speed: Annotated[int, Field(ge=0)] | None = None
    until: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)  # stop strings; cut from the text
    trace_top_k: Positive = 50  # entries kept per latent step in traces


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImportConfig:
    """The released checkpoint whose weights a run has in place of training."""

    source: str
    """A folder, a file, or a Hub id."""
    revision: str | None = None
    """Commit of a Hub id."""
    format: str
    """Name of the importer, a file of `methods/importers/`."""
    base: str | None = None
    """The base model, a Hub id or a folder, where the format needs one."""
    base_revision: str | None = None
    """Commit of the base's Hub id."""
    lora_alpha: PositiveFloat | None = None
    """Numerator of the scale of adapters whose files do not store it; None: the format's default."""
    first_added_id: Annotated[int, Field(ge=0)] | None = None
    """Id of the first token that the release added, where rows beyond it make that unclear; None: the last rows."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Values by dotted key that the importer chose: the release's own protocol, beside which a variant is named."""
    sha256: str = ""
    """Of all source files, and those of the base that were read; the identity of the weights."""

    @property
    def label(self) -> str:
        """Short name of the source with the options that change its weights."""
        options = {key: getattr(self, key) for key in ("lora_alpha", "first_added_id")}
        said = [f"{key}={value}" for key, value in options.items() if value is not None]
        name = self.source if _HUB_ID.fullmatch(self.source) else Path(self.source).name
        return ",".join([name, *said])
