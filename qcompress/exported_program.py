"""The weights in a .pt2 file of torch.export: a zip archive of raw numbers, read without running or unpickling anything."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from typing import Any, BinaryIO

import torch
from torch import Tensor

from qcompress.errors import CheckpointError

__all__ = ["is_exported_program", "read_state"]

_CONFIG = "_weights_config.json"
_PICKLED = ("serialized_state_dict.pt", "serialized_exported_program.json")  # of torch before 2.9: weights by pickle
_HINT = "save the state dict of the module it was exported from: torch.save(model.state_dict(), ...)"
_DTYPES = {  # of torch.export's schema
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}


def is_exported_program(names: Sequence[str]) -> bool:
    """Whether an archive with members of these names is what torch.export.save writes."""
    last = {name.rpartition("/")[2] for name in names}
    return "archive_format" in last or any(name.endswith(_CONFIG) for name in last) or bool(last & set(_PICKLED))


def read_state(file: BinaryIO, name: str) -> dict[str, Tensor]:
    """The parameters and buffers of an exported program, by name; `name` stands for the file in errors.

    The archive is one that `archives.member_names` passed. The graph in it is not used: its layers are no modules any more.

    Raises:
        CheckpointError: written by another version of torch, several models in one file, or damaged.

    """
    with zipfile.ZipFile(file) as archive:
        configs = [member for member in archive.namelist() if member.endswith(_CONFIG)]
        if len(configs) != 1:
            found = f"{len(configs)} sets of weights"
            raise CheckpointError(f"{name}: an exported program (.pt2) with {found} that can be read, expected one", _HINT)
        try:
            entries = json.loads(archive.read(configs[0]))["config"]
            folder = configs[0].rpartition("/")[0]
            files: dict[str, bytearray] = {}
            return {key: _tensor(archive, folder, entry, files) for key, entry in entries.items()}
        except Exception as error:  # what the parsers raise over corrupt bytes is open-ended: zlib.error, BadZipFile, ...
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            raise CheckpointError(
                f"{name}: the weights of this exported program (.pt2) cannot be read: {reason}", _HINT
            ) from error


def _tensor(archive: zipfile.ZipFile, folder: str, entry: dict[str, Any], files: dict[str, bytearray]) -> Tensor:
    """One tensor, a view of its member's bytes; `files` holds the members that were read, for several tensors may share one.

    Raises ValueError and others for what is no such entry.
    """
    if entry["use_pickle"]:
        raise ValueError("they are pickled")
    meta = entry["tensor_meta"]
    sizes, strides = ([_count(size) for size in meta[key]] for key in ("sizes", "strides"))
    member = f"{folder}/{entry['path_name']}"
    if member not in files:
        files[member] = bytearray(archive.read(member))
    data = files[member]
    dtype = _DTYPES[meta["dtype"]]
    if not data and 0 not in sizes:
        raise ValueError(f"a tensor of shape {sizes!s:.60} without data")
    if not data:
        return torch.empty(sizes, dtype=dtype)
    return torch.as_strided(torch.frombuffer(data, dtype=dtype), sizes, strides, _count(meta["storage_offset"]))


def _count(value: dict[str, Any]) -> int:
    count = value["as_int"]
    if not isinstance(count, int) or count < 0:
        raise ValueError(f"{count!r:.40} is not a size")
    return count
