"""What a network is for, found out by running it once and by looking at the images: task, scale, size of the input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from qcompress.checkpoints import square_input
from qcompress.data import splits
from qcompress.data.images import Splits
from qcompress.data.items import Kind, Source
from qcompress.data.noise import parse
from qcompress.data.reading import Form, Reader
from qcompress.data.tasks import Task, task_of
from qcompress.errors import DataError, UsageError
from qcompress.frozen import frozen
from qcompress.settings import DataOptions

__all__ = ["DEFAULT_SIZE", "Frame", "Run", "frame", "frame_of", "load_images", "runner"]

Run = Callable[[tuple[int, ...]], tuple[int, ...] | None]
"""From the shape of an input to the shape of the network's output, None where it takes no such input."""

DEFAULT_SIZE = 256
"""Side, in pixels, of the input of a network that takes any."""

_SIDES = (64, 32, 224, 256, 28, 96, 128, 299, 384, 512)  # that are tried, the quick and the usual ones first


@dataclass(frozen=True)
class Frame:
    """`example_shape` is (1, C, H, W): the input at which costs are counted and latency is measured."""

    task: Task
    source: Source
    form: Form
    example_shape: tuple[int, ...]


def runner(model: nn.Module) -> Run:
    """`model`, on the CPU, as a `Run`."""

    def run(shape: tuple[int, ...]) -> tuple[int, ...] | None:
        try:
            with frozen(model), torch.inference_mode():
                output = model(torch.zeros(shape))
        except Exception:  # foreign code: any failure says that this size does not fit
            return None
        return tuple(output.shape) if isinstance(output, Tensor) else None

    return run


def frame(run: Run, channels: int, stride: int, data: DataOptions, size: int | None = None) -> Frame:
    """What the network and the images in `data` are, together. `size` is the side of the input that the user wants.

    A network that returns a vector for each image is a classifier; its input is as large as its images, or they are resized to
    `size`. A network whose output is larger than its input is one of super-resolution. A network of which nothing is seen,
    for it takes none of the usual sizes, is taken for a denoiser.
    Raises DataError for images that do not fit the network, UsageError for a size below 1.
    """
    if size is not None and size < 1:
        raise UsageError(f"the input size must be at least 1 pixel, got {size}")
    form = Form(size=size, mean=data.mean, std=data.std)
    seen = _seen(run, channels, stride, size) or _seen_on_images(run, channels, stride, data, form)
    classes, scale = (seen.classes, seen.scale) if seen else (False, 1)
    source = splits.find(data.source, channels, classes=classes)
    where = str(data.source)
    if classes != (source.content == "classes"):
        returns = "a vector for each image" if classes else "images"
        raise DataError(f"{where}: {source.kind}, but the network returns {returns}", "give the data that it was trained for")
    if seen and not classes:
        seen.check(source.content, f"{where}: {source.kind}" if data.source else f"the images that ship: {source.kind}")
    form = replace(form, scale=scale, size=size if classes else None)
    task = task_of(source.content, scale)
    shape: tuple[int, ...] = square_input(size or DEFAULT_SIZE, channels, stride)
    if classes:
        shape = (1, *Reader(None, channels, stride, 0, form).first(source.items[0]).input.shape)
        if run(shape) is None:
            raise DataError(f"{where}: the network takes no input of {shape[3]}x{shape[2]} pixels", "--size resizes the images")
    return Frame(task, source, form, shape)


def frame_of(run: Run, images: Splits, stride: int, data: DataOptions, size: int | None = None) -> Frame:
    """`frame` for images that are there already, in their roles. Raises DataError where the network does not take them."""
    first = images.calibration.pairs[0]
    channels = len(first.input)
    classes = first.is_labelled and first.target.ndim == 0
    content: Kind = "classes" if classes else "masks" if first.is_labelled else "pairs"
    shape = (1, *first.input.shape) if classes else square_input(size or DEFAULT_SIZE, channels, stride)
    output = run(shape)
    if output is None:
        raise DataError(f"{images.source}: the network takes no input of shape {shape}", "give images that it was made for")
    if not classes:
        _Seen(shape, output).check(content, images.source, first.scale)
    source = Source(images.source, content, ())
    return Frame(task_of(content, first.scale), source, Form(scale=first.scale, mean=data.mean, std=data.std), shape)


def load_images(frame: Frame, data: DataOptions, channels: int, stride: int, seed: int) -> Splits:
    """The images of a frame in their three roles. Raises as `splits.load`."""
    return splits.load(
        data.source,
        noise=parse(data.noise) if data.noise else None,
        channels=channels,
        stride=stride,
        seed=seed,
        max_images=data.max_images,
        form=frame.form,
        found=frame.source,
    )


@dataclass(frozen=True)
class _Seen:
    """What a network returned, (N, ...), for an input (N, C, H, W)."""

    given: tuple[int, ...]
    returned: tuple[int, ...]

    @property
    def classes(self) -> bool:
        """Whether it is a vector for each image."""
        return len(self.returned) == 2

    @property
    def scale(self) -> int:
        """Side of the output over side of the input; 1 where that is no whole number."""
        scale = self.returned[2] // self.given[2] if len(self.returned) == 4 else 1
        return scale if scale > 1 and self._is_larger(scale) else 1

    def check(self, content: Kind, where: str, scale: int | None = None) -> None:
        """Raises DataError where outputs cannot be compared with the targets: maps with masks, images with images."""
        masks = content == "masks"
        fits = self._is_larger(1 if masks else scale or self.scale)
        if fits and (masks or self.returned[1] == self.given[1]):
            return
        wanted = "a map for each class, as large as its input" if masks else f"images of {self.given[1]} channels"
        if scale and scale > 1:
            wanted += f", {scale} times as large as its input"
        raise DataError(
            f"{where}: these need a network that returns {wanted}; for an input {self.given} it returns {self.returned}",
            "a network that returns a map for each class needs --data with images/ and masks/",
        )

    def _is_larger(self, scale: int) -> bool:
        """Whether the output is an image or a map of `scale` times the input's sides."""
        return len(self.returned) == 4 and self.returned[2:] == tuple(side * scale for side in self.given[2:])


def _seen(run: Run, channels: int, stride: int, size: int | None) -> _Seen | None:
    """What the network returns at the first size that it takes; None where it takes none."""
    for side in (*([size] if size else []), *_SIDES):
        shape = square_input(side, channels, stride)
        output = run(shape)
        if output is not None:
            return _Seen(shape, output)
    return None


def _seen_on_images(run: Run, channels: int, stride: int, data: DataOptions, form: Form) -> _Seen | None:
    """The same at the size of the first image with a class, if there are such images."""
    try:
        first = splits.find(data.source, channels, classes=True).items[0]
        shape = (1, *Reader(None, channels, stride, 0, form).first(first).input.shape)
    except (DataError, UsageError):
        return None
    output = run(shape)
    return None if output is None else _Seen(shape, output)
