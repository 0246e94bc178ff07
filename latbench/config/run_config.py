"""A run's configuration: frozen pydantic dataclasses over YAML and overrides; all errors are reported together.

Tree for YAML and `--set KEY=VALUE`: `seed`, `task.*`, `method.*`, `model.*`, `train.*`, `generate.*`, `start.*`,
`imported.*`; `task.name` and `method.name` choose the registered classes that read the other keys of these sections.
`start` is the recipe of the run whose trained model this one starts from: a tree of its own without seed, task and
model, which both share. `imported` names the released checkpoint whose weights a run has in place of training. `parse`
layers the defaults, a preset, the user's tree and the overrides; `RunConfig.from_tree` validates the result.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from latbench import registry
from latbench.config import tree
from latbench.config.fields import Seed
from latbench.config.generate import GenerateConfig
from latbench.config.identity import OWN, SAID_ELSEWHERE, SECTIONS, identity, modernised, results_only, stable_hash
from latbench.config.layering import DATA, SHARED, default_preset, layered, over, spelled_out
from latbench.config.own_data import with_own_data
from latbench.config.rl import RLConfig
from latbench.config.sections import ImportConfig, ModelConfig, TrainConfig
from latbench.task import TaskConfig


class ConfigError(ValueError):
    """All errors of a configuration, one sentence per line."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__("\n".join(sentences))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines a run.

    Args:
        task_name: registered name of the task.
        method_name: registered name of the method.
        task: settings of the task's class.
        method: settings of the method's class.
        preset: name of the preset the tree was layered on; "none" without one.
        start: the run whose trained model this one starts from, of the same seed, task and model; None: the backbone as
            it comes. Its `generate` is for its own evaluations and changes nothing here.
        imported: the released checkpoint that the model is, in place of training; None: there is none.
    """

    seed: int
    preset: str
    task_name: str
    method_name: str
    task: TaskConfig
    method: Any  # a MethodConfig; typed loosely because latbench.method imports torch
    model: ModelConfig
    train: TrainConfig
    generate: GenerateConfig
    start: RunConfig | None = None
    imported: ImportConfig | None = None

    @classmethod
    def from_tree(cls, given: Mapping[str, Any]) -> RunConfig:
        """Validate a whole tree; nothing is layered beneath it.

        Raises: ConfigError: every error of every section, one sentence each.
        """
        given, shared = spelled_out(given), dict[str, Any]()
        shared["seed"], errors = tree.validate("seed", cast(type, Seed), given.get("seed", 0))
        shared["task_name"], shared["task"], found = _named_section("task", given.get("task"))
        shared["model"], more = _model(given.get("model"))
        imported, wrong = None, list[str]()
        if given.get("imported") is not None:
            imported, wrong = tree.validate("imported", ImportConfig, given["imported"])
        config, own = _validated({key: value for key, value in given.items() if key != "imported"}, shared)
        if errors := [*errors, *found, *more, *own, *wrong]:
            raise ConfigError(errors)
        return dataclasses.replace(config, imported=imported)

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> RunConfig:
        """Validate a whole tree from a file, which an older version may have written.

        Raises: ConfigError: every error of every section, one sentence each.
        """
        return cls.from_tree(modernised(stored))

    def to_tree(self) -> tree.Tree:
        """The whole tree, defaults included; `from_tree` reads it back."""
        parts: tree.Tree = {"seed": self.seed, "preset": self.preset}
        for kind, name in (("task", self.task_name), ("method", self.method_name)):
            parts[kind] = {"name": name, **dataclasses.asdict(getattr(self, kind))}
        for section in SECTIONS:
            parts[section] = dataclasses.asdict(getattr(self, section))
        if not parts["generate"]["method"]:
            del parts["generate"]["method"]
        start = None if self.start is None else self.start.to_tree()
        parts["start"] = start and {key: value for key, value in start.items() if key not in SHARED}
        if self.imported is not None:
            parts["imported"] = dataclasses.asdict(self.imported)
        return cast(tree.Tree, json.loads(json.dumps(parts)))  # tuples become lists

    @property
    def setting(self) -> str:
        """Hash of everything that can change a result, without the seed."""
        return stable_hash(identity(self.to_tree()))

    @property
    def backbone(self) -> str:
        """Short name of the language model, fit for a table and a file name."""
        return self.model.name

    @property
    def run_id(self) -> str:
        """Name of the run's folder; `generate.*` is left out, since it changes an evaluation and not the training."""
        return self._folder_name(self.task_name)

    @property
    def base_id(self) -> str:
        """Name of the folder of the run without training: the method over the model as it comes."""
        return dataclasses.replace(self, start=None)._folder_name("base")

    def _folder_name(self, first: str) -> str:
        made = {key: value for key, value in identity(self.to_tree()).items() if not key.startswith("generate.")}
        return f"{first}-{self.method_name}-{self.backbone}-{stable_hash(made)}-s{self.seed}"

    @property
    def variant(self) -> str:
        """Short text of the keys that differ from the preset, the defaults or the release; what is unusual of preset,
        start and source comes first."""
        names: tree.Tree = {
            "task": {"name": self.task_name},
            "method": {"name": self.method_name},
            "model": {"id": self.model.id},
            "preset": self.preset,
        }
        usual = RunConfig.from_tree(layered(names)).start
        alike = RunConfig.from_tree(layered(names | {"start": _names(self.start)}))
        unusual = [f"preset={self.preset}"] if self.preset != default_preset(self.method_name, self.model.id) else []
        if _names(self.start) != _names(usual):
            unusual.append(f"start={_label(self.start)}")
        own, chosen = dataclasses.replace(self, imported=None), dict[str, Any]()
        if self.imported is not None:
            unusual.append(f"imported={self.imported.label}")
            chosen = self.imported.settings
        before = _with_rl_defaults(results_only(alike.to_tree()) | chosen, self.train.rl)
        return " ".join(unusual + _changed(before, results_only(own.to_tree())))


def parse(given: Mapping[str, Any], *, preset: str | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Layer defaults, preset, tree and overrides, and validate.

    Args:
        given: tree from a YAML file or from command-line options; may name a `preset`.
        preset: name of a preset of the method; None takes the tree's, else the one of `default_preset`.
        overrides: `KEY=VALUE` texts, applied last.
    Raises: ConfigError: every error of every section; ValueError: a malformed override, or own data that are not there.
    """
    upper = over(given, tree.parse_overrides(overrides))
    upper |= {"preset": preset} if preset else {}
    if isinstance(upper.get("task"), dict):
        upper["task"] = with_own_data(upper["task"])
    try:
        whole = layered(upper)
    except ValueError as error:
        raise ConfigError([str(error), *_errors(upper)]) from None
    return RunConfig.from_tree(whole)


def _errors(given: tree.Tree) -> list[str]:
    try:
        RunConfig.from_tree(given)
    except ConfigError as error:
        return str(error).split("\n")
    return []


def read_config(path: Path) -> RunConfig:
    """The configuration saved beside a run. Raises: ValueError: unreadable, or not a configuration."""
    return RunConfig.from_stored(tree.read_yaml(path))


def _with_rl_defaults(usual: tree.Tree, rl: RLConfig | None) -> tree.Tree:
    """The usual leaves of a run with reinforcement learning: those of its variant, which alone is said in any case."""
    if rl is None or usual.get("train.rl", rl) is not None:
        return usual
    defaults = tree.flatten({"train": {"rl": dataclasses.asdict(RLConfig(variant=rl.variant))}})
    return usual | {key: value for key, value in defaults if key != "train.rl.variant"}


def _changed(usual: tree.Tree, own: tree.Tree) -> list[str]:
    """`KEY=VALUE` of the keys whose values differ; training data that a start takes over are said once."""

    def is_taken_over(key: str) -> bool:
        outer = key.removeprefix("start.")
        return outer != key and outer.rpartition("train.")[2] in DATA and own[outer] == own[key]

    changed = [key for key, value in own.items() if key not in usual or usual[key] != value]
    return [f"{key}={tree.show(own[key])}" for key in changed if not is_taken_over(key) and key not in SAID_ELSEWHERE]


def _names(start: RunConfig | None) -> tree.Tree | None:
    """The tree that chooses a start's method and preset, and those of its own start."""
    if start is None:
        return None
    return {"method": {"name": start.method_name}, "preset": start.preset, "start": _names(start.start)}


def _label(start: RunConfig | None) -> str:
    """`null`, `cot`, `cot/codi-gpt2` with an unusual preset, `coconut<cot` with a start of its own."""
    if start is None:
        return "null"
    unusual = start.preset != default_preset(start.method_name, start.model.id)
    name = f"{start.method_name}/{start.preset}" if unusual else start.method_name
    return name if start.start is None else f"{name}<{_label(start.start)}"


def _validated(given: Mapping[str, Any], shared: Mapping[str, Any], within: str = "") -> tuple[RunConfig, list[str]]:
    """A run of what it shares with its start and what it does not, and the errors in the latter.

    Args:
        within: `start.` for the start, `start.start.` for that of the start.
    """
    known = ["preset", "method", "train", "generate", "start", *([] if within else SHARED)]
    errors = [_unknown_section(key, within) for key in given if key not in known]
    values: dict[str, Any] = {"preset": str(given.get("preset") or "none"), "start": None, **shared}
    values["method_name"], values["method"], found = _named_section("method", given.get("method"), within)
    errors += found
    values["train"], found = tree.validate(f"{within}train", TrainConfig, given.get("train"))
    errors += found
    errors += _rollout_errors(values["method_name"], values["train"], within)
    values["generate"], found = _generate(values["method_name"], given.get("generate"), within)
    errors += found
    start = given.get("start")
    if isinstance(start, Mapping):
        values["start"], found = _validated(start, shared, f"{within}start.")
        errors += found
    elif start is not None:
        errors.append(f"start must be a mapping such as {{method: cot}}, or null, got {tree.show(start)}")
    return RunConfig(**values), [text if within in text else within + text for text in errors]


def _generate(method: str, given: Any, within: str) -> tuple[Any, list[str]]:
    """`generate.*` with the method's own settings in it, and the errors of both."""
    kind = registry.get_method(method).decoding if method in registry.method_names() else None
    section = dict(given) if isinstance(given, Mapping) else given
    own = section.pop("method", None) if isinstance(section, dict) else None
    own_keys = tree.keys(within + OWN, kind) if kind else {}
    generate, errors = tree.validate(f"{within}generate", GenerateConfig, section, also_known=own_keys)
    if kind is None and own:
        errors = [*errors, f"{within}{OWN}: method {method!r} has no decoding settings of its own; leave {OWN} out"]
    settings, found = (None, []) if kind is None else tree.validate(within + OWN, kind, own)
    if generate is not None and settings is not None:
        generate = dataclasses.replace(generate, method=settings)
    return generate, [*errors, *found]


def _rollout_errors(method: str, train: TrainConfig | None, within: str) -> list[str]:
    """What is wrong with a method's own decoding settings in rollouts."""
    if train is None or train.rl is None or not train.rl.rollout.method or method not in registry.method_names():
        return []
    own, kind = train.rl.rollout.method, registry.get_method(method).decoding
    name = f"{within}train.rl.rollout.method"
    if kind is None:
        return [f"{name}: method {method!r} has no decoding settings of its own; leave it out"]
    if "latent_noise" in own:
        return [f"{name}.latent_noise cannot be set; the noise of rollouts is {within}train.rl.rollout.latent_noise"]
    return tree.validate(name, kind, own)[1]


def _model(given: Any) -> tuple[Any, list[str]]:
    """The section `model` and its errors; files of earlier versions say in it whether code beside a model is run."""
    section = dict(given) if isinstance(given, Mapping) else given
    trust = section.pop("trust_remote_code", False) if isinstance(section, dict) else False
    model, errors = tree.validate("model", ModelConfig, section)
    if trust is not False:
        errors.append(
            "model.trust_remote_code is no setting: no file can allow code to be run; remove it, and pass "
            "--trust-remote-code to the command that loads the model"
        )
    return model, errors


def _named_section(kind: registry.Kind, given: Any, within: str = "") -> tuple[str, Any, list[str]]:
    """Registered name, settings and errors of `task` or `method`."""
    section = dict(given) if isinstance(given, Mapping) else {}
    name = section.pop("name", "synth" if kind == "task" else None)
    if not isinstance(name, str):
        names = registry.method_names() if kind == "method" else registry.task_names()
        option = "" if within else f" with --{kind}"
        return "", None, [f"{within}{kind}.name is missing; choose{option} one of {', '.join(names)}"]
    try:
        entry = registry.get_method(name) if kind == "method" else registry.get_task_entry(name)
    except ValueError as error:
        return name, None, [f"{within}{kind}: {error}" if within else str(error)]
    return name, *tree.validate(within + kind, entry.config, section)


def _unknown_section(key: str, within: str) -> str:
    if within and key in SHARED:
        return f"{within}{key} cannot be set; a run has the {key} of the one it starts from, set {key} for both"
    own = ["preset", "method", "start", *([] if within else SHARED)]
    known = dict.fromkeys([*own, *SECTIONS], "")
    for section, cls in SECTIONS.items():
        known |= tree.keys(section, cls)
    return tree.unknown_key(within + key, {within + name: meaning for name, meaning in known.items()})
