"""What a file is worth: whether it computes what PyTorch computes, and its quality on images that no stage has seen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from qcompress.answers import Answers, answers
from qcompress.data.images import Pair, ReportImages
from qcompress.data.reading import resized
from qcompress.errors import DataError, InputError
from qcompress.exporters import Runner, files_of
from qcompress.exporters.parity import PARITY_GATE, Difference, Parity
from qcompress.exporters.runtime import STRIDE_KEY, find_stride, open_onnx
from qcompress.framing import Run
from qcompress.frozen import frozen
from qcompress.metrics import AUTO, Metric, companions, metric

__all__ = [
    "PARITY_GATE",
    "Parity",
    "Quality",
    "Verification",
    "enlarged",
    "measure",
    "outputs",
    "runner",
    "verify",
    "verify_onnx",
    "verify_opened",
]

_PROBE = 64  # side of the images that find out a file's stride: a multiple of every stride looked for

Array = NDArray[np.float32]
Predict = Callable[[Array], Array]  # (1, C, H, W) -> (1, ...)


@dataclass(frozen=True)
class Quality:
    """By metric: the value of each image, in the order of the images, and that of all. PSNR is infinite where equal."""

    per_image: Mapping[str, tuple[float, ...]]
    overall: Mapping[str, float]

    def mean(self, metric: str | None = None) -> float:
        """The metric called `metric` (None: the first) of all images: mostly the mean, for PSNR that of the dB values."""
        return self.overall[next(iter(self.overall)) if metric is None else metric]


@dataclass(frozen=True)
class Verification:
    """What was found. `slim` and `dense` are None where they were not given.

    `noisy` is the quality of the input itself, enlarged bicubically for a network that enlarges, None where targets are labels.
    `answers` are of each image what a classifier and the dense one say; () of other networks, or without a dense one.
    """

    path: Path
    size_bytes: int
    sha256: str
    images: tuple[str, ...]
    noisy: Quality | None
    dense: Quality | None
    slim: Quality | None
    artifact: Quality
    parity: Parity | None
    notes: tuple[str, ...]
    answers: tuple[Answers, ...] = ()


def verify(
    artifact: Path,
    *,
    reference: nn.Module,
    dense: nn.Module | None,
    report: ReportImages,
    metrics: Sequence[Metric] | None = None,
) -> Verification:
    """Runs the ONNX file at `artifact` in onnxruntime on `report`, and beside it the network it was written from.

    `reference` is that network in PyTorch, against which parity is measured, and `dense` what it was made from. The modules are
    run on the CPU, in evaluation mode, and left as they are. `metrics` are measured, by default those of the images' task.
    Raises InputError for a file that cannot be read or run, DataError for images that do not fit it.
    """
    others = {"slim": _module(reference)} | ({} if dense is None else {"dense": _module(dense)})
    return _verification(open_onnx(artifact), artifact, report, others, metrics)


def verify_onnx(
    artifact: Path,
    report: ReportImages,
    *,
    reference: nn.Module | Path | None = None,
    metrics: Sequence[Metric] | None = None,
) -> Verification:
    """Runs the ONNX file at `artifact` on `report`, beside `reference` (a module or another ONNX file) where one is given.

    The reference's quality is `dense` of the result; parity is against it, and not to be expected of a pruned network. Raises
    as `verify`.
    """
    beside = open_onnx(reference) if isinstance(reference, Path) else reference
    return verify_opened(open_onnx(artifact), artifact, report, reference=beside, metrics=metrics)


def verify_opened(
    network: Runner,
    path: Path,
    report: ReportImages,
    *,
    reference: nn.Module | Runner | None = None,
    metrics: Sequence[Metric] | None = None,
) -> Verification:
    """As `verify_onnx`, for the file at `path` that any runtime has opened as `network`."""
    others: dict[str, Predict] = {}
    if reference is not None:
        others["dense"] = _module(reference) if isinstance(reference, nn.Module) else reference
    return _verification(network, path, report, others, metrics)


def measure(model: nn.Module, report: ReportImages, metrics: Sequence[Metric] | None = None) -> Quality:
    """Quality of a module on `report`, run where its parameters are."""
    predict = _module(model)
    tally = _Tally("the network", _metrics(report, metrics))
    for pair in report.pairs:
        tally.add(predict(pair.input[None]), pair)
    return tally.quality()


def outputs(artifact: Path, dense: nn.Module, report: ReportImages, chosen: Sequence[int]) -> list[tuple[Pair, Array, Array]]:
    """For some images of `report` by their place: the pair as both networks take it, the output of `dense`, that of `artifact`.

    Outputs are (C, H, W), or (K,) of a classifier. Raises as `verify`.
    """
    network, predict = open_onnx(artifact), _module(dense)
    pairs, _ = _fitting(report, network)
    wanted = (pairs[place] for place in chosen)
    return [(pair, predict(pair.input[None])[0], network(_batch(pair.input, network))[0]) for pair in wanted]


def runner(network: Runner) -> Run:
    """The file as what `framing.frame` runs."""

    def run(shape: tuple[int, ...]) -> tuple[int, ...] | None:
        fixed = network.input_shape
        if len(fixed) != len(shape) or any(
            wanted not in (None, size) for wanted, size in zip(fixed[1:], shape[1:], strict=True)
        ):
            return None
        try:
            return (shape[0], *network(np.zeros((fixed[0] or 1, *shape[1:]), np.float32)).shape[1:])
        except InputError:
            return None

    return run


class _Tally:
    """The metrics of one network, image by image; outputs are not kept."""

    def __init__(self, name: str, metrics: Sequence[Metric]) -> None:
        self._name, self._metrics = name, metrics
        self._values: dict[str, list[float]] = {one.name: [] for one in metrics}
        self._evidence: dict[str, list[NDArray[np.float64]]] = {one.name: [] for one in metrics}

    def add(self, output: Array, pair: Pair) -> None:
        """Take in the output (1, ...) for one image."""
        if pair.target.ndim == 3 and output.shape != (1, *pair.target.shape):
            raise InputError(
                f"{self._name} returns {output.shape} for {pair.name}, expected {(1, *pair.target.shape)}, as its target"
            )
        ours, target = torch.from_numpy(np.array(output)), torch.from_numpy(np.array(pair.target))[None]
        for measured in self._metrics:
            self._values[measured.name].append(float(measured.per_image(ours, target)))
            self._evidence[measured.name].append(measured.evidence_of(ours, target))

    def quality(self) -> Quality:
        """Of all images so far."""
        overall = {one.name: one.overall(np.concatenate(self._evidence[one.name])) for one in self._metrics}
        return Quality({name: tuple(values) for name, values in self._values.items()}, overall)


def _verification(
    network: Runner, path: Path, report: ReportImages, others: Mapping[str, Predict], wanted: Sequence[Metric] | None
) -> Verification:
    """`others` are the networks beside the file by their role: "slim", against which parity is measured, or else "dense"."""
    images, notes = _fitting(report, network)
    metrics = _metrics(report, wanted)
    names = {"artifact": network.name, "slim": "the network", "dense": "the reference", "noisy": "the input"}
    tallies = {role: _Tally(names[role], metrics) for role in ("artifact", *others)}
    if not images[0].is_labelled:
        tallies["noisy"] = _Tally(names["noisy"], metrics)
    difference, said = Difference(), list[Answers]()
    for pair in images:
        returned = {"artifact": network(_batch(pair.input, network))[:1]}
        returned |= {role: run(pair.input[None]) for role, run in others.items()}
        if "noisy" in tallies:
            returned["noisy"] = enlarged(pair)[None]
        for role, tally in tallies.items():
            tally.add(returned[role], pair)
        if "dense" in returned and report.task == "classification":
            said.append(answers(returned["dense"][0], returned["artifact"][0], int(pair.target)))
        if others:
            theirs = returned.get("slim", returned.get("dense", returned["artifact"]))
            if returned["artifact"].shape != theirs.shape:
                raise InputError(
                    f"the outputs differ in shape from the reference's: {returned['artifact'].shape} and {theirs.shape}"
                )
            difference.add(returned["artifact"], theirs)
    data = b"".join(file.read_bytes() for file in files_of(path))
    found = {role: tally.quality() for role, tally in tallies.items()}
    return Verification(
        path=path,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        images=tuple(pair.name for pair in images),
        noisy=found.get("noisy"),
        dense=found.get("dense"),
        slim=found.get("slim"),
        artifact=found["artifact"],
        parity=difference.parity() if others else None,
        notes=notes,
        answers=tuple(said),
    )


def _metrics(report: ReportImages, wanted: Sequence[Metric] | None) -> Sequence[Metric]:
    """`wanted`, or those of the images' task."""
    if not report.pairs:
        raise DataError("no images to report on", "give at least one pair")
    return companions(metric(AUTO, report.task, report.pairs[0].scale), report.task) if wanted is None else wanted


def enlarged(pair: Pair) -> Array:
    """The input as large as the target."""
    return pair.input if pair.scale == 1 else resized(pair.input, *pair.target.shape[1:])


def _module(model: nn.Module) -> Predict:
    """`model` as a function of arrays, on the device where it is."""
    tensor = next(iter(model.parameters()), torch.empty(0))

    def predict(images: Array) -> Array:
        with frozen(model), torch.inference_mode():
            output: Array = model(torch.tensor(images, device=tensor.device)).float().cpu().numpy()
        return output

    return predict


def _batch(image: Array, network: Runner) -> Array:
    """(C, H, W) repeated to the batch size that `network` wants."""
    return np.repeat(image[None], network.input_shape[0] or 1, axis=0)


def _fitting(report: ReportImages, network: Runner) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """The images as the network can take them, with a note where their size was changed."""
    if not report.pairs:
        raise DataError("no images to report on", "give at least one pair")
    if len(network.input_shape) != 4:
        raise InputError(f"{network.name}: the input has {len(network.input_shape)} dimensions, expected (N, C, H, W)")
    channels, height, width = network.input_shape[1:]
    for pair in report.pairs:
        if channels not in (None, len(pair.input)):
            raise DataError(
                f"{pair.name} has {len(pair.input)} channels, {network.name} takes {channels}",
                "give grey images to a grey network and colour images to a colour one",
            )
    if report.task == "classification":
        return _whole(report.pairs, network), ()
    stride = _stride(network, report.pairs[0]) if height is None or width is None else 1
    pairs = tuple(_fit(pair, height, width, stride) for pair in report.pairs)
    changed = sum(new is not old for new, old in zip(pairs, report.pairs, strict=True))
    if not changed:
        return pairs, ()
    what = f"multiples of {stride}" if height is None or width is None else f"{width}x{height}, all that the file takes"
    return pairs, (f"images cropped or repeated about their centre to {what}: {changed} of {len(pairs)}",)


def _whole(pairs: tuple[Pair, ...], network: Runner) -> tuple[Pair, ...]:
    """Images with a class, which are not cropped. Raises DataError where the network takes another size."""
    for pair in pairs:
        sizes = zip(network.input_shape[2:], pair.input.shape[1:], strict=True)
        if any(wanted not in (None, length) for wanted, length in sizes):
            raise DataError(
                f"{pair.name} is {pair.input.shape[2]}x{pair.input.shape[1]} pixels, {network.name} takes "
                f"{network.input_shape[3]}x{network.input_shape[2]}",
                f"--size {network.input_shape[2]} resizes the images",
            )
    return pairs


def _stride(network: Runner, pair: Pair) -> int:
    """What height and width must be multiples of: as the file says, else found out by running it."""
    said = network.metadata.get(STRIDE_KEY, "")
    if said.isdecimal() and int(said) > 0:
        return int(said)

    def accepts(height: int, width: int) -> bool:
        try:
            image = np.zeros((len(pair.input), height, width), np.float32)
            return network(_batch(image, network)).shape[2:] == (height * pair.scale, width * pair.scale)
        except InputError:
            return False

    return find_stride(accepts, _PROBE, _PROBE) or 1


def _fit(pair: Pair, height: int | None, width: int | None, stride: int) -> Pair:
    """`pair` cropped about its centre to multiples of `stride`, or cropped and tiled to the fixed sizes."""
    _, rows, columns = pair.input.shape
    if (height is None and rows < stride) or (width is None and columns < stride):
        raise DataError(
            f"{pair.name} is {columns}x{rows} pixels, the network needs at least {stride}x{stride}", "use larger images"
        )
    size = (height or rows // stride * stride, width or columns // stride * stride)
    if size == (rows, columns):
        return pair
    times = (-(-size[0] // rows), -(-size[1] // columns))
    tiled = Pair(
        pair.name, pair.scene, *(np.tile(array, (*[1] * (array.ndim - 2), *times)) for array in (pair.input, pair.target))
    )
    top, left = (times[0] * rows - size[0]) // 2, (times[1] * columns - size[1]) // 2
    return tiled.part(top, left, *size)
