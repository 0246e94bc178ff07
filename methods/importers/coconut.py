"""Coconut's checkpoints: a torch.save file of the wrapper's state dictionary (arXiv:2412.06769,
facebookresearch/coconut@27273cb).

    base_causallm.<name>    the language model, three rows of added tokens at its end (run.py:126-152)
    embedding.weight        the input embeddings once more (coconut.py:35)

Runs under FSDP or DDP put their prefixes before the names. Configuration and tokenizer are the base model's; the added
tokens are, in this order, begin of thought, end of thought and latent (run.py:106-108). How many latents a checkpoint
was trained with follows from its epoch and is not stored.
"""

from __future__ import annotations

from transformers import GenerationConfig

from latbench.config import ImportConfig
from latbench.importer import (
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

PREFIX = "base_causallm."
MARKERS = ("<|start-latent|>", "<|end-latent|>")
LATENT = "<|latent|>"
BASES = {768: "openai-community/gpt2", 2048: "meta-llama/Llama-3.2-1B-Instruct"}
"""Usual base model by its width."""
UNSAID = {
    "method.latents_per_step": "c_thought of the run's yaml file; 2 for GSM8K, 1 for ProsQA",
    "method.max_stage": "the stage reached, min((N - 1) // epochs_per_stage, max_latent_stage) for checkpoint_N",
}


class CoconutImporter(Importer):
    """One torch.save file, over a base model."""

    name = "coconut"
    looks_for = f"tensors {PREFIX}* without those of a second model"
    takes = frozenset({"first_added_id"})

    def recognises(self, source: Release) -> bool:
        """See Importer."""
        return is_wrapper(source) and not any(name.startswith("expainable_llm.") for name in source.names)

    def base_id(self, source: Release) -> str | None:
        """See Importer."""
        return BASES.get(source.matrix(PREFIX + rows_of(source, PREFIX)[0])[1], "")

    def read(self, source: Release, base: Base | None, options: ImportConfig) -> Recipe:
        """See Importer."""
        return read_coconut(source, base, options, method="coconut")


def is_wrapper(source: Release) -> bool:
    """Whether the language model of Coconut's wrapper is there."""
    return any(name.startswith(PREFIX) for name in source.names)


def read_coconut(source: Release, base: Base | None, options: ImportConfig, *, method: str) -> Recipe:
    """The wrapper's language model; what else the source holds is to be dropped by the caller."""
    assert base is not None
    table, rows = rows_of(source, PREFIX)
    config = with_rows(base.config, rows)
    start = rows - 3 if options.first_added_id is None else options.first_added_id
    add_tokens(base.tokenizer, {MARKERS[0]: start, MARKERS[1]: start + 1, LATENT: start + 2}, source, rows)

    assembly = Assembly(source)
    assembly.drop_buffers()
    if source.has("embedding.weight"):
        assembly.drop_duplicate("embedding.weight", PREFIX + table)
    untie(assembly, source, PREFIX, config)
    assembly.copy_rest(lambda name: name.removeprefix(PREFIX) if name.startswith(PREFIX) else None)
    settings = {
        "model.layout": Setting("hash_answer", "prompt and answer of the authors' code"),
        "model.markers": Setting(MARKERS, f"names in the authors' code, ids {start} and {start + 1}"),
        "model.chat_template": Setting(False, "the authors' code uses none"),
        "model.dtype": stored_dtype(assembly),
        "generate.max_new_tokens": Setting(64, "authors' code, for GSM8K (128 for the other tasks)"),
        "generate.temperature": Setting(0.0, "authors' code: greedy"),
    }
    return Recipe(
        method=method,
        settings=settings,
        config=config,
        tokenizer=base.tokenizer,
        generation=GenerationConfig(eos_token_id=base.tokenizer.eos_token_id),
        assembly=assembly,
        required=UNSAID,
        notes=(
            f"begin, end and latent token are ids {start}, {start + 1} and {start + 2}",
            "for the authors' scorer evaluate with --set task.scorer=after_hash",
        ),
    )


IMPORTER = CoconutImporter()
