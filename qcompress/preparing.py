"""The start of a run: the checkpoint, its groups, and its images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from qcompress import loading, tracing
from qcompress.asking import Price
from qcompress.checkpoints import Checkpoint
from qcompress.data.images import Splits
from qcompress.drops import check_unit
from qcompress.errors import UsageError
from qcompress.framing import frame, frame_of, load_images, runner
from qcompress.groups import Groups
from qcompress.jobs import Job
from qcompress.metrics import metric
from qcompress.progress import Observer, Stopwatch
from qcompress.protection import protected
from qcompress.recover import has_batchnorm
from qcompress.settings import CheckpointOptions, Settings

__all__ = ["prepare"]


def prepare(
    source: Path | Checkpoint,
    settings: Settings,
    observer: Observer,
    *,
    size: int | None = None,
    images: Splits | None = None,
    price: Callable[[Checkpoint, Groups, tuple[int, ...], Observer], Mapping[str, Price]] | None = None,
) -> Job:
    """Loads the checkpoint, traces it at the latency input's size (or `size`), reads the images.

    A checkpoint and images that are there already are taken as they are. `price` tells what budgets cost in the groups at the
    shape of the input; it may raise for groups that will not do, before the images are read.
    """
    watch = Stopwatch(observer)
    data = settings.data
    _check_device(settings.device)
    with watch.stage("checkpoint"):
        checkpoint = source if isinstance(source, Checkpoint) else _loaded(source, settings.checkpoint)
        run, side = runner(checkpoint.model), size or settings.verify.size
        if images is None:
            found = frame(run, checkpoint.channels, checkpoint.stride, data, side)
        else:
            found = frame_of(run, images, checkpoint.stride, data, side)
        measured = metric(settings.metric, found.task, found.form.scale)
        if settings.repair == "batchnorm" and not has_batchnorm(checkpoint.model):
            hint = "--recover bias is the cheapest repair of such a network"
            raise UsageError("recover batchnorm: the network has no BatchNorm layers that keep statistics", hint)
        check_unit(settings.limits.drop_unit, "--max-drop", measured.name, measured.difference_unit)
    with watch.stage("coupled groups") as advance:
        example = torch.zeros(found.example_shape)
        groups = tracing.trace(checkpoint.model, example, ignore=settings.search.ignore, floor=settings.search.floor)
        advance(1, f"{len(groups.space)} units in {len(groups.groups)} groups")
    groups = protected(groups, settings.search)
    prices = {} if price is None else price(checkpoint, groups, found.example_shape, watch)
    with watch.stage("images") as advance:
        if images is None:
            images = load_images(found, data, checkpoint.channels, checkpoint.stride, settings.seed)
        roles = (images.calibration, images.selection, images.report)
        advance(1, "{} calibration, {} selection, {} report".format(*map(len, roles)))
    observer.say(f"images: {images.source}")
    for note in checkpoint.notes:
        observer.say(f"note: {note}")
    model = checkpoint.model.to(settings.device)
    return Job(settings.resolved(found.task), checkpoint, model, groups, images, found, measured, watch, prices)


def _loaded(path: Path, options: CheckpointOptions) -> Checkpoint:
    return loading.load(path, arch=options.arch, arch_args=options.arch_args, trust_pickle=options.trust_pickle)


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(":")[0]
        raise UsageError(f"device {name!r} cannot be used: {reason}", "--device cpu works everywhere") from error
