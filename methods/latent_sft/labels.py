"""Soft labels: the encoder's latents of every training chain, on disk between stage 1 and stage 2."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from latbench.decoding.sampling import gumbel
from latbench.decoding.superposition import with_gumbel
from latbench.task import Example
from latbench.util.progress import progress
from methods.latent_sft.condenser import Condenser, Latents
from methods.latent_sft.sequences import encoder_tokens
from methods.latent_sft.soft_labels import LabelWriter, SoftLabels, fingerprint_of_tensors, fingerprint_of_texts

BLOCK = 1024  # rows encoded in order of length and written in order of the data
BATCH = 64
MAX_REDRAWS = 100
SCALE_ROWS = 4096  # rows whose states give the spread of each dimension; their standard error is below 1 %
# settings that make the labels; others may change without touching them
MADE_BY = (
    "tokens_per_latent", "top_k", "latent_space", "scores", "temperature", "target_entropy", "induction_mask",
)  # fmt: skip


class StoredLabels:
    """Soft labels of a training set, memory-mapped.

    Args:
        examples: in the order of the labels.
    """

    def __init__(self, labels: SoftLabels, examples: Sequence[Example]) -> None:
        self.labels = labels
        self.row_of = {example.id: row for row, example in enumerate(examples)}
        if not len(self.row_of) == len(examples) == len(labels):
            raise ValueError(
                f"{len(examples)} training examples have {len(self.row_of)} different ids and {len(labels)} soft "
                "labels; ids must be unique within a split"
            )
        self.scale = self._scale() if "states" in labels.row(0) else torch.ones(1)

    @classmethod
    def write(cls, method: Condenser, examples: Sequence[Example], folder: Path) -> StoredLabels:
        """Encode every chain, or take up what an interrupted session has left; finished labels are only opened.

        Raises: ValueError: the labels in `folder` were made with other settings, weights or data.
        """
        fingerprint = {
            **{name: value for name, value in asdict(method.config).items() if name in MADE_BY},
            "precision": method.precision,
            "model": fingerprint_of_tensors(sorted(_model_tensors(method).items())),
            "data": fingerprint_of_texts(_ids(method, example) for example in examples),
        }
        if not SoftLabels.is_finished(folder):
            _encode_all(method, examples, folder, fingerprint)
        return cls(SoftLabels.open(folder, fingerprint), examples)

    def of(self, examples: Sequence[Example]) -> tuple[Latents, Tensor]:
        """Latents of these examples, and their number in each: (batch,)."""
        rows = [self.labels.row(self.row_of[example.id]) for example in examples]
        counts = torch.tensor([len(next(iter(row.values()))) for row in rows])
        parts = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        if "states" in parts:
            return Latents(parts["states"]), counts
        weights = parts["probabilities"]
        weights = weights / weights.sum(-1, keepdim=True)  # float16 has rounded them
        return Latents(torch.empty(0), parts.get("ids"), weights), counts

    def _scale(self) -> Tensor:
        """(hidden,) standard deviation of the stored states."""
        rows = range(min(SCALE_ROWS, len(self.labels)))
        return torch.cat([self.labels.row(row)["states"] for row in rows]).std(0).clamp(min=1e-6)


def noisy_weights(
    weights: Tensor, ids: Tensor | None, row: Tensor, keys: Tensor, *, scale: float, temperature: float, close: int
) -> Tensor:
    """Gumbel noise on soft labels (stage 2 of DJC-GO-SOLO/Latent-SFT@f361814); input and target of stage 2 share it.

    Where the largest weight of some latent falls on the close marker, the whole row is drawn again, since the latent
    would read as the end of thought.

    Args:
        weights: (latents, top_k).
        ids: of that shape, None for the whole vocabulary.
        row: (latents,) which row a latent belongs to, ascending.
        keys: (rows,) of the random generator.
        close: first id of the close marker.
    """
    first = torch.searchsorted(row, row)
    step = torch.arange(len(row)) - first  # number of the latent within its row
    result, again = weights.clone(), torch.ones(len(row), dtype=torch.bool)
    for draw in range(MAX_REDRAWS):
        noise = gumbel(keys[row[again]], step[again], draw, weights.shape[-1])
        result[again] = with_gumbel(weights[again], noise, scale=scale, temperature=temperature)
        top = result.argmax(-1, keepdim=True)
        closes = (top if ids is None else ids.gather(-1, top))[:, 0] == close
        again = torch.isin(row, row[closes])
        if not again.any():
            return result
    warnings.warn(
        f"{int(torch.isin(torch.arange(len(keys)), row[again]).sum())} rows read as the end of thought in "
        f"{MAX_REDRAWS} draws of noise and are used as they are; lower method.noise",
        stacklevel=2,
    )
    return result


def _ids(method: Condenser, example: Example) -> tuple[str, ...]:
    """What is encoded of an example: the tokens, hence layout and tokenizer too."""
    pieces = method.backbone.layout.encode(example)
    return (example.id, *map(str, (*pieces.prompt, *pieces.steps, *pieces.close)))


def _model_tensors(method: Condenser) -> dict[str, Tensor]:
    """What the labels are a function of: the encoder, and the decoder's tables that score and mix."""
    model = method.backbone.model
    tables = {"table": model.get_input_embeddings().weight, "head": model.get_output_embeddings().weight}
    return {**method.encoder.state_dict(), **tables}


@torch.no_grad()
def _encode_all(method: Condenser, examples: Sequence[Example], folder: Path, fingerprint: dict[str, object]) -> None:
    method.eval()  # the trainer turns training on again, step by step
    writer = LabelWriter(folder, _fields(method), fingerprint)
    with progress("soft labels", total=len(examples), done=writer.num_rows) as advance:
        # from the start of a block, whatever a killed session has left of it: batches, and so roundings, stay the same
        for start in range(writer.num_rows // BLOCK * BLOCK, len(examples), BLOCK):
            rows = encode_chains(method, examples[start : start + BLOCK])[writer.num_rows - start :]
            writer.add(rows)
            advance(len(rows))
    writer.finish()


def _fields(method: Condenser) -> dict[str, tuple[int, str]]:
    """Field -> width and type of one label; about 6 bytes per entry of a superposition."""
    vocab, k = method.backbone.model.get_input_embeddings().weight.shape[0], method.config.top_k
    if method.config.latent_space == "hidden":
        return {"states": (method.backbone.hidden_size, "float16")}
    if k is None or k >= vocab:
        return {"probabilities": (vocab, "float16")}
    return {"ids": (k, "int32"), "probabilities": (k, "float16")}


def encode_chains(
    method: Condenser, examples: Sequence[Example], cuts: Sequence[Sequence[int]] | None = None
) -> list[dict[str, Tensor]]:
    """One row of labels per example; batches hold examples of similar length. cuts: see `encoder_tokens`."""
    r = method.config.tokens_per_latent
    pieces = [method.backbone.layout.encode(example) for example in examples]
    order = sorted(range(len(pieces)), key=lambda row: len(pieces[row]))
    rows: dict[int, dict[str, Tensor]] = {}
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        bounds = None if cuts is None else [cuts[row] for row in chosen]
        tokens = encoder_tokens([pieces[row] for row in chosen], r, bounds)
        with method.autocast():
            latents = method.latents(tokens.to(method.backbone.device)).to("cpu")
        counts = tokens.is_latent.sum(1).tolist()
        parts = {
            "ids": latents.ids,
            "probabilities": latents.weights,
            "states": latents.embeds if latents.weights is None else None,
        }
        split = {name: part.split(counts) for name, part in parts.items() if part is not None}
        for position, row in enumerate(chosen):
            rows[row] = {name: part[position] for name, part in split.items()}
    return [rows[row] for row in range(len(examples))]
