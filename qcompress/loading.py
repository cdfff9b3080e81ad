"""One door for every kind of network that a run can start from: files of weights, exported programs, ONNX files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from qcompress import checkpoints
from qcompress.checkpoints import Checkpoint
from qcompress.errors import UsageError
from qcompress.exporters import modules

__all__ = ["ONNX", "load"]

ONNX = "onnx"
"""Architecture of a network that was read from an ONNX file: the file itself builds it again."""


def load(
    path: str | Path,
    *,
    arch: str | None = None,
    arch_args: Mapping[str, JsonValue] | None = None,
    trust_pickle: bool = False,
) -> Checkpoint:
    """`checkpoints.load`, or for a file called .onnx the network in it, converted to modules.

    Raises what `checkpoints.load` and `exporters.modules.to_module` do, and UsageError for `arch` with an ONNX file.
    """
    path = Path(path)
    if not modules.is_onnx(path):
        return checkpoints.load(path, arch=arch, arch_args=arch_args, trust_pickle=trust_pickle)
    if arch not in (None, ONNX) or arch_args:
        raise UsageError(f"{path}: an ONNX file holds its architecture, but --arch {arch} is given", "leave it out")
    model = modules.to_module(path)
    return checkpoints.finished(path, hashlib.sha256(path.read_bytes()).hexdigest(), ONNX, {}, model)
