"""A run's configuration: frozen pydantic dataclasses over YAML and overrides; all errors are reported together.

Tree for YAML and `--set KEY=VALUE`: `seed`, `task.*`, `method.*`, `model.*`, `train.*`, `generate.*`, `start.*`;
`task.name` and `method.name` choose the registered classes whose settings stand beside them. `start` is the recipe of
the run whose trained model this one starts from: a tree of its own without seed, task and model, which both share.
`parse` layers the defaults, a preset, the user's tree and the overrides; `RunConfig.from_tree` validates the result.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field
from pydantic.dataclasses import dataclass

from latbench import registry, tree
from latbench.task import STRICT, TaskConfig

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Decay = Annotated[float, Field(ge=0, lt=1)]


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
    layout: Literal["default", "coconut"] = "default"
    chat_template: bool | None = None  # None: where the tokenizer has one and the weights are pretrained
    instruction: str = ""  # before every question, with a blank line after it; such as how to word the answer
    lora: LoraConfig | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float64"] = "float32"  # of the weights
    attention: Literal["sdpa", "eager"] = "sdpa"
    device: str = "auto"  # auto, cpu, cuda, cuda:1 ...
    trust_remote_code: bool = False
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
class RolloutConfig:
    """How answers are drawn in reinforcement learning; held-out questions are answered with the same caps, greedily.

    `generate.*` has no part in it, since it changes an evaluation and not the training.
    """

    batch_size: Positive = 256
    """Rows decoded at once."""
    max_new_tokens: Positive = 256
    """Emitted tokens per row, reasoning and answer together; a row that ends here is invalid."""
    max_latents: Annotated[int, Field(ge=0)] = 128
    """Latent steps per row; then the close marker is forced."""
    temperature: PositiveFloat = 1.0
    """Of text tokens, in drawing and in their log-probabilities alike."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Tokens drawn from; 0: all. Log-probabilities are not renormalised over them."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Mass drawn from; log-probabilities are not renormalised over it."""
    latent_noise: NonNegativeFloat = 1.0
    """Scale of the noise on latent steps, as `generate.latent_noise`; at 0 latents are not explored."""
    thinking_speed: Annotated[int, Field(ge=0)] | None = None
    """As `generate.thinking_speed`; None: the method's own."""

    def sampled(self) -> GenerateConfig:
        """Decoding settings of rollouts."""
        return GenerateConfig(**dataclasses.asdict(cast(Any, self)))

    def greedy(self) -> GenerateConfig:
        """Decoding settings of held-out questions."""
        return dataclasses.replace(self.sampled(), temperature=0.0, latent_noise=0.0)


# What a variant sets where the key itself is null.
VARIANTS: dict[str, dict[str, Any]] = {
    "grpo": {"average": "sequence", "deviation": "unbiased", "clip_high": 0.2, "dynamic": False},
    "dr_grpo": {"average": "constant", "deviation": "none", "clip_high": 0.2, "dynamic": False},
    "dapo": {"average": "token", "deviation": "unbiased", "clip_high": 0.28, "dynamic": True},
}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RLConfig:
    """Reinforcement learning by group-relative advantages: the stage `rl` after a method's supervised stages.

    A key that is null has the value of the variant: GRPO (arXiv:2402.03300, section 4.1; without its divergence term
    unless `kl` is set), Dr. GRPO (arXiv:2503.20783, section 3.2), DAPO (arXiv:2503.14476, section 3).
    """

    variant: Literal["grpo", "dr_grpo", "dapo"] = "grpo"
    """Named setting of average, deviation, clip_high and dynamic."""
    steps: Positive = 200
    """Optimiser updates."""
    lr: PositiveFloat = 1e-6
    """Learning rate; `train.stages.rl.lr` goes before it."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Of the learning rate in this stage, in place of `train.schedule`."""
    warmup_ratio: Fraction = 0.0
    """Share of the updates with a rising rate, in place of `train.warmup_ratio`."""
    prompts: Positive = 32
    """Groups of one rollout, over all processes; `train.batch_size` has no part in this stage."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """G, answers drawn for each prompt."""
    minibatches: Positive = 1
    """Optimiser updates that the groups of a rollout are cut into."""
    passes: Positive = 1
    """Times that a rollout is gone through (mu of GRPO)."""
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    """How answers are drawn."""
    reward: Literal["correct", "latent_cost", "per_latent"] = "correct"
    """1 for a correct answer, else 0; less `latent_cost` for each latent step; or divided by their number."""
    latent_cost: NonNegativeFloat = 0.01
    """What a latent step costs with reward=latent_cost."""
    deviation: Literal["unbiased", "biased", "none"] | None = None
    """Standard deviation that divides the centred rewards of a group: over G - 1, over G, or no division."""
    advantage_epsilon: PositiveFloat = 1e-6
    """Added to that deviation."""
    average: Literal["sequence", "token", "constant"] | None = None
    """Of the loss: mean over each answer's actions and then over answers; mean over all actions of the update; sum of
    an answer's actions over a constant, mean over answers."""
    constant_length: Positive | None = None
    """The constant; None: `rollout.max_new_tokens`."""
    parts: Literal["joint", "apart"] = "joint"
    """apart: latent steps and text are averaged each for itself, and the two means are added (CoLaR)."""
    learn_from: Literal["all", "latents", "text"] = "all"
    """Actions in the loss."""
    clip_low: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Ratios below 1 - clip_low are clipped."""
    clip_high: PositiveFloat | None = None
    """Ratios above 1 + clip_high are clipped."""
    dual_clip: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = None
    """c of dual clip (arXiv:1912.09729, equation 5): with a negative advantage the loss is at most c times its size."""
    ratio_cap: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = None
    """Two-sided clip (arXiv:2505.07291, section 3.4): ratios are cut at this value, whatever the advantage."""
    negative_weight: NonNegativeFloat = 1.0
    """Factor on the loss of answers with a negative advantage."""
    kl: NonNegativeFloat = 0.0
    """beta: weight of the divergence (k3 estimator) from the model at the stage's beginning, of which a copy is kept."""
    kl_corrected: bool = False
    """Multiply that divergence by the ratio, which makes its gradient that of the divergence itself
    (arXiv:2512.02556, section 3.1); TRL's default."""
    invalid: Literal["keep", "include", "exclude"] = "keep"
    """Answers without an end within the caps: nothing special; they count in mean and deviation of their group and get
    advantage 0; they do not count and get advantage 0."""
    first_action: Literal["all", "winner"] = "all"
    """winner: of a group, only the correct answer of the highest mean log-probability moves its first action
    (Latent-GRPO, arXiv:2604.27998: all first latents of a group come from one state)."""
    dynamic: bool | None = None
    """Dynamic sampling: groups whose rewards are all equal are drawn anew."""
    max_draws: Positive = 10
    """Cap: draws of `prompts` groups for one rollout. Without dynamic sampling, rollouts in a row without a group of
    unequal rewards."""
    eval_every: Annotated[int, Field(ge=0)] = 25
    """Updates between greedy evaluations on held-out questions; 0: none."""
    eval_questions: Positive = 256
    """Held-out questions, at most 256."""
    keep_best: bool = False
    """End with the weights of the best held-out accuracy instead of the last ones."""

    def __post_init__(self) -> None:
        for name, value in VARIANTS[self.variant].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.constant_length is None:
            object.__setattr__(self, "constant_length", self.rollout.max_new_tokens)
        if self.minibatches > self.prompts:
            raise ValueError(
                f"train.rl.minibatches must be at most train.rl.prompts = {self.prompts}, got {self.minibatches}; "
                "a group is never divided"
            )
        if self.keep_best and not self.eval_every:
            raise ValueError("train.rl.keep_best needs train.rl.eval_every above 0; nothing is evaluated at 0")

    @property
    def updates(self) -> int:
        """Optimiser updates from one rollout."""
        return self.passes * self.minibatches


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
    only: Annotated[list[str], Field(min_length=1)] | None = None  # stages to go through, by name; None: all
    rl: RLConfig | None = None  # reinforcement learning as a last stage `rl`; None: supervised stages alone


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


# Keys that change how a run is carried out but not what it finds. Batch size and chunk of `generate` are among them,
# because every row decodes as it would alone (DESIGN.md 10); `model.attention` and `dtype` are not: they round.
CARRIED_OUT = frozenset(
    {
        "model.device",
        "model.gradient_checkpointing",
        "train.save_every",
        "train.log_every",
        "train.trackers",
        "generate.batch_size",
        "generate.chunk",
        "generate.trace_top_k",
    }
)
# Keys younger than committed results, with the value that every run before them had: at that value they are no part of
# an identity, so that run ids and settings stay what they were.
YOUNGER: dict[str, Any] = {
    "train.reset_optimizer": True,
    "generate.thinking_speed": None,
    "model.words": None,
    "train.auxiliary_lr": None,
    "method.thought": "hidden",
    "model.instruction": "",
    "method.min_deviation": 0.0,
    "method.latent_density": "mean",
    "method.draw_speed": False,
    "method.rl_density": "latent_grpo",
    "method.rl_top_p": 0.95,
    "method.rl_temperature": 1.0,
    "method.rl_noise_clip": [-1.5, 3.0],
    "method.rl_one_sided": True,
    "method.rl_margin": 0.0,
    "method.rl_sign_rule": "correct",
    "train.only": None,
    "train.rl": None,
}
_SECTIONS: dict[str, type] = {"model": ModelConfig, "train": TrainConfig, "generate": GenerateConfig}
_SHARED = ("seed", "task", "model")  # by a run and the one it starts from
_DATA = ("split", "num_examples", "drop_contaminated")  # of `train`: shared too unless `start.train` says otherwise


class ConfigError(ValueError):
    """All errors of a configuration, one sentence per line."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__("\n".join(sentences))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines a run.

    Args:
        task_name, method_name: registered names; `task`, `method`: the settings of those classes.
        preset: name of the preset the tree was layered on; "none" without one.
        start: the run whose trained model this one starts from, of the same seed, task and model; None: the backbone as
            it comes. Its `generate` is for its own evaluations and changes nothing here.
    """

    seed: int
    preset: str
    task_name: str
    method_name: str
    task: TaskConfig
    method: Any  # a MethodConfig; typed loosely because latbench.method imports torch
    model: ModelConfig
    train: TrainConfig
    generate: GenerateConfig
    start: RunConfig | None = None

    @classmethod
    def from_tree(cls, given: Mapping[str, Any]) -> RunConfig:
        """Validate a whole tree; nothing is layered beneath it.

        Raises: ConfigError: every error of every section, one sentence each.
        """
        given, shared = _spelled_out(given), dict[str, Any]()
        shared["seed"], errors = tree.validate("seed", cast(type, Seed), given.get("seed", 0))
        shared["task_name"], shared["task"], found = _named_section("task", given.get("task"))
        shared["model"], more = tree.validate("model", ModelConfig, given.get("model"))
        config, own = _validated(given, shared)
        if errors := [*errors, *found, *more, *own]:
            raise ConfigError(errors)
        return config

    def to_tree(self) -> tree.Tree:
        """The whole tree, defaults included; `from_tree` reads it back."""
        parts: tree.Tree = {"seed": self.seed, "preset": self.preset}
        for kind, name in (("task", self.task_name), ("method", self.method_name)):
            parts[kind] = {"name": name, **dataclasses.asdict(getattr(self, kind))}
        for section in _SECTIONS:
            parts[section] = dataclasses.asdict(getattr(self, section))
        start = None if self.start is None else self.start.to_tree()
        parts["start"] = start and {key: value for key, value in start.items() if key not in _SHARED}
        return cast(tree.Tree, json.loads(json.dumps(parts)))  # tuples become lists

    @property
    def setting(self) -> str:
        """Hash of everything that can change a result, without the seed."""
        return stable_hash(identity(self.to_tree()))

    @property
    def backbone(self) -> str:
        """Short name of the language model, fit for a table and a file name."""
        return self.model.name

    @property
    def run_id(self) -> str:
        """Name of the run's folder; `generate.*` is left out, since it changes an evaluation and not the training."""
        trained = {key: value for key, value in identity(self.to_tree()).items() if not key.startswith("generate.")}
        return f"{self.task_name}-{self.method_name}-{self.backbone}-{stable_hash(trained)}-s{self.seed}"

    @property
    def variant(self) -> str:
        """Short text of the keys that differ from the preset or the defaults; unusual preset and start come first."""
        names: tree.Tree = {
            "task": {"name": self.task_name},
            "method": {"name": self.method_name},
            "model": {"id": self.model.id},
            "preset": self.preset,
        }
        usual = RunConfig.from_tree(_layered(names)).start
        alike = RunConfig.from_tree(_layered(names | {"start": _names(self.start)}))
        unusual = [f"preset={self.preset}"] if self.preset != default_preset(self.method_name, self.model.id) else []
        if _names(self.start) != _names(usual):
            unusual.append(f"start={_label(self.start)}")
        before = _with_rl_defaults(_results_only(alike.to_tree()), self.train.rl)
        return " ".join(unusual + _changed(before, _results_only(self.to_tree())))


def default_preset(method: str, model_id: str) -> str:
    """Name of the preset that applies unasked: the method's `tiny` for the embedded backbone, else "none"."""
    return TINY if model_id == TINY and TINY in tree.presets(method) else "none"


def parse(given: Mapping[str, Any], *, preset: str | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Layer defaults, preset, tree and overrides, and validate.

    Args:
        given: tree from a YAML file or from command-line options; may name a `preset`.
        preset: name of a preset of the method; None takes the tree's, else the one of `default_preset`.
        overrides: `KEY=VALUE` texts, applied last.
    Raises: ConfigError: every error of every section; ValueError: a malformed override.
    """
    upper = tree.merge(_spelled_out(given), _spelled_out(tree.parse_overrides(overrides)))
    upper |= {"preset": preset} if preset else {}
    try:
        whole = _layered(upper)
    except ValueError as error:
        raise ConfigError([str(error), *_errors(upper)]) from None
    return RunConfig.from_tree(whole)


def _layered(upper: tree.Tree) -> tree.Tree:
    """The tree over its preset, and `start` over that of its method; unknown methods are left to the validation.

    Raises: ValueError: unknown preset, or a method whose presets start from each other in a circle.
    """
    method = _section(upper, "method").get("name")
    if method not in registry.method_names():
        return upper
    name = str(upper.get("preset") or default_preset(method, _model_id(upper)))
    whole = tree.merge(_for_task(_preset(method, name), upper), upper) | {"preset": name}
    return _with_start(whole, _model_id(whole), _section(upper, "generate"))


def _with_start(whole: tree.Tree, model_id: str, generate: tree.Tree, outer: tuple[tree.Tree, ...] = ()) -> tree.Tree:
    """The tree with its `start`, and that of the start, layered: preset, what it takes over, what it says itself.

    Args:
        generate: what the user asked of decoding; taken over, as are the training data, so that the start equals the
            run that the same command trains with its method.
        outer: the starts around this one, as they were given; one that is given again goes on for ever.
    """
    given = _section(whole, "start")
    method = _section(given, "method").get("name")
    if method not in registry.method_names():
        return whole
    within = "start." * (len(outer) + 1)
    name = str(given.get("preset") or default_preset(method, model_id))
    if given in outer:
        raise ValueError(
            f"{within}method {method!r} with preset {name!r} starts from itself, without end; set {within[:-1]}=null"
        )
    try:
        lower = _preset(method, name)
    except ValueError as error:
        raise ValueError(f"{within}preset: {error}") from None
    data = {key: value for key, value in _section(whole, "train").items() if key in _DATA}
    taken = {key: values for key, values in (("train", data), ("generate", generate)) if values}
    lower = tree.merge({key: value for key, value in lower.items() if key not in _SHARED}, taken)
    start = tree.merge(lower, given) | {"preset": name}
    return whole | {"start": _with_start(start, model_id, generate, (*outer, given))}


def _section(whole: Mapping[str, Any], name: str) -> tree.Tree:
    """A section of a tree not yet validated; empty where it is absent or no mapping."""
    section = whole.get(name)
    return section if isinstance(section, dict) else {}


def _preset(method: str, name: str) -> tree.Tree:
    return _spelled_out(tree.preset(method, name))


def _spelled_out(given: Mapping[str, Any]) -> tree.Tree:
    """The tree with names that stand without settings as mappings, so that trees merge."""
    whole = dict(given)
    if isinstance(start := whole.get("start"), dict):
        whole["start"] = _spelled_out(start)
    names = {kind: {"name": whole[kind]} for kind in ("task", "method") if isinstance(whole.get(kind), str)}
    return whole | names


def _model_id(given: Mapping[str, Any]) -> str:
    return str(_section(given, "model").get("id", TINY))


def _errors(given: tree.Tree) -> list[str]:
    try:
        RunConfig.from_tree(given)
    except ConfigError as error:
        return str(error).split("\n")
    return []


def read_config(path: Path) -> RunConfig:
    """The configuration saved beside a run. Raises: ValueError: unreadable, or not a configuration."""
    return RunConfig.from_tree(tree.read_yaml(path))


def stable_hash(value: Any) -> str:
    """Eight hex digits of the value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def identity(whole: tree.Tree) -> tree.Tree:
    """What two configurations that are one have in common: flattened, and free of YOUNGER keys at their old values."""
    return {
        key: value
        for key, value in _results_only(whole).items()
        if (name := key.rpartition("start.")[2]) not in YOUNGER or value != YOUNGER[name]
    }


def _results_only(whole: tree.Tree) -> tree.Tree:
    """Flattened tree without the seed, the preset's name (its values are there) and what changes no result."""
    start = _results_only(whole["start"]) if whole.get("start") else {}  # absent and null are one
    own = tree.flatten({key: value for key, value in whole.items() if key not in ("seed", "preset", "start")})
    return {key: value for key, value in own if key not in CARRIED_OUT} | {
        f"start.{key}": value for key, value in start.items() if not key.startswith("generate.")
    }


def _with_rl_defaults(usual: tree.Tree, rl: RLConfig | None) -> tree.Tree:
    """The usual leaves of a run with reinforcement learning: those of its variant, which alone is said in any case."""
    if rl is None or usual.get("train.rl", rl) is not None:
        return usual
    defaults = tree.flatten({"train": {"rl": dataclasses.asdict(RLConfig(variant=rl.variant))}})
    return usual | {key: value for key, value in defaults if key != "train.rl.variant"}


def _changed(usual: tree.Tree, own: tree.Tree) -> list[str]:
    """`KEY=VALUE` of the keys whose values differ; training data that a start takes over are said once."""

    def is_taken_over(key: str) -> bool:
        outer = key.removeprefix("start.")
        return outer != key and outer.rpartition("train.")[2] in _DATA and own[outer] == own[key]

    changed = [key for key, value in own.items() if key not in usual or usual[key] != value]
    return [f"{key}={tree.show(own[key])}" for key in changed if not is_taken_over(key)]


def _names(start: RunConfig | None) -> tree.Tree | None:
    """The tree that chooses a start's method and preset, and those of its own start."""
    if start is None:
        return None
    return {"method": {"name": start.method_name}, "preset": start.preset, "start": _names(start.start)}


def _label(start: RunConfig | None) -> str:
    """`null`, `cot`, `cot/codi-gpt2` with an unusual preset, `coconut<cot` with a start of its own."""
    if start is None:
        return "null"
    unusual = start.preset != default_preset(start.method_name, start.model.id)
    name = f"{start.method_name}/{start.preset}" if unusual else start.method_name
    return name if start.start is None else f"{name}<{_label(start.start)}"


def _validated(given: Mapping[str, Any], shared: Mapping[str, Any], within: str = "") -> tuple[RunConfig, list[str]]:
    """A run of what it shares with its start and what it does not, and the errors in the latter.

    Args:
        within: `start.` for the start, `start.start.` for that of the start.
    """
    known = ["preset", "method", "train", "generate", "start", *([] if within else _SHARED)]
    errors = [_unknown_section(key, within) for key in given if key not in known]
    values: dict[str, Any] = {"preset": str(given.get("preset") or "none"), "start": None, **shared}
    values["method_name"], values["method"], found = _named_section("method", given.get("method"), within)
    errors += found
    for section in ("train", "generate"):
        values[section], found = tree.validate(within + section, _SECTIONS[section], given.get(section))
        errors += found
    start = given.get("start")
    if isinstance(start, Mapping):
        values["start"], found = _validated(start, shared, f"{within}start.")
        errors += found
    elif start is not None:
        errors.append(f"start must be a mapping such as {{method: cot}}, or null, got {tree.show(start)}")
    return RunConfig(**values), [text if within in text else within + text for text in errors]


def _named_section(kind: registry.Kind, given: Any, within: str = "") -> tuple[str, Any, list[str]]:
    """Registered name, settings and errors of `task` or `method`."""
    section = dict(given) if isinstance(given, Mapping) else {}
    name = section.pop("name", "synth" if kind == "task" else None)
    if not isinstance(name, str):
        names = registry.method_names() if kind == "method" else registry.task_names()
        option = "" if within else f" with --{kind}"
        return "", None, [f"{within}{kind}.name is missing; choose{option} one of {', '.join(names)}"]
    try:
        entry = registry.get_method(name) if kind == "method" else registry.get_task_entry(name)
    except ValueError as error:
        return name, None, [f"{within}{kind}: {error}" if within else str(error)]
    return name, *tree.validate(within + kind, entry.config, section)


def _for_task(lower: tree.Tree, upper: Mapping[str, Any]) -> tree.Tree:
    """The preset without its task's settings where the user chose another task."""
    wanted = upper.get("task")
    name = wanted.get("name") if isinstance(wanted, Mapping) else wanted
    if name is None or "task" not in lower or lower["task"].get("name") == name:
        return lower
    return {key: value for key, value in lower.items() if key != "task"}


def _unknown_section(key: str, within: str) -> str:
    if within and key in _SHARED:
        return f"{within}{key} cannot be set; a run has the {key} of the one it starts from, set {key} for both"
    own = ["preset", "method", "start", *([] if within else _SHARED)]
    known = [name for section, cls in _SECTIONS.items() for name in tree.keys(section, cls)]
    return tree.unknown_key(within + key, [within + name for name in [*own, *_SECTIONS, *known]])
