"""SIM-CoT on CODI: latents that a second model can read as reasoning steps (Wei et al., arXiv:2509.20317).

All is as in CODI but one more loss. Each projected latent, alone, must let the decoder of `sim_cot` write its step of
the teacher's chain (which has lost its last step). K latents are fed; the one that would come next, z_{K+1}, is decoded
as well, and takes all steps that are left.

    L = L_student + beta L_KD + gamma L_teacher + lambda * 1/|A| * sum over k in A of CE_k

CE_k is the mean over the step tokens of latent k, A the latents that have a step; both over the whole optimiser step. A
latent without a step has no loss (`sim_cot` gives it the answer to write). Inference is CODI's.

Differs from the released code (InternLM/SIM-CoT@f3ae967): there every row's step is cut to the length of the first
row's step plus one (CODI/src/model.py:248-262, called at :491-494 and :613-616). On GSM8K chains in batches of 64
that leaves about 63 % of the step tokens to be trained: 91, 59, 35, 20, 13, 12 and 11 % of those of latents 1 to 7.
Here all step tokens are trained, as the paper says. All latents are one pass of the decoder, each a row of its own; a
step is tokenised by itself instead of being cut from the teacher's ids at its brackets; means are over an optimiser
step, as in every method here (latbench/training/losses.py), and not over a micro-batch. The decoder, trained whole,
has the learning rate of the adapters, as there, which is high for it; `train.auxiliary_lr` gives it one of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor

from latbench.config import NonNegativeFloat
from latbench.decoding.rule import RecordedLatents
from latbench.method import Losses, Stage
from latbench.registry import register_method
from latbench.task import STRICT, Example
from methods.codi import Codi, CodiBatch, CodiConfig
from methods.sim_cot import StepDecoder, StepTargets, assigned_steps, text_of_steps


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class SimCotCodiConfig(CodiConfig):
    """CODI's settings and the weight of the steps."""

    step_weight: NonNegativeFloat = 1.0  # lambda


@dataclass(kw_only=True)
class SimCotCodiBatch(CodiBatch):
    """CODI's batch.

    Args:
        steps: what its latents must be decoded into.
    """

    steps: StepTargets


@register_method("sim_cot_codi", config=SimCotCodiConfig)
class SimCotCodi(Codi):
    """CODI whose latents a decoder turns into steps while it trains."""

    config: SimCotCodiConfig

    def build_auxiliary(self) -> None:
        """The decoder starts as a copy of the backbone."""
        self.auxiliary["decoder"] = StepDecoder(self.backbone)

    @property
    def decoder(self) -> StepDecoder:
        """The helper model."""
        return cast(StepDecoder, self.auxiliary["decoder"])

    def step_ids(self, example: Example) -> list[list[int]]:
        """What z_1 ... z_{K+1} must be decoded into, without EOS and joiners; empty: nothing."""
        parts = assigned_steps(self.taught(example).steps, self.config.num_latents + 1)
        return [[token for step in part for token in text_of_steps(self.backbone.layout, [step])] for part in parts]

    def batch(self, examples: Sequence[Example], stage: Stage) -> SimCotCodiBatch:
        """CODI's, with the `steps` to decode."""
        batch = super().batch(examples, stage)
        steps = StepTargets.of([self.step_ids(example) for example in examples], self.backbone.layout.eos)
        num_items = steps.num_items(self.config.num_latents + 1, "tokens")
        return SimCotCodiBatch.of(batch, num_items=batch.num_items | num_items, steps=steps)

    def loss(self, batch: CodiBatch, stage: Stage) -> Losses:
        """CODI's losses, and the cross-entropy of each latent's step."""
        assert isinstance(batch, SimCotCodiBatch)
        latents = RecordedLatents()
        losses = self.distil(batch, latents)
        z = torch.cat([latents.embeds, self.project(latents.after)[:, None]], dim=1)  # (batch, K + 1, hidden)
        steps = self.decoder.losses(
            z[:, :, None],
            batch.steps,
            self.backbone.embed,
            num_items=batch.num_items,
            num_thoughts=self.config.num_latents + 1,
            weight=self.config.step_weight,
            group="steps",  # 1/|A|, A: the latents that have a step in the optimiser step
        )
        return Losses(**losses, **steps)

    def read_latents(self, embeds: Tensor) -> list[str] | None:
        """The decoder's greedy text of each latent ((latents, hidden)); None without the decoder."""
        if "decoder" not in self.auxiliary:
            return None
        table = self.backbone.model.get_input_embeddings().weight
        return self.decoder.read(embeds[:, None].to(table.device, table.dtype), self.backbone)
