"""CODI's own files: a wrapper's state dictionary with adapters that are not merged (zen-E/CODI-gpt2,
zen-E/CODI-llama3.2-1b-Instruct; arXiv:2502.21074, zhenyi4/codi@4fd88d4).

    codi.base_model.model.<name>.base_layer / lora_A.default / lora_B.default   the language model (model.py:160-200)
    prj.1, prj.3, prj.ln                                                       projection of a latent

Configuration and tokenizer are not stored: they are the base model's. Three rows have no text: pad, begin and end of
thought are the ids V, V + 1 and V + 2 (model.py:173-177). The test script casts the whole wrapper to bfloat16 without
merging; here adapters are merged in float32.
"""

from __future__ import annotations

from transformers import GenerationConfig

from latbench.config import ImportConfig
from latbench.importer import (
    GPT2_CONV,
    Assembly,
    Base,
    Importer,
    Recipe,
    Release,
    Setting,
    add_tokens,
    rows_of,
    stored_dtype,
    untie,
    with_rows,
)

PREFIX = "codi.base_model.model."
ALPHA = 32.0
"""Numerator of the adapters' scale in all released scripts."""
NUM_LATENTS = 6
MARKERS = ("<bot>", "<eot>")
"""Texts for the ids of begin and end of thought, which have none in the release."""
HEADS = {"1": "0", "3": "2", "ln": "3"}
"""Layers of the release's projection and ours."""
BASES = {
    768: "openai-community/gpt2",
    2048: "meta-llama/Llama-3.2-1B-Instruct",
    3072: "meta-llama/Llama-3.2-3B-Instruct",
}
"""Base model of the released files by its width."""


class CodiImporter(Importer):
    """One file of weights, over a base model."""

    name = "codi"
    looks_for = f"tensors {PREFIX}*.base_layer.weight and prj.1.weight, nothing of a second model"
    takes = frozenset({"lora_alpha", "first_added_id"})

    def recognises(self, source: Release) -> bool:
        """See Importer."""
        return source.has("prj.1.weight") and not has_decoder(source) and is_wrapper(source)

    def base_id(self, source: Release) -> str | None:
        """See Importer; the file does not say of which model it is, but its width does."""
        return BASES.get(source.matrix("prj.1.weight")[1], "")

    def read(self, source: Release, base: Base | None, options: ImportConfig) -> Recipe:
        """See Importer."""
        return read_codi(source, base, options, method="codi")


def is_wrapper(source: Release) -> bool:
    """Whether the adapted language model of CODI's wrapper is there."""
    return any(name.startswith(PREFIX) and ".base_layer." in name for name in source.names)


def has_decoder(source: Release) -> bool:
    """Whether the second model of SIM-CoT is there."""
    return any(name.startswith(("decoder.", "pj_in.", "pj_out.")) for name in source.names)


def read_codi(source: Release, base: Base | None, options: ImportConfig, *, method: str) -> Recipe:
    """The wrapper's language model and projection; what else the source holds is to be dropped by the caller."""
    assert base is not None
    rows = rows_of(source, PREFIX)[1]
    config, first = with_rows(base.config, rows), options.first_added_id
    pad = rows - 3 if first is None else first
    add_tokens(base.tokenizer, {"[PAD]": pad, MARKERS[0]: pad + 1, MARKERS[1]: pad + 2}, source, rows)
    alpha = ALPHA if options.lora_alpha is None else options.lora_alpha

    assembly = Assembly(source)
    untie(assembly, source, PREFIX, config)
    conv = GPT2_CONV if config.model_type == "gpt2" else ()
    rank = assembly.adapt(PREFIX, alpha, conv)
    for theirs, ours in HEADS.items():
        for part in ("weight", "bias"):
            assembly.copy(f"projection.{ours}.{part}", f"prj.{theirs}.{part}", head=True)

    stated = "default of the authors' scripts" if options.lora_alpha is None else "imported.lora_alpha"
    settings = {
        "method.num_latents": Setting(NUM_LATENTS, "default of the authors' test script; the file does not store it"),
        "method.projection_size": Setting(source.matrix("prj.1.weight")[0], "shape of prj.1.weight"),
        "model.layout": Setting("answer_sentence", "prompt and answer of the authors' test script"),
        "model.markers": Setting(MARKERS, f"ids {pad + 1} and {pad + 2}, which have no text in the release"),
        "model.chat_template": Setting(False, "the authors' test script uses none"),
        "model.dtype": stored_dtype(assembly),
        "generate.max_new_tokens": Setting(256, "authors' test script"),
        "generate.temperature": Setting(0.0, "authors' test script: greedy"),
    }
    return Recipe(
        method=method,
        settings=settings,
        config=config,
        tokenizer=base.tokenizer,
        generation=GenerationConfig(eos_token_id=base.tokenizer.eos_token_id, suppress_tokens=[pad + 2]),
        assembly=assembly,
        notes=(
            f"adapters of rank {rank} are merged with scale {alpha:g} / {rank} ({stated})",
            f"pad, begin and end of thought are ids {pad}, {pad + 1} and {pad + 2}",
            "every pass is masked here; in the authors' batches questions attend to the padding before them",
            "for the authors' scorer evaluate with --set task.scorer=last_number",
        ),
    )


IMPORTER = CodiImporter()
