"""The main job and its parts, as calls: prepare, choose, finish. What is decided is decided in the stages, not here."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import nn

from qcompress import (
    assembly,
    choosing,
    crops,
    findings,
    finetuning,
    gradual,
    kept_findings,
    kept_runs,
    latency,
    loading,
    offline,
    pacing,
    plans,
    pricing,
    qubo,
    refining,
    run_key,
    seeds,
    slim_folder,
    smallest,
    surgery,
    tracing,
)
from qcompress.alignment import Alignment
from qcompress.asking import Price, asked, share_of
from qcompress.budgets import Budget
from qcompress.checkpoints import Checkpoint
from qcompress.data.images import CalibrationCrops, SelectionCrops, Splits
from qcompress.errors import UsageError
from qcompress.factories import is_factory
from qcompress.findings import Findings, dense_file
from qcompress.framing import Frame, frame, frame_of, load_images, runner
from qcompress.gradual import Aim, PruningStep
from qcompress.groups import Groups
from qcompress.latency import Latency
from qcompress.memo import Memo
from qcompress.metrics import Metric, companions, metric
from qcompress.output import claim, staging
from qcompress.plans import Plan
from qcompress.plots.requirement import require
from qcompress.plots.table import FOLDER, forget
from qcompress.progress import SILENT, Observer, Stopwatch
from qcompress.protection import protected
from qcompress.recover.choice import Recovered, recover_best
from qcompress.recover.moments import measure_moments
from qcompress.recover.static import StaticRepair
from qcompress.refine.contract import RefineResult
from qcompress.refine.proposers import proposer
from qcompress.reports import QpuFacts, Report
from qcompress.rounds import Paced
from qcompress.search import SearchResult
from qcompress.searching import Found, check_backend, is_remote
from qcompress.selection import Selection
from qcompress.settings import CheckpointOptions, Settings
from qcompress.smallest import Sized
from qcompress.solving import as_asked, checked, found_of
from qcompress.targets import Smallest
from qcompress.workers.bench import Load
from qcompress.workers.contract import Crew
from qcompress.workers.hiring import Wanted, hired

__all__ = [
    "Choice",
    "Job",
    "Made",
    "Result",
    "apply",
    "carry_out",
    "choose",
    "complete",
    "default_folder",
    "dense_file",
    "finish",
    "make",
    "prepare",
    "prune",
    "repair",
    "wanted",
]

_CALIBRATION_CROPS, _SELECTION_CROPS, _LABELLED = 48, 16, 256  # unless the settings say otherwise
_LABELLED_PIXELS = 2**20  # and of images with a class, as many more as make no more pixels
INTERRUPTED = 130  # what shells report for a process ended by Ctrl-C


@dataclass(frozen=True, eq=False)
class Job:
    """What every stage of a run works on. `model` is the dense network, on the device of the run.

    `prices` are those of budgets that are measured; `sized` says how the share of the budget was found, if it was sought; `aim`
    is what is to go where that is not what the settings ask for: in a step of several, or after a target that was missed, whose
    rounds are `paced`.
    """

    settings: Settings
    checkpoint: Checkpoint
    model: nn.Module
    groups: Groups
    splits: Splits
    frame: Frame
    metric: Metric
    watch: Stopwatch
    prices: Mapping[str, Price] = field(default_factory=dict)
    aim: Aim | None = None
    memo: Memo = field(default_factory=Memo)
    sized: Sized | None = None
    paced: Paced | None = None

    @cached_property
    def asked(self) -> tuple[Budget, Alignment]:
        """What is to go, and the counts per group that are allowed to meet it. Raises UsageError where they do not."""
        return self.aim or asked(self.groups, self.settings, self.prices)

    def calibration(self) -> CalibrationCrops:
        """The calibration crops of the run, on its device; the same at every call."""
        data, rng = self.settings.data, seeds.stream(self.settings.seed, "calibration crops")
        count = data.calibration_crops or self._count(_CALIBRATION_CROPS)
        return self.splits.calibration.crops(self._crop, count, rng).to(self.settings.device)

    def selection(self) -> SelectionCrops:
        """The crops that the refinement measures on, on the device of the run; the same at every call."""
        data, rng = self.settings.data, seeds.stream(self.settings.seed, "selection crops")
        count = data.selection_crops or self._count(_SELECTION_CROPS)
        return self.splits.selection.crops(self._crop, count, rng).to(self.settings.device)

    def judging(self) -> SelectionCrops:
        """Crops of the selection images that the refinement has not measured on: they decide between its choice and others.

        Of images that are taken whole there are no others than `selection`.
        """
        data, rng = self.settings.data, seeds.stream(self.settings.seed, "judging crops")
        count = 2 * (data.selection_crops or self._count(_SELECTION_CROPS))
        return self.splits.selection.crops(self._crop, count, rng).to(self.settings.device)

    def crew(self) -> AbstractContextManager[Crew]:
        """Who computes scores and the metric of candidates."""
        return hired(wanted(self.settings), self._load, self.watch.say)

    @property
    def static_repair(self) -> StaticRepair:
        """How consumers are refitted from the dense network's second moments, which are measured once, on calibration crops."""
        if self.memo.static_repair is not None:
            return self.memo.static_repair
        with self.watch.stage("second moments", 1.0) as advance:
            moments = measure_moments(self.model, self.groups.consumers, self.calibration(), progress=advance)
        self.memo.static_repair = StaticRepair(self.model, moments)
        return self.memo.static_repair

    def _load(self) -> Load:
        repair = self.static_repair if self.settings.repair == "lstsq" else None
        return Load(self.model, self.groups, self.calibration(), self.selection(), self.metric, repair)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metric of the run, and what is reported beside it."""
        return companions(self.metric, self.frame.task)

    def _count(self, crops: int) -> int:
        """`crops`, or for images with a class as many as a share of right labels needs: small ones are cheap."""
        if self.frame.task != "classification":
            return crops
        return max(_LABELLED, _LABELLED_PIXELS // int(self.splits.calibration.pairs[0].input[0].size))

    @property
    def _crop(self) -> int:
        """Side of the input's crops: as set for the output, or less where an image is smaller; a multiple of the stride."""
        images = (*self.splits.calibration.pairs, *self.splits.selection.pairs)
        side = min(self.settings.data.crop // self.frame.form.scale, *(min(pair.input.shape[1:]) for pair in images))
        return max(int(side) // self.checkpoint.stride, 1) * self.checkpoint.stride


@dataclass(frozen=True, eq=False)
class Choice:
    """Which units go: as the search chose, after the refinement, and what was kept of the two once both were repaired.

    `search` is None where a plan was applied again. `qpu` says what a backend elsewhere did, `trail` what the steps before the
    last one left. `recalled`: from the cache.
    """

    selected: Selection
    refined: Selection
    kept: Selection
    align: int = 1
    search: SearchResult | None = None
    refinement: RefineResult | None = None
    qpu: QpuFacts | None = None
    trail: tuple[PruningStep, ...] = ()
    recalled: bool = False


@dataclass(frozen=True, eq=False)
class Made:
    """A run but for what is timed: what goes, the network that is left (CPU, eval mode), its files, and what they are worth.

    The files lie in the folder of the artifact.
    """

    choice: Choice
    recovered: Recovered
    findings: Findings

    def within(self, folder: Path) -> Made:
        """The same with its files in another folder, where they were moved to."""
        found, path = self.findings, folder / self.findings.artifact.path.name
        moved = replace(found, artifact=replace(found.artifact, path=path), checked=replace(found.checked, path=path))
        return replace(self, findings=moved)


@dataclass(frozen=True, eq=False)
class Result:
    """What a run leaves: the folder it wrote, the report in it, the slim network (CPU, eval mode), pictures where asked for."""

    folder: Path
    report: Report
    model: nn.Module
    pictures: tuple[Path, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 done, 4 a limit missed, 6 undecided, 130 interrupted in refinement or training (the best so far is written)."""
        return {"ok": 0, "threshold-missed": 4, "undecided": 6, "interrupted": INTERRUPTED}[self.report.status]


def prune(
    checkpoint: str | Path | Checkpoint,
    settings: Settings | None = None,
    *,
    images: Splits | None = None,
    out: str | Path | None = None,
    observer: Observer = SILENT,
    resume: bool = False,
) -> Result:
    """The main job: choose units, remove them, repair, export, verify; writes the slim folder and its report.

    `images` take the place of those that the settings name.

    Ctrl-C during the refinement or the fine-tuning ends it there; the best so far is finished and written. What was measured
    and trained stays in the folder, hidden, until there is nothing left to do: with `resume` the run goes on from there, also
    after it was killed, to the result of a run that was not, and with more evaluations or minutes of refinement if so set.

    Raises:
        QCompressError: one of its kinds, see `qcompress.errors`; nothing half-written is left behind.

    """
    settings = settings or Settings()
    if settings.plots:
        require()
    wanted(settings).check()
    search, known = settings.search, None
    if search.selection is None:
        check_backend(search)
    else:
        known = offline.read_selection(search.selection)
        settings = as_asked(settings, known)
    smallest.check(settings, known=known is not None, remote=known is None and is_remote(search))
    refining.check_resume(settings, resume=resume, remote=known is None and is_remote(search))
    source = checkpoint if isinstance(checkpoint, Checkpoint) else Path(checkpoint)
    folder = claim(Path(out) if out else default_folder(source.path if isinstance(source, Checkpoint) else source))
    if settings.cache is not None:
        claim(settings.cache)
    refining.check_folder(folder, resume=resume, say=observer.say)
    settings = pricing.cacheable(pricing.with_table(settings, folder, resume=resume), observer.say)
    job = prepare(source, settings, observer, images=images, price=partial(pricing.priced, settings, folder=folder))
    return carry_out(job, folder, known=known, resume=resume)


def carry_out(job: Job, folder: Path, *, known: offline.SelectionFile | None = None, resume: bool = False) -> Result:
    """The run of a job that is prepared: decides, repairs, exports, verifies, and writes the slim folder `folder`.

    `known` is a selection that was found elsewhere. Raises as `prune`.
    """
    settings = job.settings
    given = None if known is None else found_of(known, job.groups.space, job.checkpoint.sha256)
    if given is not None:
        checked(given, job.asked[0])
    with refining.resumable(folder):
        if isinstance(settings.target, Smallest):
            job = smallest.sized(job, _attempt)
        if pacing.wanted(job) and given is None:
            with tempfile.TemporaryDirectory() as scratch:
                unrefined, time = partial(_selected, folder=folder), partial(_timed_as_cut, scratch=Path(scratch))
                job = pacing.paced(job, unrefined, time, folder, resume=resume)
        key = _key(job, known)
        choice, recovered = _decided(job, folder, given, key, resume=resume)
        whole = not resume and not kept_runs.interrupted(choice, recovered)
        result = finish(job, choice, recovered, _plan_of(job, choice, known), folder, key=key if whole else None)
    if refining.complete(choice.refinement, recovered.training):
        refining.forget(folder)
    return result


def make(job: Job, folder: Path, place: Path, *, resume: bool = False) -> Made:
    """What `carry_out` does before anything is timed, for a share of a budget: the files of the slim folder are in `place`.

    What lets the run go on is kept in `folder`. Raises as `prune`.
    """
    with refining.resumable(folder):
        choice, recovered = _decided(job, folder, None, _key(job, None), resume=resume)
        plan = _plan_of(job, choice)
        _saved(job, recovered, plan, place)
        return Made(choice, recovered, findings.made(job, choice, recovered, plan, place))


def complete(job: Job, made: Made, folder: Path) -> Result:
    """The rest of it, for what `make` made of this job: times the network, and writes the slim folder `folder`."""
    with refining.resumable(folder), staging(folder) as stage:
        for path in sorted(made.findings.artifact.path.parent.iterdir()):
            shutil.move(path, stage / path.name)
        report = _timed(job, made.within(stage), stage)
    if refining.complete(made.choice.refinement, made.recovered.training):
        refining.forget(folder)
    return _result(job, made.recovered, report, folder)


def _plan_of(job: Job, choice: Choice, known: offline.SelectionFile | None = None) -> Plan:
    settings = job.settings
    return Plan.of(
        slim_folder.source_of(job.checkpoint),
        job.groups,
        choice.kept,
        budget=settings.budget,
        sparsity=share_of(settings, job.asked[0]),
        objective=qubo.name_of(settings.search.objective),
        backend=settings.search.backend if known is None else known.backend,
        seed=settings.seed,
        ignore=settings.search.ignore,
    )


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
    asked = settings or Settings()
    if asked.plots:
        require()
    path = Path(plan)
    known = plans.read(path / "plan.json" if path.is_dir() else path).model_copy(update={"widths": {}})  # float32 is written
    folder = claim(Path(out) if out else default_folder(Path(checkpoint)))
    search = replace(asked.search, ignore=known.ignore or asked.search.ignore, floor=max(known.floor, asked.search.floor))
    job = prepare(Path(checkpoint), replace(asked, search=search), observer, size=known.example_shape[-1])
    slim_folder.apply(known, job.checkpoint)  # raises where the plan is of another checkpoint
    selection = known.selection(job.groups.space)
    choice, recovered = repair(job, Choice(selection, selection, selection))
    if job.settings.recover == "finetune" and len(selection):
        recovered = finetuning.finetuned(job, recovered, dense=job.model)
    return finish(job, choice, recovered, known, folder)


def _attempt(job: Job) -> tuple[Selection, nn.Module]:
    choice, recovered = repair(job, choose(job))
    return choice.kept, recovered.model


def _selected(job: Job, folder: Path) -> Selection:
    return choose(job, folder=folder).selected


def _timed_as_cut(job: Job, selection: Selection, scratch: Path) -> Latency:
    """The network without the units of `selection`, not repaired, against the dense one: weights make no difference to time."""
    written = scratch / "dense.onnx"
    with job.watch.stage("latency of the choice"):
        slim = surgery.slim(job.model, job.groups.cuts(selection)).cpu().eval()
        job.model.cpu()
        dense = written if written.exists() else dense_file(job, scratch).path
        timed = compared(job, dense, findings.slim_file(job, slim, scratch / "slim.onnx").path)
        job.model.to(job.settings.device)
    return timed


def compared(job: Job, dense: Path, slim: Path) -> Latency:
    """The two ONNX files in alternation, as the settings want it, on the same input in every run of a seed."""
    verify, seed = job.settings.verify, job.settings.seed
    image = seeds.stream(seed, "latency input").random(job.frame.example_shape, dtype="float32")
    return latency.compare(dense, slim, image, seed=seed, threads=verify.threads, max_seconds=verify.max_seconds)


def default_folder(checkpoint: Path) -> Path:
    """NAME.slim next to the checkpoint; in the working folder for the checkpoint that ships.

    >>> default_folder(Path("models/net.pth.tar")).as_posix()
    'models/net.slim'
    """
    return checkpoint.with_name(checkpoint.name.split(".")[0] or checkpoint.name).with_suffix(".slim")


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


def wanted(settings: Settings) -> Wanted:
    """The workers that the settings ask for."""
    options = settings.checkpoint
    named = (options.arch or "", settings.metric)
    from_here = options.trust_pickle or any(is_factory(name) for name in named)
    return Wanted(settings.workers, settings.ray, settings.device, from_here)


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(":")[0]
        raise UsageError(f"device {name!r} cannot be used: {reason}", "--device cpu works everywhere") from error


def _key(job: Job, known: offline.SelectionFile | None) -> str | None:
    """The name of all runs that are equal to this one, for the cache; None where there is none, or nothing to name it by."""
    if job.settings.cache is None:
        return None
    key = run_key.key_of(job, known)
    if key is None:
        job.watch.say("cache: not used, for code that no file holds, or other training images, are part of this run")
    return key


def _decided(job: Job, folder: Path, given: Found | None, key: str | None, *, resume: bool) -> tuple[Choice, Recovered]:
    """What goes, and the repaired network: from the cache where an equal run left it, which a resumed one does not ask."""
    cache = job.settings.cache
    if cache is not None and key is not None and not resume:
        kept = kept_runs.recall(cache, key, job)
        if kept is not None:
            found, tuned = kept.search, kept.refinement
            refined = tuned.selection if tuned else found.selection
            choice = Choice(found.selection, refined, kept.kept, kept.align, found, tuned, kept.qpu, kept.trail, recalled=True)
            return choice, kept.recovered
    choice, recovered = gradual.decided(job, job.asked, choose, repair, folder, given)
    if cache is not None and key is not None:
        kept_runs.keep(cache, key, job, choice, recovered)
    return choice, recovered


def choose(job: Job, *, folder: Path | None = None, given: Found | None = None) -> Choice:
    """Scores the units, solves the QUBO at the budget, refines the answer on the true metric.

    `given` takes the place of scores and search. In `folder` the scores are kept where the backend fails, and what the
    refinement measures, so that it can be taken up again; not where a machine elsewhere searched: it would find something else.
    """
    settings = job.settings
    target, alignment = job.asked
    candidates = proposer(settings.refine.proposer, inside=not alignment.free)
    keeps = folder if given is not None or not is_remote(settings.search) else None
    refines = settings.refine.most != 0
    with job.crew() as crew:
        found = (
            choosing.find(job, crew, target, alignment, folder, keep=refines and keeps is not None) if given is None else given
        )
        selected = found.search.selection
        chosen = Choice(selected, selected, selected, alignment.align, found.search, None, found.qpu)
        if not refines or not len(selected):
            return chosen
        result = refining.refined(job, crew, found, target, alignment, candidates, keeps)
    if result.interrupted:
        going_on = "" if keeps is None else "; --resume goes on from here"
        job.watch.say(f"interrupted: finishing with the best selection so far (Ctrl-C again to give up){going_on}")
    return replace(chosen, refined=result.selection, kept=result.selection, refinement=result)


def repair(job: Job, choice: Choice) -> tuple[Choice, Recovered]:
    """Removes and repairs; where the refinement changed the choice, both, and the better on the judging crops is kept.

    The refinement climbs on some crops, and with a repair that is not the last one. Its gain there need not be one elsewhere.
    """
    candidates = list(dict.fromkeys((choice.refined, choice.selected)))
    found = []
    with job.watch.stage("repair", float(len(candidates))) as advance:
        for number, selection in enumerate(candidates):
            cuts = job.groups.cuts(selection)
            cut = surgery.slim(job.model, cuts)
            surgery.check(job.model, job.groups, selection, cut, job.calibration().inputs[:2])
            recovered = recover_best(
                job.settings.repair,
                job.model,
                cut,
                job.groups,
                cuts,
                job.calibration(),
                job.judging(),
                job.metric.chooser,
                job.static_repair if job.settings.repair == "lstsq" else None,
                progress=lambda done, note="", before=number: advance(before + done, note),
            )
            found.append((selection, recovered))
        better = max if job.metric.chooser.higher_is_better else min
        kept, best = better(found, key=lambda pair: pair[1].value)
        advance(float(len(candidates)), best.note)
    return replace(choice, kept=kept), best


def finish(job: Job, choice: Choice, recovered: Recovered, plan: Plan, folder: Path, *, key: str | None = None) -> Result:
    """Exports and verifies; the folder's files appear together at the end, or not at all. Pictures come after them.

    `key` names an equal run, whose files and their quality are taken from the cache where it has them, and kept in it.
    """
    with staging(folder) as stage, tempfile.TemporaryDirectory() as scratch:
        _saved(job, recovered, plan, stage)
        found = _found(job, choice, recovered, plan, key, stage, Path(scratch))
        report = _timed(job, Made(choice, recovered, found), stage)
    return _result(job, recovered, report, folder)


def _saved(job: Job, recovered: Recovered, plan: Plan, stage: Path) -> None:
    """The slim network in `stage`; from here on both networks are on the CPU."""
    slim = recovered.model.cpu().eval()
    job.model.cpu()
    slim_folder.save(stage, plan, slim)


def _timed(job: Job, made: Made, stage: Path) -> Report:
    """Times what was made in alternation with the dense network, and writes the report of it all into `stage`."""
    job.model.cpu()
    found = made.findings
    with tempfile.TemporaryDirectory() as scratch:
        if found.dense is None:
            with job.watch.stage("dense network"):
                found = replace(found, dense=job.memo.dense or dense_file(job, Path(scratch)))
        assert found.dense is not None
        with job.watch.stage("latency"):
            timed = compared(job, found.dense.path, found.artifact.path)
    report = assembly.assemble(job, made.choice, made.recovered, found, timed, stage)
    assembly.write(report, stage)
    return report


def _result(job: Job, recovered: Recovered, report: Report, folder: Path) -> Result:
    crops.forget(folder, keep=report.crops is not None)
    return Result(folder, report, recovered.model, _pictures(job, report, folder))


def _found(job: Job, choice: Choice, recovered: Recovered, plan: Plan, key: str | None, stage: Path, scratch: Path) -> Findings:
    """The files and what they are worth: from the cache where an equal run left them."""
    cache = job.settings.cache
    if cache is None or key is None:
        return findings.made(job, choice, recovered, plan, stage, scratch)
    whole = kept_findings.key_of(key, job, recovered.model, plan)
    kept = kept_findings.recall(cache, whole, job, recovered.model, stage, scratch)
    if kept is not None:
        return kept
    found = findings.made(job, choice, recovered, plan, stage, scratch)
    kept_findings.keep(cache, whole, job, found)
    return found


def _pictures(job: Job, report: Report, folder: Path) -> tuple[Path, ...]:
    """Drawn once the run's own files are safe; without them, those of an earlier run there would be of another network."""
    if not job.settings.plots:
        forget(folder / FOLDER)
        return ()
    from qcompress.plots.drawing import illustrate

    with job.watch.stage("plots"):
        return tuple(illustrate(report, folder))
