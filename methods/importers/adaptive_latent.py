"""Adaptive latent reasoning's merged folders (Lapisbird/Llama-adaLR-*; arXiv:2511.21581,
apning/adaptive-latent-reasoning@4e7d7dd).

    _base_model.<name>                                    a Llama, its table padded to 128 x n rows (modeling.py:169)
    recurrent_filter.input_layer, .output_layer, .norm    projection of a latent (modeling_utils.py:75-92)

`config.json` has the rest under `_inserted_LatentThinkingModelSettings`. A state is projected and fed back, as in
`codi`; what is new is that two rows of the LM head decide after each latent whether another one follows. No method here
stops so. The models of the paper's appendix, whose stop decision is detached from the thought, always take six latents,
and are runs of `codi`; the models of text alone are runs of `cot` and `direct`; the others are refused.
"""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig

from latbench.config import ImportConfig
from latbench.importer import (
    Assembly,
    Base,
    Importer,
    Recipe,
    Release,
    Setting,
    folder_model,
    rows_of,
    stored_dtype,
    token_text,
    untie,
)

PREFIX = "_base_model."
SETTINGS = "_inserted_LatentThinkingModelSettings"
FILTER = {"input_layer": "0", "output_layer": "2", "norm": "3"}
"""Layers of the release's projection and ours."""
NUM_LATENTS = 6
ANSWER = " The answer is:"
EVALUATION = "the authors' evaluation (data_processing.py:452-495)"
PLAIN = {"no_cot_sft": "direct", "cot_sft": "cot"}
"""Ends of the names of the models of text alone, and our methods."""


class AdaptiveLatentImporter(Importer):
    """A Hugging Face folder, known by a section of its `config.json`, or by its name where it is a plain Llama."""

    name = "adaptive_latent"
    looks_for = f"a folder whose config.json has {SETTINGS}, or whose name is *adaLR*{' or *adaLR*'.join(PLAIN)}"

    def recognises(self, source: Release) -> bool:
        """See Importer."""
        return SETTINGS in source.config or plain_method(source) is not None

    def read(self, source: Release, base: Base | None, options: ImportConfig) -> Recipe:
        """See Importer."""
        thinking = source.config.get(SETTINGS)
        if isinstance(thinking, dict):
            refuse(thinking, source)
        config, tokenizer, generation = folder_model(source)
        assembly = Assembly(source)
        assembly.drop_buffers()
        settings = {
            "model.chat_template": Setting(False, EVALUATION),
            "generate.temperature": Setting(0.0, f"{EVALUATION}: greedy"),
            "generate.max_new_tokens": Setting(512, EVALUATION),
        }
        if isinstance(thinking, dict):
            method, prefix = "codi", PREFIX
            rows = rows_of(source, PREFIX)[1]
            named = {key: token_id(thinking, key, source) for key in TOKENS}
            start, end, go_on, stop = named.values()
            start_text, end_text, *_ = (
                token_text(tokenizer, id, rows, f"{SETTINGS}.{key} in config.json of {source.name}")
                for key, id in named.items()
            )
            size = source.matrix("recurrent_filter.input_layer.weight")[0]
            settings |= {
                "method.num_latents": Setting(NUM_LATENTS, f"{EVALUATION}: written into the prompt"),
                "method.projection_size": Setting(size, "shape of recurrent_filter.input_layer.weight"),
                "model.layout": Setting("clause", EVALUATION),
                "model.markers": Setting(
                    (start_text, end_text + ANSWER),
                    f"ids {start} and {end} of {SETTINGS}; {EVALUATION} forces the rest",
                ),
            }
            for theirs, ours in FILTER.items():
                for part in ("weight", "bias"):
                    assembly.copy(f"projection.{ours}.{part}", f"recurrent_filter.{theirs}.{part}", head=True)
            unused = unused_ids(thinking, rows, source)
            generation = GenerationConfig(
                eos_token_id=tokenizer.eos_token_id, suppress_tokens=sorted({*unused, end, go_on, stop})
            )
        else:
            found, prefix = plain_method(source), ""
            if found is None:
                raise ValueError(
                    f"{source.label} is not {self.looks_for}; give the folder its name on the Hub, or choose another "
                    "--format"
                )
            method = found
            settings["model.layout"] = Setting("plain_clause", EVALUATION)
        untie(assembly, source, prefix, config)
        assembly.copy_rest(lambda name: name.removeprefix(prefix) if name.startswith(prefix) else None)
        question = f"question_{settings['model.layout'].value}"
        return Recipe(
            method=method,
            settings=settings | {"model.dtype": stored_dtype(assembly)},
            config=config,
            tokenizer=tokenizer,
            generation=generation,
            assembly=assembly,
            notes=(
                "the authors trained with `Question: ` before the question and evaluate without it; "
                f"--set model.layout={question} is the other way",
            ),
        )


TOKENS = ("start_token_id", "end_token_id", "continue_token_id", "stop_token_id")


def plain_method(source: Release) -> str | None:
    """Our method for a model of text alone, by the folder's name; None: it is none."""
    if "adaLR" not in source.label or SETTINGS in source.config:
        return None
    return next((method for end, method in PLAIN.items() if source.label.endswith(end)), None)


def token_id(thinking: dict[str, Any], key: str, source: Release) -> int:
    """A token id of the section. Raises: ValueError: there is none."""
    if type(thinking.get(key)) is not int:
        raise ValueError(f"config.json of {source.name} lacks {SETTINGS}.{key}; fetch it anew")
    return int(thinking[key])


def unused_ids(thinking: dict[str, Any], rows: int, source: Release) -> list[int]:
    """Ids of the rows that only fill the table. Raises: ValueError: the section has no such ids in their place."""
    ids = thinking.get("unused_token_ids") or []
    if not isinstance(ids, list) or not all(type(id) is int and 0 <= id < rows for id in ids):
        raise ValueError(
            f"{SETTINGS}.unused_token_ids in config.json of {source.name} is {str(ids)[:60]}, which is no list of ids "
            f"below {rows}, the rows of its embedding; fetch it anew"
        )
    return ids


def refuse(thinking: dict[str, Any], source: Release) -> None:
    """Raises: ValueError: the thought is not one of this latbench."""
    if thinking.get("lora_mode"):
        raise ValueError(
            f"{source.name} has adapters that are not merged (lora_mode); merge it with the authors' "
            "lora_merge_and_push, and import that"
        )
    if thinking.get("recurrent_filter_mode") != "MLP" or thinking.get("add_latent_to_end"):
        raise ValueError(
            f"{source.name} projects its latents with recurrent_filter_mode="
            f"{thinking.get('recurrent_filter_mode')!r}, add_latent_to_end={thinking.get('add_latent_to_end')!r}; "
            "only the MLP without the latter, which all releases have, can be imported"
        )
    if not thinking.get("detach_binary_head_inputs"):
        raise ValueError(
            f"{source.name} decides after each latent whether another follows (two rows of its LM head), and no method "
            "of this latbench stops so; import one of the appendix models, which always take six latents, or one of "
            "text alone (*cot_sft)"
        )


IMPORTER = AdaptiveLatentImporter()
