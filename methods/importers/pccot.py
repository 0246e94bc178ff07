"""PCCoT's adapter folders (whynlp/pccot-gpt2; arXiv:2506.18582, whyNLP/PCCoT@2e32e3e).

    base_model.model.<name>.lora_A / lora_B                               adapters (run_ccot.py:713-760)
    base_model.model.transformer.wte.token_adapter.trainable_tokens_delta  rows of the table, in place of the base's, in
                                                                           the order of trainable_token_indices

`adapter_config.json` has rank, scale and base model, `pccot_args.json` the number n of latents and `config.json` the
number T of parallel passes over all of them. After T >= n passes the latents are exactly those of CODI's chain, which
is then what the run is; with fewer, as in the release (T = 3, n = 24), they are not, and no method here decodes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from latbench.config import ImportConfig
from latbench.importer import (
    GPT2_CONV,
    Assembly,
    Base,
    Importer,
    Piece,
    Recipe,
    Release,
    Setting,
    read_json,
    read_tokenizer,
    stored_dtype,
    token_text,
    with_rows,
)

ADAPTER, ARGUMENTS = "adapter_config.json", "pccot_args.json"
PREFIX = "base_model.model."
TABLE = "transformer.wte"
ROWS = f"{PREFIX}{TABLE}.token_adapter.trainable_tokens_delta"
PLAIN = {"use_rslora": False, "use_dora": False, "bias": "none", "rank_pattern": {}, "alpha_pattern": {}}
"""Settings of an adapter whose scale is alpha / r and which has nothing beside A and B."""


class PccotImporter(Importer):
    """A PEFT adapter folder, over a base model."""

    name = "pccot"
    looks_for = f"a folder with {ARGUMENTS} and {ADAPTER}"
    needs_base_weights = True

    def recognises(self, source: Release) -> bool:
        """See Importer."""
        return all((source.folder / name).is_file() for name in (ARGUMENTS, ADAPTER))

    def base_id(self, source: Release) -> str | None:
        """See Importer."""
        return str(read_json(source.folder / ADAPTER).get("base_model_name_or_path") or "")

    def read(self, source: Release, base: Base | None, options: ImportConfig) -> Recipe:
        """See Importer."""
        assert base is not None
        adapter, arguments = read_json(source.folder / ADAPTER), read_json(source.folder / ARGUMENTS)
        num_latents = number(arguments, "num_latent_tokens", source.folder / ARGUMENTS)
        num_passes = number(source.config, "num_iterations", source.folder / "config.json")
        if num_passes < num_latents:
            raise ValueError(
                f"{source.name} is a PCCoT model: {num_passes} parallel passes over {num_latents} latents, which no "
                "method of this latbench decodes (with as many passes as latents it would be a run of codi)"
            )
        if source.config.get("use_projection"):
            raise ValueError(
                f"{source.name} has a projection (use_projection), which no release has; it cannot be imported"
            )
        if odd := [key for key, usual in PLAIN.items() if (adapter.get(key) or usual) != usual]:
            raise ValueError(f"{ADAPTER} of {source.name} sets {', '.join(odd)}; merge the adapter with PEFT first")

        assembly = Assembly(source)
        alpha = number(adapter, "lora_alpha", source.folder / ADAPTER)
        rank = assembly.adapt_base(base, PREFIX, ".weight", alpha, GPT2_CONV)
        rows = replace_rows(assembly, base, adapter)
        tokenizer = read_tokenizer(source.folder, source.name)
        ids = {key: number(arguments, key, source.folder / ARGUMENTS) for key in TOKENS}
        start, end, _ = (
            token_text(tokenizer, id, rows, f"{key} in {source.folder / ARGUMENTS}") for key, id in ids.items()
        )
        settings = {
            "method.num_latents": Setting(num_latents, ARGUMENTS),
            "method.projection": Setting(False, "use_projection of config.json"),
            "model.layout": Setting("clause", "prompt of the authors' example.py"),
            "model.markers": Setting(
                (start, end + str(arguments.get("answer_prompt", ""))), f"{ARGUMENTS}; the answer prompt is forced"
            ),
            "model.chat_template": Setting(False, "authors' example.py"),
            "model.dtype": stored_dtype(assembly),
            "generate.temperature": Setting(0.0, "authors' example.py: greedy"),
            "generate.max_new_tokens": Setting(10, "authors' example.py"),
        }
        return Recipe(
            method="codi",
            settings=settings,
            config=with_rows(base.config, rows),
            tokenizer=tokenizer,
            generation=GenerationConfig(eos_token_id=tokenizer.eos_token_id),
            assembly=assembly,
            notes=(
                f"adapters of rank {rank} are merged with scale {alpha} / {rank}",
                f"{num_passes} passes over {num_latents} latents are the sequential chain; the row of the dummy latent "
                f"({ids['latent_token_id']}) is not fed",
            ),
        )


TOKENS = ("bot_token_id", "eot_token_id", "latent_token_id")


def number(values: dict[str, Any], key: str, path: Path) -> int:
    """A whole number of a configuration file. Raises: ValueError: there is none."""
    if type(values.get(key)) is not int:
        raise ValueError(f"{path} lacks {key}; fetch it anew")
    return int(values[key])


def replace_rows(assembly: Assembly, base: Base, adapter: dict[str, Any]) -> int:
    """Put the trained rows into the base's table. Returns: its number of rows.

    Raises: ValueError: rows and indices differ in number, an added row is not among them, or one is there twice.
    """
    source, (rows, width) = assembly.source, base.tensors.shapes[base.weights[f"{TABLE}.weight"]]
    indices = adapter.get("trainable_token_indices")
    given = indices.get("wte") if isinstance(indices, dict) else None
    where = [row for row in given if type(row) is int and row >= 0] if isinstance(given, list) else []
    trained, total = source.shape(ROWS), max([rows - 1, *where]) + 1
    added = {*where} - {*range(rows)}
    if trained != (len({*where}), width) or where != given or len(added) != total - rows:
        raise ValueError(
            f"{source.name}: {ROWS} {trained} does not give every row that was added to the base's {rows} x {width}, "
            f"each once (trainable_token_indices: {given}); fetch it anew"
        )
    index = torch.tensor(where)

    def placed(table: Tensor, delta: Tensor) -> Tensor:
        whole = torch.cat([table.float(), torch.zeros(total - rows, width)])
        return whole.index_copy(0, index, delta.float())

    parts = ((base.tensors, base.weights[f"{TABLE}.weight"]), (source.tensors, source.names[ROWS]))
    assembly.pieces[f"{TABLE}.weight"] = Piece((total, width), parts, placed, computed=True)
    return total


IMPORTER = PccotImporter()
