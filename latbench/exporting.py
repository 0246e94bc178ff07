"""A run as a folder to share: a plain Hugging Face model with a model card, which latbench loads back as a run.

<folder>/README.md                             the model card
         config.json, model.safetensors ...    the checkpoint's files: model, tokenizer, heads, latbench.json
         config.yaml, train.json ...           the run's own files
         eval/<task>-<split>/                  manifest and records of its complete evaluations
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from latbench.evaluation.metrics import Summary, summarise
from latbench.evaluation.records import MANIFEST, RECORDS, evaluations_in, read_evaluation, read_manifest
from latbench.report.model_card import model_card
from latbench.runs.begun import BEGUN
from latbench.runs.run import CONFIG, EVAL, TRAIN, Run
from latbench.runs.train_questions import QUESTIONS

HUB = "hub:"
CARD = "README.md"
RUN_FILES = (CONFIG, TRAIN, BEGUN, QUESTIONS)
EVAL_FILES = (MANIFEST, RECORDS, f"{RECORDS}.gz", "latents.json")


def export(run: Run, target: str, *, licence: str | None = None, private: bool = False) -> str:
    """Write a run to a folder, or to a repository of the Hugging Face Hub.

    Args:
        run: trained to its end.
        target: a folder that does not exist yet, or `hub:OWNER/NAME`.
        licence: of the weights, as an identifier of the Hub; None: that of the base model.
        private: make the repository a private one.
    Returns: the folder, or the address of the repository.
    Raises: ValueError: nothing was trained, the checkpoint is damaged, or the target is taken.
    """
    if not run.report["trained"]:
        raise ValueError(
            f"run {run.folder} trained nothing, so there is no model to share; name its model, "
            f"{run.config.model.id!r}, and method {run.config.method_name!r} instead"
        )
    if not target.startswith(HUB):
        return str(_write(run, Path(target), licence))
    name = target.removeprefix(HUB)
    if name.count("/") != 1 or not all(name.split("/")):
        raise ValueError(f"{target!r} names no repository; give {HUB}OWNER/NAME")
    with tempfile.TemporaryDirectory() as folder:
        written = _write(run, Path(folder) / "model", licence)
        return _upload(written, name, private=private)


def _write(run: Run, folder: Path, licence: str | None) -> Path:
    from latbench.model.source import CHECKPOINT_INFO
    from latbench.training.checkpoint import read_info
    from latbench.util.files import damage

    if folder.exists():
        raise ValueError(f"{folder} exists; remove it, or export to another folder")
    info = read_info(run.checkpoint)
    if (wrong := damage(run.checkpoint, info["files"])) is not None:
        raise ValueError(f"checkpoint {run.checkpoint} is damaged ({wrong}); train the run again, or copy it anew")
    evaluations = dict(_complete_evaluations(run.folder))
    beside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(beside, ignore_errors=True)
    for name in (*info["files"], CHECKPOINT_INFO):
        _copy(run.checkpoint / name, beside / name)
    for name in RUN_FILES:
        if (run.folder / name).is_file():
            _copy(run.folder / name, beside / name)
    for evaluation in evaluations:
        for name in EVAL_FILES:
            if (evaluation / name).is_file():
                _copy(evaluation / name, beside / EVAL / evaluation.name / name)
    name = run.folder.resolve().name
    card = model_card(run.config, run.report, list(evaluations.values()), name=name, licence=licence)
    (beside / CARD).write_text(card, encoding="utf-8")
    beside.replace(folder)
    return folder


def _complete_evaluations(folder: Path) -> Iterator[tuple[Path, Summary]]:
    for evaluation in evaluations_in(folder / EVAL):
        if read_manifest(evaluation).complete:  # one that is begun may have no records yet
            yield evaluation, summarise(read_evaluation(evaluation))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _upload(folder: Path, name: str, *, private: bool) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        address = str(api.create_repo(name, private=private, exist_ok=True))
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="A run of latbench")
    except (HfHubHTTPError, OSError) as error:
        reason = " ".join(str(error).split("\n")[0].split())
        raise ValueError(f"{HUB}{name} could not be written ({reason}); log in with `hf auth login`") from None
    return address
