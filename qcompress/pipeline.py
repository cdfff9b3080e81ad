"""The main job and its parts, as calls: prepare, choose, finish. What is decided is decided in the stages, not here."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from qcompress import (
    findings,
    finetuning,
    kept_runs,
    offline,
    pacing,
    plans,
    pricing,
    qubo,
    refining,
    slim_folder,
    smallest,
    surgery,
)
from qcompress.asking import share_of
from qcompress.checkpoints import Checkpoint
from qcompress.data.images import Splits
from qcompress.deciding import Choice, choose, decided, key_of, repair
from qcompress.errors import UsageError
from qcompress.findings import dense_file
from qcompress.finishing import INTERRUPTED, Made, Result, compared, finish, recalled, reported, result_of, saved
from qcompress.jobs import Job, wanted
from qcompress.latency import Latency
from qcompress.output import claim, staging
from qcompress.plans import Plan
from qcompress.plots.requirement import require
from qcompress.preparing import prepare
from qcompress.progress import SILENT, Observer
from qcompress.searching import check_backend, is_remote
from qcompress.selection import Selection
from qcompress.settings import Settings
from qcompress.solving import as_asked, checked, found_of
from qcompress.targets import Smallest

__all__ = [
    "Choice",
    "INTERRUPTED",
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
        checked(given, *job.asked)
    with refining.resumable(folder):
        if resume:
            finetuning.check_kept(job, folder)
        if isinstance(settings.target, Smallest):
            job = smallest.sized(job, _attempt)
        if pacing.wanted(job) and given is None:
            with tempfile.TemporaryDirectory() as scratch:
                unrefined, time = partial(_selected, folder=folder), partial(_timed_as_cut, scratch=Path(scratch))
                job = pacing.paced(job, unrefined, time, folder, resume=resume)
        key = key_of(job, known)
        choice, recovered = decided(job, folder, given, key, resume=resume)
        whole = not resume and not kept_runs.interrupted(choice, recovered)
        result = finish(job, choice, recovered, _plan_of(job, choice, known), folder, key=key if whole else None)
    if refining.complete(choice.refinement, recovered.training):
        refining.forget(folder)
    return result


def make(job: Job, folder: Path, place: Path, *, resume: bool = False) -> Made:
    """What `carry_out` does before anything is timed, for a share of a budget: the files of the slim folder are in `place`.

    What lets the run go on is kept in `folder`. Raises as `prune`.
    """
    with refining.resumable(folder), tempfile.TemporaryDirectory() as scratch:
        if resume:
            finetuning.check_kept(job, folder)
        key = key_of(job, None)
        choice, recovered = decided(job, folder, None, key, resume=resume)
        plan = _plan_of(job, choice)
        saved(job, recovered, plan, place)
        whole = not resume and not kept_runs.interrupted(choice, recovered)
        known, name = recalled(job, recovered, plan, key if whole else None, place, Path(scratch))
        if known is not None:
            return Made(choice, recovered, replace(known, dense=None))  # all points have one dense file
        return Made(choice, recovered, findings.made(job, choice, recovered, plan, place), name)


def complete(job: Job, made: Made, folder: Path) -> Result:
    """The rest of it, for what `make` made of this job: times the network, and writes the slim folder `folder`."""
    with refining.resumable(folder), staging(folder) as stage:
        for path in sorted(made.findings.artifact.path.parent.iterdir()):
            shutil.move(path, stage / path.name)
        report = reported(job, made.within(stage), stage)
    if refining.complete(made.choice.refinement, made.recovered.training):
        refining.forget(folder)
    return result_of(job, made.recovered, report, folder)


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
    resume: bool = False,
) -> Result:
    """`prune` with the choice of a plan, for the checkpoint that it was made for.

    Fine-tuning is kept in the folder as by `prune`; with `resume` it goes on from there.

    Raises:
        PlanError: the plan is corrupt, or of another checkpoint.
        ResumeError: what is kept in the folder is in the way, or of another run.

    """
    asked = settings or Settings()
    trains = asked.recover == "finetune"
    if asked.plots:
        require()
    if resume and not trains:
        raise UsageError(f"--resume: with --recover {asked.recover} there is nothing to go on with", "leave --resume out")
    path = Path(plan)
    known = plans.read(path / "plan.json" if path.is_dir() else path).model_copy(update={"widths": {}})  # float32 is written
    folder = claim(Path(out) if out else default_folder(Path(checkpoint)))
    if trains:
        refining.check_folder(folder, resume=resume, say=observer.say)
    search = replace(asked.search, ignore=known.ignore or asked.search.ignore, floor=max(known.floor, asked.search.floor))
    job = prepare(Path(checkpoint), replace(asked, search=search), observer, size=known.example_shape[-1])
    slim_folder.apply(known, job.checkpoint)  # raises where the plan is of another checkpoint
    selection = known.selection(job.groups.space)
    with refining.resumable(folder):
        if resume:
            finetuning.check_kept(job, folder)
        choice, recovered = repair(job, Choice(selection, selection, selection))
        if trains and len(selection):
            recovered = finetuning.finetuned(job, recovered, dense=job.model, folder=folder, fixed=True)
        result = finish(job, choice, recovered, known, folder)
    if trains and refining.complete(None, recovered.training):
        finetuning.forget(folder)
    return result


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


def default_folder(checkpoint: Path) -> Path:
    """NAME.slim next to the checkpoint; in the working folder for the checkpoint that ships.

    >>> default_folder(Path("models/net.pth.tar")).as_posix()
    'models/net.slim'
    """
    return checkpoint.with_name(checkpoint.name.split(".")[0] or checkpoint.name).with_suffix(".slim")
