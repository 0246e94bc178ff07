"""What every method implements: stages, a batch, a loss, and a rule for the next input. `generate` is inherited."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal

import torch
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor, nn
from typing_extensions import TypeVar

from latbench.config import GenerateConfig, RLConfig
from latbench.decoding.action_batch import ActionBatch, ActionLogProbs
from latbench.decoding.latent_trace import LabelLatents
from latbench.decoding.loop import Generation, Prompt, decode
from latbench.decoding.rule import FixedLatents, StepRule
from latbench.decoding.sampling import Sampling, row_keys
from latbench.decoding.written import with_written_chain
from latbench.model.backbone import Backbone
from latbench.model.batches import Batch
from latbench.task import STRICT, Example, Task

REASON = "Reason step by step, then put the final answer within \\boxed{}."  # a request, see Method.request
DIAGNOSTICS = "diagnostics.json"  # in a stage's folder: goes to the run's report, numbers to manifests and tables


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class MethodConfig:
    """Settings shared by all methods: none yet; a subclass adds its own."""

    def draws(self, generate: GenerateConfig) -> bool:
        """Whether two samples of one question can differ; a method with noise of its own says so by overriding it."""
        return generate.temperature > 0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training stage: its length, what it trains, and how it starts.

    Args:
        name: of its folder, of its overrides `train.stages.<name>.*`, and in the logs.
        index: position in a curriculum, read by the method.
        epochs: passes over the training examples; None takes `train.*`.
        steps: optimiser steps, which win over `epochs`; None: none are fixed.
        lr: peak learning rate; None takes `train.*`.
        share: share of `train.epochs` this stage gets where neither `epochs` nor `steps` is set; equal budgets are
            kept by shares that sum to one.
        trainable: prefixes of parameter names of the method (`backbone.`, `heads.` ...); the default is everything that
            `model.lora` leaves trainable.
        frozen: prefixes taken out of it.
        changed: prefixes of parameter names that the method itself changes in this stage, outside its loss and
            optimiser; resume points hold them too.
        rollouts: learns from answers of the model itself (`train.rl`), by `action_log_probs` instead of `loss`.
    """

    name: str
    index: int = 0
    epochs: float | None = None
    steps: int | None = None
    lr: float | None = None
    share: float = 1.0
    trainable: tuple[str, ...] = ("",)
    frozen: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    rollouts: bool = False


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Examples a method may look at while training, with the task that scores answers to them.

    Args:
        split: where they come from; the training split itself where there is no other.
    """

    task: Task[Any]
    split: str
    examples: Sequence[Example]


@dataclass(frozen=True)
class LossTerm:
    """A loss as a sum over items, so that an accumulated step can divide by the items of the whole step.

    Args:
        total: scalar, summed over the term's items (tokens, latent slots or rows).
        num_items: how many items; equals `batch.num_items[<term name>]`.
        weight: factor in the objective.
        group: terms of one group share their weight: each has the part of it that falls to one of those with items in
            the optimiser step.
        largest: a figure of which the log takes the largest instead of a mean.
    """

    total: Tensor
    num_items: int
    weight: float = 1.0
    group: str = ""
    largest: bool = False


class Losses(dict[str, LossTerm]):
    """Loss terms by name: `Losses(ce=token_cross_entropy(...), kl=...)`.

    A term whose name holds a slash is a figure for the log, of weight 0.
    """

    def objective(self, num_items: Mapping[str, float] | None = None) -> Tensor:
        """Weighted sum of per-item means.

        Args:
            num_items: items of the whole optimiser step by term name, over all its micro-batches and processes;
                None: of this batch.
        Returns: scalar; differentiable.
        """
        counts = {name: float(t.num_items if num_items is None else num_items[name]) for name, t in self.items()}
        sharing = Counter(term.group for name, term in self.items() if term.group and counts[name])
        total: Tensor | None = None
        for name, term in self.items():
            part = term.weight / max(sharing[term.group], 1) * term.total / max(counts[name], 1.0)
            total = part if total is None else total + part
        assert total is not None, "a method's loss has at least one term"
        return total


ConfigT = TypeVar("ConfigT", bound=MethodConfig)
BatchT = TypeVar("BatchT", bound=Batch, default=Any)


class Method(nn.Module, ABC, Generic[ConfigT, BatchT]):
    """A way to reason: how to train it, and the rule that chooses the next input while decoding.

    A subclass names its settings and the kind of its batches, `Method[MyConfig, MyBatch]`, and is registered with
    `@register_method("name", config=...)`; the registered name is the file's name.
    Modules of its own (projections, latent heads) live in `self.heads`; whole helper models in `self.auxiliary`.
    """

    name: ClassVar[str]  # set by the registry
    writes_marks: ClassVar[bool] = False  # its text may hold marks that are no reasoning tokens, `RowState.num_marks`
    in_quickstart: ClassVar[bool] = False  # one of the methods that `latbench quickstart` trains and compares
    decoding: ClassVar[type | None] = None  # likewise: class of `generate.method.*`
    batch_terms: ClassVar[frozenset[str]] = frozenset()  # loss terms with a statistic over the rows of a micro-batch

    def __init__(self, backbone: Backbone, config: ConfigT) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.heads = nn.ModuleDict()
        self.auxiliary = nn.ModuleDict()
        # set by the trainer: with the example, seed and epoch key the training noise; `step` counts the stage's
        # optimiser steps; `precision` is that of its forward passes; `held_out` is for what a method reports about
        # its own training
        self.seed, self.epoch, self.step = 0, 0, 0
        self.precision: Literal["float32", "bfloat16"] = "float32"
        self.held_out: HeldOut | None = None

    @abstractmethod
    def stages(self) -> list[Stage]:
        """Training stages in order; empty for a training-free method."""

    @abstractmethod
    def batch(self, examples: Sequence[Example], stage: Stage) -> BatchT:
        """Tensors of one micro-batch, with `num_items` by loss term.

        Every batch of a stage names the same terms. Random choices are keyed by (seed, `self.epoch`, example), never
        drawn from a global generator, so that resuming repeats them.
        """

    @abstractmethod
    def loss(self, batch: BatchT, stage: Stage) -> Losses:
        """Loss terms of one micro-batch."""

    @abstractmethod
    def rule(self, config: GenerateConfig) -> StepRule:
        """The rule for the next input at inference."""

    # reinforcement learning; see latbench/training/rl

    scores_latents: ClassVar[bool] = False  # `action_log_probs` knows the density of latent steps
    rl_figures: ClassVar[tuple[str, ...]] = ()  # see `ActionLogProbs.figures`

    def rl_stage(self) -> Stage:
        """The stage that `train.rl` adds: what it trains; its length and rate are those of `train.rl`."""
        return Stage(name="rl", rollouts=True)

    def action_log_probs(self, batch: ActionBatch) -> ActionLogProbs:
        """Log-probabilities of what was done in rollouts, recomputed with gradients.

        Raises: NotImplementedError: a method without it; the trainer has refused it before.
        """
        raise NotImplementedError

    def rollout_rule(self, config: GenerateConfig) -> StepRule:
        """The rule that rollouts are drawn with; latent steps leave a record (`LatentAction`)."""
        return self.rule(config)

    def rollout_prompt(self, example: Example, config: GenerateConfig, key: Tensor) -> list[int]:
        """Ids fed before the first action, the same for all answers of a group.

        Args:
            key: scalar, of the group's random draws (`sampling.row_keys`).
        """
        return self.prompt_ids(example.question, config)

    def check_rl(self, config: RLConfig) -> None:
        """Raises: ValueError: settings that this method cannot learn with."""

    def before_rollout(self, number: int, passes: int, config: RLConfig, folder: Path) -> None:
        """Called at every process before rollout `number` (0, 1, ...) is drawn, with what `after_rollout` kept of those
        before; it may change parameters that `rl_stage` names as `changed`, the same way at every process.

        Args:
            passes: over the questions, whole ones, that have been drawn.
        """

    def after_rollout(self, groups: Sequence[Any], number: int, folder: Path) -> None:
        """Called at every process after rollout `number` (0, 1, ...) and before its updates, with all its groups.

        What it keeps between rollouts goes into tensors of the stage's resume point (parameters, buffers), or into
        files in `folder` that carry their number, so that a killed run repeats it to the same bits.
        """

    def build_auxiliary(self) -> None:
        """Create the helper models that training needs in `self.auxiliary`; called before training, and on a load that
        asks for them. Inference does without."""

    def check_room(self, num_latents: int, name: str) -> None:
        """Raises: ValueError: so many latent steps, which configuration key `name` asks for, exceed the context."""
        if num_latents >= self.backbone.context:
            raise ValueError(
                f"{name} is {num_latents} latents, more than the context of {self.backbone.name} "
                f"({self.backbone.context} positions) holds; lower it"
            )

    def fixed_rule(
        self, num_latents: int, config: GenerateConfig, next_embeds: Callable[[Tensor], Tensor] | None = None
    ) -> FixedLatents:
        """As many latent steps as training took, then sampled text.

        Raises: ValueError: more than `generate.max_latents`, which would end the thought early.
        """
        if num_latents > config.max_latents:
            raise ValueError(
                f"{self.name!r} takes {num_latents} latent steps, but generate.max_latents is {config.max_latents}; "
                "raise it"
            )
        return FixedLatents(self.backbone, num_latents, next_embeds, sampling=Sampling.from_config(config))

    def check_training(self, stages: Sequence[Stage]) -> None:
        """Called before anything is trained, what a run starts from included.

        Args:
            stages: that will be trained, at least one.
        Raises: ValueError: the model, or a setting of it, is one that this method cannot learn with.
        """

    def prepare(self, stage: Stage, examples: Sequence[Example], folder: Path) -> None:
        """Called before a stage, also on resume; may write what the stage reads (soft labels) into `folder`, and
        figures about the training so far as a JSON object into its DIAGNOSTICS file.

        Of several processes the main one comes first, alone.
        """

    def require_close_marker(self, what: str) -> None:
        """Refuse a model without the marker that closes a thought; for `check_training` of a method that needs it.

        Args:
            what: the method does at the marker, such as "stops".
        Raises: ValueError: the model's layout has none.
        """
        if not self.backbone.layout.close:
            raise ValueError(
                f"method {self.name!r} {what} at the close marker, which {self.backbone.name} has not; "
                "load it with markers, or set model.layout=plain_hash_answer"
            )

    def keys(self, examples: Sequence[Example]) -> Tensor:
        """Keys of a batch's random draws in training, by seed, pass and example: (batch,), see `sampling.row_keys`."""
        return row_keys(self.seed, [example.id for example in examples], [self.epoch] * len(examples))

    def skip_reason(self, example: Example, stage: Stage) -> str | None:
        """Why this example cannot be trained on in this stage (counted and reported), or None."""
        return self.backbone.too_long(self.as_asked(example))

    def read_latents(self, embeds: Tensor) -> list[str] | None:
        """The latent steps of one answer as text, where a helper model at hand can tell; None: they stay vectors.

        Args:
            embeds: (latent, hidden), as they were fed.
        Returns: a text for each; "" where it is part of what a later one says.
        """
        return None

    def label_latents(
        self, examples: Sequence[Example], cuts: Sequence[Sequence[int]] | None = None
    ) -> list[LabelLatents | None]:
        """The latents that a helper model of the training makes of the examples' chains, for metrics.

        Args:
            cuts: of each chain, the bounds of its segments, 0 .. tokens; None: those of the training.
        Returns: one for each example; None where the method has no such model, or it cannot read this chain.
        """
        return [None] * len(examples)

    def request(self, question: str) -> str:
        """What a model without a close marker is asked after a question, such as for the form of the answer; "": no
        more."""
        return ""

    def worded(self, question: str) -> str:
        """The question as it is asked, in training and at inference: with the request where there is no close marker.

        A model with one knows its form from its layout.
        """
        request = "" if self.backbone.layout.close else self.request(question)
        return f"{question}\n\n{request}" if request else question

    def as_asked(self, example: Example) -> Example:
        """The example with its question in the words in which it is asked."""
        return replace(example, question=self.worded(example.question))

    def prompt_ids(self, question: str, config: GenerateConfig | None = None) -> list[int]:
        """Token ids fed before the first decision; the shared layout's prompt unless a method adds markers.

        Args:
            config: of the decoding to come, for a method that is told in the prompt how to think; None: the defaults.
        """
        return self.backbone.prompt(self.worded(question))

    def generate(
        self,
        prompts: Sequence[Prompt | str],
        config: GenerateConfig,
        *,
        seed: int = 0,
        trace: bool = False,
        actions: bool = False,
        rule: StepRule | None = None,
    ) -> list[Generation]:
        """Answers in order of the prompts; greedy or sampled, one decoding loop for every method.

        Args:
            prompts: questions; a plain string gets its position as id.
            seed: with the prompt's id and sample it keys every random draw.
            trace: also return what each latent step mixed.
            actions: also return all steps.
            rule: in place of the method's own.
        """
        given = [p if isinstance(p, Prompt) else Prompt(id=str(i), text=p) for i, p in enumerate(prompts)]
        ids = [self.fed_ids(p, config) for p in given]
        was_training = self.training
        self.eval()
        try:
            chosen = self.rule(config) if rule is None else rule
            answers = decode(self.backbone, ids, given, chosen, config, seed=seed, trace=trace, actions=actions)
            for latents in (answer.trace for answer in answers if answer.trace is not None):
                latents.texts = self.read_latents(latents.embeds)
            return [with_written_chain(answer, self.backbone) for answer in answers]
        finally:
            self.train(was_training)

    def fed_ids(self, prompt: Prompt, config: GenerateConfig) -> list[int]:
        """Ids fed before the first decision.

        Args:
            config: of the decoding to come.
        """
        if prompt.ids is not None:
            return list(prompt.ids)
        return self.backbone.encode(prompt.text) if prompt.raw else self.prompt_ids(prompt.text, config)

    def forward(self, batch: BatchT, stage: Stage) -> Losses:
        """Dispatches to `loss`, so that DDP and FSDP hooks on the wrapped module fire."""
        return self.loss(batch, stage)

    def autocast(self) -> torch.autocast:
        """The precision of the trainer's forward passes, for a method that computes beside them (`prepare`)."""
        return torch.autocast(self.backbone.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def trainable_parameters(self, stage: Stage) -> Iterator[tuple[str, nn.Parameter]]:
        """Named parameters this stage trains: of those under `stage.trainable`, what no backbone froze."""
        frozen = {
            f"{path}.{name}"
            for path, module in self.named_modules()
            if isinstance(module, Backbone)
            for name in module.frozen_names
        }
        for name, parameter in self.named_parameters():
            excluded = name in frozen or name.startswith(stage.frozen)
            if name.startswith(stage.trainable) and not excluded:
                yield name, parameter
