"""What every importer of a released checkpoint implements: does it know this source, and what is in it.

An importer is one file in `methods/importers/`. It reads names, shapes and configuration files alone and returns a
`Recipe`: the method with its settings and where each came from, configuration and tokenizer of the model, and for every
tensor of the model and of the method's heads the source tensors that it is made of. `latbench/runs/importing.py` checks
that nothing is left over on either side and writes the run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from transformers import AutoConfig, GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from latbench.config import ImportConfig
from latbench.model.loading import _tokenizer as load_tokenizer
from latbench.model.source import check_config, read_json
from latbench.model.tensor_files import TensorFiles
from latbench.model.weights import Account

T = TypeVar("T")
Compute = Callable[..., Tensor]
Shapes = Mapping[str, tuple[int, ...]]

WRAPPERS = ("module.", "_fsdp_wrapped_module.", "_orig_mod.")
"""What DDP, FSDP and torch.compile put into the names of a model's parameters."""
EMBEDDINGS = (
    "transformer.wte.weight",
    "model.embed_tokens.weight",
)
"""Names of the input embeddings in the two families of models that releases have."""
BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
"""Ends of names of tensors that are no weights: older releases of transformers stored masks and frequencies."""
GPT2_BARE = ("wte.", "wpe.", "h.", "ln_f.")
"""Beginnings of the names in GPT-2's own files."""


@dataclass(frozen=True)
class Source:
    """A released checkpoint on disk."""

    name: str
    """What the user called it, a Hub id or a path."""
    path: Path
    """A file, or the folder."""
    tensors: TensorFiles
    """Its weights."""
    revision: str | None = None
    """Commit of a Hub id."""

    @property
    def folder(self) -> Path:
        """Where its other files lie."""
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json` of a folder; empty where there is none or it is of 0 bytes.

        Raises: ValueError: it is damaged.
        """
        path = self.folder / "config.json"
        return read_json(path) if self.path.is_dir() and path.is_file() and path.stat().st_size else {}

    @property
    def architectures(self) -> list[str]:
        """Class names in `config.json`."""
        return [str(name) for name in self.config.get("architectures") or []]

    @cached_property
    def names(self) -> dict[str, str]:
        """Tensor names without the prefixes of wrappers, each with the name in the file.

        Raises: ValueError: two tensors have one name without them.
        """
        plain: dict[str, str] = {}
        for name in self.tensors.by_name:
            short = name
            for wrapper in WRAPPERS:
                short = short.removeprefix(wrapper) if wrapper == "module." else short.replace(wrapper, "")
            if short in plain:
                raise ValueError(f"{self.name} holds both {plain[short]} and {name}, which are one tensor; remove one")
            plain[short] = name
        return plain

    def has(self, *names: str) -> bool:
        """Whether tensors of these names are there, wrappers' prefixes aside."""
        return all(name in self.names for name in names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor by its name without wrappers' prefixes. Raises: ValueError: there is none of that name."""
        if name not in self.names:
            raise ValueError(f"{self.name} lacks {name}; it is no whole checkpoint of this format, fetch it anew")
        return self.tensors.shapes[self.names[name]]


@dataclass(frozen=True)
class Base:
    """The pretrained model that a release was trained from."""

    id: str
    """What the user called it, a Hub id or a path."""
    folder: Path
    """Its files on disk."""
    revision: str | None = None
    """Commit of a Hub id."""

    @cached_property
    def config(self) -> PretrainedConfig:
        """Its configuration."""
        return _config(self.folder, self.id)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        return _tokenizer(self.folder, self.id)

    @cached_property
    def tensors(self) -> TensorFiles:
        """Its weights. Raises: ValueError: there are none."""
        return TensorFiles.open(self.folder)

    @cached_property
    def weights(self) -> dict[str, str]:
        """Names in its files by those that a causal LM gives them; buffers are left out. The files of GPT-2 leave the
        causal LM's prefix out."""
        bare = {name: f"transformer.{name}" if name.startswith(GPT2_BARE) else name for name in self.tensors.by_name}
        return {target: name for name, target in bare.items() if not target.endswith(BUFFERS)}


@dataclass(frozen=True)
class Piece:
    """One tensor of the run, and what it is made of."""

    shape: tuple[int, ...]
    parts: tuple[tuple[TensorFiles, str], ...]
    """Source tensors, in the order in which `compute` takes them."""
    compute: Compute | None = None
    """Makes it of the parts; None: it is the one part as it is."""
    computed: bool = False
    """It is the result of arithmetic, in float32."""

    @property
    def dtype(self) -> torch.dtype | None:
        """Number format that it comes in."""
        if self.computed or not self.parts:
            return torch.float32
        files, name = self.parts[0]
        return files.dtypes[name]


@dataclass
class Assembly:
    """What every tensor of the run is made of; names of the source are without the prefixes of wrappers."""

    source: Source
    pieces: dict[str, Piece] = field(default_factory=dict)
    """Tensors of the language model by their names in transformers."""
    heads: dict[str, Piece] = field(default_factory=dict)
    """Tensors of the method's own modules by their names in `Method.heads`."""
    dropped: dict[str, str] = field(default_factory=dict)
    """Source tensors that are left out, each with the reason."""
    numbers: dict[str, str] = field(default_factory=dict)
    """Tensors of heads that are one number of the run's configuration, each with its dotted key."""
    equal: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of source tensors that must hold the same numbers."""

    def copy(self, target: str, name: str, *, head: bool = False) -> None:
        """A tensor as it is in the source."""
        where = self.heads if head else self.pieces
        where[target] = Piece(self.source.shape(name), ((self.source.tensors, self.source.names[name]),))

    def merge(self, target: str, weight: tuple[TensorFiles, str], a: str, b: str, scale: float, *, conv: bool) -> None:
        """A weight with its low-rank update: W + scale B A, transposed where the layer keeps W as (in, out).

        Args:
            weight: W; a, b: A (r, in) and B (out, r) in the source; scale: alpha / r.
        Raises: ValueError: the three do not fit each other.
        """
        low, high, shape = self.source.shape(a), self.source.shape(b), weight[0].shapes[weight[1]]
        update = (low[-1], high[0]) if conv else (high[0], low[-1])
        if len(low) != 2 or len(high) != 2 or low[0] != high[1] or shape != update:
            raise ValueError(
                f"{self.source.name}: {a} {low} and {b} {high} do not fit the weight {weight[1]} {shape}; "
                "the adapter is of another base model, give the right one with --base"
            )
        files = self.source.tensors
        self.pieces[target] = Piece(
            shape,
            (weight, (files, self.source.names[a]), (files, self.source.names[b])),
            partial(merged, scale=scale, conv=conv),
            computed=True,
        )

    def adapt(self, prefix: str, alpha: float, conv: Collection[str] = ()) -> int:
        """Merge a wrapped model that stores each adapted layer as `base_layer` beside its A and B, and copy the rest.

        Args:
            prefix: of all its names, in front of those of transformers.
            alpha: numerator of the scale, whose denominator is the rank of A.
            conv: last names of layers that keep W as (in, out), as GPT-2's do.
        Returns: the rank of the adapters, 0 where there is none.
        """
        rank = 0
        for name in [name for name in self.source.names if name.startswith(prefix) and name not in self.dropped]:
            target = name.removeprefix(prefix)
            layer, base, last = target.rpartition(".base_layer.")
            if base and last == "weight":
                a, b = (f"{prefix}{layer}.lora_{part}.default.weight" for part in "AB")
                rank = self.source.shape(a)[0]
                weight = (self.source.tensors, self.source.names[name])
                self.merge(f"{layer}.weight", weight, a, b, alpha / rank, conv=layer.rpartition(".")[2] in conv)
            elif ".lora_" not in target:
                self.copy(f"{layer}.{last}" if base else target, name)
        return rank

    def adapt_base(self, base: Base, prefix: str, suffix: str, alpha: float, conv: Collection[str] = ()) -> int:
        """Merge adapters whose base model is not in the source, and copy the base's other weights.

        Args:
            prefix, suffix: around the name of a layer with its `lora_A` or `lora_B`, such as `base_model.model.` and
                `.weight`; alpha, conv: as in `adapt`.
        Returns: the rank of the adapters.
        Raises: ValueError: there are none, the base lacks an adapted layer, or has others of the same kind.
        """
        weights, adapted_layers, rank = base.weights, set[str](), 0
        for name in [name for name in self.source.names if name.startswith(prefix)]:
            layer, adapted, last = name.removeprefix(prefix).rpartition(".lora_A")
            if not adapted or last != suffix:
                continue
            if f"{layer}.weight" not in weights:
                raise ValueError(
                    f"{self.source.name} adapts {layer}, which {base.id} has not; give its base model with --base"
                )
            rank = self.source.shape(name)[0]
            adapted_layers.add(layer)
            weight = (base.tensors, weights[f"{layer}.weight"])
            b = f"{prefix}{layer}.lora_B{suffix}"
            self.merge(f"{layer}.weight", weight, name, b, alpha / rank, conv=layer.rpartition(".")[2] in conv)
        for target, name in weights.items():
            tied = target == "lm_head.weight" and base.config.tie_word_embeddings
            if target not in self.pieces and not tied:
                self.pieces[target] = Piece(base.tensors.shapes[name], ((base.tensors, name),))
        kinds = {_kind(layer) for layer in adapted_layers}
        like = [name.removesuffix(".weight") for name in weights if _kind(name.removesuffix(".weight")) in kinds]
        if bare := [layer for layer in like if layer not in adapted_layers]:
            raise ValueError(
                f"{self.source.name} adapts {len(adapted_layers)} of {len(like)} such layers of {base.id}, not "
                f"{', '.join(bare[:5])}; give its base model with --base"
            )
        if not rank:
            raise ValueError(f"{self.source.name} holds no adapters ({prefix}*.lora_A{suffix}); fetch it anew")
        return rank

    def drop(self, name: str, reason: str) -> None:
        """Leave a source tensor out."""
        self.dropped[name] = reason

    def drop_duplicate(self, name: str, of: str) -> None:
        """Leave a source tensor out that must equal another one."""
        self.drop(name, f"equals {of}")
        self.equal.append((name, of))

    def drop_all(self, prefix: str, reason: str) -> None:
        """Leave out all source tensors whose names begin with `prefix`."""
        for name in self.source.names:
            if name.startswith(prefix):
                self.drop(name, reason)

    def drop_buffers(self) -> None:
        """Leave out masks and frequencies, which the model computes itself."""
        for name in self.source.names:
            if name.endswith(BUFFERS):
                self.drop(name, "a buffer that the model computes itself")

    def copy_rest(self, rename: Callable[[str], str | None]) -> None:
        """Copy every source tensor that is neither dropped nor used, under the name that `rename` gives it; None: it
        has no place, and stays unexpected."""
        used = self.used
        for name in self.source.names:
            if name not in used and (target := rename(name)) is not None:
                self.copy(target, name)

    @property
    def used(self) -> set[str]:
        """Names of source tensors that are used or dropped."""
        files = self.source.tensors
        parts = {
            name for piece in (*self.pieces.values(), *self.heads.values()) for where, name in piece.parts
            if where is files
        }  # fmt: skip
        return {short for short, name in self.source.names.items() if name in parts} | self.dropped.keys()

    def account(self, needed: Shapes, heads: Shapes, way_out: str) -> None:
        """Every tensor of model and heads is made of something, and every source tensor is used or dropped.

        Args:
            needed: shapes of the model's tensors; heads: of the method's; way_out: what the user can do.
        Raises: ValueError: names or shapes differ.
        """
        used = self.used
        left = [name for name in self.source.names if name not in used]
        found = {name: piece.shape for name, piece in (*self.pieces.items(), *self.heads.items())}
        wanted = {**needed, **heads}
        Account(
            missing=[name for name in wanted if name not in found],
            unexpected=[*(name for name in found if name not in wanted), *left],
            other_shape=[
                f"{name} ({list(found[name])} instead of {list(shape)})"
                for name, shape in wanted.items()
                if name in found and found[name] != shape
            ],
            not_float=[name for name, piece in (*self.pieces.items(), *self.heads.items()) if piece.dtype is None],
        ).refuse(self.source.name, way_out)


def merged(weight: Tensor, a: Tensor, b: Tensor, *, scale: float, conv: bool) -> Tensor:
    """W + scale B A in float32: (out, in), or (in, out) for `conv`."""
    update = b.float() @ a.float()
    return weight.float() + scale * (update.T if conv else update)


def _kind(layer: str) -> str:
    """A layer's name without the number of its block."""
    return ".".join("*" if part.isdigit() else part for part in layer.split("."))


@dataclass(frozen=True)
class Setting:
    """A value of the run's configuration, and where it came from."""

    value: Any
    origin: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that an importer knows of a source."""

    method: str
    """Registered name."""
    settings: Mapping[str, Setting]
    """Values of the run's configuration by dotted key; what is not here has its default."""
    config: PretrainedConfig
    """Of the model, with the number of rows that its embeddings have."""
    tokenizer: PreTrainedTokenizerBase
    """With the tokens that the release adds."""
    generation: GenerationConfig
    """Ids that end an answer, and those that cannot be said."""
    assembly: Assembly
    """The tensors."""
    files: tuple[Path, ...] = ()
    """Files that were read beside the weights and the usual texts of a model folder."""
    required: Mapping[str, str] = field(default_factory=dict)
    """Configuration keys that only the user can say, each with the reason."""
    notes: tuple[str, ...] = ()
    """What a user has to know: where decoding here differs from the authors', what could not be found out."""


class Importer(ABC):
    """Reads one format of released checkpoints; registered by its file in `methods/importers/`."""

    name: ClassVar[str]
    """As in `--format`; the file's name."""
    looks_for: ClassVar[str]
    """What a source of the format has, as a clause for the message about an unknown one."""

    needs_base_weights: ClassVar[bool] = False
    """The base model's weights are read, beside its configuration and tokenizer."""

    @abstractmethod
    def recognises(self, source: Source) -> bool:
        """Whether a source is of this format, by names, shapes and configuration alone."""

    def base_id(self, source: Source) -> str | None:
        """Hub id of the base model whose configuration, tokenizer or weights the format needs; None: it needs none.

        A source that does not say of which base it is gives "" instead.
        """
        return None

    @abstractmethod
    def read(self, source: Source, base: Base | None, options: ImportConfig) -> Recipe:
        """What is in the source.

        Args:
            base: what `base_id` asked for.
            options: what the user said of it: `lora_alpha`, `first_added_id`.
        Raises: ValueError: it is not whole, or something is missing that only the user can say.
        """


def rows_of(source: Source, prefix: str = "") -> tuple[str, int]:
    """Name of the input embeddings without `prefix`, and their number of rows.

    Raises: ValueError: there are none.
    """
    for name in EMBEDDINGS:
        if source.has(prefix + name):
            return name, source.shape(prefix + name)[0]
    raise ValueError(f"{source.name} lacks {prefix}{EMBEDDINGS[0]} and {prefix}{EMBEDDINGS[1]}; fetch it anew")


def folder_model(source: Source) -> tuple[PretrainedConfig, PreTrainedTokenizerBase, GenerationConfig]:
    """Configuration, tokenizer and generation settings of a Hugging Face folder.

    Raises: ValueError: one of the first two is missing or damaged, or asks for too many layers.
    """
    config = _config(source.folder, source.name)
    if (source.folder / "generation_config.json").is_file():
        generation = _read(lambda: GenerationConfig.from_pretrained(source.folder), "generation settings", source.name)
    else:
        generation = GenerationConfig.from_model_config(config)
    return config, _tokenizer(source.folder, source.name), generation


def source_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer of a source's folder. Raises: ValueError: absent or damaged."""
    return _tokenizer(source.folder, source.name)


def _config(folder: Path, name: str) -> PretrainedConfig:
    check_config(folder)
    return _read(lambda: AutoConfig.from_pretrained(folder, trust_remote_code=False), "configuration", name)


def _tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    return _read(lambda: load_tokenizer(str(folder), False), "tokenizer", name)


def _read(load: Callable[[], T], what: str, name: str) -> T:
    try:
        return load()
    except Exception as error:  # whatever the library raises on a damaged file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"the {what} of {name} cannot be read ({reason}); fetch its files anew") from None


def add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Mapping[str, int], source: Source) -> None:
    """Give ids that the source has without text the texts they are known by.

    Args:
        tokens: text and id, in the order of the ids.
    Raises: ValueError: the tokenizer gives a text another id.
    """
    for text, wanted in tokens.items():
        filler = [f"<|unused_{number}|>" for number in range(len(tokenizer), wanted)]
        tokenizer.add_special_tokens({"additional_special_tokens": [*filler, text]}, replace_extra_special_tokens=False)
        found = tokenizer.convert_tokens_to_ids(text)
        if found != wanted:
            raise ValueError(
                f"{source.name} has {text} at row {wanted}, but the tokenizer gives it id {found}; give the base model "
                "whose tokenizer was used with --base, or the first added row with --set imported.first_added_id=N"
            )


GPT2_CONV = ("c_attn", "c_proj", "c_fc")
"""Layers of GPT-2 that keep their weight as (in, out)."""


def untie(assembly: Assembly, source: Source, prefix: str, config: PretrainedConfig) -> None:
    """Leave out a stored LM head that is tied to the embeddings, once it equals them; to be called before the rest is
    copied."""
    head = f"{prefix}lm_head.weight"
    if source.has(head) and config.tie_word_embeddings:
        assembly.drop_duplicate(head, prefix + rows_of(source, prefix)[0])


def stored_dtype(assembly: Assembly) -> Setting:
    """`model.dtype`: bfloat16 where all that is copied is in it, else float32, in which merges are exact."""
    formats = {piece.dtype for piece in assembly.pieces.values()}
    if formats == {torch.bfloat16}:
        return Setting("bfloat16", "the weights are stored so")
    computed = any(piece.computed for piece in assembly.pieces.values())
    return Setting(
        "float32", "adapters are merged in float32" if computed else "the weights fit into it without rounding"
    )


def special_id(tokenizer: PreTrainedTokenizerBase, text: str, source: Source) -> int:
    """Id of an added token that a source's tokenizer must have. Raises: ValueError: it has not."""
    if text not in tokenizer.get_vocab():
        raise ValueError(f"the tokenizer of {source.name} lacks the token {text}; fetch its tokenizer files anew")
    return int(tokenizer.convert_tokens_to_ids(text))


def with_rows(config: PretrainedConfig, rows: int) -> PretrainedConfig:
    """The configuration of a base model for a table of another number of rows."""
    changed = type(config).from_dict(config.to_dict())
    changed.vocab_size = rows
    return changed
