"""The sections `model.*` and `train.*` of a configuration, as frozen pydantic dataclasses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from latbench.config.fields import TINY, Decay, Fraction, NonNegativeFloat, Positive, PositiveFloat
from latbench.config.rl import RLConfig
from latbench.task import STRICT, YOUNGER

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoraConfig:
    """Low-rank adapters through PEFT; the rows of added tokens are trained with them."""

    rank: Positive = 128
    """Rank of each adapter."""
    alpha: PositiveFloat = 32.0
    """Scale of the adapters; the update is multiplied by alpha / rank."""
    dropout: Fraction = 0.0
    """Dropout on the input of the adapters."""
    targets: list[str] | None = None
    """Names of the modules that get adapters; null: all linear layers but the LM head."""
    train_markers: bool = True
    """Train the embedding rows of added marker tokens; the released code of CODI leaves them frozen."""


DeviceRule = Literal["auto", "balanced", "sequential"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelConfig:
    """The backbone: which language model, how it is loaded, and the layout of its sequences."""

    id: str = TINY
    """Language model: `tiny` is the embedded one, else a Hugging Face id or a local path."""
    revision: str | None = None
    """Revision of the model on the Hub; null: its default branch."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """`random` takes the architecture of `model.id` with fresh weights."""
    layout: Literal[
        "default",
        "plain_hash_answer",
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
        "plain_boxed",
        "boxed_chain",
    ] = "default"
    """How question, markers, steps and answer become one sequence."""
    markers: tuple[str, str] | None = Field(default=None, json_schema_extra=YOUNGER)
    """Texts that open and close the thought, for the tokenizer; null: think tokens, added where it has none."""
    chat_template: bool | None = None
    """Word the question through the tokenizer's chat template, in which today is always 26 July 2024; null: if it has
    one and the weights are pretrained."""
    instruction: str = Field(default="", json_schema_extra=YOUNGER)
    """Text before every question, with a blank line after it, such as how to word the answer."""
    lora: LoraConfig | None = None
    """Train low-rank adapters; null: train all weights."""
    dtype: Literal["auto", "float32", "bfloat16", "float64"] = "float32"
    """Number format of the weights; `auto` takes that of the checkpoint."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention implementation of transformers."""
    device: str = "auto"
    """Where the model lives: auto, cpu, cuda, cuda:1 and so on."""
    device_map: str | None = Field(default=None, json_schema_extra=YOUNGER)
    """Spread the model over several devices, for inference alone: auto, balanced, sequential, or a JSON file that maps
    modules to devices; null: all of it on `model.device`."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    hidden_size: Positive = 128
    """Hidden size of the embedded tiny model; other models ignore it."""
    num_layers: Positive = 2
    """Number of layers of the embedded tiny model; other models ignore it."""
    num_heads: Positive = 4
    """Number of attention heads of the embedded tiny model; other models ignore it."""
    mlp_size: Positive = 384
    """Width of the MLP blocks of the embedded tiny model; other models ignore it."""
    words: str | None = Field(default=None, json_schema_extra=YOUNGER)
    """Task whose words get tokens of their own in the embedded tokenizer, such as `graphs`."""

    def __post_init__(self) -> None:
        if self.device_map is not None and self.device != "auto":
            raise ValueError(
                f"model.device is {self.device!r} and model.device_map {self.device_map!r}, which both say where the "
                "model lives; leave one of them out"
            )
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
    """Passes over the training examples in this stage."""
    steps: Positive | None = None
    """Optimiser steps of this stage; wins over `epochs`."""
    lr: PositiveFloat | None = None
    """Peak learning rate of this stage."""
    accumulation: Positive | None = None
    """Micro-batches per optimiser step in this stage."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig:
    """Budget, optimiser and bookkeeping of training, shared by a method's stages."""

    split: str = "train"
    """Split of the task that is trained on."""
    num_examples: Positive | None = None
    """Train on the first so many examples of the split; null: all."""
    epochs: PositiveFloat = 1.0
    """Passes over the training examples, over all stages together."""
    max_steps: Positive | None = None
    """Cap on optimiser steps over all stages together; null: none."""
    batch_size: Positive = 32
    """Examples per device and micro-batch, at most; where it is 1, steps of even size may need a micro-batch of 2."""
    accumulation: Positive = 1
    """Micro-batches per optimiser step."""
    lr: PositiveFloat = 2e-3
    """Peak learning rate of AdamW."""
    auxiliary_lr: PositiveFloat | None = Field(default=None, json_schema_extra=YOUNGER)
    """Learning rate of helper models, such as the auxiliary decoder of SIM-CoT; null: that of everything else."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """How the learning rate falls after the warm-up."""
    min_lr_ratio: Fraction = 0.0
    """The cosine schedule ends at this fraction of `train.lr`."""
    warmup_ratio: Fraction = 0.05
    """Share of a stage's optimiser steps over which the learning rate rises."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay of AdamW."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay rates of AdamW's moments."""
    clip_norm: NonNegativeFloat = 1.0
    """Largest gradient norm; 0: no clipping."""
    reset_optimizer: bool = Field(default=True, json_schema_extra=YOUNGER)
    """Start each stage with fresh optimiser moments; false: with those that the stage before left."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16` runs forward passes under autocast, over weights in `model.dtype`."""
    bucket_by_length: bool = True
    """Make batches of similar length, in an order keyed by seed and epoch."""
    save_every: Positive = 500
    """Optimiser steps between resume points."""
    log_every: Positive = 50
    """Optimiser steps between lines of the training log."""
    trackers: list[str] = Field(default_factory=list)
    """Trackers known to Accelerate: tensorboard, wandb, trackio."""
    drop_contaminated: bool = False
    """Drop training rows whose normalised question is a test question."""
    stages: dict[str, StageOverrides] = Field(default_factory=dict)
    """Settings of single stages, by the stage's name."""
    only: Annotated[list[str], Field(min_length=1)] | None = Field(default=None, json_schema_extra=YOUNGER)
    """Names of the stages to go through; null: all."""
    rl: RLConfig | None = Field(default=None, json_schema_extra=YOUNGER)
    """Reinforcement learning as a last stage `rl`; null: supervised stages alone."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImportConfig:
    """The released checkpoint whose weights a run has in place of training."""

    source: str
    """Where the release lies: a folder, a file, or a Hub id."""
    revision: str | None = None
    """Commit of the source, where it is a Hub id; null: the newest."""
    format: str
    """Name of the importer, a file of `methods/importers/`."""
    base: str | None = None
    """Base model of the release, a Hub id or a folder, where the format needs one; null: none, or the one that the
    importer knows."""
    base_revision: str | None = None
    """Commit of the base model, where it is a Hub id; null: the newest."""
    lora_alpha: PositiveFloat | None = None
    """Numerator of the scale of adapters whose files do not store it; null: the format's default."""
    first_added_id: Annotated[int, Field(ge=0)] | None = None
    """Id of the first token that the release added, where rows beyond it make that unclear; null: the last rows
    of the table."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Values by dotted key that the importer chose, which are the protocol of the release; a setting that differs from
    them is named as a variant in the tables."""
    sha256: str = ""
    """Hash over all files that were read, those of the base model included: the identity of the weights."""

    @property
    def label(self) -> str:
        """Short name of the source with the options that change its weights."""
        options = {key: getattr(self, key) for key in ("lora_alpha", "first_added_id")}
        said = [f"{key}={value}" for key, value in options.items() if value is not None]
        name = self.source if _HUB_ID.fullmatch(self.source) else Path(self.source).name
        return ",".join([name, *said])
