"""Latent-SFT: reasoning in superpositions of the vocabulary (Deng et al., arXiv:2510.15522).

Stage 1 learns the latents. An encoder reads the gold chain with a compress slot after every r tokens; its hidden state
at a slot becomes a mixture of vocabulary embeddings, and a decoder must continue each latent with the next segment, and
all of them with the answer. Two masks keep that honest (masks.py). Stage 2 drops the encoder: the decoder is taught to
produce the latents itself, by the KL divergence to the encoder's mixtures (soft labels) and cross-entropy on close
marker and answer. At inference the model's own mixture is fed back until its clean argmax is the close marker.

Where v1 of the paper (October 2025), v2 (January 2026) and the released code differ, the default is the code of v2 and
the option says what v1 does. Deliberate differences: adapters go on through the steps of stage
1 and into stage 2 instead of being merged and started anew; the last epoch is taken, not the best on test data; the
compress slot has an embedding of its own instead of LoRA on the encoder's table; inference noise is clamped as training
noise is; soft labels are kept as float16 (the code's bfloat16 has three bits less). The sources do not say what loss
the ablation in hidden space has: mean squared error in units of each dimension's spread is our choice, with the
unlikelihood of the close marker where the thought goes on, which in vocabulary space the divergence teaches. As in the
paper the decoder's token tables stay as they are, rows of added markers included: start from a run that has trained
them (`start: {method: cot}`).

With `train.rl` set its successor follows, Latent-GRPO (Deng et al., arXiv:2604.27998; policy.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from latbench.config import GenerateConfig, RLConfig
from latbench.decoding.action_batch import ActionBatch, ActionLogProbs
from latbench.decoding.latent_trace import LabelLatents
from latbench.decoding.rule import Latent, LatentRule, Mixture, RowState, says_close
from latbench.decoding.sampling import Sampling, gumbel
from latbench.decoding.superposition import mixture, with_gumbel
from latbench.method import Losses, LossTerm, Stage
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX
from latbench.model.layout import Pieces
from latbench.registry import register_method
from latbench.task import Example
from latbench.training.losses import soft_label_kl, standardised_mse, token_cross_entropy, unlikelihood
from methods.latent_sft.condenser import Condenser, Latents, Stage1Batch, Stage2Batch
from methods.latent_sft.config import LatentSFTConfig, LatentSFTDecoding
from methods.latent_sft.diagnostics import write_diagnostics
from methods.latent_sft.labels import StoredLabels, encode_chains, noisy_weights
from methods.latent_sft.policy import FIGURES, Policy, PolicyRule, policy_log_probs
from methods.latent_sft.sequences import (
    compressed_tokens,
    encoder_tokens,
    segment_shares,
    segments,
)

STAGE2 = "stage2"
NOISE_DRAW = 1  # draw 0 of a step is the text token's


@register_method("latent_sft", config=LatentSFTConfig, decoding=LatentSFTDecoding)
class LatentSFT(Condenser):
    """Encoder and soft labels (stage 1), then a decoder that thinks by itself (stage 2)."""

    in_quickstart = True

    labels: StoredLabels | None = None  # of stage 2, once it is prepared

    # stages

    def stages(self) -> list[Stage]:
        """Stage 1 in three steps or at once, then stage 2; the decoder's token tables are never trained."""
        tables = self.backbone.tables
        encoder: tuple[str, ...] = ("auxiliary.encoder.",)
        decoder: tuple[str, ...] = ("backbone.",)
        frozen = (*(f"backbone.{table}" for table in tables), f"auxiliary.encoder.backbone.{tables[1]}")
        steps = {"joint": encoder + decoder}
        if self.config.stage1 == "sequential":
            steps = {"encoder": encoder, "decoder": decoder, "union": encoder + decoder}
        share = self.config.stage1_share
        stage1 = [
            Stage(name=f"stage1_{name}", trainable=trainable, frozen=frozen, share=share / len(steps))
            for name, trainable in steps.items()
        ]
        return [*stage1, Stage(name=STAGE2, trainable=decoder, frozen=frozen, share=1 - share)]

    def skip_reason(self, example: Example, stage: Stage) -> str | None:
        """An empty chain has no latents; what encoder and decoder read must fit, in stage 2 too: it has soft labels."""
        pieces = self.backbone.layout.encode(example)
        if not pieces.steps:
            return "no reasoning steps"
        parts = segments(pieces.steps, self.config.tokens_per_latent)
        beside = max(len(pieces.answer) + 1 - len(parts[0]), 0)  # the decoder has the answer, the encoder S_1
        length = len(pieces) - len(pieces.answer) - 1 + len(parts) + beside
        return self.backbone.beyond_context(length)

    def check_training(self, stages: Sequence[Stage]) -> None:
        """Refuse a model that cannot stop."""
        self.require_close_marker("stops")

    def prepare(self, stage: Stage, examples: Sequence[Example], folder: Path) -> None:
        """Before stage 2: the encoder's soft labels of all examples, and a report of what stage 1 has learnt."""
        if stage.rollouts:
            self.labels = None
        if stage.name == STAGE2:
            self.labels = StoredLabels.write(self, examples, folder / "soft_labels")
            if self.held_out is not None:
                write_diagnostics(self, self.held_out, folder)

    def batch(self, examples: Sequence[Example], stage: Stage) -> Stage1Batch | Stage2Batch:
        """Encoder and decoder sequences (stage 1), or compressed sequences with their soft labels (stage 2)."""
        pieces = [self.backbone.layout.encode(example) for example in examples]
        if stage.name == STAGE2:
            return self._stage2_batch(examples, pieces)
        decoder = self.decoder_tokens(pieces)
        shares = segment_shares(decoder) if self.config.stage1_reduction == "segments" else None
        num_items = int((decoder.labels != IGNORE_INDEX).sum()) if shares is None else round(float(shares.sum()))
        encoder = encoder_tokens(pieces, self.config.tokens_per_latent)
        return Stage1Batch(num_items={"ce": num_items}, encoder=encoder, decoder=decoder, shares=shares)

    def loss(self, batch: Stage1Batch | Stage2Batch, stage: Stage) -> Losses:
        """Stage 1: cross-entropy of segments, close marker and answer. Stage 2: that of close marker and answer, and
        the divergence from the soft labels."""
        for part, prefix in ((self.encoder, "auxiliary.encoder."), (self.backbone, "backbone.")):
            part.train(self.training and prefix in stage.trainable)  # no dropout in what is frozen
        if isinstance(batch, Stage2Batch):
            return self._stage2_loss(batch)
        supervised = batch.decoder.labels != IGNORE_INDEX
        logits = self.decode_latents(batch.decoder, self.latents(batch.encoder).embeds, select=supervised)
        return Losses(ce=token_cross_entropy(logits, batch.decoder.labels[supervised], shares=batch.shares))

    # labels for metrics

    @torch.no_grad()
    def label_latents(
        self, examples: Sequence[Example], cuts: Sequence[Sequence[int]] | None = None
    ) -> list[LabelLatents | None]:
        """The encoder's superposition of each segment; None in hidden space."""
        if self.config.latent_space == "hidden" or "encoder" not in self.auxiliary:
            return [None] * len(examples)
        bounds = [self._cuts(example) for example in examples] if cuts is None else cuts
        fits = [row for row, example in enumerate(examples) if self._encodes(example, len(bounds[row]) - 1)]
        made = encode_chains(self, [examples[row] for row in fits], [bounds[row] for row in fits])
        labels: list[LabelLatents | None] = [None] * len(examples)
        for row, label in zip(fits, made, strict=True):
            labels[row] = self._label(label, bounds[row])
        return labels

    def _cuts(self, example: Example) -> list[int]:
        parts = segments(self.backbone.layout.steps(example.steps), self.config.tokens_per_latent)
        return [0, *accumulate(map(len, parts))]

    def _encodes(self, example: Example, num_latents: int) -> bool:
        """Whether the encoder can read the chain with so many slots."""
        pieces = self.backbone.layout.encode(example)
        length = len(pieces.prompt) + len(pieces.steps) + num_latents + len(pieces.close)
        return num_latents > 0 and self.backbone.beyond_context(length) is None

    def _label(self, row: Mapping[str, Tensor], cuts: Sequence[int]) -> LabelLatents:
        weights, order = row["probabilities"].float().sort(descending=True)
        ids = row["ids"].gather(-1, order) if "ids" in row else order
        device, entries = self.backbone.device, row.get("ids")
        embeds = self.backbone.mix(None if entries is None else entries.to(device), row["probabilities"].to(device))
        return LabelLatents(ids=ids, weights=weights, embeds=embeds.float().cpu(), cuts=list(cuts))

    # stage 2: the decoder learns to produce the latents itself

    def _stage2_batch(self, examples: Sequence[Example], pieces: Sequence[Pieces]) -> Stage2Batch:
        assert self.labels is not None, "stage 2 is prepared before its first batch"
        config = self.config
        latents, num_latents = self.labels.of(examples)
        row = torch.arange(len(examples)).repeat_interleave(num_latents)
        if config.noise > 0:
            assert latents.weights is not None
            keys = self.keys(examples)
            latents.weights = noisy_weights(
                latents.weights, latents.ids, row, keys,
                scale=config.noise, temperature=config.noise_temperature, close=self.backbone.layout.close[0],
            )  # fmt: skip
        sequence = compressed_tokens(pieces, num_latents.tolist())
        ce = int((sequence.labels != IGNORE_INDEX).sum())
        turns = (1.0, 1.0) if config.stage2 == "joint" else ((1.0, 0.0), (0.0, 1.0))[self.step % 2]
        return Stage2Batch(
            num_items={**dict.fromkeys(self._per_row, len(examples)), "ce": ce},
            sequence=sequence,
            latents=latents,
            shares=(1 / num_latents)[row],  # a row is an item, whatever its number of latents
            turns=turns,
        )

    @property
    def _per_row(self) -> tuple[str, ...]:
        """Terms of stage 2 that have one item a row."""
        return ("kl",) if self.config.latent_space == "vocab" else ("mse", "going_on")

    def _stage2_loss(self, batch: Stage2Batch) -> Losses:
        sequence, latents = batch.sequence, batch.latents
        supervised = sequence.labels != IGNORE_INDEX
        before = functional.pad(sequence.is_latent[:, 1:], (0, 1))  # the position before a latent produces it
        embeds = self.embeds(sequence, latents.embeds if latents.weights is None else self._mixed(latents))
        output = self.backbone.causal(embeds, sequence.positions, select=before | supervised)
        produces = before[before | supervised]
        kl_weight, ce_weight = self.config.kl_weight * batch.turns[0], self.config.ce_weight * batch.turns[1]

        def per_row(each: Tensor, weight: float) -> LossTerm:
            return LossTerm((each * batch.shares).sum(), len(sequence.ids), weight)

        ce = token_cross_entropy(output.logits[~produces], sequence.labels[supervised], weight=ce_weight)
        if self.config.latent_space == "vocab":
            assert latents.weights is not None
            divergence = soft_label_kl(output.logits[produces], latents.ids, latents.weights)
            return Losses(kl=per_row(divergence, kl_weight), ce=ce)
        assert self.labels is not None
        scale = self.labels.scale.to(latents.embeds.device)
        distance = standardised_mse(output.hidden[produces], latents.embeds, scale)
        ending = unlikelihood(output.logits[produces], self.backbone.layout.close[0])
        return Losses(mse=per_row(distance, kl_weight), going_on=per_row(ending, ce_weight), ce=ce)

    def _mixed(self, latents: Latents) -> Tensor:
        assert latents.weights is not None
        return self.backbone.mix(latents.ids, latents.weights)

    # reinforcement learning

    scores_latents = True
    rl_figures = FIGURES

    def rl_stage(self) -> Stage:
        """The decoder; its token tables are frozen, and with tied ones the LM head too."""
        return replace(super().rl_stage(), trainable=("backbone.",), frozen=self.stages()[-1].frozen)

    def check_rl(self, config: RLConfig) -> None:
        """Raises: ValueError: hidden states are fed, which are not drawn from anything."""
        if self.config.latent_space == "hidden":
            raise ValueError(
                "train.rl draws superpositions, but with method.latent_space=hidden latents are hidden states, "
                "which have no density; set method.latent_space=vocab, or train.rl=null"
            )

    def policy(self, scale: float) -> Policy:
        """How latent steps are drawn and scored, at a scale of the noise."""
        return Policy.of(self.config, int(self.backbone.model.get_output_embeddings().weight.shape[0]), scale)

    def rollout_rule(self, config: GenerateConfig) -> LatentRule:
        """Perturbed superpositions, with what was mixed."""
        return PolicyRule(self.backbone, self.policy(config.own(LatentSFTDecoding).latent_noise), config)

    def action_log_probs(self, batch: ActionBatch) -> ActionLogProbs:
        """Of superpositions by their stored scores, of text by the LM head."""
        return policy_log_probs(self.backbone, batch, self.policy(batch.latent_noise))

    # inference

    def rule(self, config: GenerateConfig) -> LatentRule:
        """Feed back the model's own superposition until its clean argmax is the close marker."""
        if self.config.latent_space == "hidden" and config.own(LatentSFTDecoding).latent_noise > 0:
            raise ValueError(
                "generate.method.latent_noise is noise on mixtures; leave it 0 with method.latent_space=hidden"
            )
        return SuperpositionRule(self.backbone, self.config, config)


class SuperpositionRule(LatentRule):
    """The latent steps of inference of arXiv:2510.15522v2, with optional noise for several samples per question.

    Args:
        settings: of the method.
        config: sampling of text, and LatentSFTDecoding.
    """

    def __init__(self, backbone: Backbone, settings: LatentSFTConfig, config: GenerateConfig) -> None:
        super().__init__(backbone, Sampling.from_config(config))
        self.settings, self.noise = settings, config.own(LatentSFTDecoding)

    def latent(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Latent:
        """See LatentRule; the first id of the marker stops, the others are forced."""
        stop = says_close(self.backbone, logits)
        if self.settings.latent_space == "hidden":
            return Latent(hidden, stop)
        ids, weights = mixture(logits, self.settings.top_k)
        if self.noise.latent_noise > 0:
            noise = gumbel(rows.keys, rows.steps, NOISE_DRAW, weights.shape[-1])
            weights = with_gumbel(
                weights, noise, scale=self.noise.latent_noise, temperature=self.noise.latent_noise_temperature
            )
        embeds = self.backbone.mix(ids, weights)
        if ids is None:
            ids = torch.arange(weights.shape[-1], device=weights.device).expand_as(weights)
        return Latent(embeds, stop, Mixture(ids, weights))
