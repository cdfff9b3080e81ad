"""What a measured budget costs: the dense network is exported, and where it is for time, tables are measured or read."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from qcompress.asking import NO_PRICES, Price, asked
from qcompress.checkpoints import Checkpoint
from qcompress.exporters import EXPORTERS
from qcompress.exporters.anatomy import dissect
from qcompress.file_size import FileSize
from qcompress.groups import Groups
from qcompress.progress import Observer
from qcompress.settings import Settings

__all__ = ["priced"]

_METADATA = {"producer": " " * 24, "architecture": " " * 24, "checkpoint_sha256": " " * 64, "plan_sha256": " " * 64}
"""As long as what the file will say of its origin."""


def priced(
    settings: Settings, checkpoint: Checkpoint, groups: Groups, shape: tuple[int, ...], watch: Observer
) -> Mapping[str, Price]:
    """The prices that the settings' budget needs, none for most; `shape` is that of the network's input.

    Raises UsageError where the budget cannot be met, before anything else is done; ExportError.
    """
    prices = NO_PRICES
    if settings.budget == "size":
        with watch.stage("size of the file"):
            prices = {"size": Price(_file_size(checkpoint, groups, shape, settings))}
    asked(groups, settings, prices)
    return prices


def _file_size(checkpoint: Checkpoint, groups: Groups, shape: tuple[int, ...], settings: Settings) -> FileSize:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "dense.onnx"
        options, example = settings.export, torch.zeros(shape)
        written = EXPORTERS["onnx"](
            checkpoint.model, example, path, opset=options.opset, dynamic=options.dynamic, metadata=_METADATA
        )
        anatomy = dissect(path.read_bytes(), groups.layers, shape)
    return FileSize(groups, anatomy, written.size_bytes, repaired=settings.recover != "none")
