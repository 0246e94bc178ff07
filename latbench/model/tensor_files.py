"""Tensors in files, by name, read one at a time and without running anything that a file says.

    TensorFiles.open(path)      a .safetensors or torch.save file, or a folder with one or with an index of shards
    files.shapes, files.dtypes  of every tensor, from headers alone
    with files.reading() as read: read(name)

A torch.save file is read with `weights_only=True` and memory-mapped; an archive that claims more bytes than the file
has, and a tensor that claims more than its storage, are refused before anything is allocated.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latbench.model.source import read_json

Read = Callable[[str], Tensor]

INDEX = ".index.json"
NAMES = (
    "model.safetensors",
    "pytorch_model.safetensors",
    "adapter_model.safetensors",
    "pytorch_model.bin",
    "adapter_model.bin",
)
"""Weight files of a folder in the order in which they are looked for, each as it is or as an index of shards."""

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Names of the number formats in a safetensors header; integers and others are None to `TensorFiles.dtypes`."""

LFS_POINTER = b"version https://git-lfs"
ARCHIVE, PICKLE = b"PK", b"\x80"
"""How a torch.save file begins, a new one and an old one."""
UNREADABLE = (OSError, RuntimeError, EOFError, LookupError, TypeError, AttributeError, ValueError, AssertionError)
"""What torch.load raises on a damaged file, beside pickle's own error."""
CONVERT = (
    "where you trust the file, load it with `torch.load(FILE, weights_only=False)`, rewrite it as tensors alone with "
    '`torch.save(STATE_DICT, "weights.pt")`, and import that'
)
PLAIN = "save a state dictionary of plain tensors alone, and import that"


class Inert:
    """Stands in for a class of a configuration library that a pickle names: it holds what it is given and does
    nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


# Lightning keeps hyper-parameters as OmegaConf containers; these are the classes that their pickles name
INERT_NAMES = (
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.StringNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.BooleanNode",
    "typing.Any",
)


@dataclass(frozen=True)
class _TensorFile:
    """One file of tensors."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, torch.dtype | None]
    inner: str | None = None
    """Key under which a torch.save file keeps its state dictionary; None: it is one."""


@dataclass(frozen=True)
class TensorFiles:
    """Named tensors of one or several files."""

    name: str
    """What messages call it."""
    files: tuple[Path, ...]
    """Those that hold tensors, and the index where there is one."""
    by_name: Mapping[str, _TensorFile] = field(repr=False)
    """The file of each tensor."""

    @classmethod
    def open(cls, path: Path) -> TensorFiles:
        """The tensors of a file, or of a folder's weights.

        Raises: ValueError: no weights there, a shard is missing, two files hold one name, a file is damaged, holds
            more than tensors, or claims more bytes than it has.
        """
        if path.is_file():
            return cls._of(str(path), (path,), [_open(path)])
        for name in NAMES:
            if (index := path / (name + INDEX)).is_file():
                return cls._sharded(path, index)
            if (path / name).is_file():
                return cls._of(str(path), (path / name,), [_open(path / name)])
        raise ValueError(f"{path} holds no weights; looked for {', '.join(NAMES)}, alone or as {NAMES[0]}{INDEX}")

    @classmethod
    def _of(cls, name: str, paths: tuple[Path, ...], files: Sequence[_TensorFile]) -> TensorFiles:
        by_name: dict[str, _TensorFile] = {}
        for file in files:
            for tensor in file.shapes:
                if tensor in by_name:
                    raise ValueError(f"{tensor} stands in both {by_name[tensor].path} and {file.path}; remove one")
                by_name[tensor] = file
        return cls(name, paths, by_name)

    @classmethod
    def _sharded(cls, folder: Path, index: Path) -> TensorFiles:
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError(f"{index} is damaged: it names no weights; copy it anew")
        places = {name: Path(str(shard)).name for name, shard in weight_map.items()}
        shards = sorted(set(places.values()))
        if absent := [shard for shard in shards if not (folder / shard).is_file()]:
            raise ValueError(
                f"{folder} lacks {len(absent)} of {len(shards)} shards ({', '.join(absent[:5])}), which {index.name} "
                "names; copy them there"
            )
        files = cls._of(
            str(folder), (index, *(folder / shard for shard in shards)), [_open(folder / s) for s in shards]
        )
        found = {name: file.path.name for name, file in files.by_name.items()}
        wrong = sorted(name for name in {*places, *found} if places.get(name) != found.get(name))
        if wrong:
            raise ValueError(
                f"{index} and its shards differ in {len(wrong)} tensors ({', '.join(wrong[:5])}); copy them anew"
            )
        return files

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor."""
        return {name: file.shapes[name] for name, file in self.by_name.items()}

    @property
    def dtypes(self) -> dict[str, torch.dtype | None]:
        """Number format of every tensor; None where it is no floating-point one."""
        return {name: file.dtypes[name] for name, file in self.by_name.items()}

    @contextmanager
    def reading(self) -> Iterator[Read]:
        """Read tensors by name; their memory is mapped, and is free for the system to take back afterwards."""
        with ExitStack() as stack:
            opened: dict[Path, Read] = {}

            def read(name: str) -> Tensor:
                file = self.by_name[name]
                if file.path not in opened:
                    opened[file.path] = stack.enter_context(_reading(file))
                return opened[file.path](name)

            yield read


def _open(path: Path) -> _TensorFile:
    """Names, shapes and number formats in a file, by its content rather than by its name."""
    if path.suffix != ".safetensors":
        return _open_torch(path)
    _beginning(path)
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            return _TensorFile(path, shapes, {name: DTYPES.get(part.get_dtype()) for name, part in slices.items()})
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({_line(error)}); copy it anew") from None


def _open_torch(path: Path) -> _TensorFile:
    loaded, inner = _load(path), None
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded, inner = loaded["state_dict"], "state_dict"
    if not isinstance(loaded, Mapping) or not loaded:
        raise ValueError(f"{path} holds a {type(loaded).__name__}, no state dictionary; give the file of the weights")
    other = [str(name) for name, value in loaded.items() if not isinstance(value, Tensor) or not isinstance(name, str)]
    if other:
        raise ValueError(
            f"{path} holds {len(other)} entries that are no tensors ({', '.join(other[:5])}); {_taken_out(loaded)}"
        )
    for name, tensor in loaded.items():
        plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
        if not plain or tensor.device.type != "cpu" or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise ValueError(f"{name} in {path} is no plain tensor of its own ({tuple(tensor.shape)}); {PLAIN}")
    dtypes = {name: tensor.dtype if tensor.is_floating_point() else None for name, tensor in loaded.items()}
    return _TensorFile(path, {name: tuple(tensor.shape) for name, tensor in loaded.items()}, dtypes, inner)


@contextmanager
def _reading(file: _TensorFile) -> Iterator[Read]:
    if file.path.suffix == ".safetensors":
        with safe_open(file.path, framework="pt") as opened:
            yield opened.get_tensor
    else:
        loaded = _load(file.path)
        tensors: Mapping[str, Tensor] = loaded if file.inner is None else loaded[file.inner]
        yield lambda name: tensors[name].detach()


def _taken_out(loaded: Mapping[Any, Any]) -> str:
    """How to rewrite a file whose tensors are not at its top, as a clause."""
    inner = [
        key
        for key, value in loaded.items()
        if isinstance(value, Mapping) and value and all(isinstance(tensor, Tensor) for tensor in value.values())
    ]
    if len(inner) != 1:
        return PLAIN
    return (
        f"save its tensors alone with `torch.save(torch.load(FILE, weights_only=True)[{inner[0]!r}], "
        '"weights.pt")`, and import that'
    )


def _load(path: Path) -> Any:
    """What a torch.save file holds; tensors are mapped where its format allows it."""
    archive = _is_archive(path)
    try:
        with torch.serialization.safe_globals([(Inert, name) for name in INERT_NAMES]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        if "torch.distributed" in str(error):
            raise ValueError(
                f"{path} is one process's shard of a distributed run; merge the shards with the tool that wrote them, "
                "and import the merged folder"
            ) from None
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f" (it names {named.group(1)})" if named else ""
        raise ValueError(
            f"{path} is no torch.save file of tensors alone{what}, and reading it could run code; {CONVERT}"
        ) from None
    except UNREADABLE as error:
        raise _damaged(path, error) from None


def _is_archive(path: Path) -> bool:
    """Whether a torch.save file has the newer format.

    Raises: ValueError: it has neither, stands for the weights in a Git repository, or claims more bytes than it has.
    """
    beginning = _beginning(path)
    if not beginning.startswith((ARCHIVE, PICKLE)):
        what = f"it begins with {beginning!r}" if beginning else "it is empty"
        raise ValueError(f"{path} is no file of weights ({what}); give the file of the weights, or fetch it anew")
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as content:
            claimed = sum(part.file_size for part in content.infolist())
    except (OSError, NotImplementedError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from None
    if claimed > path.stat().st_size:
        raise ValueError(f"{path} claims {claimed} bytes in {path.stat().st_size}; a torch.save file is not compressed")
    return True


def _beginning(path: Path) -> bytes:
    """The first bytes of a file. Raises: ValueError: unreadable, or it stands for the weights in a Git repository."""
    try:
        with path.open("rb") as file:
            beginning = file.read(len(LFS_POINTER))
    except OSError as error:
        raise _damaged(path, error) from None
    if beginning == LFS_POINTER:
        raise ValueError(f"{path} is a pointer of Git LFS in place of the weights; fetch them with `git lfs pull`")
    return beginning


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is damaged, or no file of weights ({_line(error)}); copy it anew")


def _line(error: Exception) -> str:
    """What a library says of a file; where it goes on to say how to run the code in it, the kind of error alone."""
    line = " ".join(str(error).split())[:300]
    return type(error).__name__ if not line or "weights_only" in str(error) else line
