"""The command line that makes a run again, without the options that are at their defaults."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import qcompress.reference
from qcompress import targets
from qcompress.checkpoints import Checkpoint
from qcompress.qubo import OBJECTIVES, Objective, name_of
from qcompress.settings import CompressOptions, SearchOptions, Settings
from qcompress.widths import BITS

__all__ = ["compress_command", "given", "prune_command"]


def prune_command(checkpoint: Checkpoint, settings: Settings) -> str:
    """The command line of a run of `prune`, without the options that are at their defaults."""
    search = settings.search
    words = ["qcompress", "prune", given(checkpoint), *targets.words(settings.target, settings.sparsity, settings.budget)]
    if name_of(search.objective) != name_of(SearchOptions().objective):
        words += ["--objective", name_of(search.objective)]
    if (search.relinearise or 1) != 1:
        words += ["--relinearise", str(search.relinearise)]
    usual_objective = OBJECTIVES[name_of(search.objective)]() if name_of(search.objective) in OBJECTIVES else None
    for name, coefficient in _coefficients(search.objective).items():
        if coefficient != getattr(usual_objective, name, None):
            words += ["--coefficient", f"{name}={coefficient:g}"]
    return shlex.join([*words, *_common(settings)])


def compress_command(checkpoint: Checkpoint, settings: Settings) -> str:
    """The same of `compress`."""
    options, default = settings.compress, CompressOptions()
    words = ["qcompress", "compress", given(checkpoint)]
    if options.target_size is not None:
        words += ["--target-size", str(options.target_size)]
    words += ["--sparsity", f"{options.sparsity:g}"] if options.sparsity is not None else []
    words += ["--bits", ",".join(str(BITS[name]) for name in options.bits)] if options.bits != default.bits else []
    words += ["--objective", options.objective] if options.objective != default.objective else []
    for name, coefficient in options.coefficients.items():
        words += ["--coefficient", f"{name}={coefficient:g}"]
    words += ["--calibration", options.calibration] if options.calibration != default.calibration else []
    return shlex.join([*words, *_common(settings)])


def _common(settings: Settings) -> list[str]:
    """What both commands take, as far as it is not at its default."""
    default, search, data = Settings(), settings.search, settings.data
    words: list[str] = []
    values = {
        "--backend": (search.backend, default.search.backend),
        "--data": (data.source, None),
        "--noise": (data.noise, None),
        "--metric": (settings.metric, default.metric),
        "--max-images": (data.max_images, None),
        "--mean": (_listed(data.mean), None),
        "--std": (_listed(data.std), None),
        "--refine-evals": (settings.refine.evaluations, default.refine.evaluations),
        "--refine-minutes": (settings.refine.minutes, default.refine.minutes),
        "--proposer": (settings.refine.proposer, default.refine.proposer),
        "--recover": (settings.recover, default.recover),
        "--minutes": (settings.finetune.minutes, None),
        "--epochs": (settings.finetune.epochs, None),
        "--finetune-steps": (settings.finetune.steps, None),
        "--train-data": (settings.finetune.source, None),
        "--learning-rate": (settings.finetune.rate, None),
        "--teaching": (settings.finetune.teaching, None),
        "--optimizer": (settings.finetune.optimiser, default.finetune.optimiser),
        "--steps": (settings.steps, default.steps),
        "--max-drop": (settings.limits.max_drop if settings.target == targets.Smallest() else None, None),
        "--latency-table": (search.latency_table, None),
        "--align": (search.align, default.search.align),
        "--floor": (search.floor, default.search.floor),
        "--opset": (settings.export.opset, default.export.opset),
        "--size": (settings.verify.size, default.verify.size),
        "--seed": (settings.seed, default.seed),
    }
    for option, (value, usual) in values.items():
        if value != usual:
            words += [option, str(value)]
    words += ["--selection", str(search.selection)] if search.selection else []
    for key, chosen in search.backend_options.items():
        words += ["--backend-option", f"{key}={chosen}"]
    options = settings.checkpoint
    if options.arch:
        words += ["--arch", options.arch]
    if options.arch_args:
        words += ["--arch-args", json.dumps(dict(options.arch_args))]
    words += ["--trust-pickle"] * options.trust_pickle + ["--static"] * (not settings.export.dynamic)
    words += ["--plots"] * settings.plots + ["--no-crops"] * (not settings.crops)
    for pattern in search.ignore:
        words += ["--ignore", pattern]
    for option, limits in (
        ("--keep", search.keep),
        ("--keep-at-most", search.keep_at_most),
        ("--multiple-of", search.multiple_of),
    ):
        for pattern, value in limits.items():
            words += [option, f"{pattern}={value:g}"]
    return words


def _listed(values: tuple[float, ...] | None) -> str | None:
    """Numbers as --mean and --std take them."""
    return None if values is None else ",".join(f"{value:.9g}" for value in values)


def given(checkpoint: Checkpoint) -> str:
    """The checkpoint as on a command line: "reference" for the one that ships."""
    return "reference" if checkpoint.path.parent == Path(qcompress.reference.__file__).parent else str(checkpoint.path)


def _coefficients(objective: Objective) -> dict[str, float]:
    """What was set of an objective: its fields."""
    return dict(vars(objective))
