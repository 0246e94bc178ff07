"""On handed rollouts our loss and all its gradients equal those of TRL's GRPOTrainer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latbench.config import RLConfig, RolloutConfig
from latbench.model.backbone import Backbone
from latbench.training.rl.action_tensors import action_batch
from latbench.training.rl.groups import Group
from latbench.training.rl.surrogate import policy_losses
from methods.cot import Cot, CotConfig
from tests.training.rl.rollouts_by_hand import rollout

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

MAX_NEW = 12
TEMPERATURE = 0.7


def groups() -> list[Group]:
    """Two questions of four answers each, of unlike lengths; advantages as if normalised, old policy a bit off."""
    torch.manual_seed(3)
    made = []
    for number, num_prompt in enumerate((5, 8)):
        rows = []
        for size, advantage in zip((4, 9, 12, 1), (1.2, -0.7, -0.9, 0.4), strict=True):
            ids = torch.randint(3, 60, (size,))
            row = rollout(range(10, 10 + num_prompt), ids, advantage=advantage)
            row.old = -3.0 - torch.rand(size, dtype=torch.float64)  # ratios on both sides of the clip
            row.reference = row.old + 0.3 * torch.randn(size, dtype=torch.float64)
            rows.append(row)
        made.append(Group(number=number, example=number, rollouts=rows))
    return made


def ours(backbone: Backbone, made: Sequence[Group], config: RLConfig) -> Tensor:
    """The objective of one update."""
    method = Cot(backbone, CotConfig())
    batch = action_batch(method, made, config)
    return policy_losses(method.action_log_probs(batch), batch, config).objective()


def theirs(model: Any, tokenizer: Any, made: Sequence[Group], config: RLConfig, folder: Path) -> Tensor:
    """TRL's loss of the same rollouts."""
    rows = [row for group in made for row in group.rollouts]
    args = trl.GRPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True,
        loss_type=config.variant, use_bias_correction_kl=config.kl_corrected,
        epsilon=config.clip_low, epsilon_high=config.clip_high,
        delta=config.ratio_cap, temperature=TEMPERATURE, max_completion_length=MAX_NEW,
        per_device_train_batch_size=len(rows), num_generations=4, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=args,
        train_dataset=datasets.Dataset.from_list([{"prompt": "x"}] * 8),
        processing_class=tokenizer,
    )
    trainer.beta = config.kl  # in the arguments it would ask for a model to load as reference
    trainer.current_gradient_accumulation_steps = 1
    model.train()
    num_tokens = sum(len(row.ids) for row in rows)
    padded: dict[str, Any] = {
        "prompt_ids": _padded([torch.tensor(row.prompt) for row in rows], left=True),
        "prompt_mask": _padded([torch.ones(len(row.prompt)).long() for row in rows], left=True),
        "completion_ids": _padded([row.ids for row in rows]),
        "completion_mask": _padded([torch.ones_like(row.ids) for row in rows]),
        "old_per_token_logps": _padded([row.old for row in rows]),
        "ref_per_token_logps": _padded([row.reference for row in rows]),
        "advantages": torch.tensor([row.advantage for row in rows], dtype=torch.float64),
        "num_items_in_batch": torch.tensor(num_tokens),
    }
    loss: Tensor = trainer.compute_loss(trainer.model, padded)
    return loss


def _padded(rows: Sequence[Any], *, left: bool = False) -> Tensor:
    width = max(map(len, rows))
    parts = [(row.new_zeros(width - len(row)), row) if left else (row, row.new_zeros(width - len(row))) for row in rows]
    return torch.stack([torch.cat(part) for part in parts])


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("grpo", {}),
        ("grpo", {"kl": 0.05}),
        ("grpo", {"kl": 0.05, "kl_corrected": True}),
        ("grpo", {"ratio_cap": 1.5}),
        ("dr_grpo", {}),
        ("dr_grpo", {"kl": 0.05}),
        ("dapo", {}),
        ("dapo", {"kl": 0.05}),
    ],
)
def test_loss_and_gradients_equal_those_of_trl(
    backbone_of: Callable[..., Backbone], tmp_path: Path, variant: Any, changes: dict[str, Any]
) -> None:
    rollouts = RolloutConfig(max_new_tokens=MAX_NEW, temperature=TEMPERATURE)
    config = RLConfig(variant=variant, group_size=4, rollout=rollouts, **changes)
    backbone = backbone_of("llama_untied")
    copied = copy.deepcopy(backbone.model)
    loss = ours(backbone, groups(), config)
    loss.backward()
    their_loss = theirs(copied, backbone.tokenizer, groups(), config, tmp_path)
    their_loss.backward()
    assert loss.item() == pytest.approx(their_loss.item(), rel=1e-6)
    found = {name: parameter.grad for name, parameter in backbone.model.named_parameters()}
    expected = {name: parameter.grad for name, parameter in copied.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient is not None
        assert found[name] is not None, name
        # its LM head computes in float32
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-6 * float(gradient.abs().max()))
    assert any(gradient.abs().max() > 1e-3 for gradient in expected.values())
