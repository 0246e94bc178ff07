"""The presets on a small pretrained model: one model, one task and as many passes for every method."""

from __future__ import annotations

from pathlib import Path

import pytest

from latbench.config import RunConfig, parse, tree
from latbench.registry import method_names, task_names
from latbench.sweeps.sweep import read_sweep, run_configs

PRESET = "smollm2-135m"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
METHODS = [name for name in method_names() if PRESET in tree.presets(name)]
SWEEPS = Path(__file__).parents[2] / "results" / "sweeps"


def configured(method: str, *overrides: str) -> RunConfig:
    return parse({"method": method}, preset=PRESET, overrides=overrides)


def test_the_methods_of_the_comparison_have_it() -> None:
    assert {"direct", "cot", "latent_sft", "coconut", "sim_cot", "colar", "soft_thinking"} <= set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_task_model_and_passes_are_those_of_cot(method: str) -> None:
    config, cot = configured(method), configured("cot")
    assert config.model.id == HUB_ID
    assert (config.task, config.task_name, config.model) == (cot.task, cot.task_name, cot.model)
    stages = [] if method == "soft_thinking" else [config.train]  # that one trains nothing
    stages += [] if config.start is None else [config.start.train]
    assert sum(train.epochs for train in stages) == cot.train.epochs
    assert {train.batch_size * train.accumulation for train in stages} == {cot.train.batch_size}


def test_all_that_start_from_cot_share_its_run() -> None:
    starts = [config.start for config in map(configured, METHODS) if config.start and config.train.epochs == 1]
    own = configured("cot", "train.epochs=1").run_id
    assert len([start for start in starts if start.run_id == own]) >= 4


def test_the_same_weights_in_a_folder_are_another_setting_of_the_same_recipe(tmp_path: Path) -> None:
    hub, local = configured("coconut"), configured("coconut", f"model.id={tmp_path / 'rounded'}")
    assert hub.setting != local.setting, "what lies in a folder may have been changed"
    changed = {
        key: value for key, value in tree.flatten(local.to_tree()) if dict(tree.flatten(hub.to_tree()))[key] != value
    }
    assert set(changed) == {"model.id"}
    assert local.backbone == "rounded"


@pytest.mark.parametrize("sweep", sorted(SWEEPS.glob("pretrained_*.yaml")), ids=lambda path: path.stem)
def test_every_run_of_a_committed_sweep_is_valid(sweep: Path) -> None:
    given = read_sweep(sweep)
    configs = run_configs(given)
    assert len({config.run_id + config.setting for config in configs}) == len(configs)
    assert set(given.evaluate or ()) <= set(task_names())
