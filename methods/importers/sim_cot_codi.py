"""SIM-CoT on CODI: CODI's wrapper with a second language model beside it (internlm/SIM_COT-LLaMA3-CODI-1B and -3B,
internlm/SIM_COT-GPT2-CODI; arXiv:2509.20317, InternLM/SIM-CoT@f3ae967 CODI/src/model.py:305-334).

    decoder.*, pj_in.*, pj_out.*    the helper that writes a latent's step, and projections to and from it

All else is as in `codi`: the files have no configuration (`config.json` is of 0 bytes) and no tokenizer. The larger
ones are sharded. Some have more added rows than three; pad, begin and end of thought are taken to be the last three,
and `imported.first_added_id` says otherwise. The released 8B file answers far below its paper with the loop that
reproduces the smaller ones (InternLM/SIM-CoT issue 15).
"""

from __future__ import annotations

from dataclasses import replace

from latbench.config import ImportConfig
from latbench.importer import Base, Importer, Recipe, Release
from methods.importers.codi import BASES, has_decoder, is_wrapper, read_codi

HELPERS = {
    "decoder.": "the helper model of training",
    "pj_in.": "projection to the helper model of training",
    "pj_out.": "projection from the helper model of training",
}


class SimCotCodiImporter(Importer):
    """One file or shards with two language models, over a base model."""

    name = "sim_cot_codi"
    looks_for = "tensors of codi with decoder.*, pj_in.* or pj_out.*"
    takes = frozenset({"lora_alpha", "first_added_id"})

    def recognises(self, source: Release) -> bool:
        """See Importer."""
        return source.has("prj.1.weight") and is_wrapper(source) and has_decoder(source)

    def base_id(self, source: Release) -> str | None:
        """See Importer."""
        return BASES.get(source.matrix("prj.1.weight")[1], "")

    def read(self, source: Release, base: Base | None, options: ImportConfig) -> Recipe:
        """See Importer."""
        recipe = read_codi(source, base, options, method=self.name)
        for prefix, reason in HELPERS.items():
            recipe.assembly.drop_all(prefix, reason)
        note = "if the accuracy is near 0, begin and end of thought are other rows: try --set imported.first_added_id=N"
        return replace(recipe, notes=(*recipe.notes, note))


IMPORTER = SimCotCodiImporter()
