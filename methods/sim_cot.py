"""SIM-CoT: latents that a second model can read as reasoning steps (Wei et al., arXiv:2509.20317), on Coconut.

Every c latents are one thought, and thought i stands for step i. A decoder, a language model of its own, sees the
vectors of one thought and nothing else and is trained to write that step; its gradient flows into the latents and so
into the main model (section 3). It is dropped at inference, where all is as in Coconut; left at hand, it reads latents
as text.

    L = L_LM + lambda * 1/K * sum_i CE_i,    CE_i = 1/B_i * sum over rows and tokens of step i of -log p_phi

with K thoughts and B_i rows that have a target for thought i. Thought i < S gets step i of those the stage replaces,
thought S all from step S on, joined by newline. A thought without a step gets the answer that follows the latents.

`StepDecoder` is the part that other base methods share (`sim_cot_codi`): it is built from a backbone, takes latents
(batch, thoughts, c, hidden) with `StepTargets`, and gives one loss term per thought, `step1` ... `stepK`.

Differs from the released code (InternLM/SIM-CoT@f3ae967): the decoder is a copy of the model that this run starts
from, not of the pretrained one, and counts positions from 0; all thoughts of a batch are one pass of it, each a row
of its own; a row without a target is left out by itself and moves none of those after it (the released driver builds
no targets)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import torch
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor, nn

from latbench.config import NonNegativeFloat, Positive
from latbench.decoding.loop import unroll
from latbench.decoding.rule import Latent, LatentRule, RecordedLatents, RowState
from latbench.method import Losses, LossTerm, Stage
from latbench.model.backbone import Backbone, DecodeState
from latbench.model.batches import Movable, Tokens, pad
from latbench.model.cache import GrowingCache
from latbench.model.layout import Layout
from latbench.model.loading import without_adapters
from latbench.registry import register_method
from latbench.task import STRICT, Example
from latbench.training.losses import token_cross_entropy
from methods.coconut import Coconut, CoconutBatch, CoconutConfig

Reduction = Literal["rows", "tokens"]
Embed = Callable[[Tensor], Tensor]  # ids -> input embeddings
MAX_READ = 64  # tokens of a step that is read back


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class SimCotConfig(CoconutConfig):
    """Coconut's curriculum and the loss of the steps; the defaults are the code's."""

    latents_per_step: Positive = 2
    """c, latent steps of a thought, which replaces one reasoning step."""
    max_stage: Positive = 5
    """S, the number of thoughts, and of reasoning steps that they replace."""
    step_weight: NonNegativeFloat = 1.0
    """lambda, weight of the loss of the decoded steps."""
    reduction: Reduction = "rows"
    """What the loss of a step is a mean over: rows, of sums over tokens, or tokens, a weaker loss (the released variant
    on CODI)."""
    fill: Literal["answer", "equation", "none"] = "answer"
    """Target of a thought without a step: the answer, the answer as `<<answer=answer>>`, or none, not decoded."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.thought != "hidden":
            raise ValueError(
                f"method.thought must be hidden, got {self.thought}: one learned vector cannot be decoded into steps"
            )


@register_method("sim_cot", config=SimCotConfig)
class SimCot(Coconut):
    """Coconut whose latents a decoder turns into steps while it trains."""

    config: SimCotConfig

    def num_thoughts(self, stage: Stage) -> int:
        """K: most thoughts of an example in this stage."""
        most = self.config.max_stage
        return most if self.config.uniform_prob else min(stage.index, most)

    def build_auxiliary(self) -> None:
        """The decoder starts as a copy of the backbone."""
        self.auxiliary["decoder"] = StepDecoder(self.backbone)

    @property
    def decoder(self) -> StepDecoder:
        """The helper model."""
        return cast(StepDecoder, self.auxiliary["decoder"])

    def prepare(self, stage: Stage, examples: Sequence[Example], folder: Path) -> None:
        """Refuse data without steps, and a curriculum beyond the longest chain."""
        if not any(example.steps for example in examples):
            raise ValueError(
                f"method {self.name!r} decodes latents into reasoning steps, but none of {len(examples)} examples has "
                "one; use other data, or method 'direct'"
            )
        super().prepare(stage, examples, folder)

    def skip_reason(self, example: Example, stage: Stage) -> str | None:
        """The decoder's sequences must fit too."""
        k = self.config.max_stage + 1 if self.config.uniform_prob else stage.index
        longest = max((len(ids) for ids in self.step_ids(example, k)), default=0)
        length = self.config.latents_per_step + longest
        return self.backbone.beyond_context(length) or super().skip_reason(example, stage)

    def step_ids(self, example: Example, k: int) -> list[tuple[int, ...]]:
        """What each thought of an example at stage k must be decoded into, without EOS; empty: nothing."""
        layout = self.backbone.layout
        steps = assigned_steps(example.steps[: self.num_replaced(k)], min(k, self.config.max_stage))
        return [text_of_steps(layout, part) if part else self._filled(example) for part in steps]

    def _filled(self, example: Example) -> tuple[int, ...]:
        """The target of a thought without a step."""
        layout = self.backbone.layout
        if self.config.fill == "equation":
            return text_of_steps(layout, [f"<<{example.answer}={example.answer}>>"])
        pieces = layout.encode(example)
        after = pieces.answer if layout.open else pieces.close + pieces.answer  # what stands after the end marker
        return after if self.config.fill == "answer" else ()

    def batch(self, examples: Sequence[Example], stage: Stage) -> SimCotBatch:
        """Coconut's, with the `steps` to decode."""
        batch, drawn = super().batch(examples, stage), self.drawn_stages(examples, stage)
        ids = [self.step_ids(example, k) for example, k in zip(examples, drawn, strict=True)]
        steps = StepTargets.of(ids, self.backbone.layout.eos)
        num_items = steps.num_items(self.num_thoughts(stage), self.config.reduction)
        return SimCotBatch.of(batch, num_items={**batch.num_items, **num_items}, steps=steps)

    def loss(self, batch: CoconutBatch, stage: Stage) -> Losses:
        """Cross-entropy of what follows the latents, and of the step of each thought."""
        assert isinstance(batch, SimCotBatch)
        latents = RecordedLatents()
        ce = self.text_loss(batch, latents)
        z, c, num = latents.embeds, self.config.latents_per_step, self.num_thoughts(stage)
        thoughts = z.reshape(len(z), z.shape[1] // c, c, z.shape[-1])
        weight = self.config.step_weight / max(num, 1)
        return Losses(
            ce=ce,
            **self.decoder.losses(
                thoughts, batch.steps, self.backbone.embed, num_items=batch.num_items, num_thoughts=num, weight=weight
            ),
        )

    def read_latents(self, embeds: Tensor) -> list[str] | None:
        """The decoder's greedy text of each thought, at the last of its latents; None without the decoder."""
        if "decoder" not in self.auxiliary:
            return None
        c = self.config.latents_per_step
        num = len(embeds) // c  # a cap may have cut the last thought short
        thoughts = embeds[: num * c].reshape(num, c, embeds.shape[1]).to(self.backbone.device)
        texts = [""] * len(embeds)
        texts[c - 1 : num * c : c] = self.decoder.read(thoughts, self.backbone) if num else []
        return texts


def assigned_steps(steps: Sequence[str], num_thoughts: int) -> list[Sequence[str]]:
    """One step for each thought and all that are left for the last; none for those beyond the steps."""
    ends = [*range(1, num_thoughts), max(len(steps), num_thoughts)]
    return [steps[i:end] for i, end in zip(range(num_thoughts), ends, strict=False)]


def text_of_steps(layout: Layout, steps: Sequence[str]) -> tuple[int, ...]:
    """Ids of the joined steps alone."""
    ids = layout.steps(steps)
    return ids[: len(ids) - len(layout.after_steps)]


# the decoder


@dataclass
class StepTargets(Movable):
    """What thoughts must be decoded into, an item for each thought of each row that has a target.

    Args:
        tokens: (items, seq) a step's ids and EOS, all supervised, right-padded.
        rows: (items,) row that each belongs to.
        thoughts: (items,) thought that each belongs to.
    """

    tokens: Tokens
    rows: Tensor
    thoughts: Tensor

    @classmethod
    def of(cls, steps: Sequence[Sequence[Sequence[int]]], eos: int) -> StepTargets:
        """Targets of ids by row and thought; an empty step is none."""
        items = [(b, i, [*ids, eos]) for b, row in enumerate(steps) for i, ids in enumerate(row) if len(ids)]
        texts = [ids for _, _, ids in items]
        rows, thoughts = (torch.tensor([item[axis] for item in items], dtype=torch.long) for axis in (0, 1))
        return cls(pad(texts, texts), rows, thoughts)

    def num_items(self, num_thoughts: int, reduction: Reduction) -> dict[str, int]:
        """B_i of each thought, or its number of tokens, by loss term."""
        each = self.tokens.lengths if reduction == "tokens" else torch.ones_like(self.rows)
        return {f"step{i + 1}": int(each[self.thoughts == i].sum()) for i in range(num_thoughts)}


@dataclass(kw_only=True)
class SimCotBatch(CoconutBatch):
    """Coconut's batch.

    Args:
        steps: what its thoughts must be decoded into.
    """

    steps: StepTargets


class StepDecoder(nn.Module):
    """Writes the step of a thought: (thought's vectors, y_1 ... y_L) -> y_1 ... y_L, EOS.

    It has all parameters of the backbone it is copied from as its own, adapters merged, but reads step tokens through
    the main model's table; an input table of its own that is not tied to its head is frozen.
    """

    def __init__(self, main: Backbone) -> None:
        super().__init__()
        self.backbone = _copy(main)
        model = self.backbone.model
        tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
        self.backbone.frozen_names = set() if tied else {f"{self.backbone.tables[0]}weight"}

    @property
    def dtype(self) -> torch.dtype:
        """That of its weights: merged adapters leave float32."""
        dtype: torch.dtype = self.backbone.model.get_output_embeddings().weight.dtype
        return dtype

    def forward(self, latents: Tensor, targets: StepTargets, embed: Embed) -> Tensor:
        """Logits at the supervised positions, (tokens, vocab) in row-major order of `targets.tokens`.

        Args:
            latents: (batch, thoughts, c, hidden).
            embed: that of the main model.
        """
        tokens = targets.tokens
        thought = latents[targets.rows, targets.thoughts]  # (items, c, hidden)
        embeds = torch.cat([thought.to(self.dtype), embed(tokens.ids[:, :-1]).to(self.dtype)], dim=1)
        positions = torch.arange(embeds.shape[1], device=embeds.device).expand(embeds.shape[:2])
        before = torch.zeros_like(positions[:, 1 : thought.shape[1]], dtype=torch.bool)  # but the last of the thought
        return self.backbone.causal(embeds, positions, select=torch.cat([before, tokens.mask], dim=1)).logits

    def losses(
        self,
        latents: Tensor,
        targets: StepTargets,
        embed: Embed,
        *,
        num_items: Mapping[str, int],
        num_thoughts: int,
        weight: float,
        group: str = "",
    ) -> Losses:
        """Cross-entropy of the steps, a term for each thought.

        Args:
            latents: see `forward`.
            targets: see `forward`.
            embed: see `forward`.
            num_items: with those of `targets`.
            weight: of each term.
            group: of each term.
        """
        names = [f"step{i + 1}" for i in range(num_thoughts)]
        if not len(targets.rows):
            return Losses({name: LossTerm(latents.new_zeros(()), num_items[name], weight, group) for name in names})
        mask = targets.tokens.mask
        logits, labels = self(latents, targets, embed), targets.tokens.labels[mask]
        thoughts = targets.thoughts[:, None].expand_as(mask)[mask]

        def total(i: int) -> Tensor:
            return token_cross_entropy(logits[thoughts == i], labels[thoughts == i]).total

        return Losses({name: LossTerm(total(i), num_items[name], weight, group) for i, name in enumerate(names)})

    @torch.no_grad()
    def read(self, thoughts: Tensor, main: Backbone) -> list[str]:
        """Greedy text of each thought: (thoughts, c, hidden)."""
        num, width = thoughts.shape[:2]
        cache, positions = GrowingCache(), torch.arange(width, device=thoughts.device).expand(num, width)
        every = torch.ones_like(positions, dtype=torch.bool)
        output = self.backbone.advance(cache, thoughts.to(self.dtype), positions, every)
        state = DecodeState(cache, positions[:, -1] + 1, output.hidden[:, -1], output.logits[:, -1])
        rule = _Greedy(main, self.dtype)
        unroll(self.backbone, state, rule, max_latents=MAX_READ)
        texts = []
        for ids in torch.stack(rule.written, 1)[:, :MAX_READ].tolist():
            end = next((place for place, token in enumerate(ids) if token in main.eos_ids), len(ids))
            texts.append(main.layout.decode(ids[:end]))
        return texts


class _Greedy(LatentRule):
    """Greedy text as steps of `unroll`."""

    def __init__(self, main: Backbone, dtype: torch.dtype) -> None:
        super().__init__(main)
        self.dtype = dtype
        self.eos = torch.tensor(main.eos_ids, device=main.device)
        self.written: list[Tensor] = []

    def latent(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Latent:
        """See LatentRule."""
        token = logits.argmax(-1)
        self.written.append(token)
        return Latent(self.backbone.embed(token).to(self.dtype), torch.isin(token, self.eos))


def _copy(main: Backbone) -> Backbone:
    """A backbone like the main one, with adapters merged; tokenizer and layout are shared."""
    if main.config.lora is None:
        return copy.deepcopy(main, {id(part): part for part in (main.tokenizer, main.layout)})
    merged = cast(Backbone, without_adapters(main))
    merged._hook.remove()  # the new backbone hangs its own on the model
    config = replace(main.config, lora=None)
    return Backbone(merged.model, main.tokenizer, config, name=main.name, markers=bool(main.layout.open))
