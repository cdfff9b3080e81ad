"""The main job and its parts, as calls: prepare, choose, finish. What is decided is decided in the stages, not here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from qcompress import assembly, checkpoints, latency, plans, qubo, scoring, seeds, slim_folder, surgery, tracing
from qcompress import verify as verification
from qcompress.alignment import Alignment
from qcompress.budgets import Budget, budget
from qcompress.checkpoints import Checkpoint
from qcompress.data import noise, splits
from qcompress.data.images import CalibrationCrops, SelectionCrops, Splits
from qcompress.errors import ExportError, UsageError
from qcompress.exporters import EXPORTERS, Artifact
from qcompress.groups import Groups
from qcompress.metrics import Metric, metric
from qcompress.output import claim, staging
from qcompress.plans import Plan
from qcompress.progress import SILENT, Observer, Stopwatch
from qcompress.recover import reestimate_batchnorm
from qcompress.recover.choice import Recovered, recover_best
from qcompress.refine.contract import RefineProgress, RefineResult
from qcompress.refine.loop import refine
from qcompress.refine.objective import SlicedMetric
from qcompress.refine.proposers import proposer
from qcompress.reports import Report
from qcompress.search import SearchResult, to_capacity
from qcompress.selection import Selection
from qcompress.settings import Settings
from qcompress.solvers import solver

__all__ = ["Choice", "Job", "Result", "apply", "choose", "finish", "prepare", "prune", "repair"]

INTERRUPTED = 130  # what shells report for a process ended by Ctrl-C


@dataclass(frozen=True, eq=False)
class Job:
    """What every stage of a run works on. `model` is the dense network, on the device of the run."""

    settings: Settings
    checkpoint: Checkpoint
    model: nn.Module
    groups: Groups
    splits: Splits
    metric: Metric
    watch: Stopwatch

    def calibration(self) -> CalibrationCrops:
        """The calibration crops of the run, on its device; the same at every call."""
        data, rng = self.settings.data, seeds.stream(self.settings.seed, "calibration crops")
        return self.splits.calibration.crops(self._crop, data.calibration_crops, rng).to(self.settings.device)

    def selection(self) -> SelectionCrops:
        """The crops that the refinement measures on, on the device of the run; the same at every call."""
        data, rng = self.settings.data, seeds.stream(self.settings.seed, "selection crops")
        return self.splits.selection.crops(self._crop, data.selection_crops, rng).to(self.settings.device)

    @property
    def _crop(self) -> int:
        """Side of the crops: as set, or less where an image is smaller; a multiple of the stride."""
        images = (*self.splits.calibration.pairs, *self.splits.selection.pairs)
        side = min(self.settings.data.crop, *(min(pair.clean.shape[1:]) for pair in images))
        return max(int(side) // self.checkpoint.stride, 1) * self.checkpoint.stride


@dataclass(frozen=True, eq=False)
class Choice:
    """Which units go: as the search chose, after the refinement, and what was kept of the two once both were repaired.

    `search` is None where a plan was applied again.
    """

    selected: Selection
    refined: Selection
    kept: Selection
    align: int = 1
    search: SearchResult | None = None
    refinement: RefineResult | None = None


@dataclass(frozen=True, eq=False)
class Result:
    """What a run leaves: the folder it wrote, the report in it, and the slim network (CPU, eval mode)."""

    folder: Path
    report: Report
    model: nn.Module

    @property
    def exit_code(self) -> int:
        """0 done, 4 a threshold missed, 130 interrupted during refinement (the best so far is written)."""
        return {"ok": 0, "threshold-missed": 4, "interrupted": INTERRUPTED}[self.report.status]


def prune(
    checkpoint: str | Path, settings: Settings | None = None, *, out: str | Path | None = None, observer: Observer = SILENT
) -> Result:
    """The main job: choose units, remove them, repair, export, verify; writes the slim folder and its report.

    Ctrl-C during the refinement ends it there; the best selection so far is finished and written.

    Raises:
        QCompressError: one of its kinds, see `qcompress.errors`; nothing half-written is left behind.

    """
    settings = settings or Settings()
    folder = claim(Path(out) if out else default_folder(Path(checkpoint)))
    search = settings.search
    job = prepare(
        Path(checkpoint), settings, observer, check=lambda groups: _alignment(_budget(groups, settings), search.align)
    )
    choice, recovered = repair(job, choose(job, _budget(job.groups, settings)))
    plan = Plan.of(
        slim_folder.source_of(job.checkpoint),
        job.groups,
        choice.kept,
        budget=settings.budget,
        sparsity=settings.sparsity,
        objective=qubo.name_of(search.objective),
        backend=search.backend,
        seed=settings.seed,
    )
    return finish(job, choice, recovered, plan, folder)


def apply(
    plan: str | Path,
    checkpoint: str | Path,
    settings: Settings | None = None,
    *,
    out: str | Path | None = None,
    observer: Observer = SILENT,
) -> Result:
    """`prune` with the choice of a plan, for the checkpoint that it was made for.

    Raises:
        PlanError: the plan is corrupt, or of another checkpoint.

    """
    path = Path(plan)
    known = plans.read(path / "plan.json" if path.is_dir() else path)
    folder = claim(Path(out) if out else default_folder(Path(checkpoint)))
    job = prepare(Path(checkpoint), settings or Settings(), observer, size=known.example_shape[-1])
    slim_folder.apply(known, job.checkpoint)  # raises where the plan is of another checkpoint
    selection = known.selection(job.groups.space)
    choice, recovered = repair(job, Choice(selection, selection, selection))
    return finish(job, choice, recovered, known, folder)


def default_folder(checkpoint: Path) -> Path:
    """NAME.slim next to the checkpoint; in the working folder for the checkpoint that ships.

    >>> default_folder(Path("models/net.pth.tar")).as_posix()
    'models/net.slim'
    """
    return checkpoint.with_name(checkpoint.name.split(".")[0] or checkpoint.name).with_suffix(".slim")


def prepare(
    path: Path,
    settings: Settings,
    observer: Observer,
    *,
    size: int | None = None,
    check: Callable[[Groups], object] | None = None,
) -> Job:
    """Loads the checkpoint, traces it at the latency input's size (or `size`), reads the images.

    `check` may raise for groups that will not do, before the images are read.
    """
    watch = Stopwatch(observer)
    options, source = settings.checkpoint, settings.data
    _check_device(settings.device)
    with watch.stage("checkpoint"):
        checkpoint = checkpoints.load(path, arch=options.arch, arch_args=options.arch_args, trust_pickle=options.trust_pickle)
    with watch.stage("coupled groups") as advance:
        example = torch.zeros(checkpoint.example_shape(size or settings.verify.size))
        groups = tracing.trace(checkpoint.model, example, ignore=settings.search.ignore, floor=settings.search.floor)
        advance(1, f"{len(groups.space)} units in {len(groups.groups)} groups")
    if check is not None:
        check(groups)
    with watch.stage("images") as advance:
        images = splits.load(
            source.source,
            noise=noise.parse(source.noise) if source.noise else None,
            channels=checkpoint.channels,
            stride=checkpoint.stride,
            seed=settings.seed,
            max_images=source.max_images,
        )
        roles = (images.calibration, images.selection, images.report)
        advance(1, "{} calibration, {} selection, {} report".format(*map(len, roles)))
    observer.say(f"images: {images.source}")
    model = checkpoint.model.to(settings.device)
    return Job(settings, checkpoint, model, groups, images, metric(settings.metric), watch)


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(":")[0]
        raise UsageError(f"device {name!r} cannot be used: {reason}", "--device cpu works everywhere") from error


def _budget(groups: Groups, settings: Settings) -> Budget:
    return budget(settings.budget, settings.sparsity, groups.space, groups.params, groups.macs)


def _alignment(target: Budget, align: int | None) -> Alignment:
    """As set; raises where it cannot reach the target."""
    alignment = Alignment.fitting(target) if align is None else Alignment(target.space, align)
    alignment.reach(target)
    return alignment


def _feasible(selection: Selection, target: Budget, alignment: Alignment) -> bool:
    """Whether a candidate of the refinement still meets the budget, with allowed counts."""
    counts = selection.space.counts(selection.x)
    return alignment.allows(counts) and bool(target.capacity(counts) >= target.target)


def choose(job: Job, target: Budget) -> Choice:
    """Scores the units, solves the QUBO at the budget, refines the answer on the true metric."""
    settings, search = job.settings, job.settings.search
    alignment = _alignment(target, search.align)
    candidates = proposer(settings.refine.proposer, inside=alignment.align > 1)
    with job.watch.stage("scores", 1.0) as advance:
        scores = scoring.score(job.model, job.groups, job.calibration(), job.metric.loss, progress=advance)
    with job.watch.stage("capacity search") as advance:
        problem = qubo.formulate(search.objective, scores)
        found = to_capacity(problem, target, solver(search.backend), settings.seed, reads=search.reads, align=alignment.align)
        blocks = f", kept in multiples of {alignment.align}" if alignment.align > 1 else ""
        advance(1, f"{len(found.selection)} units, energy {found.energy:.4f}, greedy {found.greedy_energy:.4f}{blocks}")
    if not settings.refine.evaluations or not len(found.selection):
        return Choice(found.selection, found.selection, found.selection, alignment.align, found)

    with job.watch.stage("refinement", settings.refine.evaluations) as advance:

        def show(state: RefineProgress) -> None:
            gain = f"{state.best - state.start_value:+.3f}"
            advance(state.evaluations, f"{state.best:.3f} {job.metric.unit} ({gain} on the selection images)")

        result = refine(
            SlicedMetric(job.model, job.groups, job.selection(), job.metric),
            found.selection,
            evaluations=settings.refine.evaluations,
            seed=settings.seed,
            feasible=lambda s: _feasible(s, target, alignment),
            surrogate=problem.energy,
            proposer=candidates,
            progress=show,
        )
    if result.interrupted:
        job.watch.say("interrupted: finishing with the best selection so far (Ctrl-C again to give up)")
    return Choice(found.selection, result.selection, result.selection, alignment.align, found, result)


def repair(job: Job, choice: Choice) -> tuple[Choice, Recovered]:
    """Removes and repairs; where the refinement changed the choice, both, and the better on the selection crops is kept.

    The refinement climbs on the network as cut. Its gain there need not survive the repair, which has the last word.
    """
    candidates = list(dict.fromkeys((choice.refined, choice.selected)))
    found = []
    with job.watch.stage("repair", float(len(candidates))) as advance:
        for number, selection in enumerate(candidates):
            cuts = job.groups.cuts(selection)
            cut = surgery.slim(job.model, cuts)
            surgery.check(job.model, job.groups, selection, cut, job.calibration().noisy[:2])
            recovered = recover_best(
                job.settings.recover,
                job.model,
                cut,
                job.groups,
                cuts,
                job.calibration(),
                job.selection(),
                job.metric,
                lambda done, note="", before=number: advance(before + done, note),
            )
            found.append((selection, recovered))
        better = max if job.metric.higher_is_better else min
        kept, best = better(found, key=lambda pair: pair[1].value)
        advance(float(len(candidates)), best.note)
    return replace(choice, kept=kept), best


def finish(job: Job, choice: Choice, recovered: Recovered, plan: Plan, folder: Path) -> Result:
    """Exports and verifies; the folder's files appear together at the end, or not at all."""
    slim = recovered.model.cpu().eval()
    job.model.cpu()
    with staging(folder) as stage, tempfile.TemporaryDirectory() as scratch:
        slim_folder.save(stage, plan, slim)
        artifact, dense = _export_both(job, slim, plan, stage, Path(scratch))
        with job.watch.stage("verification"):
            checked = verification.verify(artifact.path, reference=slim, dense=job.model, report=job.splits.report)
            if checked.parity is None or not checked.parity.passed:
                raise ExportError(f"the ONNX file differs from the PyTorch network: {checked.parity}", "report this, please")
            others = {
                name: verification.measure(surgery.slim(job.model, job.groups.cuts(selection)), job.splits.report)
                for name, selection in (("selected", choice.selected), ("refined", choice.refined))
            }
            if recovered.batchnorm_reestimated:
                restated = reestimate_batchnorm(job.model, job.calibration().to("cpu"))
                others["dense, re-estimated"] = verification.measure(restated, job.splits.report)
        with job.watch.stage("latency"):
            shape = job.checkpoint.example_shape(job.settings.verify.size)
            image = seeds.stream(job.settings.seed, "latency input").random(shape, dtype="float32")
            timed = latency.compare(
                dense.path,
                artifact.path,
                image,
                seed=job.settings.seed,
                threads=job.settings.verify.threads,
                max_seconds=job.settings.verify.max_seconds,
            )
        report = assembly.assemble(job, choice, recovered, checked, others, artifact, dense, timed, stage)
        assembly.write(report, stage)
    return Result(folder, report, slim)


def _export_both(job: Job, slim: nn.Module, plan: Plan, stage: Path, scratch: Path) -> tuple[Artifact, Artifact]:
    """The slim ONNX file, and the dense one to compare with (which is not kept)."""
    options, metadata = job.settings.export, assembly.onnx_metadata(job.checkpoint, plan)
    example = torch.zeros(job.checkpoint.example_shape(job.settings.verify.size))
    write = EXPORTERS["onnx"]
    with job.watch.stage("export"):
        artifact = write(slim, example, stage / "model.onnx", opset=options.opset, dynamic=options.dynamic, metadata=metadata)
        dense = write(
            job.model, example, scratch / "dense.onnx", opset=options.opset, dynamic=options.dynamic, metadata=metadata
        )
    return artifact, dense
