"""A run's folder: where things stand in it, how it is found, and the trained method in it.

runs/<run id>/config.yaml          the whole configuration
              begun.json           what training was begun with: hashes of data and model, versions
              train.json           written last: training is complete; costs, data, environment
              checkpoint/          the trained method
              eval/<task>-<split>/ manifest.json, records.jsonl
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from latbench.config import CARRIED_OUT, RunConfig, read_config, tree

if TYPE_CHECKING:
    from latbench.decoding.loop import Generation, Prompt
    from latbench.method import Method

CONFIG, TRAIN, CHECKPOINT, EVAL = "config.yaml", "train.json", "checkpoint", "eval"
LOGS = "stages/*/log.jsonl"  # of the stages of training, whose folders are numbered


@dataclass(frozen=True)
class Run:
    """One run's folder with its configuration.

    Args:
        device: where the method is put; None: where the configuration says.
        device_map: of a model over several devices, instead; None: as the configuration says.
        auxiliary: with the helper models of training, which answers do without.
        told: what training would have written at its end, of a run that is not on disk; None: it is in the folder.
        trust_remote_code: run Python files that lie beside the model; never read from a file.
    """

    folder: Path
    config: RunConfig
    device: str | None = None
    device_map: str | None = None
    auxiliary: bool = False
    told: Mapping[str, Any] | None = None
    trust_remote_code: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether training has ended (or there was nothing to train)."""
        return (self.folder / TRAIN).exists()

    @property
    def checkpoint(self) -> Path:
        """Folder of the trained method: that of a run which was exported is the run's own."""
        from latbench.model.source import CHECKPOINT_INFO

        within = self.folder / CHECKPOINT
        return self.folder if not within.is_dir() and (self.folder / CHECKPOINT_INFO).is_file() else within

    def with_helpers_for(self, hook: str) -> Run:
        """The run with the helper models of training, if its method has that hook (`read_latents`, `label_latents`)."""
        from latbench import registry
        from latbench.method import Method

        method = registry.get_method(self.config.method_name).cls
        return self if getattr(method, hook) is getattr(Method, hook) else replace(self, auxiliary=True)

    @cached_property
    def report(self) -> dict[str, Any]:
        """What training wrote at its end. Raises: ValueError: it has not ended, or the file is damaged."""
        if self.told is not None:
            return dict(self.told)
        if not self.is_complete:
            raise ValueError(f"run {self.folder} is not trained to its end; continue it with `latbench train --resume`")
        try:
            report = json.loads((self.folder / TRAIN).read_text(encoding="utf-8"))
            return {"trained": bool(report["trained"]), "train_data": str(report["train_data"]), **report}
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{self.folder / TRAIN} is damaged; copy it anew, or remove the run's folder and train again"
            ) from None

    @property
    def last_loss(self) -> float | None:
        """The mean loss of the last logged steps of training; None where nothing was trained here."""
        logs = sorted(self.folder.glob(LOGS), key=lambda path: int(path.parent.name.partition("-")[0]))
        rows = [json.loads(line) for path in logs[-1:] for line in path.read_text(encoding="utf-8").splitlines()]
        losses = [float(row["loss"]) for row in rows if "loss" in row]
        return losses[-1] if losses else None

    @cached_property
    def method(self) -> Method[Any]:
        """The method, ready to generate. Raises: ValueError: unfinished, or the checkpoint cannot be used."""
        from latbench import registry
        from latbench.model.backbone import Backbone
        from latbench.training import checkpoint

        model = self.config.model
        if self.device_map is not None:
            model = replace(model, device=self.device or "auto", device_map=self.device_map)
        elif self.device is not None:
            model = replace(model, device=self.device, device_map=model.device_map if self.device == "auto" else None)
        if self.report["trained"]:
            self._refuse_other_training()
            return checkpoint.load(
                self.checkpoint,
                device=model.device,
                device_map=model.device_map,
                auxiliary=self.auxiliary,
                method=self.config.method_name,
                layout=model.layout,
                trust_remote_code=self.trust_remote_code,
            )
        entry = registry.get_method(self.config.method_name)
        backbone = Backbone.load(model, seed=self.config.seed, markers=False, trust_remote_code=self.trust_remote_code)
        method: Method[Any] = entry.cls(backbone, self.config.method)
        return method.eval()

    def _refuse_other_training(self) -> None:
        """Raises: ValueError: the configuration is not the one with which the checkpoint was trained."""
        from latbench.training import checkpoint

        stored = checkpoint.read_info(self.checkpoint).get("extra", {}).get("config")
        if stored is None or (trained := RunConfig.from_stored(stored)).run_id == self.config.run_id:
            return
        now, before = (dict(tree.flatten(config.to_tree())) for config in (self.config, trained))
        changed = [
            f"{key} {tree.show(now.get(key))}, which was {tree.show(before.get(key))}"
            for key in dict.fromkeys([*now, *before])
            if now.get(key) != before.get(key) and key not in CARRIED_OUT and not key.startswith("generate.")
        ]
        raise ValueError(
            f"{self.folder / CONFIG} is not what the model beside it was trained with ({'; '.join(changed[:3])}); give "
            "it back its values, and train another run with these"
        )

    @overload
    def generate(self, questions: Prompt | str, **settings: Any) -> Generation: ...

    @overload
    def generate(self, questions: Sequence[Prompt | str], **settings: Any) -> list[Generation]: ...

    def generate(self, questions: Prompt | str | Sequence[Prompt | str], **settings: Any) -> Any:
        """The answer to a question, or one answer to each of several, in order.

        Args:
            questions: one or several, as text or as `Prompt`.
            settings: replace keys of the run's `generate.*`.
        Raises: ValueError: `samples` is set (ask a question as often as it is to be answered), or a key is unknown or
            out of range.
        """
        if settings.get("samples", 1) != 1:
            raise ValueError(
                "generate takes one sample per question; repeat Prompt(id, text, sample=0, 1, ...) instead"
            )
        if isinstance(questions, str) or not isinstance(questions, Sequence):
            return self.generate([questions], **settings)[0]
        config = self.config
        if settings:
            config = RunConfig.from_tree(tree.merge(config.to_tree(), {"generate": settings}))
        return self.method.generate(questions, config.generate, seed=config.seed)


def load_run(
    path: Path | str, *, device: str | None = None, device_map: str | None = None, trust_remote_code: bool = False
) -> Run:
    """The run in a folder; its model is loaded on first use.

    Args:
        device: where its method is put; None: where its configuration says.
        device_map: spread its model over several devices instead, see `ModelConfig.device_map`.
        trust_remote_code: run Python files that lie beside its model.
    Raises: ValueError: no run there.
    """
    folder = Path(path)
    if not (folder / CONFIG).exists():
        near = ", ".join(run.name for run in run_folders(folder.parent)[:3])
        hint = f"runs beside it: {near}" if near else "`latbench list runs` shows those at hand"
        raise ValueError(f"no run in {folder} ({CONFIG} is missing); {hint}")
    return Run(folder, read_config(folder / CONFIG), device, device_map, trust_remote_code=trust_remote_code)


def find_run(name: str | None, runs_dir: Path) -> Path:
    """Folder of a run given by path, by name under `runs_dir`, or None for the latest trained one.

    Raises: ValueError: there is none.
    """
    if name is not None:
        return Path(name) if Path(name).is_dir() else runs_dir / name
    finished = [folder for folder in run_folders(runs_dir) if (folder / TRAIN).exists()]
    for folder in sorted(finished, key=lambda folder: (folder / TRAIN).stat().st_mtime_ns, reverse=True):
        if load_run(folder).report["trained"]:
            return folder
    raise ValueError(f"no trained run in {runs_dir}; start one with `latbench train --method cot`, or name one")


def run_folders(runs_dir: Path) -> list[Path]:
    """Folders of all runs, finished or not, by name."""
    return sorted(path.parent for path in runs_dir.glob(f"*/{CONFIG}"))
