"""Explicit CoT fine-tuning: the steps are written out before the answer.

The baseline called CoT in Coconut (Hao et al., arXiv:2412.06769, Table 1), CoT-SFT in CODI (Shen et al.,
arXiv:2502.21074, Table 1) and CoLaR (Tan et al., arXiv:2505.16552, Table 1): next-token cross-entropy on everything
after the question, decoded greedily or sampled. Every step is kept (CODI's own teacher drops the last one).

A model as it comes, without think tokens, is asked to reason and to box its answer; its chain is what it writes before
the marker of the answer (`latbench/decoding/written.py`).

With `train.rl` set, a stage of reinforcement learning on every sampled token follows: explicit GRPO (arXiv:2402.03300),
Dr. GRPO (arXiv:2503.20783) or DAPO (arXiv:2503.14476), by `train.rl.variant`; what any claim of a latent method's
reinforcement learning has to be compared with.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass

from latbench.config import YOUNGER, GenerateConfig
from latbench.decoding.action_batch import ActionBatch, ActionLogProbs
from latbench.decoding.rule import StepRule
from latbench.decoding.sampling import Sampling
from latbench.method import REASON, Losses, Method, MethodConfig, Stage
from latbench.model.batches import SequenceBatch
from latbench.registry import register_method
from latbench.task import STRICT, Example
from latbench.training.losses import token_cross_entropy
from latbench.training.rl.action_tensors import score_text


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class CotConfig(MethodConfig):
    """What a model as it comes is asked."""

    ask: str | None = Field(default=None, json_schema_extra=YOUNGER)
    """Request after the question of a model without think tokens; null: to reason and to box the answer, "": none."""


@register_method("cot", config=CotConfig)
class Cot(Method[CotConfig, SequenceBatch]):
    """Question, open marker, steps, close marker, answer."""

    in_quickstart = True

    def stages(self) -> list[Stage]:
        """One."""
        return [Stage(name="sft")]

    def batch(self, examples: Sequence[Example], stage: Stage) -> SequenceBatch:
        """Whole sequences; steps, close marker, answer and EOS are supervised."""
        return self.backbone.batch_sequences([self.as_asked(example) for example in examples], supervise="steps")

    def loss(self, batch: SequenceBatch, stage: Stage) -> Losses:
        """Next-token cross-entropy."""
        return Losses(ce=token_cross_entropy(*self.backbone.logits_at_labels(batch.tokens)))

    def action_log_probs(self, batch: ActionBatch) -> ActionLogProbs:
        """Of every sampled token, close marker and EOS included."""
        return score_text(self.backbone, batch)

    def rule(self, config: GenerateConfig) -> StepRule:
        """Plain text."""
        return StepRule(self.backbone, Sampling.from_config(config))

    def request(self, question: str) -> str:
        """To reason, unless `method.ask` says otherwise."""
        return REASON if self.config.ask is None else self.config.ask
