"""CoLaR: chains compressed at a speed that the prompt asks for (Tan et al., arXiv:2505.16552), both stages.

Every c tokens of the chain become one latent: the sum of their embeddings over the square root of their number, which
keeps the spread of a single embedding. One causal pass over question, latents and answer teaches two things. The LM
head learns to continue each latent with a random token of the next chunk, and the last one with the end of thought. A
latent head learns the distribution of the next input embedding: a diagonal Gaussian, in units of the embeddings'
deviation s. At inference the mean of that, or a draw, is the next input until the LM head's argmax is the end of
thought; then the answer is text. c changes from step to step and stands in the prompt, so that one model thinks at any
speed. `generate.method.thinking_speed` chooses it at test time, also one never trained on (less accurate in the paper).

The paper's separator `###` opens and closes the thought. Here `<think>` and `</think>` do, special tokens of known ids;
in the layout `plain_hash_answer` the end of the question and `###` do. The opening one is part of the prompt, hence
not supervised. Embedding tables are frozen as in the paper, rows of added markers included: start from a run that has
trained them (`start: {method: cot}`, with which the paper starts all methods).

Differs from the released code (xiaomi-research/colar@4b6ae9a): no padding inside a row, hence no lost stop labels
(B1, B2); one c for an optimiser step (there for a forward pass, with equal seeds on all devices); the stop is an
argmax, there a draw; examples without a chain are skipped; question and answer are worded by the layout, without the
paper's phrase that asks for steps; a `cot` run to start from has not seen a speed in its prompt. Its second pass over
predicted latents (off by default, and faulty) is not here.

With `train.rl` set the second stage follows: GRPO on drawn latents and on the answer. The log-density of a latent is
that of the head's Gaussian, in units of s, as a mean over dimensions (the ratio is then a geometric mean); the close
marker counts as a token, though an argmax wrote it, and that the thought went on before is not part of the objective.
The paper's set-up averages latents and answer apart (`train.rl.parts=apart`), each per answer (`average=sequence`);
the code's default divides sums by 32 instead (`average=constant`, `constant_length=32`), with which chains grow to
their limit. Soft-MSE takes the head's deviation to 0, where nothing is explored and a density says nothing:
`min_deviation` is a floor under it, in drawing and scoring alike. The paper has none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor, nn
from torch.distributions import Normal

from latbench.config import YOUNGER, Fraction, GenerateConfig, NonNegativeFloat, Positive, PositiveFloat, RLConfig
from latbench.decoding.action_batch import ActionBatch, ActionLogProbs
from latbench.decoding.actions import Kind
from latbench.decoding.rule import Latent, LatentAction, LatentRule, RowState, StepRule, says_close
from latbench.decoding.sampling import Sampling, normal, row_keys, uniform
from latbench.method import DIAGNOSTICS, Losses, LossTerm, Method, MethodConfig, Stage
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX, Batch, Tokens, pad
from latbench.registry import register_method
from latbench.task import STRICT, Example
from latbench.training.losses import token_cross_entropy
from latbench.training.rl.action_tensors import text_log_probs
from latbench.util.files import write_whole

AUTO = 0  # the speed that reads `auto` in the prompt
EPSILON = 1e-5  # beside the divisor of a merge, as in the paper's code
NO_SPREAD = 1e-9  # deviation of the deterministic head
LATENT_DRAW, LABEL_DRAW, AUTO_DRAW = 1, 2, 3  # draw 0 of a step is the text token's
PLACEHOLDER = 0  # id of a latent in a sequence: any valid row of the table


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class ColarDecoding:
    """How the model thinks at test time."""

    thinking_speed: Annotated[int, Field(ge=0)] | None = Field(default=None, json_schema_extra=YOUNGER)
    """Chain tokens per latent that the prompt asks for; 0: `auto`; null: method.test_speed."""
    latent_noise: NonNegativeFloat = 0.0
    """Factor on the deviation of a drawn latent, the paper's latent temperature; 0 feeds the mean."""


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class ColarConfig(MethodConfig):
    """The defaults are those of the paper's tables on GSM8K; its ablations are DL, OC, MP and NLL."""

    max_speed: Positive = 5
    """c_max: the training speed c, in chain tokens per latent, is drawn from 1 to c_max."""
    speeds: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None
    """Training speeds to draw from instead, such as 1, 3, 5, 7; null: 1 to max_speed."""
    auto_prob: Fraction = 0.0
    """Share of the examples whose prompt says `auto` instead of the speed."""
    test_speed: Annotated[int, Field(ge=0)] = 2
    """c in the prompt where generate.method.thinking_speed is null; 0: `auto`."""
    pooling: Literal["sqrt", "mean"] = "sqrt"
    """What divides the sum of a chunk's embeddings: the root of their number, or the number (the ablation MP)."""
    latent_loss: Literal["soft_mse", "nll", "mse"] = "soft_mse"
    """Loss of the latent head: squared error of a draw, negative log-likelihood, or squared error of a deterministic
    head (the ablation DL)."""
    latent_weight: NonNegativeFloat = 1.0
    """Weight of the latent head's loss."""
    entropy_bonus: NonNegativeFloat = 0.0
    """alpha, weight of the head's entropy in nats per dimension, minus w_H of the released code; without it soft_mse
    takes the deviation to 0."""
    predict_chain: bool = True
    """Train the LM head to continue a latent with a token of the next chunk; false: the ablation OC."""
    head_size: Positive | None = None
    """I, inner width of the latent head; null: the model's width."""
    embedding_scale: PositiveFloat | None = None
    """s, the unit of the latent head; null: standard deviation of the model's input embeddings."""
    min_deviation: NonNegativeFloat = Field(default=0.0, json_schema_extra=YOUNGER)
    """Floor under the deviation of draws and densities, in units of s; not in the paper."""
    latent_density: Literal["mean", "sum"] = Field(default="mean", json_schema_extra=YOUNGER)
    """How the log-density of a latent is taken over its dimensions."""
    draw_speed: bool = Field(default=False, json_schema_extra=YOUNGER)
    """Ask each question of a rollout at a speed drawn from the training speeds, one for its group."""

    def draws(self, generate: GenerateConfig) -> bool:
        """The latent head draws at any temperature of the answer, unless it is deterministic."""
        has_deviation = self.latent_loss != "mse" or self.min_deviation > 0
        return super().draws(generate) or (has_deviation and generate.own(ColarDecoding).latent_noise > 0)

    def __post_init__(self) -> None:
        if self.latent_loss == "mse" and self.entropy_bonus > 0:
            raise ValueError(
                f"method.entropy_bonus must be 0 with method.latent_loss=mse, got {self.entropy_bonus}; "
                "a deterministic head has no entropy to raise"
            )


class LatentHead(nn.Module):
    """The distribution of the next input embedding; in float32 at least, whatever the model runs in.

    Args:
        size: D, of hidden states and embeddings.
        inner: I.
        scale: s; mean and deviation are in units of it.
        deterministic: no spread.
        floor: under the deviation of draws and densities, in units of s.
    """

    def __init__(self, size: int, inner: int, scale: float, *, deterministic: bool = False, floor: float = 0.0) -> None:
        super().__init__()
        self.floor = floor
        self.mlp = nn.Sequential(nn.Linear(size, inner), nn.GELU(), nn.Linear(inner, inner), nn.LayerNorm(inner))
        self.mean = nn.Linear(inner, size)
        self.log_std = None if deterministic else nn.Linear(inner, size)
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, hidden: Tensor) -> Normal:
        """(..., hidden) last hidden states -> diagonal Gaussians over (..., hidden), in units of s."""
        with torch.autocast(hidden.device.type, enabled=False):
            inner = self.mlp(hidden.to(self.scale.dtype))
            mean = self.mean(inner)
            std = torch.full_like(mean, NO_SPREAD) if self.log_std is None else self.log_std(inner).exp()
        return Normal(mean, std, validate_args=False)

    def spread(self, hidden: Tensor, temperature: float = 1.0) -> Normal:
        """What latents are drawn from: as `forward`, with the floor, and the deviation times the latent temperature."""
        found = self(hidden)
        return Normal(found.mean, found.stddev.clamp(min=self.floor) * temperature, validate_args=False)

    def log_density(self, latents: Tensor, hidden: Tensor, temperature: float = 1.0) -> Tensor:
        """Of latents as they are fed, (..., hidden), given the hidden states before them: (..., hidden), one for each
        dimension, in units of s."""
        density: Tensor = self.spread(hidden, temperature).log_prob(self.normalised(latents))
        return density

    def draw(self, hidden: Tensor, noise: Tensor | float) -> Tensor:
        """Latents to feed, (..., hidden): mean plus deviation times noise; without noise no deviation is computed."""
        if isinstance(noise, Tensor) or noise:
            found = self.spread(hidden)
            latents = found.mean + found.stddev * noise
        else:
            latents = self.center(hidden)
        scaled: Tensor = latents * self.scale
        return scaled.to(hidden.dtype)

    def center(self, hidden: Tensor) -> Tensor:
        """The means of the distributions, in units of s."""
        with torch.autocast(hidden.device.type, enabled=False):
            return cast(Tensor, self.mean(self.mlp(hidden.to(self.scale.dtype))))

    def normalised(self, embeds: Tensor) -> Tensor:
        """Embeddings in units of s."""
        return embeds.to(self.scale.dtype) / self.scale


@dataclass(kw_only=True)
class ColarBatch(Batch):
    """Rows of question, z_1 .. z_K, close marker, answer and EOS, compressed at one speed.

    Args:
        sequence: a placeholder id where a latent is.
        is_latent: (batch, seq) bool, z_1 .. z_K.
        before: (batch, seq) bool, positions that predict a latent or the end of the thought.
        c: tokens a latent.
        chunk_ids: (latents, c) of the chunks, row by row; they are merged before the model sees them.
        chunk_mask: (latents, c) bool, True on real tokens.
        noise_keys: (items,) of the draws of the latent head's loss, an item for each `before`.
        noise_steps: (items,) likewise.
    """

    sequence: Tokens
    is_latent: Tensor
    before: Tensor
    c: int
    chunk_ids: Tensor
    chunk_mask: Tensor
    noise_keys: Tensor
    noise_steps: Tensor


@register_method("colar", config=ColarConfig, decoding=ColarDecoding)
class Colar(Method[ColarConfig, ColarBatch]):
    """Question at a speed, compressed chain, answer."""

    def __init__(self, backbone: Backbone, config: ColarConfig) -> None:
        super().__init__(backbone, config)
        table = backbone.model.get_input_embeddings().weight
        if (scale := config.embedding_scale) is None:
            with torch.no_grad():  # through the module: some models scale inside it
                scale = float(backbone.embed(torch.arange(len(table), device=table.device)).float().std())
        size = backbone.hidden_size
        head = LatentHead(
            size, config.head_size or size, scale, deterministic=config.latent_loss == "mse", floor=config.min_deviation
        )
        self.heads["latent"] = head.to(table.device, torch.promote_types(table.dtype, torch.float32))
        self.speeds = config.speeds or tuple(range(1, config.max_speed + 1))

    @property
    def head(self) -> LatentHead:
        """Of the latents."""
        return cast(LatentHead, self.heads["latent"])

    def stages(self) -> list[Stage]:
        """One; embedding tables are frozen."""
        return [Stage(name="sft", frozen=tuple(f"backbone.{table}" for table in self.backbone.tables))]

    def skip_reason(self, example: Example, stage: Stage) -> str | None:
        """An empty chain has nothing to compress; a row must fit at every speed."""
        pieces = self.backbone.layout.encode(example)
        if not pieces.steps:
            return "no reasoning steps to compress"
        said = {max(self.speeds), AUTO} if self.config.auto_prob else {max(self.speeds)}
        prompt = max(len(self.backbone.prompt(example.question, speed_note(speed))) for speed in said)
        length = prompt + ceil(len(pieces.steps) / min(self.speeds)) + len(pieces.close) + len(pieces.answer) + 1
        return self.backbone.beyond_context(length)

    def check_training(self, stages: Sequence[Stage]) -> None:
        """Refuse a model that cannot stop."""
        self.require_close_marker("stops")

    def prepare(self, stage: Stage, examples: Sequence[Example], folder: Path) -> None:
        """Report s."""
        write_whole(folder / DIAGNOSTICS, json.dumps({"latent_head": {"embedding_scale": float(self.head.scale)}}))

    # training

    def speed(self) -> int:
        """c of this optimiser step. One for all rows: each c then weighs the same, whatever the length it leaves."""
        key = row_keys(self.seed, ["speed"], [self.step])
        return self.speeds[int(float(uniform(key, torch.zeros_like(key))) * len(self.speeds))]

    def batch(self, examples: Sequence[Example], stage: Stage) -> ColarBatch:
        """Rows of question, z_1 .. z_K, close marker, answer and EOS; the chunks behind z_k; where z_k is predicted."""
        c = self.speed()
        keys = self.keys(examples)
        is_auto = uniform(keys, torch.zeros_like(keys), AUTO_DRAW) < self.config.auto_prob
        rows, labels, num_prompt, chunks = [], [], [], []
        for example, key, auto in zip(examples, keys, is_auto.tolist(), strict=True):
            pieces = self.backbone.layout.encode(example, speed_note(AUTO if auto else c))
            own = [pieces.steps[start : start + c] for start in range(0, len(pieces.steps), c)]
            drawn = random_tokens(own, key) if self.config.predict_chain else [IGNORE_INDEX] * len(own)
            final = [*pieces.close, *pieces.answer, pieces.eos]
            rows.append([*pieces.prompt, *[PLACEHOLDER] * len(own), *final])
            labels.append([*[IGNORE_INDEX] * (len(pieces.prompt) - 1), *drawn, *final])  # what comes next
            num_prompt.append(len(pieces.prompt))
            chunks.append(own)
        sequence, tokens = pad(rows, labels), pad([chunk for own in chunks for chunk in own])
        num_latents = torch.tensor([len(own) for own in chunks])
        place = sequence.positions - torch.tensor(num_prompt)[:, None]  # 0 at z_1
        before = (place >= -1) & (place < num_latents[:, None])  # P: <think>, z_1 .. z_K
        terms = ("latent",) if self.config.latent_loss == "mse" else ("latent", "entropy")
        ce = int((sequence.labels != IGNORE_INDEX).sum())
        return ColarBatch(
            num_items={"ce": ce, **dict.fromkeys(terms, int(before.sum()))},
            sequence=sequence,
            is_latent=before & (place >= 0),
            before=before,
            c=c,
            chunk_ids=tokens.ids,
            chunk_mask=tokens.mask,
            noise_keys=keys.repeat_interleave(num_latents + 1),
            noise_steps=place[before] + 1,
        )

    def loss(self, batch: ColarBatch, stage: Stage) -> Losses:
        """L = L_CE + L_latent - alpha H, each a mean over its own items."""
        sequence, before = batch.sequence, batch.before
        z = compress(self.backbone.embed(batch.chunk_ids), batch.chunk_mask, batch.c, self.config.pooling)
        embeds = self.backbone.embed(sequence.ids).masked_scatter(batch.is_latent[..., None], z)
        selected = before | (sequence.labels != IGNORE_INDEX)
        output = self.backbone.causal(embeds, sequence.positions, select=selected)
        ce = token_cross_entropy(output.logits, sequence.labels[selected])

        predicted = self.head(output.hidden[before[selected]])  # (items, hidden)
        y = self.head.normalised(embeds[:, 1:][before[:, :-1]].detach())  # z_1 .. z_K, then the close marker
        if self.config.latent_loss == "nll":
            each = -predicted.log_prob(y)
        else:
            noise = normal(batch.noise_keys, batch.noise_steps, LATENT_DRAW, y.shape[-1])
            each = (predicted.mean + predicted.stddev * noise - y) ** 2
        latent = LossTerm(each.mean(-1).sum(), len(y), weight=self.config.latent_weight)
        if self.config.latent_loss == "mse":
            return Losses(ce=ce, latent=latent)
        entropy = predicted.entropy().mean(-1).sum()
        return Losses(ce=ce, latent=latent, entropy=LossTerm(entropy, len(y), weight=-self.config.entropy_bonus))

    # reinforcement learning

    scores_latents = True
    rl_figures = ("deviation",)

    def rl_stage(self) -> Stage:
        """Model and head; embedding tables are frozen."""
        return replace(super().rl_stage(), frozen=self.stages()[0].frozen)

    def check_rl(self, config: RLConfig) -> None:
        """Raises: ValueError: nothing would be drawn, so that latents have no density."""
        if config.learn_from == "text":
            return
        if self.config.latent_loss == "mse":
            raise ValueError(
                "train.rl learns from drawn latents, but with method.latent_loss=mse the head is deterministic; "
                "use soft_mse or nll, or train.rl.learn_from=text"
            )
        if config.rollout.latent_noise == 0:
            raise ValueError(
                "train.rl.rollout.latent_noise is 0, so latents are not drawn and have no density to learn from; "
                "raise it, or set train.rl.learn_from=text"
            )

    def rollout_rule(self, config: GenerateConfig) -> StepRule:
        """Draws that leave the latent and its density."""
        return LatentHeadRule(self.backbone, self.head, config, density=self.config.latent_density)

    def rollout_prompt(self, example: Example, config: GenerateConfig, key: Tensor) -> list[int]:
        """The question at the speed of all rollouts, or at one drawn for its group."""
        if not self.config.draw_speed:
            return self.prompt_ids(example.question, config)
        place = float(uniform(key[None], torch.zeros_like(key[None]))) * len(self.speeds)
        return self.backbone.prompt(example.question, speed_note(self.speeds[int(place)]))

    def action_log_probs(self, batch: ActionBatch) -> ActionLogProbs:
        """Of the answer's tokens by the LM head, of drawn latents by the latent head."""
        z = batch.records["latent"] if "latent" in batch.records else torch.empty(0, device=batch.is_latent.device)
        embeds = self.backbone.embed(batch.sequence.ids)
        embeds = embeds.masked_scatter(batch.is_latent[..., None], z.to(embeds.dtype))
        output = self.backbone.causal(embeds, batch.sequence.positions, select=batch.scored, prompts=batch.prompts)
        values, entropy = text_log_probs(output.logits, batch.actions.ids, batch.temperature)
        latent = batch.actions.kinds == Kind.LATENT
        if not latent.any():
            return ActionLogProbs(values, entropy)
        drawn_from = self.head.spread(output.hidden[latent], batch.latent_noise)
        density = over_dimensions(drawn_from.log_prob(self.head.normalised(z)), self.config.latent_density)
        spread = over_dimensions(drawn_from.entropy().detach(), self.config.latent_density)
        place = latent.nonzero()[:, 0]
        wide = torch.promote_types(values.dtype, density.dtype)
        return ActionLogProbs(
            values.to(wide).index_put((place,), density.to(wide)),
            entropy.to(wide).index_put((place,), spread.to(wide)),
            figures={"deviation": drawn_from.stddev.detach().mean(-1)},
        )

    # inference

    def prompt_ids(self, question: str, config: GenerateConfig | None = None) -> list[int]:
        """The question with the speed to think at."""
        asked = None if config is None else config.own(ColarDecoding).thinking_speed
        return self.backbone.prompt(question, speed_note(self.config.test_speed if asked is None else asked))

    def rule(self, config: GenerateConfig) -> StepRule:
        """The latent head's draws until the LM head says stop."""
        return LatentHeadRule(self.backbone, self.head, config)


class LatentHeadRule(LatentRule):
    """At least one latent, then as many as the model wants.

    Args:
        head: draws a latent from a hidden state.
        config: sampling of text, and ColarDecoding.
        density: also say what was drawn, with its log-density over the dimensions; None: do not.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: LatentHead,
        config: GenerateConfig,
        density: Literal["mean", "sum"] | None = None,
    ) -> None:
        super().__init__(backbone, Sampling.from_config(config))
        self.head, self.density = head, density
        self.latent_noise = config.own(ColarDecoding).latent_noise

    def latent(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Latent:
        """See LatentRule; the first id of the marker stops, the others are forced."""
        noise: Tensor | float = 0.0
        if self.latent_noise > 0:
            noise = self.latent_noise * normal(rows.keys, rows.steps, LATENT_DRAW, hidden.shape[-1])
        stop = says_close(self.backbone, logits) & (rows.num_latents > 0)
        z = self.head.draw(hidden, noise)
        if self.density is None:
            return Latent(z, stop)
        log_prob = None
        if self.latent_noise > 0:
            log_prob = over_dimensions(self.head.log_density(z, hidden, self.latent_noise), self.density)
        return Latent(z, stop, action=LatentAction({"latent": z}, log_prob))


def over_dimensions(each: Tensor, density: Literal["mean", "sum"]) -> Tensor:
    """A figure of each dimension, (..., hidden), as one of the latent: (...)."""
    return each.mean(-1) if density == "mean" else each.sum(-1)


def speed_note(speed: int) -> str:
    """What the prompt says of the speed, in the paper's words."""
    return f"(Thinking speed: {'auto' if speed == AUTO else speed})"


def random_tokens(chunks: Sequence[Sequence[int]], key: Tensor) -> list[int]:
    """One token of each chunk, uniformly, keyed by the row."""
    order = torch.arange(len(chunks))
    places = uniform(key.expand(len(chunks)), order, LABEL_DRAW).tolist()
    return [chunk[int(place * len(chunk))] for chunk, place in zip(chunks, places, strict=True)]


def compress(embeds: Tensor, mask: Tensor, c: int, pooling: Literal["sqrt", "mean"]) -> Tensor:
    """One embedding for the m tokens of each chunk: their sum over sqrt(m), or over m.

    Args:
        embeds: (chunks, tokens, hidden).
        mask: (chunks, tokens) bool, its tokens.
        c: compression factor; 1 leaves the embeddings as they are.
    Returns: (chunks, hidden).
    """
    if c == 1:
        return embeds[:, 0]
    num = mask.sum(-1, keepdim=True).to(embeds.dtype)
    divisor = num.sqrt() if pooling == "sqrt" else num
    return (embeds * mask[..., None]).sum(1) / (divisor + EPSILON)
