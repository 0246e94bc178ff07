"""A model over several devices: rules, files, what is refused, and equal answers through Accelerate's hooks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from latbench.config import GenerateConfig, ModelConfig, parse
from latbench.decoding.loop import Generation, Prompt, decode
from latbench.decoding.rule import FixedLatents
from latbench.model.backbone import Backbone
from latbench.runs.train import train

QUESTIONS = ["n0 = 3 + 4 ;n0 ?", "x", "n1 = 5 - 2 ;n2 = n1 + 1 ;n2 ?"]


def answers(backbone: Backbone) -> list[Generation]:
    prompts = [Prompt(id=question, text=question) for question in QUESTIONS]
    ids = [backbone.prompt(question) for question in QUESTIONS]
    return decode(backbone, ids, prompts, FixedLatents(backbone, 3), GenerateConfig(batch_size=2, max_new_tokens=6))


@pytest.mark.parametrize("device_map", ["auto", "sequential", "file"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_a_spread_model_answers_as_before(
    name: str, device_map: str, backbone_of: Callable[..., Backbone], tmp_path: Path
) -> None:
    whole, backbone = backbone_of(name), backbone_of(name)
    if device_map == "file":
        file = tmp_path / "map.json"
        parts = {part: "cpu" for part, _ in backbone.model.named_children()}
        file.write_text(json.dumps(parts))
        device_map = str(file)
    assert backbone.spread(device_map).device == torch.device("cpu")
    assert hasattr(backbone.model.get_input_embeddings(), "_hf_hook")  # inputs are moved to the module's device
    assert answers(backbone) == answers(whole)


def test_moving_a_spread_model_moves_nothing(llama: Backbone) -> None:
    llama.spread("auto")
    torch.nn.ModuleList([llama]).to("meta")
    assert {parameter.device.type for parameter in llama.parameters()} == {"cpu"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no rule and no file that can be read; give auto, balanced, sequential, or a JSON file"),
        ("{", "is not JSON"),
        ("[]", "maps no module to a device"),
        ('{"model": "cpu"}', "leaves out weights"),
        ('{"": "cpu", "modle": "cpu"}', "names 'modle', which is no module of this model"),
        ('{"": "disk"}', "weights stay in memory"),
        ('{"": true}', "give a number of a GPU, or cpu"),
        ('{"": 77}', "but this machine has"),
        ('{"": "gpu"}', "model.device must be auto, cpu, cuda or cuda:N"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(
    content: str | None, sentence: str, backbone_of: Callable[..., Backbone], tmp_path: Path
) -> None:
    file = tmp_path / "map.json"
    if content is not None:
        file.write_text(content)
    backbone = backbone_of("llama_untied")
    with pytest.raises(ValueError, match=r"model\.device_map") as refused:
        backbone.spread(str(file))
    assert sentence in str(refused.value)


def test_device_and_device_map_together_are_refused() -> None:
    with pytest.raises(ValueError, match="both say where the model lives"):
        replace(ModelConfig(), device="cpu", device_map="auto")


def test_training_with_a_device_map_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    config = parse({"method": {"name": "direct"}}, overrides=["model.device_map=auto"])
    with pytest.raises(ValueError, match="which is for inference; leave it out"):
        train(config, runs_dir=tmp_path / "runs")
    assert not any(path.is_dir() for path in tmp_path.glob("runs/*"))


def test_a_device_map_is_no_part_of_what_a_run_is() -> None:
    places = (
        parse({"method": {"name": "direct"}, "model": model}) for model in ({"device": "cpu"}, {"device_map": "auto"})
    )
    assert len({config.run_id for config in places}) == 1
