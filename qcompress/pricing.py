"""What a measured budget costs: the dense network is exported, and where it is for time, tables are measured or read."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from qcompress import table_trust
from qcompress._version import __version__
from qcompress.asking import NO_PRICES, Price, asked
from qcompress.checkpoints import Checkpoint
from qcompress.errors import InputError
from qcompress.exporters import EXPORTERS
from qcompress.exporters.anatomy import dissect
from qcompress.file_size import FileSize
from qcompress.groups import Groups
from qcompress.latency_model import LatencyModel
from qcompress.latency_table import read
from qcompress.profiling import plan, time_here, write_table
from qcompress.progress import Observer
from qcompress.settings import Settings
from qcompress.targets import Smallest

__all__ = ["TABLE", "cacheable", "priced", "with_table"]

TABLE = "latency-table.json"
"""Its name in the output folder: measured once, it serves further runs, and one that is resumed."""


def priced(
    settings: Settings,
    checkpoint: Checkpoint,
    groups: Groups,
    shape: tuple[int, ...],
    watch: Observer,
    *,
    folder: Path | None = None,
) -> Mapping[str, Price]:
    """The prices that the settings' budget needs, none for most; `shape` is that of the network's input.

    A latency table that is measured is kept in `folder`, where it is to be believed.

    Raises UsageError where the budget cannot be met, before anything else is done; InputError for a table that is damaged, of
    another network or contradicts itself; ExportError.
    """
    prices = NO_PRICES
    if settings.budget == "size":
        with watch.stage("size of the file"):
            prices = {"size": Price(_file_size(checkpoint, groups, shape, settings))}
    if settings.budget == "latency":
        model = _model(settings, checkpoint, groups, watch, folder)
        watch.say(
            f"latency table: {model.table.device.processor}; whole networks that were timed: {table_trust.errors_text(model)}"
        )
        if (doubt := table_trust.doubt(model)) is not None:
            watch.say(f"warning: {doubt}")
        prices = {"latency": Price(model, model.table.block, model.additive)}
    asked(groups, replace(settings, sparsity=0.0) if isinstance(settings.target, Smallest) else settings, prices)
    return prices


def with_table(settings: Settings, folder: Path, *, resume: bool) -> Settings:
    """The settings of a run that is resumed, with the table that it measured before: with another it would be another run."""
    path = folder / TABLE
    if not resume or settings.budget != "latency" or settings.search.latency_table is not None or not path.exists():
        return settings
    return replace(settings, search=replace(settings.search, latency_table=path))


def cacheable(settings: Settings, say: Callable[[str], None]) -> Settings:
    """The settings, without a cache where the run is to measure a latency table: no other run will measure the same."""
    if settings.cache is None or settings.budget != "latency" or settings.search.latency_table is not None:
        return settings
    say("cache: not used, for a run that measures its own latency table has no equal: give one with --latency-table")
    return replace(settings, cache=None)


def _model(settings: Settings, checkpoint: Checkpoint, groups: Groups, watch: Observer, folder: Path | None) -> LatencyModel:
    """Of a table that is given, or measured; nothing is kept of one that is refused, for later runs would take it."""
    path = settings.search.latency_table
    if path is not None:
        return _read(path, groups)
    with watch.stage("models to time"):
        jobs = plan(checkpoint, groups, threads=settings.verify.threads)
    model = LatencyModel(time_here(jobs, watch), groups)
    table_trust.check(model)
    if folder is not None:
        write_table(model.table, folder / TABLE)
        watch.say(f"the latency table is kept in {folder / TABLE}: --latency-table takes it")
    return model


def _read(path: Path, groups: Groups) -> LatencyModel:
    """Names the file in the error of a table that does not fit, or is refused: a run that goes on takes one by itself."""
    table = read(path)
    try:
        model = LatencyModel(table, groups)
        table_trust.check(model)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", error.hint) from error
    return model


def _file_size(checkpoint: Checkpoint, groups: Groups, shape: tuple[int, ...], settings: Settings) -> FileSize:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "dense.onnx"
        options, example = settings.export, torch.zeros(shape)
        metadata = {  # as long as what the file will say of its origin
            "producer": f"qcompress {__version__}",
            "architecture": checkpoint.architecture,
            "checkpoint_sha256": checkpoint.sha256,
            "plan_sha256": "0" * 64,
            "stride": str(checkpoint.stride),
        }
        written = EXPORTERS["onnx"](
            checkpoint.model, example, path, opset=options.opset, dynamic=options.dynamic, metadata=metadata
        )
        anatomy = dissect(path.read_bytes(), groups.layers, shape)
    return FileSize(groups, anatomy, written.size_bytes, repaired=settings.repair not in ("none", "batchnorm"))
