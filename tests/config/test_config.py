"""Configuration: layering, validation with every error in one go, identity of runs."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from latbench import registry
from latbench.cli.keys_page import configuration_page
from latbench.config import ConfigError, GenerateConfig, RunConfig, identity, parse, read_config, tree
from latbench.config.identity import is_untrained
from latbench.config.keys import imported_keys, method_keys, shared_keys, task_keys

COT = {"method": {"name": "cot"}}
RESULTS = Path(__file__).parents[2] / "results"


def errors(given: tree.Tree, *overrides: str, preset: str | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(given, preset=preset, overrides=overrides)
    return str(caught.value).split("\n")


def test_tree_round_trip_keeps_every_value(tmp_path: Path) -> None:
    config = parse(COT, overrides=["model.lora.rank=4", "train.stages.sft.lr=1e-4", "generate.until=[a, b]", "seed=7"])
    assert RunConfig.from_tree(config.to_tree()) == config
    (tmp_path / "config.yaml").write_text(tree.dump_yaml(config.to_tree()))
    assert read_config(tmp_path / "config.yaml") == config


def test_a_whole_tree_is_unchanged_by_its_preset() -> None:
    config = parse(COT, preset="codi-gpt2", overrides=["model.lora=null", "train.lr=1e-3"])
    assert parse(config.to_tree()) == config


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "'1e-4'", ".0001", "1E-4"])
def test_numbers_with_an_exponent_are_read_as_numbers(text: str) -> None:
    assert parse(COT, overrides=[f"train.lr={text}"]).train.lr == 1e-4
    assert tree.parse_overrides(["a=1e-4", "b=12", "c=v1e", "d=1:30e5"]) == {
        "a": 1e-4,
        "b": 12,
        "c": "v1e",
        "d": "1:30e5",
    }


def test_layers_come_in_order_defaults_preset_tree_overrides() -> None:
    assert parse(COT, preset="none").train.precision == "float32"
    assert parse(COT).train.precision == "bfloat16"  # the tiny preset applies to the embedded backbone
    given = {**COT, "train": {"min_lr_ratio": 0.1, "lr": 0.5}}
    config = parse(given, overrides=["train.lr=0.25"])
    assert (config.train.min_lr_ratio, config.train.lr, config.train.betas) == (0.1, 0.25, (0.9, 0.98))


def test_without_preset_only_the_embedded_backbone_takes_the_tiny_one() -> None:
    assert parse(COT).preset == "tiny"
    assert parse({**COT, "model": {"id": "some/model"}}).preset == "none"
    assert parse({"method": "cot"}, overrides=["model.id=some/model"]).train.betas == (0.9, 0.999)


def test_another_task_than_the_presets_takes_none_of_its_task_settings() -> None:
    assert parse(COT, preset="codi-gpt2").task_name == "gsm8k_aug"
    assert parse({**COT, "task": {"name": "synth"}}, preset="codi-gpt2").task_name == "synth"
    assert parse({**COT, "task": "synth"}, preset="codi-gpt2").task_name == "synth"


@pytest.mark.parametrize("method", registry.method_names())
def test_every_preset_is_valid(method: str) -> None:
    for name in tree.presets(method):
        assert parse({"method": {"name": method}}, preset=name).preset == name


def test_all_errors_of_all_sections_are_reported_together() -> None:
    found = errors(
        {"method": "cott", "task": "syth", "seed": -1, "lr": 3, "train": {"lr": -1, "lrr": 2, "schedule": "cos"}}
    )
    assert "unknown key 'lr'; did you mean 'train.lr'?" in found
    assert "unknown key 'train.lrr'; did you mean 'train.lr'?" in found
    assert "seed must be >= 0, got -1" in found
    assert "train.lr must be > 0, got -1" in found
    assert "train.schedule must be one of 'constant', 'linear', 'cosine', got cos" in found
    assert any(line.startswith("unknown method 'cott'; did you mean 'cot'?") for line in found)
    assert any(line.startswith("unknown task 'syth'; did you mean 'synth'?") for line in found)
    assert len(found) == 7


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("generate.top_p=0", "generate.top_p must be > 0, got 0"),
        ("train.epochs=.inf", "train.epochs must be a finite number"),
        (
            "task.scorer=nosuch",
            "task.scorer must be one of 'default', 'after_hash', 'last_number', 'after_answer', got nosuch",
        ),
        ("train.betas=[0.9, 1]", "train.betas.1 must be < 1, got 1"),
        ("model.lora.rank=0", "model.lora.rank must be >= 1, got 0"),
        ("train.stages.sft.lr=fast", "train.stages.sft.lr must be a number, got fast"),
        ("train.batch_size=1.5", "train.batch_size must be an integer, got 1.5"),
        ("train.trackers=wandb", "train.trackers must be a list, got wandb"),
        ("generate=3", "generate must be a mapping, got 3"),
        ("model.hidden_size=100", "model.hidden_size must be a multiple of 2 * model.num_heads = 8, got 100"),
        ("task.max_ops=1", "task.min_ops is 2 but task.max_ops is 1; raise task.max_ops"),
        ("model.lora.rnk=2", "unknown key 'model.lora.rnk'; did you mean 'model.lora.rank'?"),
        (
            "train.stages.sft.epoch=2",
            "unknown key 'train.stages.sft.epoch'; did you mean 'train.stages.<name>.epochs'?",
        ),
        ("train.epoch=2", "unknown key 'train.epoch'; did you mean 'train.epochs'?"),
        ("task.levels=2", "unknown key 'task.levels'; available: task."),
        ("method.latents=2", "unknown key 'method.latents'; available:"),
    ],
)
def test_an_error_is_one_sentence_with_field_and_value(override: str, sentence: str) -> None:
    (found,) = errors(COT, override)
    assert found.startswith(sentence)


def test_unknown_preset_is_reported_beside_other_errors() -> None:
    found = errors({**COT, "seed": "x"}, preset="tinny")
    assert found[0].startswith("unknown cot preset 'tinny'; did you mean 'tiny'?")
    assert found[1] == "seed must be an integer, got x"


def test_a_missing_method_says_how_to_choose_one() -> None:
    (found,) = errors({})
    assert found == f"method.name is missing; choose with --method one of {', '.join(registry.method_names())}"


@pytest.mark.parametrize("text", ["train.lr", "=3", "train..lr=3", "train.lr=[1"])
def test_malformed_overrides_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--set"):
        parse(COT, overrides=[text])


def test_files_that_are_no_tree_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        tree.read_yaml(tmp_path / "none.yaml")
    for content, message in (("- a\n", "must hold a mapping"), ("a: [1\n", "is not YAML")):
        path = tmp_path / "bad.yaml"
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            tree.read_yaml(path)


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


def merged(levels: int) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bomb(9), r"holds \d{9} values with its aliases written out, more than 20000"),
        (merged(9), r"values with its aliases written out, more than 20000"),
        ("a: &a [*a]", "a part of it contains itself"),
        ("a: &a {b: {c: *a}}", "a part of it contains itself"),
        ("a: " + "[" * 60 + "]" * 60, "lie 61 deep in each other, more than 50"),
        ("a: " + "[" * 5000 + "]" * 5000, "lie too deep in each other"),
        (
            "a0: &a0 [1]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 99)),
            "deep in each other, more than 50",
        ),
        ("a: 2020-99-99", "is not YAML: month must be"),
        ("a: 0x" + "f" * 9000 + "\nb: !!int " + "9" * 9000, "is not YAML"),
        ("1: 2", "line 1 has a key that is no text; put it in quotes"),
        ("a: b\n? [c]\n: d", "line 2 has a key that is no text"),
        ("a: b\n" * 300_000, "has 1500000 bytes, more than a configuration may"),
    ],
)
def test_files_that_ask_for_too_much_are_refused(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=reason) as caught:
        tree.read_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_aliases_within_bounds_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\n")
    read = tree.read_yaml(tmp_path / "config.yaml")
    assert read == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": [{"x": 1, "y": 2}] * 2}


def test_an_override_is_bounded_alike() -> None:
    with pytest.raises(ValueError, match=r"--set a: .* is not YAML"):
        tree.parse_overrides(["a=" + "[" * 60 + "]" * 60])


def test_no_setting_allows_code_to_be_run() -> None:
    (sentence,) = errors(COT, "model.trust_remote_code=true")
    assert "no setting" in sentence
    assert "--trust-remote-code" in sentence
    old = {**COT, "model": {"trust_remote_code": False}}  # as earlier versions wrote it
    assert parse(old) == parse(COT)
    assert "trust_remote_code" not in parse(COT).to_tree()["model"]
    assert identity(parse(COT).to_tree())["model.trust_remote_code"] is False  # committed run ids stay


def test_setting_ignores_seed_and_what_changes_no_result() -> None:
    base = parse(COT)
    same = ["seed=5", "model.device=cpu", "train.save_every=7", "train.log_every=7", "generate.batch_size=3"]
    assert parse(COT, overrides=same).setting == base.setting
    for override in ("train.lr=1e-5", "generate.temperature=1", "task.max_ops=6", "model.num_layers=5"):
        assert parse(COT, overrides=[override]).setting != base.setting


def test_setting_does_not_depend_on_how_values_were_given() -> None:
    assert parse(COT).setting == parse(parse(COT).to_tree(), preset="none").setting


def test_run_id_is_readable_and_differs_by_training_alone() -> None:
    base = parse(COT)
    assert base.run_id.startswith("synth-cot-tiny-")
    assert base.run_id.endswith("-s0")
    assert parse(COT, overrides=["generate.temperature=1"]).run_id == base.run_id
    assert parse(COT, overrides=["train.lr=1"]).run_id != base.run_id
    assert parse({"method": "cot", "model": {"id": "a/b c", "weights": "random"}}).run_id.startswith(
        "synth-cot-b_c_random-"
    )


def test_variant_names_the_keys_that_differ_from_the_preset() -> None:
    assert parse(COT).variant == ""
    assert parse(COT, overrides=["seed=3", "train.log_every=1"]).variant == ""
    assert parse(COT, overrides=["train.lr=1e-4", "task.max_ops=6"]).variant == "task.max_ops=6 train.lr=0.0001"
    assert parse(COT, preset="codi-gpt2", overrides=["train.epochs=3"]).variant == "preset=codi-gpt2 train.epochs=3.0"
    assert parse(COT, preset="none").variant == "preset=none"


def test_every_key_left_out_of_the_setting_exists() -> None:
    from latbench.config import CARRIED_OUT

    released = parse({**COT, "imported": {"source": "somewhere", "format": "codi"}})
    own = {key.name for key in task_keys("own--data")}
    assert dict(tree.flatten(released.to_tree())).keys() | own >= CARRIED_OUT


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GenerateConfig().chunk = 3  # type: ignore[misc]


# identities outlive new keys


def test_a_younger_key_is_part_of_an_identity_at_a_new_value_alone() -> None:
    started = {"method": "latent_sft", "start": {"method": "cot"}}
    usual = parse(started)
    for section in ("", "start."):
        other = parse(started, overrides=[f"{section}train.reset_optimizer=false"])
        assert other.run_id != usual.run_id
        assert other.setting != usual.setting
        assert "reset_optimizer" in other.variant
    assert not any(key.endswith("reset_optimizer") for key in identity(usual.to_tree()))


def test_decoding_settings_of_one_method_are_typed_by_it() -> None:
    config = parse({"method": "colar"}, overrides=["generate.method.thinking_speed=5"])
    assert config.to_tree()["generate"]["method"] == {"thinking_speed": 5, "latent_noise": 0.0}
    assert RunConfig.from_tree(config.to_tree()) == config
    assert "method" not in parse({"method": "cot"}).to_tree()["generate"]
    with pytest.raises(ConfigError, match=r"unknown key 'generate\.latent_noise'; did you mean 'generate\.method\.lat"):
        parse({"method": "colar"}, overrides=["generate.latent_noise=1"])
    with pytest.raises(ConfigError, match="method 'cot' has no decoding settings of its own"):
        parse({"method": "cot"}, overrides=["generate.method.latent_noise=1"])


@pytest.mark.parametrize(
    ("method", "own", "fault"),
    [
        ("colar", {"thinkng": 1}, r"unknown key 'train\.rl\.rollout\.method\.thinkng'; did you mean"),
        ("colar", {"latent_noise": 0}, r"latent_noise cannot be set; the noise of rollouts is train\.rl\.rollout\.lat"),
        ("litereason", {"latents": 5}, r"train\.rl\.rollout\.method\.latents must be one of 'projected'"),
        ("cot", {"x": 1}, r"train\.rl\.rollout\.method: method 'cot' has no decoding settings of its own"),
    ],
)
def test_own_settings_of_rollouts_are_typed_by_the_method(method: str, own: dict[str, object], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        parse({"method": method, "train": {"rl": {"rollout": {"method": own}}}})
    parse({"method": "colar", "train": {"rl": {"rollout": {"method": {"thinking_speed": 3}}}}})


def test_a_configuration_from_before_decoding_settings_moved_is_the_same_run() -> None:
    new = parse({"method": "colar"}, overrides=["generate.method.thinking_speed=5"])
    stored = new.to_tree()
    own = stored["generate"].pop("method")
    stored["generate"] |= {**own, "latent_noise_temperature": 1.0}
    old = RunConfig.from_stored(stored)
    assert (old, old.setting, old.variant) == (new, new.setting, "generate.thinking_speed=5")


def test_every_committed_identity_follows_from_its_stored_configuration() -> None:
    manifests = [json.loads(path.read_text()) for path in RESULTS.rglob("manifest.json")]
    assert len(manifests) > 100
    for row in manifests:
        config = RunConfig.from_stored({key: value for key, value in row["config"].items() if key != "eval"})
        run = config.base_id if is_untrained(row["train_data"]) else config.run_id
        assert (run, config.variant) == (row["run"], row["variant"])
        assert config.setting == row["setting"]


@pytest.mark.parametrize(
    ("unknown", "known"),
    [("train.learning_rate", "train.lr"), ("train.grad_clip", "train.clip_norm"), ("lr", "train.lr")],
)
def test_an_unknown_key_finds_the_one_it_means(unknown: str, known: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown key '{unknown}'; did you mean '{known}'"):
        parse({"method": "cot"}, overrides=[f"{unknown}=1"])


def test_keys_are_listed_with_type_range_default_and_meaning() -> None:
    keys = {key.name: key for key in [*shared_keys(), *method_keys("colar"), *task_keys("synth")]}
    assert keys["generate.top_p"].type == "number > 0 <= 1"
    assert keys["train.stages.<name>.lr"].type == "number > 0 or null"
    assert {key.name: key for key in method_keys("coconut")}["method.final_share"].type == "number > 0 < 1"
    assert keys["model.lora.rank"].default == "128"
    assert keys["generate.method.thinking_speed"].meaning.startswith("Chain tokens per latent")
    assert keys["task.order"].type == "random, canonical"


def test_every_key_says_what_it_does() -> None:
    """A sentence that stands on its own: no key of any method, task or import is without one."""
    keys = [*shared_keys(), *imported_keys()]
    keys += [key for name in registry.method_names() for key in method_keys(name)]
    keys += [key for name in registry.task_names() for key in task_keys(name)]
    assert [key.name for key in keys if not key.meaning.endswith(".")] == []
    assert [key.name for key in keys if re.match(r"(Of|The same|That|Also|And) ", key.meaning)] == []
    assert [key.name for key in keys if "None" in key.meaning] == []  # YAML and --set write null


def test_the_page_of_all_keys_is_current() -> None:
    page = (RESULTS.parent / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == configuration_page(), "write it anew: latbench list keys --markdown > docs/configuration.md"
