r"""Merged folders of Latent-SFT and Latent-GRPO (DJCheng/LLaMA3.2-1B-Instruct-Latent-SFT-Top10,
DJCheng/Qwen2.5-Math-7B-Latent-SFT-4k-Top10, the same with Latent-GRPO; arXiv:2510.15522, 2604.27998;
DJC-GO-SOLO/Latent-SFT@f361814).

Stock Llama or Qwen2 folders: nothing in them but the folder's name tells them from any other, and how many entries a
superposition keeps stands in that name alone. `<think>` and `</think>` are ordinary text of several ids
(src/modeling/modeling_stage2.py:156, 171); the thought ends when the likeliest token is the first id of the second, and
then all of its ids are fed. No token is added.
"""

from __future__ import annotations

import re

from latbench.config import ImportConfig
from latbench.importer import Assembly, Base, Importer, Recipe, Release, Setting, folder_model, stored_dtype, untie
from latbench.model.layout import CLOSE_MARKER, OPEN_MARKER

NAME = re.compile(r"latent[-_](sft|grpo)", re.IGNORECASE)
TOP_K = re.compile(r"top[-_]?(\d+)", re.IGNORECASE)


class LatentSFTImporter(Importer):
    """A Hugging Face folder, known by its name."""

    name = "latent_sft"
    looks_for = (
        "a folder of a Llama or Qwen2 model whose name says Latent-SFT or Latent-GRPO, such as *-Latent-SFT-Top10"
    )

    def recognises(self, source: Release) -> bool:
        """See Importer."""
        plain = any(name.startswith("model.layers.") for name in source.names)
        return plain and bool(source.config) and bool(NAME.search(source.label))

    def read(self, source: Release, base: Base | None, options: ImportConfig) -> Recipe:
        """See Importer."""
        config, tokenizer, generation = folder_model(source)
        assembly = Assembly(source)
        assembly.drop_buffers()
        untie(assembly, source, "", config)
        assembly.copy_rest(lambda name: name)
        top_k = TOP_K.findall(source.label)  # of a name such as Laptop4-Latent-SFT-Top3 the last
        layout, template, origin = protocol(config.model_type)
        settings = {
            "model.layout": Setting(layout, origin),
            "model.chat_template": Setting(template, origin),
            "model.markers": Setting((OPEN_MARKER, CLOSE_MARKER), "ordinary text in the release, of several ids"),
            "model.dtype": stored_dtype(assembly),
            "generate.temperature": Setting(0.6, "authors' evaluators"),
            "generate.top_p": Setting(0.95, "authors' evaluators"),
            "generate.max_new_tokens": Setting(128 if config.model_type == "llama" else 4096, "authors' evaluators"),
            "generate.max_latents": Setting(128 if config.model_type == "llama" else 4096, "authors' evaluators"),
        }
        if config.model_type != "llama":
            settings["task.name"] = Setting("math500", "the difficult tasks of the paper are those of this model")
        if top_k:
            settings["method.top_k"] = Setting(int(top_k[-1]), f"name of the folder, {source.label}")
        open_ids, close_ids = (tokenizer.encode(text, add_special_tokens=False) for text in (OPEN_MARKER, CLOSE_MARKER))
        return Recipe(
            method="latent_sft",
            settings=settings,
            config=config,
            tokenizer=tokenizer,
            generation=generation,
            assembly=assembly,
            required={} if top_k else {"method.top_k": "entries of a superposition; 10 in all releases"},
            notes=(
                f"{OPEN_MARKER} is ids {open_ids}, {CLOSE_MARKER} is ids {close_ids}; its first ends the thought",
                "the authors' two evaluators word the prompt differently: model.layout=boxed with "
                "model.chat_template=true is the other one for Llama, model.layout=boxed or boxed_system for Qwen2",
                "latents and answer have a budget each here; in the authors' server they share one",
            ),
        )


def protocol(model_type: str) -> tuple[str, bool, str]:
    """Layout, whether the chat template words it, and where that comes from."""
    if model_type == "llama":
        return "boxed_llama3", False, "the authors' training data and eval_latent_model_hf_batch.py:63-84"
    return "boxed_system", True, "the authors' training data and evaluators of the difficult tasks"


IMPORTER = LatentSFTImporter()
