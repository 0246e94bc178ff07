"""A released checkpoint on disk, and the base model that it was trained from: names, shapes, configuration, tokenizer.

Nothing that lies in a folder is run, and no tensor is read here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from transformers import AutoConfig, GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from latbench.model.loading import GENERATION, ending_ids
from latbench.model.loading import _tokenizer as load_tokenizer
from latbench.model.source import check_config, read_json
from latbench.model.tensor_files import TensorFiles

T = TypeVar("T")

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
class Release:
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
    def label(self) -> str:
        """What the release is called: the Hub id, or the folder's name; in the Hub's cache, of two folders above."""
        path = self.path.absolute()
        if self.revision:
            return self.name
        return path.parent.parent.name if path.parent.name == "snapshots" else path.name

    @property
    def architectures(self) -> list[str]:
        """Class names in `config.json`. Raises: ValueError: it has something else in their place."""
        names = self.config.get("architectures") or []
        if not isinstance(names, list):
            raise ValueError(
                f"config.json of {self.name} has architectures={names!r}, which is no list of names; fetch it anew"
            )
        return [str(name) for name in names]

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

    def matrix(self, name: str) -> tuple[int, int]:
        """As `shape`, of a matrix. Raises: ValueError: there is none of that name, it has no two axes, or is empty."""
        shape = self.shape(name)
        if len(shape) != 2 or 0 in shape:
            raise ValueError(
                f"{self.name} has {name} of shape {list(shape)}, but a matrix with numbers in it belongs there; "
                "fetch it anew"
            )
        return shape[0], shape[1]


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
        return read_config(self.folder, self.id)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        return read_tokenizer(self.folder, self.id)

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


def rows_of(source: Release, prefix: str = "") -> tuple[str, int]:
    """Name of the input embeddings without `prefix`, and their number of rows.

    Raises: ValueError: there are none, or they are no matrix.
    """
    for name in EMBEDDINGS:
        if source.has(prefix + name):
            return name, source.matrix(prefix + name)[0]
    raise ValueError(f"{source.name} lacks {prefix}{EMBEDDINGS[0]} and {prefix}{EMBEDDINGS[1]}; fetch it anew")


def read_config(folder: Path, name: str) -> PretrainedConfig:
    """The model configuration of a folder. Raises: ValueError: absent, damaged, or it asks for too many layers."""
    check_config(folder)
    return read_or_refuse(lambda: AutoConfig.from_pretrained(folder, trust_remote_code=False), "configuration", name)


def read_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder. Raises: ValueError: absent or damaged."""
    return read_or_refuse(lambda: load_tokenizer(str(folder), False), "tokenizer", name)


def read_generation(folder: Path, name: str, config: PretrainedConfig) -> GenerationConfig:
    """The generation settings of a folder, else those of its configuration.

    Raises: ValueError: damaged, or the ids that end an answer are no rows of the embedding.
    """
    if not (folder / GENERATION).is_file():
        return GenerationConfig.from_model_config(config)
    generation = read_or_refuse(lambda: GenerationConfig.from_pretrained(folder), "generation settings", name)
    rows = getattr(config.get_text_config(), "vocab_size", 0)  # a model of no text is refused by its tensors
    beyond = [id for id in ending_ids(generation, name) if not 0 <= id < rows]
    if rows and beyond:
        raise ValueError(
            f"{GENERATION} of {name} has eos_token_id={beyond[0]}, but its embedding has {rows} rows; fetch it anew"
        )
    return generation


def read_or_refuse(load: Callable[[], T], what: str, name: str) -> T:
    """What a library makes of the files of a source. Raises: ValueError: it makes nothing of them."""
    try:
        return load()
    except Exception as error:  # whatever the library raises on a damaged file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"the {what} of {name} cannot be read ({reason}); fetch its files anew") from None


def add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Mapping[str, int], source: Release, rows: int) -> None:
    """Give ids that the source has without text the texts they are known by.

    Args:
        tokens: text and id, in the order of the ids.
        rows: of the source's embedding.
    Raises: ValueError: an id is no row, or the tokenizer gives a text another id.
    """
    if outside := [f"{text} cannot be row {id}" for text, id in tokens.items() if not 0 <= id < rows]:
        raise ValueError(
            f"the embedding of {source.name} has {rows} rows, so that {outside[0]}; give the first added row with "
            "--set imported.first_added_id=N, or fetch the source anew"
        )
    for text, wanted in tokens.items():
        filler = [f"<|unused_{number}|>" for number in range(len(tokenizer), wanted)]
        tokenizer.add_special_tokens({"additional_special_tokens": [*filler, text]}, replace_extra_special_tokens=False)
        found = tokenizer.convert_tokens_to_ids(text)
        if found != wanted:
            raise ValueError(
                f"{source.name} has {text} at row {wanted}, but the tokenizer gives it id {found}; give the base model "
                "whose tokenizer was used with --base, or the first added row with --set imported.first_added_id=N"
            )


def token_text(tokenizer: PreTrainedTokenizerBase, id: int, rows: int, place: str) -> str:
    """Text of a token that a file names by its id.

    Args:
        id: of the token.
        rows: of the embedding.
        place: the file and the key in it.
    Raises: ValueError: the tokenizer has no such token, or the embedding no such row.
    """
    num_tokens = min(len(tokenizer), rows)
    text = tokenizer.convert_ids_to_tokens(id) if 0 <= id < num_tokens else None
    if text is None:
        raise ValueError(
            f"{place} is {id}, which is no token: tokenizer and embedding have {num_tokens} together; "
            "fetch the files anew"
        )
    return str(text)


def special_id(tokenizer: PreTrainedTokenizerBase, text: str, source: Release) -> int:
    """Id of an added token that a source's tokenizer must have. Raises: ValueError: it has not."""
    if text not in tokenizer.get_vocab():
        raise ValueError(f"the tokenizer of {source.name} lacks the token {text}; fetch its tokenizer files anew")
    return int(tokenizer.convert_tokens_to_ids(text))


def with_rows(config: PretrainedConfig, rows: int) -> PretrainedConfig:
    """The configuration of a base model for a table of another number of rows."""
    changed = type(config).from_dict(config.to_dict())
    changed.vocab_size = rows
    return changed
