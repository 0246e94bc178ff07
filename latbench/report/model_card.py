"""The model card of a run that is shared: method, data, numbers, command, licence, citation; from its files alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from latbench import registry
from latbench.config import TINY, RunConfig
from latbench.evaluation.metrics import Summary, caveats
from latbench.report.columns import interval_text, number_text
from latbench.report.template import FOLDER

OWN_LICENCE = "apache-2.0"  # of weights that come from nobody else
_MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def model_card(
    config: RunConfig, report: Mapping[str, Any], summaries: Sequence[Summary], *, name: str, licence: str | None
) -> str:
    """The text of `README.md`.

    Args:
        config: of the run.
        report: what its training wrote at its end.
        summaries: of its complete evaluations.
        name: of the run.
        licence: of the weights, as an identifier of the Hub; None: that of the base model.
    """
    is_tiny = config.model.id == TINY
    chosen = licence or (OWN_LICENCE if is_tiny else "other")
    about = registry.describe("method").get(config.method_name, config.method_name)
    front = {
        "library_name": "latbench",
        "license": chosen,
        **({} if is_tiny or not _is_on_the_hub(config.model.id) else {"base_model": config.model.id}),
        "tags": ["latent-reasoning", "latbench", config.method_name],
        "model-index": [{"name": name, "results": [_result(summary) for summary in summaries]}],
    }
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(FOLDER), trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("model_card.md.jinja").render(
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000).strip(),
        name=name,
        about=about.rstrip("."),
        papers=registry.papers().get(config.method_name, ()),
        config=config,
        base="the embedded tiny model, from random weights" if is_tiny else f"`{config.model.id}`",
        report=report,
        rows=[_row(summary) for summary in summaries],
        caveats=[
            f"{summary.manifest.task}/{summary.manifest.split}: {caveat.sentence}"
            for summary in summaries
            for caveat in caveats(summary)
        ],
        licence=chosen if licence or is_tiny else None,
    )


def _is_on_the_hub(model: str) -> bool:
    """Whether a model is named as the Hub names it: a repository whose card names a local folder is refused there."""
    return _MODEL_ID.fullmatch(model) is not None and not Path(model).exists()


def _result(summary: Summary) -> dict[str, Any]:
    manifest = summary.manifest
    accuracy = {"type": "accuracy", "value": round(100 * summary.accuracy.value, 2), "name": "accuracy, %"}
    length = summary.chain_length
    lengths = [] if length is None else [{"type": "chain_length", "value": round(length.value, 2), "name": "#L"}]
    return {
        "task": {"type": "text-generation"},
        "dataset": {"type": manifest.task, "name": manifest.task, "split": manifest.split},
        "metrics": [accuracy, *lengths],
    }


def _row(summary: Summary) -> list[str]:
    manifest = summary.manifest
    return [
        f"{manifest.task}/{manifest.split}",
        str(summary.n),
        interval_text(summary.accuracy, 100),
        interval_text(summary.chain_length),
        number_text(summary.decode_steps, ".1f"),
        f"`{manifest.setting}`",
    ]
