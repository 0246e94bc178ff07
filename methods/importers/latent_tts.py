"""LatentTTS's folders of Coconut, CODI and CoLaR: Hugging Face folders of classes of their own
(ModalityDance/latent-tts-coconut, -codi and -colar; ModalityDance/LatentTTS@6657f20).

    transformer.* or model.*                       the language model, adapters merged, added tokens in the tokenizer
    projector.1, .3, .4                            CODI's projection (src/models/codi.py:41-47)
    lt_head.fc.0, .2, .3, mean                     CoLaR's latent head, deterministic (src/models/colar.py:20-37)

`AutoModelForCausalLM` loads such a folder and drops the projection or the latent head with a warning alone.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from latbench.config import ImportConfig
from latbench.importer import (
    Assembly,
    Base,
    Importer,
    Recipe,
    Release,
    Setting,
    folder_model,
    special_id,
    stored_dtype,
    untie,
)
from methods.importers.colar import MARKER, latent_head

MARKERS = ("<|start-latent|>", "<|end-latent|>")
METHODS = {"COCONUTGPT2": "coconut", "CODIGPT2": "codi", "ColarLlama": "colar"}
"""Class in `config.json`, and our method."""
SCORERS = {"coconut": "after_hash", "codi": "last_number", "colar": "after_answer"}
"""How the authors of each method compare answers."""
PROJECTION = {"1": "0", "3": "2", "4": "3"}
"""Layers of the release's projector and ours."""
SCRIPTS = "authors' inference scripts"


class LatentTTSImporter(Importer):
    """A Hugging Face folder, known by the class in its `config.json`."""

    name = "latent_tts"
    looks_for = f"a folder whose config.json names one of {', '.join(METHODS)}"

    def recognises(self, source: Release) -> bool:
        """See Importer."""
        return any(name in METHODS for name in source.architectures)

    def read(self, source: Release, base: Base | None, options: ImportConfig) -> Recipe:
        """See Importer."""
        methods = [METHODS[name] for name in source.architectures if name in METHODS]
        if not methods:
            raise ValueError(
                f"config.json of {source.name} names none of {', '.join(METHODS)}; it is of another format"
            )
        config, tokenizer, generation = folder_model(source)
        assembly = Assembly(source)
        assembly.drop_buffers()
        untie(assembly, source, "", config)
        settings = SETTINGS[methods[0]](assembly, tokenizer)
        assembly.copy_rest(lambda name: name)
        shared = {
            "model.chat_template": Setting(False, SCRIPTS),
            "model.dtype": stored_dtype(assembly),
            "generate.temperature": Setting(0.0, f"{SCRIPTS}: greedy"),
        }
        return Recipe(
            method=methods[0],
            settings={**settings, **shared},
            config=config,
            tokenizer=tokenizer,
            generation=generation,
            assembly=assembly,
            notes=(f"for the authors' scorer evaluate with --set task.scorer={SCORERS[methods[0]]}",),
        )


def markers(source: Release, tokenizer: PreTrainedTokenizerBase) -> Setting:
    """The tokens that open and close the thought, which the tokenizer must have."""
    ids = [special_id(tokenizer, text, source) for text in MARKERS]
    return Setting(MARKERS, f"tokens {ids[0]} and {ids[1]} of its tokenizer")


def coconut(assembly: Assembly, tokenizer: PreTrainedTokenizerBase) -> dict[str, Setting]:
    """Six hidden states are fed back."""
    return {
        "method.latents_per_step": Setting(2, f"{SCRIPTS}: latent_length 6"),
        "method.max_stage": Setting(3, f"{SCRIPTS}: latent_length 6"),
        "model.layout": Setting("hash_answer", SCRIPTS),
        "model.markers": markers(assembly.source, tokenizer),
        "generate.max_new_tokens": Setting(512, SCRIPTS),
    }


def codi(assembly: Assembly, tokenizer: PreTrainedTokenizerBase) -> dict[str, Setting]:
    """Six projected hidden states are fed back."""
    source = assembly.source
    projects = any(name.startswith("projector.") for name in source.names)
    settings = {
        "method.num_latents": Setting(6, f"{SCRIPTS}: latent_length 6"),
        "method.projection": Setting(projects, f"projector.* is {'there' if projects else 'absent'}"),
        "model.layout": Setting("answer_sentence", SCRIPTS),
        "model.markers": markers(source, tokenizer),
        "generate.max_new_tokens": Setting(512, SCRIPTS),
    }
    if projects:
        for theirs, ours in PROJECTION.items():
            for part in ("weight", "bias"):
                assembly.copy(f"projection.{ours}.{part}", f"projector.{theirs}.{part}", head=True)
        size = source.matrix("projector.1.weight")[0]
        settings["method.projection_size"] = Setting(size, "shape of projector.1.weight")
    return settings


def colar(assembly: Assembly, tokenizer: PreTrainedTokenizerBase) -> dict[str, Setting]:
    """Latents of a deterministic head until ### is the likeliest token."""
    scale = assembly.source.config.get("latent_embedding_std")
    if not isinstance(scale, float) or scale <= 0:
        raise ValueError(f"config.json of {assembly.source.name} has no latent_embedding_std; fetch it anew")
    return {
        **latent_head(assembly, "lt_head.", scale, "latent_embedding_std of config.json"),
        "method.test_speed": Setting(2, SCRIPTS),
        "model.layout": Setting("question_answer_joined", SCRIPTS),
        "model.markers": Setting((MARKER, MARKER), SCRIPTS),
        "generate.max_latents": Setting(64, SCRIPTS),
        "generate.max_new_tokens": Setting(128, SCRIPTS),
    }


SETTINGS = {"coconut": coconut, "codi": codi, "colar": colar}
IMPORTER = LatentTTSImporter()
