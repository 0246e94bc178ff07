"""A released checkpoint becomes a run: found, recognised, accounted for, written, with its provenance.

    plan_import(SOURCE)        -> RunConfig   which format, which method with which settings, nothing written
    import_run(config)         -> Run         `train`, which calls `import_weights`, as `rerun` does from a manifest

The run's `imported` section names the source and the hash of everything that was read of it; `train.json` has the rest
under `imported`: the hash of each file, what was dropped and why, and where each setting came from. Nothing in a source
can run code, and no more than one file of the run's weights is in memory at a time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor
from transformers import PreTrainedModel

from latbench import registry
from latbench.config import ImportConfig, RunConfig, parse, tree
from latbench.importer import Base, Importer, Piece, Recipe, Release, Setting
from latbench.model.backbone import Backbone
from latbench.model.loading import resolve_device
from latbench.model.released import read_or_refuse
from latbench.model.source import INDEX
from latbench.model.weights import Account, fresh_model, is_finite
from latbench.runs import environment
from latbench.runs.import_files import files_read, identity_of, lasting, model_name, open_base, open_source
from latbench.training import checkpoint
from latbench.training.cost import TrainReport
from latbench.util.files import sha256_of

if TYPE_CHECKING:
    from latbench.method import Method

GIVEN = "given on the command line"
LEFT_TO_USER = frozenset({"lora_alpha", "first_added_id"})
"""Keys of `imported` that a format may leave open."""
FOUND_OUT = {field.name for field in fields(ImportConfig)} - LEFT_TO_USER
"""Keys of `imported` that follow from the files."""
OF_THE_MODEL = ("id", "revision", "weights", "hidden_size", "num_layers", "num_heads", "mlp_size", "words", "lora")
"""Keys of `model` that follow from the files."""
SHARD_BYTES = 500_000_000
"""Most bytes of a file of the run's weights, unless one tensor has more."""
BLOCK = 1 << 22
"""Numbers that are compared at once."""


@dataclass(frozen=True)
class ImportPlan:
    """What an import would do."""

    config: RunConfig
    """Of the run."""
    recipe: Recipe
    """What the importer knows of the source."""
    source: Release
    """The files."""
    base: Base | None
    """The base model, where the format needs one."""


def plan_import(
    source: str,
    *,
    format: str | None = None,
    base: str | None = None,
    revision: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> ImportPlan:
    """Find out what a released checkpoint is; nothing is written.

    Args:
        source: a folder, a file or a Hub id.
        revision: of a Hub id, None: the newest.
        format: name of an importer; None: the one that recognises the source.
        base: the base model, where the format needs one; None: the one that the release names.
        settings: values by dotted key, in place of what the importer says.
    Raises: ValueError: not at hand, of no known format, not whole, something is said that an import cannot follow, or
        something is missing that only the user can say.
    """
    own = tree.unfold(settings or {})
    _refuse_settings(own)
    found = open_source(source, revision)
    if revision is not None and found.revision is None:
        raise ValueError(f"--revision {revision} is of a Hugging Face id, but {source} is a path here; leave it out")
    importer = _importer(found, format)
    options = tree.merge(
        {"source": lasting(source), "revision": found.revision, "format": importer.name}, own.pop("imported", {})
    )
    checked, errors = tree.validate("imported", ImportConfig, options)
    if errors:
        raise ValueError("\n".join(errors))
    if ignored := [f"imported.{key}" for key in sorted(LEFT_TO_USER - importer.takes) if options.get(key) is not None]:
        raise ValueError(f"{ignored[0]} is nothing that the format {importer.name} leaves open; leave it out")
    below = open_base(importer, found, base)
    recipe = importer.read(found, below, checked)
    if missing := [f"{key} ({why})" for key, why in recipe.required.items() if tree.get(own, key) is None]:
        keys = " ".join(f"--set {key}=..." for key in recipe.required)
        raise ValueError(f"{source} does not store {', nor '.join(missing)}; say it with {keys}")
    values = {key: setting.value for key, setting in recipe.settings.items()}
    lower = {"task.name": "gsm8k", "model.id": model_name(source if below is None else below.id), **values}
    given = tree.merge(tree.merge(tree.unfold(lower), {"method": {"name": recipe.method}}), own)
    imported = replace(
        checked,
        base=None if below is None else lasting(below.id),
        base_revision=None if below is None else below.revision,
        settings=_plain(values),
        sha256=identity_of(files_read(found, below, recipe)),
    )
    plan = ImportPlan(parse({**given, "imported": asdict(imported)}), recipe, found, below)
    _account(plan)
    return plan


def _refuse_settings(own: Mapping[str, Any]) -> None:
    """Raises: ValueError: settings of training, or of what the import finds out by itself."""
    for key, _ in tree.flatten(own):
        section, _, name = key.partition(".")
        if section in ("start", "train"):
            raise ValueError(f"{key} cannot be set: an import trains nothing; leave it out")
        known = {"imported": FOUND_OUT, "model": OF_THE_MODEL}.get(section, ())
        if (section == "imported" and not name) or name.partition(".")[0] in known:
            raise ValueError(
                f"{key} cannot be set: it follows from SOURCE, --format, --base and --revision; leave it out"
            )


def import_weights(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Write the checkpoint of a run that is a released checkpoint. Returns: the content of its `train.json`.

    Args:
        config: with `imported`, as `plan_import` gives it.
        folder: of the checkpoint.
    Raises: ValueError: the source is not at hand, holds other files than the configuration names, or does not fit.
    """
    assert config.imported is not None
    start, asked = time.monotonic(), config.imported
    found = open_source(asked.source, asked.revision)
    importer = _importer(found, asked.format)
    below = open_base(importer, found, asked.base, asked.base_revision)
    plan = ImportPlan(config, importer.read(found, below, asked), found, below)
    files = files_read(found, below, plan.recipe)
    if asked.sha256 and identity_of(files) != asked.sha256:
        raise ValueError(
            f"{asked.source} holds other files than those that were imported (sha256 {identity_of(files)[:12]}, was "
            f"{asked.sha256[:12]}); give those, or import these anew"
        )
    method = _account(plan)
    checkpoint.save(method, folder, {"config": config.to_tree()}, write=lambda where: _write(plan, method, where))
    commit, dirty = environment.git_state()
    return {
        "trained": True,
        "train_data": f"imported {asked.label} sha256={asked.sha256[:8]}",
        "data": {},
        "num_contaminated": None,
        "dropped": False,
        "costs": {},
        "start": None,
        "report": asdict(TrainReport()),
        "diagnostics": {},
        "imported": provenance(plan, files) | {"seconds": time.monotonic() - start},
        "versions": environment.versions(),
        "git_commit": commit,
        "git_dirty": dirty,
        "hardware": environment.hardware(),
        "command": environment.command_line(),
        "finished": environment.now(),
    }


def provenance(plan: ImportPlan, files: Mapping[str, Path]) -> dict[str, Any]:
    """What the run says of its source: hashes, what was dropped and why, where each setting came from."""
    asked, own = plan.config.imported, plan.config.to_tree()
    assert asked is not None
    settings = dict.fromkeys(plan.recipe.required, Setting(None, GIVEN)) | dict(plan.recipe.settings)
    said = {key: (tree.get(own, key), setting) for key, setting in settings.items()}
    return {
        "format": asked.format,
        "source": asked.source,
        "revision": plan.source.revision,
        "base": None if plan.base is None else plan.base.id,
        "files": {
            name: {"sha256": sha256_of(path), "bytes": path.stat().st_size} for name, path in sorted(files.items())
        },
        "num_tensors": len(plan.source.names),
        "dropped": plan.recipe.assembly.dropped,
        "settings": {
            key: {"value": value, "origin": setting.origin if value == _plain(setting.value) else GIVEN}
            for key, (value, setting) in said.items()
        },
        "notes": list(plan.recipe.notes),
    }


def sentences(found: Mapping[str, Any]) -> Iterable[str]:
    """What an import tells its user, from the provenance it leaves behind."""
    size = sum(file["bytes"] for file in found["files"].values())
    base = f", over the base model {found['base']}" if found["base"] else ""
    yield f"format {found['format']}: {found['num_tensors']} tensors, {len(found['files'])} files of {size} bytes{base}"
    reasons: dict[str, list[str]] = {}
    for name, reason in found["dropped"].items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"dropped: {', '.join(names[:3])}{more} ({reason})"
    for key, setting in found["settings"].items():
        yield f"{key}={tree.show(setting['value'])} ({setting['origin']})"
    yield from found["notes"]


def _importer(source: Release, format: str | None) -> Importer:
    """The importer of that name, or the one that knows the source. Raises: ValueError: none, or several."""
    known: dict[str, Importer] = registry.importers()
    if format is not None:
        if format not in known:
            raise registry.unknown("format", format, known)
        return known[format]
    found = [name for name, importer in known.items() if importer.recognises(source)]
    if len(found) == 1:
        return known[found[0]]
    looked = "; ".join(f"{name}: {importer.looks_for}" for name, importer in known.items())
    state = f"of several formats ({', '.join(found)})" if found else "of no known format"
    raise ValueError(f"{source.name} is {state}; choose one with --format. Looked for {looked}")


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


# what is written


def _account(plan: ImportPlan) -> Method[Any]:
    """The method without memory for its weights, once all its tensors are accounted for.

    Raises: ValueError: tensors are missing, left over or of other shapes; what should be equal is not; the tokenizer
        has more ids than there are rows.
    """
    resolve_device(plan.config.model.device)
    config, recipe = plan.config, plan.recipe
    attention, nowhere = config.model.attention, torch.device("meta")
    model = read_or_refuse(
        lambda: fresh_model(recipe.config, seed=0, attention=attention, device=nowhere),
        "configuration",
        plan.source.name,
    )
    model.generation_config = recipe.generation
    backbone = Backbone(model, recipe.tokenizer, config.model, name=config.backbone).eval()
    method: Method[Any] = registry.get_method(config.method_name).cls(backbone, config.method)
    way_out = "give the source of this format alone and whole"
    if plan.base is not None:
        way_out = f"check that {plan.base.id} is its base model, or give another with --base"
    for name, key in recipe.assembly.numbers.items():
        number = torch.tensor(tree.get(config.to_tree(), key), dtype=torch.float32)
        recipe.assembly.heads[name] = Piece((), (), partial(torch.clone, number), computed=True)
    heads = {name: tuple(tensor.shape) for name, tensor in method.heads.state_dict().items()}
    recipe.assembly.account(_needed(model), heads, way_out)
    _require_equal_numbers(recipe, plan.source)
    return method


def _needed(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's tensors by name; of tied ones the first name alone."""
    first: dict[int, str] = {}
    state = model.state_dict(keep_vars=True).items()
    return {name: tuple(tensor.shape) for name, tensor in state if first.setdefault(id(tensor), name) == name}


def _require_equal_numbers(recipe: Recipe, source: Release) -> None:
    with source.tensors.reading() as read:
        for one, other in recipe.assembly.equal:
            if source.shape(one) != source.shape(other):
                raise ValueError(f"{source.name}: {one} should equal {other}, but has another shape")
            tensors = (read(source.names[name]).reshape(-1).split(BLOCK) for name in (one, other))
            differences = [float((a.float() - b.float()).abs().max()) for a, b in zip(*tensors, strict=True) if len(a)]
            if any(difference != 0 for difference in differences):  # NaN too
                raise ValueError(
                    f"{source.name}: {one} should equal {other}, but differs by up to {max(differences):.3g}; "
                    "it is no checkpoint of this format"
                )


def _write(plan: ImportPlan, method: Method[Any], folder: Path) -> None:
    """Model, tokenizer and heads, one file of weights after another."""
    recipe, model = plan.recipe, method.backbone.model
    name = plan.config.model.dtype
    dtype = recipe.config.dtype or torch.float32 if name == "auto" else getattr(torch, name)
    model.config.architectures, model.config.dtype = [type(model).__name__], dtype
    model.config.save_pretrained(folder)
    recipe.generation.save_pretrained(folder)
    recipe.tokenizer.save_pretrained(folder)
    pieces = recipe.assembly.pieces
    shapes = {name: torch.empty(pieces[name].shape, dtype=dtype, device="meta") for name in _needed(model)}
    shards = split_torch_state_dict_into_shards(shapes, max_shard_size=SHARD_BYTES)
    for file, names in shards.filename_to_tensors.items():
        _save({name: pieces[name] for name in names}, folder / file, dtype, plan.source.name)
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    if recipe.assembly.heads:
        _save(
            recipe.assembly.heads,
            folder / checkpoint.HEADS,
            torch.promote_types(dtype, torch.float32),
            plan.source.name,
        )


def _save(pieces: Mapping[str, Piece], path: Path, dtype: torch.dtype, source: str) -> None:
    """One file of weights; what was read for it is let go afterwards."""
    made: dict[str, Tensor] = {}
    with ExitStack() as stack:
        readers: dict[int, Any] = {}
        for name, piece in pieces.items():
            parts = []
            for files, part in piece.parts:
                if id(files) not in readers:
                    readers[id(files)] = stack.enter_context(files.reading())
                parts.append(readers[id(files)](part))
            tensor = parts[0] if piece.compute is None else piece.compute(*parts)
            if not is_finite(tensor):
                Account(not_finite=[name]).refuse(source, "fetch it anew")
            made[name] = tensor.to(dtype).contiguous()
        safetensors.torch.save_file(made, path, metadata={"format": "pt"})
