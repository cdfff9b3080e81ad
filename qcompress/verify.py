"""What an ONNX file is worth: whether it computes what PyTorch computes, and its quality on images that no stage has seen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from qcompress.data.images import Pair, ReportImages
from qcompress.errors import DataError, InputError
from qcompress.exporters.runtime import STRIDE_KEY, Network, find_stride, open_onnx
from qcompress.frozen import frozen
from qcompress.metrics import psnr, ssim

__all__ = ["PARITY_GATE", "Parity", "Quality", "Verification", "measure", "verify", "verify_onnx"]

PARITY_GATE = 1e-5  # of the output's largest absolute value, float32
_PROBE = 64  # side of the images that find out a file's stride: a multiple of every stride looked for

Array = NDArray[np.float32]
Predict = Callable[[Array], Array]  # (1, C, H, W) -> (1, C, H, W)


@dataclass(frozen=True)
class Parity:
    """Largest absolute difference from the reference over all images; `rel` is it over the reference's largest output."""

    max_abs_diff: float
    rel: float
    gate: float = PARITY_GATE

    @property
    def passed(self) -> bool:
        """Whether the difference is within the gate; NaN is not."""
        return self.rel <= self.gate


@dataclass(frozen=True)
class Quality:
    """Per image, in the order of the images: PSNR in dB (infinite where equal), SSIM in -1..1."""

    psnr: tuple[float, ...]
    ssim: tuple[float, ...]

    def mean(self, metric: Literal["psnr", "ssim"] = "psnr") -> float:
        """Mean over the images; for PSNR the mean of the dB values."""
        return float(np.mean(getattr(self, metric)))


@dataclass(frozen=True)
class Verification:
    """What was found. `noisy` is the quality of the input itself; `slim` and `dense` are None where they were not given."""

    path: Path
    size_bytes: int
    sha256: str
    images: tuple[str, ...]
    noisy: Quality
    dense: Quality | None
    slim: Quality | None
    artifact: Quality
    parity: Parity | None
    notes: tuple[str, ...]


def verify(artifact: Path, *, reference: nn.Module, dense: nn.Module | None, report: ReportImages) -> Verification:
    """Runs the ONNX file at `artifact` in onnxruntime on `report`, and beside it the network it was written from.

    `reference` is that network in PyTorch, against which parity is measured, and `dense` what it was made from. The modules are
    run on the CPU, in evaluation mode, and left as they are. Raises InputError for a file that cannot be read or run,
    DataError for images that do not fit it.
    """
    return _verification(
        open_onnx(artifact), artifact, report, slim=_module(reference), dense=None if dense is None else _module(dense)
    )


def verify_onnx(artifact: Path, report: ReportImages, *, reference: nn.Module | Path | None = None) -> Verification:
    """Runs the ONNX file at `artifact` on `report`, beside `reference` (a module or another ONNX file) where one is given.

    The reference's quality is `dense` of the result; parity is against it, and not to be expected of a pruned network. Raises
    as `verify`.
    """
    other: Predict | None = _module(reference) if isinstance(reference, nn.Module) else None
    if isinstance(reference, Path):
        other = open_onnx(reference)
    return _verification(open_onnx(artifact), artifact, report, slim=None, dense=other)


def measure(model: nn.Module, report: ReportImages) -> Quality:
    """Quality of a module on `report`, run where its parameters are."""
    predict = _module(model)
    return _quality([predict(pair.noisy[None]) for pair in report.pairs], report.pairs, "the network")


def _verification(
    network: Network, path: Path, report: ReportImages, *, slim: Predict | None, dense: Predict | None
) -> Verification:
    images, notes = _fitting(report, network)
    outputs = [network(_batch(pair.noisy, network))[:1] for pair in images]
    slim_outputs, dense_outputs = ([run(pair.noisy[None]) for pair in images] if run else None for run in (slim, dense))
    reference = dense_outputs if slim_outputs is None else slim_outputs
    data = path.read_bytes()
    return Verification(
        path=path,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        images=tuple(pair.name for pair in images),
        noisy=_quality([pair.noisy[None] for pair in images], images, "the input"),
        dense=None if dense_outputs is None else _quality(dense_outputs, images, "the reference"),
        slim=None if slim_outputs is None else _quality(slim_outputs, images, "the network"),
        artifact=_quality(outputs, images, network.name),
        parity=None if reference is None else _parity(outputs, reference),
        notes=notes,
    )


def _module(model: nn.Module) -> Predict:
    """`model` as a function of arrays, on the device where it is."""
    tensor = next(iter(model.parameters()), torch.empty(0))

    def predict(images: Array) -> Array:
        with frozen(model), torch.inference_mode():
            output: Array = model(torch.tensor(images, device=tensor.device)).float().cpu().numpy()
        return output

    return predict


def _batch(image: Array, network: Network) -> Array:
    """(C, H, W) repeated to the batch size that `network` wants."""
    return np.repeat(image[None], network.input_shape[0] or 1, axis=0)


def _parity(outputs: list[Array], references: list[Array]) -> Parity:
    pairs = list(zip(outputs, references, strict=True))
    if any(ours.shape != theirs.shape for ours, theirs in pairs):
        raise InputError(f"the outputs differ in shape from the reference's: {pairs[0][0].shape} and {pairs[0][1].shape}")
    difference = float(np.max([np.abs(ours.astype(np.float64) - theirs).max() for ours, theirs in pairs]))
    largest = float(np.max([np.abs(theirs).max() for _, theirs in pairs]))
    return Parity(difference, difference / largest if largest else (0.0 if difference == 0 else float("inf")))


def _quality(outputs: list[Array], images: tuple[Pair, ...], name: str) -> Quality:
    """PSNR and SSIM of every output against its clean image."""
    values: list[tuple[float, float]] = []
    for output, pair in zip(outputs, images, strict=True):
        if output.shape != (1, *pair.clean.shape):
            raise InputError(f"{name} returns {output.shape} for {pair.name}, expected {(1, *pair.clean.shape)}, as its input")
        ours, clean = torch.from_numpy(np.array(output)), torch.from_numpy(np.array(pair.clean))[None]
        values.append((float(psnr(ours, clean)), float(ssim(ours, clean))))
    return Quality(tuple(value for value, _ in values), tuple(value for _, value in values))


def _fitting(report: ReportImages, network: Network) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """The images as the network can take them, with a note where their size was changed."""
    if not report.pairs:
        raise DataError("no images to report on", "give at least one pair")
    if len(network.input_shape) != 4:
        raise InputError(f"{network.name}: the input has {len(network.input_shape)} dimensions, expected (N, C, H, W)")
    channels, height, width = network.input_shape[1:]
    for pair in report.pairs:
        if channels not in (None, len(pair.noisy)):
            raise DataError(
                f"{pair.name} has {len(pair.noisy)} channels, {network.name} takes {channels}",
                "give grey images to a grey network and colour images to a colour one",
            )
    stride = _stride(network, len(report.pairs[0].noisy)) if height is None or width is None else 1
    pairs = tuple(_fit(pair, height, width, stride) for pair in report.pairs)
    changed = sum(new is not old for new, old in zip(pairs, report.pairs, strict=True))
    if not changed:
        return pairs, ()
    what = f"multiples of {stride}" if height is None or width is None else f"{width}x{height}, all that the file takes"
    return pairs, (f"images cropped or repeated about their centre to {what}: {changed} of {len(pairs)}",)


def _stride(network: Network, channels: int) -> int:
    """What height and width must be multiples of: as the file says, else found out by running it."""
    said = network.metadata.get(STRIDE_KEY, "")
    if said.isdecimal() and int(said) > 0:
        return int(said)

    def accepts(height: int, width: int) -> bool:
        try:
            image = np.zeros((channels, height, width), np.float32)
            return network(_batch(image, network)).shape[2:] == (height, width)
        except InputError:
            return False

    return find_stride(accepts, _PROBE, _PROBE) or 1


def _fit(pair: Pair, height: int | None, width: int | None, stride: int) -> Pair:
    """`pair` cropped about its centre to multiples of `stride`, or cropped and tiled to the fixed sizes."""
    _, rows, columns = pair.noisy.shape
    if (height is None and rows < stride) or (width is None and columns < stride):
        raise DataError(
            f"{pair.name} is {columns}x{rows} pixels, the network needs at least {stride}x{stride}", "use larger images"
        )
    size = (height or rows // stride * stride, width or columns // stride * stride)
    if size == (rows, columns):
        return pair
    return Pair(pair.name, pair.scene, _resized(pair.noisy, size), _resized(pair.clean, size))


def _resized(image: Array, size: tuple[int, int]) -> Array:
    """(C, H, W) repeated where it is too small, then cropped about the centre."""
    _, rows, columns = image.shape
    image = np.tile(image, (1, -(-size[0] // rows), -(-size[1] // columns)))
    top, left = (image.shape[1] - size[0]) // 2, (image.shape[2] - size[1]) // 2
    return np.ascontiguousarray(image[:, top : top + size[0], left : left + size[1]])
