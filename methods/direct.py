"""No-CoT fine-tuning: the answer right after the question, without reasoning.

The baseline called No-CoT in Coconut (Hao et al., arXiv:2412.06769, Table 1) and No-CoT-SFT in CODI (Shen et al.,
arXiv:2502.21074, Table 1): the chain is dropped from the training text, so that its length #L is 0. The close marker is
part of the prompt in training and at inference alike, hence not supervised. Where the layout has no markers
(`plain_hash_answer`) this is that paper's own text: question, `###`, answer.

A model as it comes, without think tokens, is asked for the answer alone; what it writes before the answer all the same
is counted as its chain (`latbench/decoding/written.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass

from latbench.config import YOUNGER, GenerateConfig
from latbench.decoding.rule import StepRule
from latbench.decoding.sampling import Sampling
from latbench.method import Losses, Method, MethodConfig, Stage
from latbench.model.batches import SequenceBatch
from latbench.registry import register_method
from latbench.task import STRICT, Example
from latbench.training.losses import token_cross_entropy

ASK = "Do not explain. Reply with nothing but the final answer within \\boxed{}."


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class DirectConfig(MethodConfig):
    """What a model as it comes is asked."""

    ask: str | None = Field(default=None, json_schema_extra=YOUNGER)
    """Request after the question of a model without think tokens; null: for the boxed answer alone, "": none."""


@register_method("direct", config=DirectConfig)
class Direct(Method[DirectConfig, SequenceBatch]):
    """Question, open and close marker, answer."""

    in_quickstart = True

    def stages(self) -> list[Stage]:
        """One."""
        return [Stage(name="sft")]

    def batch(self, examples: Sequence[Example], stage: Stage) -> SequenceBatch:
        """Sequences without steps; answer and EOS are supervised."""
        asked = [self.as_asked(example.without_steps(None)) for example in examples]
        return self.backbone.batch_sequences(asked, supervise="answer")

    def loss(self, batch: SequenceBatch, stage: Stage) -> Losses:
        """Next-token cross-entropy."""
        return Losses(ce=token_cross_entropy(*self.backbone.logits_at_labels(batch.tokens)))

    def rule(self, config: GenerateConfig) -> StepRule:
        """Plain text."""
        return StepRule(self.backbone, Sampling.from_config(config))

    def skip_reason(self, example: Example, stage: Stage) -> str | None:
        """The chain does not count: it is not in the sequence."""
        return self.backbone.too_long(self.as_asked(example.without_steps(None)))

    def prompt_ids(self, question: str, config: GenerateConfig | None = None) -> list[int]:
        """The question with both markers, or with the request for the answer alone: next comes the answer."""
        return self.backbone.closed_prompt(self.worded(question))

    def request(self, question: str) -> str:
        """For the answer alone, unless `method.ask` says otherwise."""
        return ASK if self.config.ask is None else self.config.ask
