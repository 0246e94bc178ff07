"""A run's configuration: sections, layering, identity, and the settings as trees."""

from latbench.config.fields import TINY, Fraction, NonNegativeFloat, Positive, PositiveFloat, ProblemCount
from latbench.config.generate import GenerateConfig
from latbench.config.identity import CARRIED_OUT, decoding_identity, identity, stable_hash
from latbench.config.layering import default_preset, over, over_file
from latbench.config.rl import RLConfig, RolloutConfig
from latbench.config.run_config import ConfigError, RunConfig, parse, read_config
from latbench.config.sections import ImportConfig, LoraConfig, ModelConfig, StageOverrides, TrainConfig
from latbench.task import YOUNGER

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
    "RLConfig",
    "RolloutConfig",
    "RunConfig",
    "StageOverrides",
    "TrainConfig",
    "decoding_identity",
    "default_preset",
    "identity",
    "over",
    "over_file",
    "parse",
    "read_config",
    "stable_hash",
]
