"""The files of weights: which a folder may hold, and how each kind is opened.

Weights may come from anywhere, so every file is checked before a library reads it. A damaged file
is an error that names the file and the fix. Nothing that a checkpoint brings is ever run.
"""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from vlpeft.benchmark.core.errors import UserError, WeightsError
from vlpeft.benchmark.core.libraries.transformers import CHECKPOINTS

CONFIG, PIXELS, TOKENIZER = "config.json", "preprocessor_config.json", "tokenizer_config.json"
# The files of a folder that the libraries may open.
OPENED = (".json", ".txt", ".safetensors", ".bin", ".pth", ".model", ".jinja")
CODE = "auto_map"
MOST_LAYERS = 1000
CAUSE = 160  # characters of a library's message that an error repeats
AGAIN = "copy or download it again"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@contextmanager
def library_errors(describe: Callable[[str], UserError]) -> Iterator[None]:
    """Turn any error of the block into the one that `describe` makes from its first line.

    On damaged bytes the libraries raise almost any type, panics of their Rust code included, which
    are not an `Exception`. UserError and MemoryError pass.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise describe(shorten(error)) from error


def shorten(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has no message."""
    lines = str(error).split("\n")
    text = " ".join(lines[0].split())[:CAUSE]
    if isinstance(error, KeyError) or not text:
        text = f"{type(error).__name__} {text}".strip()
    return text.removesuffix(".")


def local_path(location: str) -> Path | None:
    """Return the path of a location that exists on this machine; None for any other name."""
    path = Path(location)
    try:
        path.lstat()
    except (OSError, ValueError):  # ValueError: a null character in the name
        return None
    return path


def check_file(path: Path) -> None:
    """Raise WeightsError unless a path is a regular file that exists: others may block for ever."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise WeightsError(f"cannot read {path}: {cause}; {AGAIN}, or fix the path") from error
    if not stat.S_ISREG(mode):
        raise WeightsError(f"{path} is not a regular file; replace it by the file of the weights")


def check_folder(folder: Path) -> None:
    """Check the files that the libraries may open in a folder of weights.

    Raises:
        WeightsError: The location is not a folder, or holds something else in the place of a file,
            code of its own, or a damaged configuration.
    """
    if not folder.is_dir():
        raise WeightsError(
            f"weights {folder}: not a folder; give the folder that holds {CONFIG} and the weights"
        )
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise WeightsError(f"cannot list {folder}: {error.strerror}; allow to read it") from error
    for path in paths:
        if path.suffix in OPENED:
            check_file(path)
    if (folder / "adapter_config.json").exists():
        raise WeightsError(
            f"{folder} holds an adapter in peft's format (adapter_config.json); "
            "give a folder with whole weights, such as one written by `merge_and_unload`"
        )
    for name in (CONFIG, TOKENIZER, PIXELS):
        if (folder / name).exists():
            check_config(folder / name)


def check_config(path: Path) -> None:
    """Raise WeightsError for a configuration that is damaged, brings code or has no end."""
    values = read_json(path)
    if CODE in values:
        raise WeightsError(
            f"{path}: `{CODE}` names Python code of the checkpoint, which vlpeft never runs; "
            "choose a checkpoint without code of its own"
        )
    if "quantization_config" in values:
        raise WeightsError(
            f"{path}: quantization_config: quantized weights cannot be adapted here; "
            "choose a checkpoint that is not quantized"
        )
    for key, value in values.items():
        # transformers takes a name with a slash for a kernel on the hub, which is code.
        if key.endswith("attn_implementation") and "/" in str(value):
            raise WeightsError(f"{path}: {key}: {value} is code of the hub; remove that key")
        layers = key.endswith("layers") or key == "n_layer"
        if layers and isinstance(value, int) and value > MOST_LAYERS:
            raise WeightsError(f"{path}: {key}: {value} is more than {MOST_LAYERS}; {AGAIN}")


def read_json(path: Path) -> dict[str, Any]:
    """Read a configuration. Raises WeightsError unless it is a mapping in JSON."""
    check_file(path)
    with library_errors(lambda cause: WeightsError(f"{path}: damaged ({cause}); {AGAIN}")):
        values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise WeightsError(
            f"{path}: damaged: expected a mapping, found {type(values).__name__}; {AGAIN}"
        )
    return values


def find_checkpoint(folder: Path) -> Path:
    """Return the weight file of a folder, or its index of shards, as transformers chooses it."""
    for name in CHECKPOINTS:
        path = folder.joinpath(name)
        if path.exists():
            return path
    raise WeightsError(f"{folder} has none of {', '.join(CHECKPOINTS)}; complete the folder")


def read_shapes(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a folder without their values, on the meta device.

    Of safetensors only the headers are read. Raises WeightsError for a file that is missing or
    damaged, and for weights that are not floating-point numbers.
    """
    path = find_checkpoint(folder)
    files = [path]
    if path.suffix == ".json":
        files = _list_shards(path)
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read_file_shapes(file)
    return tensors


def _list_shards(index: Path) -> list[Path]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(each, str) for each in places.values()):
        raise WeightsError(f"{index}: damaged: no `weight_map` of names to files; {AGAIN}")
    names = sorted(set(places.values()))
    for name in names:
        if Path(name).name != name:
            raise WeightsError(f"{index}: '{name}' is not the name of a file next to it; {AGAIN}")
    return [index.parent / name for name in names]


def read_file_shapes(file: Path) -> dict[str, Tensor]:
    """Return the tensors of one file without their values, on the meta device."""
    check_file(file)
    if file.suffix != ".safetensors":
        return flatten(read_pickle(file, "meta"), file)
    tensors = {}
    damaged = library_errors(lambda cause: WeightsError(f"{file}: damaged ({cause}); {AGAIN}"))
    with damaged, safe_open(file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - the object is not a mapping
            part = opened.get_slice(name)
            dtype = _dtype(part.get_dtype(), name, file)
            tensors[name] = torch.empty(part.get_shape(), dtype=dtype, device="meta")
    return tensors


def _dtype(name: str, tensor: str, file: Path) -> torch.dtype:
    """Return the type of a tensor in a header; weights must be floating-point numbers."""
    found = DTYPES.get(name)
    if found is not None:
        return found
    if tensor.endswith((".weight", ".bias")):
        raise WeightsError(
            f"{file}: {tensor} has the type {name}; weights are F64, F32, F16 or BF16: "
            "choose a checkpoint that is not quantized"
        )
    return torch.int64


def flatten(state: Any, file: Path) -> dict[str, Tensor]:
    """Return the values of a pickled file as tensors by name. Raises WeightsError for others."""
    if not isinstance(state, Mapping) or not state:
        found = type(state).__name__
        raise WeightsError(f"{file}: expected tensors by name, found a {found}; {AGAIN}")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise WeightsError(
                f"{file}: {str(name)[:80]!r} is a {type(tensor).__name__}, not a tensor; "
                "choose a file of plain tensors"
            )
        # A view may repeat one value millions of times, and would fill the memory when copied.
        if tensor.device.type == "cpu" and tensor.nbytes > tensor.untyped_storage().nbytes():
            raise WeightsError(f"{file}: {name} is larger than its values; {AGAIN}")
    return dict(state)


def read_pickle(path: Path, device: str) -> Any:
    """Return the content of a file of `torch.save` (.pth, .bin).

    `weights_only` refuses anything that could run code, and the size of what is read is bounded by
    that of the file.

    Raises:
        WeightsError: The file cannot be read, or holds more than plain tensors.
    """
    check_file(path)
    with library_errors(lambda cause: _pickle_error(path, cause)):
        zipped = zipfile.is_zipfile(path)
        if zipped:
            _refuse_packed(path)
        return torch.load(path, map_location=device, weights_only=True, mmap=zipped)


def _pickle_error(path: Path, cause: str) -> WeightsError:
    return WeightsError(
        f"{path} is not a file of plain tensors; save only its `model` entry, or {AGAIN} ({cause})"
    )


def _refuse_packed(path: Path) -> None:
    """Raise WeightsError if a zip holds more than its own size: torch never compresses."""
    with zipfile.ZipFile(path) as archive:
        sizes = [each.file_size for each in archive.infolist()]
    if sum(sizes) > path.stat().st_size:
        raise WeightsError(
            f"{path}: its content is larger than the file, and torch.save never compresses; {AGAIN}"
        )
