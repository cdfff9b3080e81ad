"""ONNX files from strangers, checked before onnx or onnxruntime open them: what they name outside themselves, what they claim.

An ONNX file may keep weights in other files, named by a path, an offset and a length. Such a path must stay inside the folder
of the ONNX file, without a symbolic link on the way, and its bytes must be there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import onnx

from qcompress.errors import InputError
from qcompress.exporters.expansion import check_functions

__all__ = ["check", "check_bytes", "read"]

_LARGEST_BYTES = 2**31  # what a protobuf can hold
_MOST_CLAIMED = 4  # bytes that the weights may take, per byte of the ONNX file and the files it names
_SPARE = 2**20
_NARROWEST = 4  # bits of the narrowest type that is stored packed
_LOAD_AGAIN = "is the file complete?"
_TRUST = "an ONNX file keeps its weights in itself or in files next to it; get it from another source"


def check(path: Path) -> None:
    """Pass an ONNX file that can be opened: all it needs lies in its folder, and its weights are as large as they claim.

    Nothing outside the file is read, no weights are loaded. Raises InputError as `read` does.
    """
    read(path)


def read(path: Path) -> tuple[bytes, bool]:
    """The bytes of an ONNX file that passes, and whether some of its weights are in other files.

    Raises:
        InputError: missing, not a regular file, larger than 2 GiB, not ONNX; external data under an absolute path, a path with
            "..", a link, a path of another system, or beyond the end of its file; weights that claim far more bytes than there
            are; functions that call functions without end.

    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file", "name an .onnx file")
        size = path.stat().st_size
        if size >= _LARGEST_BYTES:
            raise InputError(f"{path}: {size:,} bytes, an ONNX file has less than {_LARGEST_BYTES:,}", "name an .onnx file")
        with path.open("rb") as file:
            data = file.read(_LARGEST_BYTES)
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a NUL in the path
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read: {error}", "check the path and its permissions") from error
    return data, _check(data, str(path), path.parent)


def check_bytes(data: bytes, name: str) -> None:
    """As `check`, for a model in memory, which has no folder: it may name no other file. `name` stands for it in errors."""
    _check(data, name, None)


def _check(data: bytes, name: str, folder: Path | None) -> bool:
    """Whether the model in `data` has external data; raises where it does not pass."""
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception as error:  # DecodeError of whichever protobuf implementation is in use
        raise InputError(f"{name}: not a readable ONNX file", _LOAD_AGAIN) from error
    if not model.HasField("graph") or not model.opset_import:
        raise InputError(f"{name}: not a readable ONNX file: it has no network in it", _LOAD_AGAIN)
    check_functions(model, name)
    claimed, files = 0, dict[Path, int]()
    for tensor in list(_tensors(model, name)):  # all of the text is known to be text before any of it is used
        if isinstance(tensor, onnx.TensorProto):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                _check_external(tensor, name, folder, files)
            elif tensor.external_data:
                raise InputError(f"{name}: {_shown(tensor.name)} has external data and says it has none", _TRUST)
        claimed += _claimed_bytes(tensor, name)
    there = len(data) + sum(files.values())
    if claimed > _MOST_CLAIMED * there + _SPARE:
        raise InputError(f"{name}: its weights claim {claimed:,} bytes, there are {there:,}", _TRUST)
    return bool(files)


def _tensors(message: Any, name: str) -> Iterator[onnx.TensorProto | onnx.SparseTensorProto]:
    """Every tensor anywhere in a message: initializers, attributes, subgraphs, functions, training graphs.

    Raises InputError for text that is not UTF-8, at which onnxruntime's Python side stumbles later.
    """
    waiting = [message]
    while waiting:
        message = waiting.pop()
        if isinstance(message, onnx.TensorProto | onnx.SparseTensorProto):
            yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if hasattr(value, "ListFields") else value)
            elif field.type == field.TYPE_STRING and not all(isinstance(text, str) for text in _listed(value)):
                raise InputError(f"{name}: not a readable ONNX file: {field.name} is not text", _LOAD_AGAIN)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | bytes) else value


def _claimed_bytes(tensor: onnx.TensorProto | onnx.SparseTensorProto, name: str) -> int:
    """What the tensor takes once it is loaded, a sparse one made dense."""
    if any(size < 0 for size in tensor.dims):
        raise InputError(f"{name}: weights of a negative size {list(tensor.dims)[:8]}", _LOAD_AGAIN)
    kind = tensor.data_type if isinstance(tensor, onnx.TensorProto) else tensor.values.data_type
    try:
        bits: int = 8 * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{name}: weights of the unknown type {kind}", _LOAD_AGAIN) from error
    return int(math.prod(tensor.dims)) * max(bits, _NARROWEST) // 8


def _check_external(tensor: onnx.TensorProto, name: str, folder: Path | None, files: dict[Path, int]) -> None:
    """Check where a tensor's data are; `files` gains the size in bytes of the file that holds them."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if len(entries) < len(tensor.external_data):
        raise InputError(f"{name}: external data of {_shown(tensor.name)} are described twice", _TRUST)
    location = entries.get("location", "")
    where = f"{name}: external data {_shown(location)}"
    if folder is None:
        raise InputError(f"{where}, but the network is in memory and has no folder", "give the path of the file")
    file = _inside(location, where, folder)
    if file not in files:
        files[file] = file.stat().st_size
    offset = _number(entries.get("offset", "0"), where)
    length = _number(entries.get("length", "0"), where)
    if offset + length > files[file]:
        raise InputError(
            f"{where}: bytes {offset:,} to {offset + length:,} of a file of {files[file]:,}",
            "copy or download both files again",
        )


def _inside(location: str, where: str, folder: Path) -> Path:
    """The file at `location` in `folder`, reached through real folders only."""
    parts = PurePosixPath(location).parts
    foreign = PureWindowsPath(location)
    if not parts or not location.isprintable() or "\\" in location or foreign.drive or foreign.root or ".." in parts:
        raise InputError(f"{where}: expected a path inside the folder of the ONNX file", _TRUST)
    file = folder
    try:
        for part in parts:
            file = file / part
            if file.is_symlink():
                raise InputError(f"{where}: is a link, expected a file in the folder of the ONNX file", _TRUST)
        if not file.is_file():
            problem = "is not a regular file" if file.exists() else "no such file"
            raise InputError(f"{where}: {problem}", f"put it into {folder}, next to the ONNX file")
    except OSError as error:  # a name that is too long, a folder that may not be searched
        raise InputError(f"{where}: cannot be read: {error.strerror}", _TRUST) from error
    return file


def _number(text: str, where: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 18:
        raise InputError(f"{where}: offset or length {_shown(text)}, expected a number of bytes", _TRUST)
    return int(text)


def _shown(text: str) -> str:
    return ascii(text[:80])
