"""A run's configuration: sections, layering, identity, and the settings as trees."""

from latbench.config.identity import CARRIED_OUT, YOUNGER, identity, stable_hash
from latbench.config.layering import default_preset
from latbench.config.run_config import ConfigError, RunConfig, parse, read_config
from latbench.config.sections import (
    TINY,
    Fraction,
    GenerateConfig,
    ImportConfig,
    LoraConfig,
    ModelConfig,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    ProblemCount,
    StageOverrides,
    TrainConfig,
)

__all__ = [
    "CARRIED_OUT",
    "TINY",
    "YOUNGER",
    "ConfigError",
    "Fraction",
    "GenerateConfig",
    "ImportConfig",
    "LoraConfig",
    "ModelConfig",
    "NonNegativeFloat",
    "Positive",
    "PositiveFloat",
    "ProblemCount",
    "RunConfig",
    "StageOverrides",
    "TrainConfig",
    "default_preset",
    "identity",
    "parse",
    "read_config",
    "stable_hash",
]
