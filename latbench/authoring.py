"""Everything that the file of a method or of a task imports: `from latbench.authoring import ...`."""

from pydantic.dataclasses import dataclass as config_dataclass

from latbench.config import (
    YOUNGER,
    Fraction,
    GenerateConfig,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
)
from latbench.data import FileTask, Source
from latbench.data.generated import GeneratedTask
from latbench.data.hub import HubSource
from latbench.decoding.action_batch import ActionBatch, ActionLogProbs
from latbench.decoding.loop import Generation, Prompt, decode, unroll
from latbench.decoding.rule import (
    FixedLatents,
    Latent,
    LatentRule,
    Mixture,
    Mode,
    RecordedLatents,
    RowState,
    Step,
    StepRule,
)
from latbench.decoding.sampling import Sampling, gumbel, normal, row_keys
from latbench.method import HeldOut, Losses, LossTerm, Method, MethodConfig, Stage
from latbench.model.backbone import Backbone, DecodeState
from latbench.model.batches import IGNORE_INDEX, Batch, RolloutBatch, SequenceBatch, Tokens, pad
from latbench.model.layout import Pieces
from latbench.registry import register_method, register_task
from latbench.task import STRICT, Example, Fingerprint, Node, Score, Task, TaskConfig
from latbench.training.losses import soft_label_kl, token_cross_entropy, unlikelihood

__all__ = [
    "IGNORE_INDEX",
    "STRICT",
    "YOUNGER",
    "ActionBatch",
    "ActionLogProbs",
    "Backbone",
    "Batch",
    "DecodeState",
    "Example",
    "FileTask",
    "Fingerprint",
    "FixedLatents",
    "Fraction",
    "GenerateConfig",
    "GeneratedTask",
    "Generation",
    "HeldOut",
    "HubSource",
    "Latent",
    "LatentRule",
    "LossTerm",
    "Losses",
    "Method",
    "MethodConfig",
    "Mixture",
    "Mode",
    "Node",
    "NonNegativeFloat",
    "Pieces",
    "Positive",
    "PositiveFloat",
    "Prompt",
    "RecordedLatents",
    "RolloutBatch",
    "RowState",
    "Sampling",
    "Score",
    "SequenceBatch",
    "Source",
    "Stage",
    "Step",
    "StepRule",
    "Task",
    "TaskConfig",
    "Tokens",
    "config_dataclass",
    "decode",
    "gumbel",
    "normal",
    "pad",
    "register_method",
    "register_task",
    "row_keys",
    "soft_label_kl",
    "token_cross_entropy",
    "unlikelihood",
    "unroll",
]
