"""`prune` and `trace` for programs: a module that is at hand, images as arrays, settings as keywords."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from qcompress import checkpoints, pipeline, tracing
from qcompress.data import splits
from qcompress.data.images import Pair, Splits
from qcompress.errors import ArchitectureError, DataError, UsageError
from qcompress.groups import Groups
from qcompress.pipeline import Result
from qcompress.progress import SILENT, Observer
from qcompress.settings import DataOptions, Settings

__all__ = ["Images", "prune", "trace"]

Images = str | Path | Splits | tuple[Any, Any] | None
"""A folder or .npz file; images in their roles; (inputs, targets), two arrays or tensors; None: the photographs that ship."""


def trace(model: nn.Module, example: Tensor | Sequence[Tensor], *, ignore: Sequence[str] = (), floor: int = 1) -> Groups:
    """The coupled groups of any module: what could be removed together, what it costs, what is kept whole and why.

    `example` is its input, or a tuple of its inputs, each (batch, channels, ...). The module is not changed. Layers whose name
    matches a pattern of `ignore` stay whole; every group keeps `floor` units.

    Raises:
        ArchitectureError: the module fails on the example, cannot be followed, or has nothing to remove.
        UsageError: a pattern that matches no layer.

    """
    return tracing.trace(model, example, ignore=ignore, floor=floor)


@overload
def prune(
    network: str | Path,
    settings: Settings | None = None,
    /,
    *,
    data: Images = None,
    out: str | Path | None = None,
    observer: Observer = SILENT,
    resume: bool = False,
    **keywords: Any,
) -> Result: ...
@overload
def prune(
    network: nn.Module,
    example: Tensor,
    settings: Settings | None = None,
    /,
    *,
    data: Images = None,
    out: str | Path | None = None,
    observer: Observer = SILENT,
    resume: bool = False,
    **keywords: Any,
) -> Result: ...
def prune(
    network: str | Path | nn.Module,
    /,
    *positional: Tensor | Settings | None,
    data: Images = None,
    out: str | Path | None = None,
    observer: Observer = SILENT,
    resume: bool = False,
    **keywords: Any,
) -> Result:
    """Choose units, remove them, repair, export, verify: of a checkpoint's network, or of a live module.

        prune("model.pt", Settings(sparsity=0.5), out="model.slim")
        prune(module, torch.zeros(1, 3, 256, 256), sparsity=0.5, data=(noisy, clean)).model

    Args:
        network: the path of a checkpoint (also .pt2 or .onnx), or a module. A module is copied and never changed.
        positional: for a module its example input, (1, C, H, W) with H = W, the size at which costs and latency are measured;
            then, for both, `Settings` (default: all defaults).
        data: see `Images`. Arrays are (N, C, H, W) floats in 0..1 (uint8 is scaled) with targets of the same kind, with a class
            each, (N,) integers, or with a mask each, (N, H, W) integers; they are dealt into the three roles image by image.
        out: the folder to write. Default: NAME.slim next to a checkpoint; for a module a new temporary folder, which stays:
            `Result.folder` says where it is, and `Result.model` is the slim network.
        observer: is told of progress.
        resume: goes on with the refinement or the fine-tuning that was interrupted or killed in `out`.
        keywords: fields of `Settings` that take the place of those in `settings`: sparsity, budget, metric, seed, recover ...

    Raises:
        QCompressError: one of its kinds, see `qcompress.errors`; nothing half-written is left behind.

    """
    rest = list(positional)
    example = rest.pop(0) if isinstance(network, nn.Module) and rest else None
    given = rest.pop(0) if rest else None
    if rest or not isinstance(given, Settings | None):
        raise UsageError(f"prune: {type(given).__name__} given, expected Settings", "prune(module, example, settings)")
    settings = _settings(given or Settings(), keywords)
    if isinstance(data, str | Path):
        settings = replace(settings, data=replace(settings.data, source=Path(data)))
    images = data if isinstance(data, Splits) else _dealt(data, settings) if isinstance(data, tuple) else None
    if data is not None and images is None and not isinstance(data, str | Path):
        raise UsageError(f"data is {type(data).__name__}, expected a path, Splits, or a tuple (inputs, targets)")
    if not isinstance(network, nn.Module):
        return pipeline.prune(network, settings, images=images, out=out, observer=observer, resume=resume)
    checkpoint, settings = _at_hand(network, example, settings)
    if out is None:
        out = Path(tempfile.mkdtemp(prefix="qcompress-")) / f"{checkpoint.path.name}.slim"
    return pipeline.prune(checkpoint, settings, images=images, out=out, observer=observer, resume=resume)


def _settings(settings: Settings, keywords: dict[str, Any]) -> Settings:
    known = [field.name for field in fields(Settings)]
    unknown = next((name for name in keywords if name not in known), None)
    if unknown is not None:
        raise UsageError(f"prune has no setting {unknown!r}, expected one of {', '.join(known)}")
    return replace(settings, **keywords)


def _at_hand(module: nn.Module, example: object, settings: Settings) -> tuple[checkpoints.Checkpoint, Settings]:
    """The module as a checkpoint, and the settings at the example's size. Raises UsageError for an example that will not do."""
    if isinstance(example, list | tuple):
        hint = "qcompress.trace shows the groups of networks with several inputs"
        raise UsageError(f"prune takes networks of one image, got an example of {len(example)} inputs", hint)
    if not isinstance(example, Tensor):
        raise UsageError(f"the example is {type(example).__name__}, expected a tensor (1, C, H, W)", "prune(module, example)")
    if example.ndim != 4 or example.shape[2] != example.shape[3] or not example.numel():
        raise UsageError(f"the example has the shape {tuple(example.shape)}, expected (1, C, H, W) with H = W")
    checkpoint = checkpoints.of_module(module)
    with torch.no_grad():
        try:
            output = checkpoint.model(example[:1].detach().cpu().float())
        except Exception as error:  # foreign code
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise ArchitectureError(f"{checkpoint.path}: fails on the example {tuple(example.shape)}: {reason}") from error
    if not isinstance(output, Tensor):
        raise ArchitectureError(f"{checkpoint.path}: returns {type(output).__name__}, expected one tensor")
    checkpoint = replace(checkpoint, channels=int(example.shape[1]))
    return checkpoint, replace(settings, verify=replace(settings.verify, size=int(example.shape[2])))


def _dealt(data: tuple[Any, Any], settings: Settings) -> Splits:
    """Arrays as images in their three roles. Raises DataError for arrays that are no images and targets."""
    if settings.data != DataOptions():
        raise UsageError("data options are for folders, but arrays are given", "give the arrays as the network takes them")
    if len(data) != 2:
        raise UsageError(f"data has {len(data)} parts, expected (inputs, targets)")
    inputs, targets = (_array(part) for part in data)
    if inputs.ndim != 4 or not len(inputs) or targets.ndim not in (1, 3, 4) or len(inputs) != len(targets):
        raise DataError(f"inputs are {inputs.shape}, targets {targets.shape}; expected (N, C, H, W) and as many targets")
    if targets.ndim < 4 and targets.dtype.kind not in "iu":
        raise DataError(f"targets {targets.shape} are {targets.dtype}, expected integers: a class for each image or pixel")
    images = _floats(inputs)
    wanted = _floats(targets) if targets.ndim == 4 else targets.astype(np.int64)
    names = [f"{number:06}" for number in range(len(images))]
    pairs = [Pair(name, name, image, target) for name, image, target in zip(names, images, wanted, strict=True)]
    return splits.from_pairs(pairs, seed=settings.seed, source="arrays")


def _array(value: object) -> np.ndarray[Any, Any]:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _floats(images: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32; uint8 0..255 becomes 0..1. Raises DataError for other integers, NaN and infinity."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    with np.errstate(over="ignore"):
        converted = images.astype(np.float32) if images.dtype.kind == "f" else None
    if converted is None or not np.isfinite(converted).all():  # what a float64 holds may be too large for a float32
        raise DataError(f"images of {images.dtype}, expected uint8 or finite floats in 0..1")
    return converted
