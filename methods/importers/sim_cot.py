"""SIM-CoT on Coconut: Coconut's checkpoint with a second language model beside it (internlm/SIM_COT-GPT2-Coconut,
`checkpoint_28`; arXiv:2509.20317, InternLM/SIM-CoT@f3ae967 Coconut/coconut.py:283-284).

    expainable_llm.*        the helper that learns to say what a latent means, spelt so; inference does without it

All else is as in `coconut`. The released file has c = 2 latents for each of S = 5 steps; a run that was resumed at
another epoch has fewer, which the file does not say.
"""

from __future__ import annotations

from dataclasses import replace

from latbench.config import ImportConfig
from latbench.importer import Base, Importer, Recipe, Release, Setting
from methods.importers.coconut import CoconutImporter, is_wrapper, read_coconut

HELPER = "expainable_llm."
RELEASED = "checkpoint_28"
ORIGIN = "the authors' run of checkpoint_28, whose file does not store it"


class SimCotImporter(Importer):
    """One torch.save file with two language models, over a base model."""

    name = "sim_cot"
    looks_for = f"tensors base_causallm.* and {HELPER}*"
    takes = frozenset({"first_added_id"})

    def recognises(self, source: Release) -> bool:
        """See Importer."""
        return is_wrapper(source) and any(name.startswith(HELPER) for name in source.names)

    def base_id(self, source: Release) -> str | None:
        """See Importer."""
        return CoconutImporter().base_id(source)

    def read(self, source: Release, base: Base | None, options: ImportConfig) -> Recipe:
        """See Importer."""
        recipe = read_coconut(source, base, options, method=self.name)
        recipe.assembly.drop_all(HELPER, "the helper model of training")
        if source.path.name != RELEASED:
            return recipe
        stages = {"method.latents_per_step": Setting(2, ORIGIN), "method.max_stage": Setting(5, ORIGIN)}
        return replace(recipe, settings={**recipe.settings, **stages}, required={})


IMPORTER = SimCotImporter()
