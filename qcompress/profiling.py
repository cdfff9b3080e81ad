"""What a latency table needs to know of a network: which small models are to be timed, and what each of them stands for."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from pydantic import ValidationError

from qcompress import loading, processor, seeds, table_trust, tracing
from qcompress._version import __version__
from qcompress.alignment import Alignment
from qcompress.checkpoints import Checkpoint
from qcompress.errors import InputError, UsageError
from qcompress.exporters import EXPORTERS, micro, timing
from qcompress.exporters.anatomy import Anatomy, Call, dissect
from qcompress.exporters.micro import Micro
from qcompress.files import claim_file, write_text
from qcompress.groups import Groups, Layer, Side
from qcompress.latency_model import LatencyModel
from qcompress.latency_table import (
    CarrierTimes,
    DeviceFacts,
    LatencyPlan,
    LatencyTable,
    NetworkTimes,
    OperationTimes,
    ShapeTimes,
    TimedLayer,
)
from qcompress.progress import SILENT, Observer
from qcompress.settings import CheckpointOptions

__all__ = ["Jobs", "narrowed", "plan", "profile", "time_here", "write_script", "write_table"]

WIDTHS = 7
"""So many widths of a side are timed at most: parts of a block, one block, and more of them up to the dense width."""

SHARES = (1.0, 0.75, 0.5, 0.25)
"""Of the units that whole networks keep in every group, in whole blocks, the dense one first."""

MIXED = 6
"""So many further ones keep allowed counts at random: there, layers and other operations weigh differently."""

FEW = 4
"""A side that never shrinks and has no more channels stands in its model as it is."""


@dataclass(frozen=True, eq=False)
class Jobs:
    """A plan, and the models that it numbers."""

    plan: LatencyPlan
    models: tuple[Micro, ...]


@dataclass(eq=False)
class _Models:
    """Models in the making, each once."""

    models: list[Micro] = field(default_factory=list)
    places: dict[tuple[bytes, tuple[int, ...]], int] = field(default_factory=dict)
    carriers: list[CarrierTimes] = field(default_factory=list)

    def add(self, model: Micro) -> int:
        key = model.data, model.shape
        if key not in self.places:
            self.places[key] = len(self.models)
            self.models.append(model)
        return self.places[key]

    def light(self, width: int, sides: tuple[int, ...]) -> int:
        """The place of the carrier of this width and size."""
        made = CarrierTimes(once=self.add(micro.carrier(width, sides)), twice=self.add(micro.carrier(width, sides, twice=True)))
        if made not in self.carriers:
            self.carriers.append(made)
        return self.carriers.index(made)


def plan(checkpoint: Checkpoint, groups: Groups, *, threads: int = 1, block: int | None = None) -> Jobs:
    """The models to time for the network of `groups`, at the size that it was traced with.

    `block` are the channels that the runtime computes at a time where it is to be used; None: on this processor.

    Raises ExportError where the network's parts cannot be told from its ONNX file.
    """
    block = block or processor.block()
    with tempfile.TemporaryDirectory() as scratch:
        path, example = Path(scratch) / "dense.onnx", torch.zeros(groups.example_shape)
        EXPORTERS["onnx"](checkpoint.model, example, path, opset=18, dynamic=False, metadata={})
        anatomy = dissect(path.read_bytes(), groups.layers, groups.example_shape)
    layers = {layer.name: layer for layer in groups.layers}
    models = _Models()
    networks = tuple(_networks(anatomy, groups, layers, models, block))
    timed, shapes = _layers(anatomy, groups, layers, models, block)
    operations = tuple(_operations(anatomy, models))
    made = LatencyPlan(
        tool=f"qcompress {__version__}",
        architecture=checkpoint.architecture,
        example_shape=groups.example_shape,
        threads=threads,
        block=block,
        groups=dict(zip(groups.space.groups, groups.space.sizes, strict=True)),
        layers=timed,
        shapes=shapes,
        operations=operations,
        carriers=tuple(models.carriers),
        networks=networks,
    )
    return Jobs(made, tuple(models.models))


def profile(
    checkpoint: str | Path,
    options: CheckpointOptions | None = None,
    *,
    size: int = 256,
    threads: int = 1,
    block: int | None = None,
    ignore: tuple[str, ...] = (),
    out: str | Path | None = None,
    script: str | Path | None = None,
    observer: Observer = SILENT,
) -> LatencyTable | None:
    """The latency table of a checkpoint's network at a square input of `size` pixels, measured here and written to `out`.

    With `script`, a folder, nothing is measured: what another machine needs for that is written there.

    Raises:
        QCompressError: one of its kinds, see `qcompress.errors`; of a table that no run would take nothing is written.

    """
    options = options or CheckpointOptions()
    if threads < 1 or (block is not None and block < 1):
        raise UsageError(f"threads are {threads}, block is {block}, expected at least 1")
    if out is not None:
        claim_file(out)
    with observer.stage("coupled groups"):
        found = loading.load(checkpoint, arch=options.arch, arch_args=options.arch_args, trust_pickle=options.trust_pickle)
        groups = tracing.trace(found.model, torch.zeros(found.example_shape(size)), ignore=ignore)
    with observer.stage("models to time") as advance:
        jobs = plan(found, groups, threads=threads, block=block)
        advance(1, f"{len(jobs.models)} models")
    if script is not None:
        write_script(jobs, Path(script))
        return None
    model = LatencyModel(time_here(jobs, observer), groups)
    table_trust.check(model)
    if (doubt := table_trust.doubt(model)) is not None:
        observer.say(f"warning: {doubt}")
    if out is not None:
        write_table(model.table, Path(out))
    return model.table


def time_here(jobs: Jobs, observer: Observer, *, seconds: float = 240.0) -> LatencyTable:
    """The table of this machine, within about `seconds`. Raises InputError where a layer does not run."""
    given = [(model.data, model.shape) for model in jobs.models]
    with observer.stage("latency table", 1.0) as advance:
        times = timing.measure(given, threads=jobs.plan.threads, seconds=seconds, told=advance)
        advance(1.0, f"{len(times)} models timed")
    try:
        return LatencyTable(**dict(jobs.plan), device=DeviceFacts(**timing.device()), times_ns=tuple(times))
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise InputError(f"the network cannot be timed part by part: {reason}", "prune by another --budget") from error


def write_table(table: LatencyTable, path: Path) -> None:
    """Raises OutputError."""
    write_text(path, table.model_dump_json(by_alias=True) + "\n")


def write_script(jobs: Jobs, folder: Path) -> tuple[Path, Path]:
    """`timing.py`, which needs numpy and onnxruntime only, and its `jobs.json`. Raises OutputError."""
    models = [{"model": base64.b64encode(model.data).decode(), "shape": model.shape} for model in jobs.models]
    given = {"plan": jobs.plan.model_dump(mode="json", by_alias=True), "jobs": models}
    script = folder / "timing.py"
    write_text(script, Path(timing.__file__).read_text(encoding="utf-8"))
    write_text(folder / "jobs.json", json.dumps(given) + "\n")
    return script, folder / "jobs.json"


def _layers(
    anatomy: Anatomy, groups: Groups, layers: Mapping[str, Layer], models: _Models, block: int
) -> tuple[tuple[TimedLayer, ...], tuple[ShapeTimes, ...]]:
    """Every layer as often as it is computed; layers of one kind, size and width share their times."""
    shapes: list[ShapeTimes] = []
    places: dict[object, int] = {}
    timed = []
    for call in anatomy.calls:
        layer = layers[call.layer]
        widths = _widths(groups, layer, "in", block), _widths(groups, layer, "out", block)
        key = (_signature(call), layer.kind, layer.divisions, widths)
        if key not in places:
            places[key] = len(shapes)
            shapes.append(_shape(call, layer, *widths, models))
        timed.append(TimedLayer(name=layer.name, inputs=layer.inputs, outputs=layer.outputs, shape=places[key]))
    return tuple(timed), tuple(shapes)


def _shape(call: Call, layer: Layer, inputs: tuple[int, ...], outputs: tuple[int, ...], models: _Models) -> ShapeTimes:
    """The models of a layer at all pairs of widths; of one that loses whole divisions, at the widths of its outputs."""
    flat, divided = len(call.given) != 4, layer.kind == "depthwise"
    spread = not flat and not call.open_in
    gather = not flat and not (len(outputs) == 1 and outputs[0] <= FEW)

    def timed(kept: Layer) -> int:
        return models.add(micro.layer(call, kept, spread=spread, gather=gather))

    def light(widths: Sequence[int], sides: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(models.light(width, sides) for width in widths)

    if divided:
        every = [_divided(layer, o) for o in outputs]
        rows, widths = [[timed(kept) for kept in every]], [kept.inputs for kept in every]
    else:
        rows = [[timed(replace(layer, inputs=i, outputs=o)) for o in outputs] for i in inputs]
        widths = list(inputs)
    return ShapeTimes(
        title=_title(call),
        inputs=(1,) if divided else inputs,
        outputs=outputs,
        jobs=tuple(tuple(row) for row in rows),
        divided=divided,
        before=light(widths, call.given[2:]) if spread else (),
        after=light(outputs, call.returned[2:]) if gather else (),
    )


def _divided(layer: Layer, outputs: int) -> Layer:
    """What is left of a layer that loses whole divisions."""
    divisions = outputs * layer.divisions // layer.outputs
    return replace(layer, inputs=layer.inputs // layer.divisions * divisions, outputs=outputs, divisions=divisions)


def _widths(groups: Groups, layer: Layer, side: Side, block: int) -> tuple[int, ...]:
    """The widths that a side of a layer is timed at: one, where nothing of it can go."""
    dense = layer.outputs if side == "out" else layer.inputs
    if groups.kept_channels(layer, side, {group.name: 1 for group in groups.groups}) == dense:
        return (dense,)
    if layer.kind == "depthwise":
        return _grid(dense, block, layer.outputs // layer.divisions) if side == "out" else (dense,)
    return _grid(dense, block, layer.divisions)


def _grid(dense: int, block: int, multiple: int) -> tuple[int, ...]:
    """Parts of a block, one block, some more of them, and the dense width; all multiples of `multiple`.

    >>> _grid(64, 16, 1), _grid(256, 16, 1), _grid(10, 8, 1)
    ((4, 8, 16, 32, 48, 64), (4, 8, 16, 80, 144, 208, 256), (4, 8, 10))
    """
    parts = [part for part in (block // 4, block // 2, block) if 4 <= part < dense]
    places = max(1, WIDTHS - 1 - len(parts))
    stride = block * max(1, -(-((dense - 1) // block) // (places + 1)))
    more = range(block + stride, dense, stride)
    return tuple(width for width in (*parts, *more, dense) if width % multiple == 0)


def _operations(anatomy: Anatomy, models: _Models) -> Iterator[OperationTimes]:
    """Those that can be cut out of the network; what the others take is known from whole networks only."""
    for found in anatomy.operations:
        if found.node.op_type == "Relu" and all(found.direct) and len(found.returned) == 4:
            continue  # fused into its layer, which is timed with one behind it
        try:
            job = models.add(micro.operation(found, anatomy.model))
        except ValueError:
            continue
        before = tuple(models.light(shape[1], shape[2:]) for shape in found.given if len(shape) == 4)
        after = (models.light(found.returned[1], found.returned[2:]),) if len(found.returned) == 4 else ()
        title = f"{found.node.op_type} {' '.join('x'.join(map(str, shape)) for shape in found.given)}"
        yield OperationTimes(title=title[:300], sources=found.sources, job=job, before=before, after=after)


def _networks(
    anatomy: Anatomy, groups: Groups, layers: Mapping[str, Layer], models: _Models, block: int
) -> Iterator[NetworkTimes]:
    """The dense network, those that keep a share of every group in allowed counts, and some at random."""
    names, sizes = groups.space.groups, groups.space.sizes
    allowed = Alignment(groups.space, block, groups.widths).allowed
    rng = seeds.stream(0, "networks of a latency table")
    counts = [
        [min(offer, key=lambda k: abs(size - k - share * size)) for size, offer in zip(sizes, allowed, strict=True)]
        for share in SHARES
    ]
    counts[0] = [0] * len(sizes)
    counts += [[int(rng.choice(offer)) for offer in allowed] for _ in range(MIXED)]
    for one in dict.fromkeys(map(tuple, counts)):
        pruned = {name: k for name, k in zip(names, one, strict=True) if k}
        yield NetworkTimes(pruned=pruned, job=models.add(micro.whole(anatomy, layers, narrowed(groups, pruned))))


def narrowed(groups: Groups, pruned: Mapping[str, int]) -> dict[str, Layer]:
    """All layers by name, as they are with so many units pruned per group."""
    found = {}
    for layer in groups.layers:
        outputs = groups.kept_channels(layer, "out", pruned)
        kept = replace(layer, inputs=groups.kept_channels(layer, "in", pruned), outputs=outputs)
        found[layer.name] = _divided(layer, outputs) if layer.kind == "depthwise" else kept
    return found


def _signature(call: Call) -> tuple[object, ...]:
    """What decides a layer's time besides its widths."""
    attributes = sorted(attribute.SerializeToString() for attribute in call.node.attribute)
    return (call.node.op_type, *attributes, call.given[2:], call.returned[2:], call.biased, call.open_in)


def _title(call: Call) -> str:
    kernel = next((list(attribute.ints) for attribute in call.node.attribute if attribute.name == "kernel_shape"), [])
    sides = "x".join(map(str, call.given[2:]))
    return " ".join([call.node.op_type, "x".join(map(str, kernel)), *(["at", sides] if sides else [])]).replace("  ", " ")[:300]
