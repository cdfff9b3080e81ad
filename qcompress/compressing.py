"""Joint pruning and quantisation as calls: measure what units and widths cost, choose both, build the file, verify it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from qcompress import (
    assembly,
    commands,
    findings,
    joint,
    latency,
    processor,
    reconstruction,
    seeds,
    slim_folder,
    surgery,
)
from qcompress import crops as crop_sheets
from qcompress import verify as verification
from qcompress.checkpoints import Checkpoint
from qcompress.data.images import Splits
from qcompress.errors import UsageError
from qcompress.exporters import Artifact
from qcompress.findings import Findings
from qcompress.joint import Demand, JointResult, Sizes
from qcompress.output import claim, staging
from qcompress.pipeline import Choice, Job, Result, default_folder, prepare, repair
from qcompress.plans import Plan
from qcompress.plots.table import FOLDER, forget
from qcompress.progress import SILENT, Observer
from qcompress.quantise import noise
from qcompress.quantised_file import Built, build, exported, fitted, float_file, foreseen, in_integers
from qcompress.reconstruction import Eliminated
from qcompress.recover.design import weight_matrix
from qcompress.recover.moments import affine
from qcompress.reports import CompressionFacts, LayerWidth, Report
from qcompress.searching import check_backend
from qcompress.settings import SearchOptions, Settings
from qcompress.widths import counted

__all__ = ["Built", "Known", "build", "choose", "compress", "known_of"]

_TRIES = 4
"""So often at most a choice is made again because the file came out larger than it was thought to be."""


@dataclass(frozen=True, eq=False)
class Known:
    """What a choice is made from.

    eliminated  what units lose; losses  what widths lose, by layer and width, in the same unit
    sizes       bytes of the file at any counts and widths; dense_bytes  of the dense network's in float32
    """

    eliminated: Eliminated
    losses: Mapping[str, Mapping[str, float]]
    sizes: Sizes
    dense_bytes: int


def compress(
    checkpoint: str | Path | Checkpoint,
    settings: Settings | None = None,
    *,
    images: Splits | None = None,
    out: str | Path | None = None,
    observer: Observer = SILENT,
) -> Result:
    """Chooses units to remove and a width for every layer together; writes the file that weighs what was asked, and a report.

    `images` take the place of those that the settings name.

    Raises:
        QCompressError: one of its kinds, see `qcompress.errors`; nothing half-written is left behind.

    """
    settings = _resolved(settings or Settings())
    check_backend(settings.search)
    source = checkpoint if isinstance(checkpoint, Checkpoint) else Path(checkpoint)
    folder = claim(Path(out) if out else default_folder(source.path if isinstance(source, Checkpoint) else source))
    job = prepare(source, settings, observer, images=images)
    with tempfile.TemporaryDirectory() as scratch, staging(folder) as stage:
        dense = exported(job, job.model, Path(scratch) / "dense.onnx", stage="dense file")
        known = known_of(job, dense.size_bytes, Path(scratch))
        target = job.settings.compress.target_size
        asked = None if target is None else target.of(dense.size_bytes)
        chosen, built = _within(job, known, asked, stage, Path(scratch))
        report = _verified(job, known, chosen, built, asked, dense, stage)
        assembly.write(report, stage)
    crop_sheets.forget(folder, keep=report.crops is not None)
    forget(folder / FOLDER)  # pictures of an earlier run there
    return Result(folder, report, built.recovered.model)


def known_of(job: Job, dense_bytes: int, scratch: Path) -> Known:
    """Measures what units and widths cost, on calibration crops, and what the file takes."""
    crops, allowed = job.calibration(), job.settings.compress.bits
    moments = job.static_repair.moments  # a stage of its own
    with job.watch.stage("losses of units", 1.0) as advance:
        known = reconstruction.eliminated(job.model, job.groups, crops, job.metric, moments, progress=advance)
    sizes = Sizes(job.groups)
    with job.watch.stage("sizes of files"):
        float_path = float_file(job, job.model, scratch)
        sizes = fitted(sizes, float_path, allowed, integer_int4=in_integers(job))
    with job.watch.stage("losses of widths", 1.0) as advance:
        losses = noise.measure(
            job.model, sizes.quantisable, allowed, crops, job.metric, moments=moments, ratio=known.ratio, progress=advance
        )
    return Known(known, losses, sizes, dense_bytes)


def choose(job: Job, known: Known, most: int | None) -> JointResult:
    """Units and widths of the least loss found, for a file of at most `most` bytes. Raises UsageError, BackendError."""
    options = job.settings.compress
    demand = Demand(most, options.sparsity, options.bits)
    if options.objective == "aqc":
        return _by_aqc(job, known.sizes, demand)
    with job.watch.stage("joint choice") as advance:
        found = joint.choose(
            known.eliminated.profiles,
            known.losses,
            known.sizes,
            demand,
            expand=lambda start, solve: reconstruction.expanded(known.eliminated, start, solve).problem,
            options=job.settings.search,
            seed=job.settings.seed,
            say=job.watch.say,
        )
        advance(1, f"{len(found.selection)} units, layers: {counted(found.widths.values())}, {found.bytes:,} bytes")
    return found


def _by_aqc(job: Job, sizes: Sizes, demand: Demand) -> JointResult:
    """By the formulation of Wang et al., whose losses are of weights alone."""
    magnitudes = {
        name: weight_matrix(affine(job.model, name))[:, :-1].abs().mean(1).flatten().cpu().numpy() for name in sizes.quantisable
    }
    model = joint.aqc_model(job.groups, magnitudes, _aqc(job.settings.compress.coefficients))
    search = job.settings.search
    with job.watch.stage("joint choice") as advance:
        found = joint.choose_aqc(model, sizes, demand, options=search, seed=job.settings.seed, say=job.watch.say)
        advance(1, f"{len(found.selection)} units, layers: {counted(found.widths.values())}, {found.bytes:,} bytes")
    return found


def _resolved(settings: Settings) -> Settings:
    """With a backend that the objective can use: the default one works on profiles, which the model of `aqc` has none of."""
    search = settings.search
    if settings.compress.objective == "aqc" and search.backend == SearchOptions().backend:
        return replace(settings, search=replace(search, backend="neal"))
    return settings


def _aqc(coefficients: Mapping[str, float]) -> joint.Aqc:
    known = {"beta", "b_max"}
    if foreign := sorted(set(coefficients) - known):
        raise UsageError(f"objective aqc has no coefficient {', '.join(foreign)}, expected beta or b_max")
    return joint.Aqc(beta=coefficients.get("beta", joint.Aqc.beta), b_max=round(coefficients.get("b_max", joint.Aqc.b_max)))


def _within(job: Job, known: Known, asked: int | None, stage: Path, scratch: Path) -> tuple[JointResult, Built]:
    """The choice, and its file of at most `asked` bytes: where a file comes out larger, so much less is asked for again."""
    aim = asked
    for _ in range(_TRIES):
        chosen = choose(job, known, aim)
        widths = {name: width for name, width in chosen.widths.items() if width != "float32"}
        plan = _plan(job, chosen, widths)
        repaired = repair(job, Choice(chosen.selection, chosen.selection, chosen.selection))
        excess = 0 if asked is None else foreseen(job, repaired[1].model, widths, plan, scratch) - asked
        if excess <= 0:  # known before the network is trained
            built = build(job, repaired, widths, stage / "model.onnx", scratch, plan)
            excess = 0 if asked is None else built.artifact.size_bytes - asked
        if excess <= 0:
            slim_folder.save(stage, plan, built.recovered.model)
            return chosen, built
        assert aim is not None
        aim -= excess
        job.watch.say(f"the file came out {excess:,} bytes larger than thought: choosing again")
    raise UsageError(f"no file of at most {asked:,} bytes was found", "ask for a slightly larger one")


def _verified(
    job: Job, known: Known, chosen: JointResult, built: Built, asked: int | None, dense: Artifact, stage: Path
) -> Report:
    """The report: the file on images that no stage has seen, and against the dense float32 file in onnxruntime."""
    job.model.cpu()
    with job.watch.stage("verification"):
        checked = verification.verify(
            built.artifact.path,
            reference=built.recovered.model,
            dense=job.model,
            report=job.splits.report,
            metrics=job.metrics,
        )
        cut = surgery.slim(job.model, job.groups.cuts(built.choice.kept))
        others = {"selected": verification.measure(cut, job.splits.report, job.metrics)}
    with job.watch.stage("latency"):
        options = job.settings.verify
        image = seeds.stream(job.settings.seed, "latency input").random(job.frame.example_shape, dtype="float32")
        timed = latency.compare(
            dense.path,
            built.artifact.path,
            image,
            seed=job.settings.seed,
            threads=options.threads,
            max_seconds=options.max_seconds,
        )
    search = chosen.found.search
    if asked is not None:  # its capacity is one of bytes over units and steps of width, which the size of the file says better
        search = replace(search, asked=search.capacity)
    choice = replace(built.choice, align=chosen.align, search=search, qpu=chosen.found.qpu)
    job = replace(job, settings=replace(job.settings, budget="filters" if asked is None else "size"))
    found = Findings(built.artifact, dense, checked, others, findings.sheet(job, checked, stage))
    report = assembly.assemble(job, choice, built.recovered, found, timed, stage)
    return _restated(report, job, _facts(job, known, chosen, built, asked), chosen.energy)


def _restated(report: Report, job: Job, facts: CompressionFacts, energy: float) -> Report:
    """The report of a run of the main job as one of a compression: whose numbers differ from PyTorch's on purpose."""
    said: dict[str, object] = {"objective": job.settings.compress.objective}
    if facts.target is not None:  # the search's own numbers are of a problem around one choice
        own = {"energy": energy, "greedy_energy": facts.greedy_loss, "lower_bound": facts.lower_bound}
        said |= own | {"asked": None, "capacity": None, "relative_gap": None}
    search = report.search.model_copy(update=said)
    notes = report.notes
    if "int8" in {layer.width for layer in facts.layers}:
        notes = (*notes, facts.int8)
    floats = sum(not layer.integer for layer in facts.layers)
    free = not set(facts.bits) <= {"int8", "int4"}
    if floats and free and report.latency is not None and report.latency.verdict != "faster":
        slow = "slower than the dense network" if report.latency.verdict == "slower" else "no faster than the dense network"
        why = f"{floats} of {len(facts.layers)} layers compute in float32, and changing over costs time"
        if floats == len(facts.layers):
            why = "all layers compute in float32, whatever their width"
        notes = (*notes, f"{slow}: {why}; --bits 8, or 4,8, is for speed")
    changes = {
        "search": search,
        "compression": facts,
        "parity": None,
        "notes": notes,
        "command": commands.compress_command(job.checkpoint, job.settings),
    }
    return report.model_copy(update=changes)


def _facts(job: Job, known: Known, chosen: JointResult, built: Built, asked: int | None) -> CompressionFacts:
    layers = (
        LayerWidth.model_validate(
            {
                "layer": name,
                "width": built.widths.get(name, "float32"),
                "bytes": built.sizes.layers.get(name, 0),
                "integer": name in built.sizes.integer,
                "loss": known.losses.get(name, {}).get(built.widths.get(name, "float32"), 0.0),
            }
        )
        for name in chosen.widths
    )
    return CompressionFacts(
        target=asked,
        size=built.artifact.size_bytes,
        bits=job.settings.compress.bits,
        layers=tuple(layers),
        calibration=built.method,
        steps=built.steps,
        simulation_db=built.simulation_db,
        pruning_loss=chosen.pruning,
        width_loss=chosen.quantisation,
        greedy_loss=chosen.greedy_energy,
        lower_bound=chosen.bound,
        int8=processor.int8_support().sentence,
    )


def _plan(job: Job, chosen: JointResult, widths: Mapping[str, str]) -> Plan:
    search, space = job.settings.search, job.groups.space
    return Plan.of(
        slim_folder.source_of(job.checkpoint),
        job.groups,
        chosen.selection,
        budget="filters",
        sparsity=len(chosen.selection) / max(len(space), 1),
        objective=job.settings.compress.objective,
        backend=search.backend,
        seed=job.settings.seed,
        ignore=search.ignore,
        widths=widths,
    )
