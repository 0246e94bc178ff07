"""CoLaR's Lightning checkpoints: adapters and a latent head, without the base model (AlbertTan/CoLaR and own runs;
arXiv:2505.16552, xiaomi-research/colar@4b6ae9a).

    llm.base_model.model.<name>.lora_A.default / lora_B.default   adapters (model_base.py:133-138 saves what is trained)
    latent_policy.fc.0, .2, .3, mean, log_std                    the latent head (projector.py:16-36)

The base model is named in `hparams.yaml`, two folders up, as `model_id`. The row of `[PAD]`, which the authors add and
never train, is not stored and is left out here. The authors keep the scale of a latent in a table by base model
(constants.py).
"""

from __future__ import annotations

import re
from pathlib import Path

from transformers import GenerationConfig

from latbench.config import ImportConfig
from latbench.importer import GPT2_CONV, Assembly, Base, Importer, Recipe, Release, Setting, stored_dtype

PREFIX = "llm.base_model.model."
SUFFIX = ".default.weight"
HEAD = "latent_policy."
LAYERS = {"fc.0": "mlp.0", "fc.2": "mlp.2", "fc.3": "mlp.3", "mean": "mean", "log_std": "log_std"}
"""Layers of the release's latent head and ours; `log_std` only of one that is not deterministic."""
ALPHA = 32.0
MARKER = "###"
HPARAMS = "hparams.yaml"
MAX_HPARAMS_CHARS = 1 << 20
MODEL_ID = re.compile(r"^\s*model_id:\s*['\"]?([^\s'\"]+)", re.MULTILINE)
SCALES = {
    "DeepSeek-R1-Distill-Qwen-1.5B": ("deepseek-ai/", 0.03),
    "Llama-3.2-1B-Instruct": ("meta-llama/", 0.018),
    "Llama-3.2-3B-Instruct": ("meta-llama/", 0.018),
    "Llama-3.1-8B-Instruct": ("meta-llama/", 0.008),
    "gpt2": ("openai-community/", 0.12),
}
"""Owner on the Hub and scale of a latent, by the base model's name (constants.py)."""


class ColarImporter(Importer):
    """One .ckpt file, over a base model."""

    name = "colar"
    looks_for = f"tensors {PREFIX}*.lora_A{SUFFIX} and {HEAD}*"
    takes = frozenset({"lora_alpha"})
    needs_base_weights = True

    def recognises(self, source: Release) -> bool:
        """See Importer."""
        return source.has(f"{HEAD}mean.weight") and any(name.startswith(PREFIX) for name in source.names)

    def base_id(self, source: Release) -> str | None:
        """See Importer; `model_id` of hparams.yaml."""
        path = hparams(source)
        if path is None:
            return ""
        with path.open(encoding="utf-8", errors="replace") as file:
            found = MODEL_ID.search(file.read(MAX_HPARAMS_CHARS))
        if found is None:
            return ""
        owner, _ = SCALES.get(Path(found.group(1)).name, ("", 0))
        return found.group(1) if "/" in found.group(1) else owner + found.group(1)

    def read(self, source: Release, base: Base | None, options: ImportConfig) -> Recipe:
        """See Importer."""
        assert base is not None
        alpha = ALPHA if options.lora_alpha is None else options.lora_alpha
        assembly = Assembly(source)
        conv = GPT2_CONV if base.config.model_type == "gpt2" else ()
        rank = assembly.adapt_base(base, PREFIX, SUFFIX, alpha, conv)
        named = self.base_id(source) or base.id
        scale = next((scale for name, (_, scale) in SCALES.items() if Path(named).name == name), None)
        settings = {
            **latent_head(assembly, HEAD, scale, "constants.py of the authors, by base model"),
            "method.test_speed": Setting(5, "the paper's main row, CoLaR-5; generate.method.thinking_speed wins"),
            "model.layout": Setting("question_answer", "prompt and answer of the authors' code"),
            "model.markers": Setting((MARKER, MARKER), "ordinary token in the authors' code, of both sides"),
            "model.chat_template": Setting(False, "the authors' code uses none"),
            "model.dtype": stored_dtype(assembly),
            "generate.max_latents": Setting(64, "authors' configuration (128 for MATH)"),
            "generate.max_new_tokens": Setting(16, "authors' configuration"),
            "generate.method.latent_noise": Setting(1.0, "authors' configuration: latents are drawn at temperature 1"),
            "generate.temperature": Setting(1.0, "authors' configuration: answers are sampled"),
            "generate.top_p": Setting(0.9, "authors' configuration"),
        }
        path = hparams(source)
        return Recipe(
            method="colar",
            settings=settings,
            config=base.config,
            tokenizer=base.tokenizer,
            generation=GenerationConfig(eos_token_id=base.tokenizer.eos_token_id),
            assembly=assembly,
            files=() if path is None else (path,),
            required={} if scale else {"method.embedding_scale": f"scale of a latent; no table has it for {named}"},
            notes=(
                f"adapters of rank {rank} are merged with scale {alpha:g} / {rank}",
                "the row of [PAD] is not stored, and left out",
                "the thought ends here where ### is the likeliest token; the authors draw that token",
                "for the authors' scorer evaluate with --set task.scorer=after_answer",
            ),
        )


def hparams(source: Release) -> Path | None:
    """The file of the run's settings, beside the checkpoint or up to two folders above; None: there is none."""
    folders = (source.folder, *source.folder.resolve().parents[:2])
    return next((folder / HPARAMS for folder in folders if (folder / HPARAMS).is_file()), None)


def latent_head(assembly: Assembly, prefix: str, scale: float | None, origin: str) -> dict[str, Setting]:
    """Take the latent head over, and say what follows from it.

    Args:
        prefix: of its tensors.
        scale: of a latent, None where only the user can say.
        origin: of the scale.
    """
    source = assembly.source
    spread = source.has(f"{prefix}log_std.weight")
    for theirs, ours in LAYERS.items():
        if ours == "log_std" and not spread:
            continue
        for part in ("weight", "bias"):
            assembly.copy(f"latent.{ours}.{part}", f"{prefix}{theirs}.{part}", head=True)
    assembly.numbers["latent.scale"] = "method.embedding_scale"
    settings = {
        "method.head_size": Setting(source.matrix(f"{prefix}fc.0.weight")[0], f"shape of {prefix}fc.0.weight"),
        "method.latent_loss": Setting(
            "soft_mse" if spread else "mse",
            f"{prefix}log_std is {'there' if spread else 'absent: it is deterministic'}",
        ),
    }
    if scale is not None:
        settings["method.embedding_scale"] = Setting(scale, origin)
    return settings


IMPORTER = ColarImporter()
