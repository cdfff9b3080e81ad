"""Reading a file of weights into a plain state dict: dense, finite, float32, and without running anything that is in it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from qcompress import archives, exported_program, pickle_scan
from qcompress.errors import CheckpointError

__all__ = ["Weights", "prefixes_removed", "read_bytes", "read_safetensors", "read_weights"]

WRAPPERS = (
    "params_ema",
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
    "params",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "generator",
)  # averaged weights first: they are the ones that were measured

_FOREIGN = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "a RIFF file (WebP, WAV, AVI)"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"\x89HDF", "an HDF5 file (Keras, MATLAB)"),
    (b"MATLAB", "a MATLAB file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7-zip archive"),
    (b"GGUF", "a GGUF file"),
    (b"<", "an HTML or XML page (a failed download?)"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
)
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")  # what torch.save put first before its zip format
_LARGEST_BYTES = 32 * 2**30  # more than any network has that is pruned on one machine
_MOST_UNPACKED = 4  # bytes that a zip archive may unpack to, per byte of the file: torch.save does not compress
_MOST_COPIED = 8  # bytes that the weights may take, per byte of the file: 2 from half precision, the rest from shared ones
_MOST_AXES = 8  # of a tensor of weights
_HOLES = 64, 2**30  # a file of at least so many bytes must fill this share of them on disk, or it is made of holes
_EXPECTED = "give a state dict as .safetensors, .pt, .pth or .ckpt"
_WAYS_OUT = (
    "save only the weights (torch.save(model.state_dict(), ...)) and name the network with --arch package.module:factory; "
    "or, if you made this file yourself, --trust-pickle"
)


@dataclass(frozen=True, eq=False)
class Weights:
    """What a file holds, and the SHA-256 of its bytes: a state dict, or (a trusted pickle only) a whole module."""

    sha256: str
    content: dict[str, Tensor] | nn.Module


def read_weights(path: Path, *, trust_pickle: bool = False) -> Weights:
    """Read a .safetensors or PyTorch file; which of the two is decided by its bytes, never by its name.

    Raises:
        CheckpointError: missing, a folder, unreadable, empty, truncated, foreign, a pickle that is not only tensors (unless
            `trust_pickle`, which runs what is in it), no weights inside, or weights that are quantised, NaN or infinite.

    """
    data = read_bytes(path)
    sha256 = hashlib.sha256(data).hexdigest()
    if _is_safetensors(data):
        return Weights(sha256, _clean(path, _parse_safetensors(path, data), len(data)))
    content = _unwrap(_parse_pytorch(path, data, trust_pickle))
    if isinstance(content, nn.Module):
        _check_not_quantized(path, content.state_dict())
        _check_finite(path, content.state_dict())
        return Weights(sha256, content)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds {_article(content)}, expected a state dict", _EXPECTED)
    return Weights(sha256, _clean(path, content, len(data)))


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors (checked as by `read_weights`) and the metadata of a file that must be safetensors."""
    data = read_bytes(path)
    if not _is_safetensors(data):
        raise CheckpointError(f"{path}: not a safetensors file", "expected the model.safetensors of a slim folder")
    tensors = _clean(path, _parse_safetensors(path, data), len(data))
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # well-formed: it was just parsed
    return tensors, {str(name): str(value) for name, value in header.get("__metadata__", {}).items()}


def prefixes_removed(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """`state` itself, then without the first part of its names (``module.``, ``model.`` ...) for as long as all share it."""
    current = dict(state)
    yield current
    for _ in range(4):
        if len({name.partition(".")[0] for name in current}) != 1 or not all("." in name for name in current):
            return
        current = {name.partition(".")[2]: tensor for name, tensor in current.items()}
        yield current


def read_bytes(path: Path) -> bytes:
    """All bytes of a file that begins like a file of weights; nothing of a foreign one is read beyond its beginning.

    Raises:
        CheckpointError: missing, a folder, not readable, empty, or of a kind that is known to be another.

    """
    try:
        if path.is_dir():
            raise CheckpointError(f"{path}: is a folder, expected a file of weights", _EXPECTED)
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path}: is not a regular file", _EXPECTED)
        with path.open("rb") as file:
            size = _checked_size(path, os.fstat(file.fileno()))
            beginning = file.read(64)
            if not beginning:
                raise CheckpointError(f"{path}: is empty", "copy or download it again")
            kind = None if _is_safetensors(beginning) else _foreign_kind(beginning)
            if kind is not None:
                raise CheckpointError(f"{path}: is {kind}, expected a file of weights", _EXPECTED)
            return beginning + file.read(max(size - len(beginning), 0))
    except CheckpointError:
        raise
    except MemoryError as error:
        raise CheckpointError(f"{path}: does not fit into memory", "use a machine with more memory") from error
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file", 'check the path; "reference" names the checkpoint that ships') from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CheckpointError(f"{path}: cannot be read: {reason}", "check the path and its permissions") from error


def _checked_size(path: Path, stat: os.stat_result) -> int:
    """Its size in bytes, if it can be read whole: a file of holes takes no room on disk, but all of it in memory."""
    size, on_disk = stat.st_size, 512 * getattr(stat, "st_blocks", 0)
    if size > _LARGEST_BYTES:
        raise CheckpointError(f"{path}: {size:,} bytes, expected at most {_LARGEST_BYTES:,}", _EXPECTED)
    if size >= _HOLES[1] and 0 < on_disk * _HOLES[0] < size:
        raise CheckpointError(f"{path}: {size:,} bytes, of which only {on_disk:,} are there", "copy or download it again")
    return size


def _foreign_kind(beginning: bytes) -> str | None:
    if beginning[0] == 8 and b"\x12\x07pytorch" in beginning:
        return "an ONNX file"
    return next((kind for magic, kind in _FOREIGN if beginning.startswith(magic)), None)


def _is_safetensors(data: bytes) -> bool:
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= 100_000_000  # the format's own limit


def _parse_safetensors(path: Path, data: bytes) -> dict[str, Tensor]:
    header = int.from_bytes(data[:8], "little")
    if header > len(data) - 8:
        raise CheckpointError(
            f"{path}: truncated: its header alone takes {header:,} bytes, the file has {len(data):,}",
            "copy or download it again",
        )
    try:
        return safetensors.torch.load(data)
    except Exception as error:  # whatever a parser makes of bytes from elsewhere, the answer is the same
        raise CheckpointError(
            f"{path}: damaged or truncated safetensors file ({_first_line(error)})", "copy or download it again"
        ) from error


def _parse_pytorch(path: Path, data: bytes, trust_pickle: bool) -> object:
    if data.startswith(b"PK"):
        if exported_program.is_exported_program(_check_archive(path, data)):
            return exported_program.read_state(io.BytesIO(data), str(path))
    elif not data.startswith(b"\x80"):
        raise CheckpointError(f"{path}: {_looks_like(data)}, expected a file of weights", _EXPECTED)
    elif _LEGACY_MAGIC not in data[:64]:
        hint = "if you trust it, load it with pickle and save its weights with torch.save(state_dict, ...)"
        raise CheckpointError(f"{path}: a pickle, but not one that torch.save writes", hint)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own old formats
        try:
            _scan(data)
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # as above
            refused = _refused_global(error)
            if refused is None or not trust_pickle:
                raise _load_error(path, error, refused) from error
        try:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
        except Exception as error:  # the code in the file may raise anything
            raise CheckpointError(
                f"{path}: the pickle cannot be loaded: {type(error).__name__}: {_first_line(error)}",
                "run from the folder that holds the classes it was saved with",
            ) from error


def _scan(data: bytes) -> None:
    """Follow the pickles in a PyTorch file without running them; raises what `pickle_scan.scan` does."""
    if not data.startswith(b"PK"):
        file = io.BytesIO(data)
        for _ in range(5):  # magic number, version, byte order, the weights, the names of their storages
            pickle_scan.scan(file)
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            if name.endswith(".pkl"):
                pickle_scan.scan(io.BytesIO(archive.read(name)))


def _check_archive(path: Path, data: bytes) -> tuple[str, ...]:
    """The names of its members, if they can be weights."""
    try:
        members = archives.member_names(io.BytesIO(data), most_growth=_MOST_UNPACKED)
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: truncated or damaged ({_first_line(error)})", "copy or download it again") from error
    names = {name.rpartition("/")[2] for name in members}
    if "constants.pkl" in names:
        raise CheckpointError(
            f"{path}: is a TorchScript archive, which cannot be pruned",
            "save the state dict of the module it was made from, and name that with --arch package.module:factory",
        )
    if "data.pkl" not in names and not exported_program.is_exported_program(members):
        raise CheckpointError(f"{path}: is a zip archive without weights", _EXPECTED)
    return members


def _refused_global(error: Exception) -> str | None:
    """What a weights-only load stumbled over, if it was something else than tensors and plain values."""
    if isinstance(error, pickle_scan.MaliciousPickleError):
        return pickle_scan.refused(error)
    found = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", str(error))
    if found is not None:
        return found[1]
    return "pickle protocol 4 or later" if "Unsupported operand 149" in str(error) else None


def _load_error(path: Path, error: Exception, refused: str | None) -> CheckpointError:
    if refused is not None:
        return CheckpointError(
            f"{path}: a pickle that holds more than weights ({refused}): loading it could run any code", _WAYS_OUT
        )
    if isinstance(error, pickle_scan.MaliciousPickleError):
        return CheckpointError(f"{path}: a pickle that no training script writes: {error}", "get the file from another source")
    return CheckpointError(f"{path}: truncated or damaged ({_first_line(error)})", "copy or download it again")


def _unwrap(content: object) -> object:
    """The state dict (or module) inside what training scripts save around it."""
    for _ in range(4):
        if not isinstance(content, Mapping):
            return content
        inner = next((content[name] for name in WRAPPERS if name in content and _is_container(content[name])), None)
        if inner is None:
            return content
        content = inner
    return content


def _is_container(value: object) -> bool:
    return isinstance(value, nn.Module) or (isinstance(value, Mapping) and bool(value))


def _clean(path: Path, state: Mapping[Any, object], size: int) -> dict[str, Tensor]:
    """The tensors of `state` from a file of `size` bytes, floating ones as float32, each with memory of its own."""
    tensors = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not any(tensor.is_floating_point() or tensor.is_quantized for tensor in tensors.values()):
        names = ", ".join(ascii(name[:40])[1:-1] if isinstance(name, str) else _article(name) for name in [*state][:5])
        raise CheckpointError(f"{path}: holds no weights (found {names or 'nothing'})", _EXPECTED)
    unprintable = next((name for name in tensors if not name.isprintable()), None)
    if unprintable is not None:
        raise CheckpointError(f"{path}: holds a parameter called {ascii(unprintable)[:80]}", "rename it: names are printable")
    _check_not_quantized(path, state)
    for name, tensor in tensors.items():
        _check_layout(path, name, tensor)
    _check_total(path, tensors, size)
    cleaned = {name: _own(tensor) for name, tensor in tensors.items()}
    _check_finite(path, cleaned)
    return cleaned


def _own(tensor: Tensor) -> Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)


def _check_not_quantized(path: Path, state: Mapping[Any, object]) -> None:
    for name, value in state.items():
        if "_packed_params" in str(name) or (isinstance(value, Tensor) and _is_quantized(str(name), value)):
            shown = ascii(str(name))[1:-1]
            raise CheckpointError(f"{path}: {shown} is quantised", "give the floating-point checkpoint that it was made from")


def _is_quantized(name: str, tensor: Tensor) -> bool:
    narrow = tensor.dtype in (torch.int8, torch.uint8) and name.endswith("weight")
    return tensor.is_quantized or narrow or (tensor.is_floating_point() and tensor.element_size() == 1)


def _check_layout(path: Path, name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_complex():
        kind = "complex" if tensor.is_complex() else str(tensor.layout).removeprefix("torch.")
        raise CheckpointError(f"{path}: {name} is {kind}, expected dense real numbers", "save the dense weights")
    if tensor.ndim > _MOST_AXES:
        raise CheckpointError(
            f"{path}: {name} has {tensor.ndim:,} axes, expected at most {_MOST_AXES}", "save the weights again"
        )
    if tensor.device.type != "cpu" or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{path}: {name} of shape {list(tensor.shape)} has no data of that size", "save the weights again"
        )


def _check_total(path: Path, tensors: Mapping[str, Tensor], size: int) -> None:
    """Many names may share the bytes of one tensor in the file; every one of them becomes a copy of its own."""
    total = sum(tensor.numel() * max(4 * tensor.is_floating_point(), tensor.element_size()) for tensor in tensors.values())
    if total > _MOST_COPIED * size + 2**20:
        raise CheckpointError(
            f"{path}: its weights take {total:,} bytes, far more than the {size:,} that it has", "save the weights again"
        )


def _check_finite(path: Path, state: Mapping[str, object]) -> None:
    for name, tensor in state.items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            bad = tensor.numel() - int(torch.isfinite(tensor).sum())
            if bad:
                raise CheckpointError(
                    f"{path}: {name} holds NaN or infinity in {bad:,} of {tensor.numel():,} values",
                    "the training diverged or the file is damaged: use an earlier checkpoint",
                )


def _looks_like(data: bytes) -> str:
    try:
        data[:4096].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < min(len(data), 4096) - 4:
            return "not a format that is known here"
    return "is text"


def _first_line(error: BaseException) -> str:
    text = str(error).rpartition("WeightsUnpickler error: ")[2]  # torch puts three paragraphs of advice before the reason
    return (text.strip().splitlines() or [type(error).__name__])[0][:160]


def _article(content: object) -> str:
    name = type(content).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
