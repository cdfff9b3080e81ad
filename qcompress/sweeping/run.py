"""The sweep itself: what no budget changes is computed once, then every share is a run; what is timed is timed alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from qcompress import choosing, kept_runs, kept_scores, pricing, processor, refining, run_key
from qcompress.assembly import checkpoint_facts, versions
from qcompress.drops import check_unit
from qcompress.errors import InterruptedRunError, UsageError, WorkerError
from qcompress.judging import Judge, Judged
from qcompress.output import claim
from qcompress.pipeline import INTERRUPTED, Job, Made, Result, complete, default_folder, dense_file, make, prepare, wanted
from qcompress.plots.requirement import require
from qcompress.progress import SILENT, Observer, Stopwatch
from qcompress.reports import Report
from qcompress.reports import read as read_report
from qcompress.searching import check_backend, is_remote
from qcompress.settings import Settings
from qcompress.sweeping import facts as schema
from qcompress.sweeping import folder as files
from qcompress.sweeping.facts import Axis, DenseFacts, PickFacts, PointFacts, SweepFacts, SweepStatus
from qcompress.sweeping.making import FAILS, Broken, Finished, made_apart, sentence
from qcompress.sweeping.rules import Rule, picked
from qcompress.workers.bench import threads

__all__ = ["Swept", "axis_of", "sweep"]

_SHARE = re.compile(r"\d(?:\.\d+)?(?:e-\d+)?", re.ASCII)  # as in the name of a point's folder


@dataclass(frozen=True)
class Swept:
    """What a sweep leaves: its folder and what is in sweep.json."""

    folder: Path
    facts: SweepFacts

    @property
    def files(self) -> tuple[str, ...]:
        """What was written into the folder, slim folders among it."""
        points = [point.folder for point in self.facts.points if point.folder]
        pick = [self.facts.pick.folder] if self.facts.pick and self.facts.pick.folder else []
        return (*points, *pick, *(name for name in files.NAMES if (self.folder / name).exists()))

    @property
    def exit_code(self) -> int:
        """0 done, 1 a point failed, 4 no point is what was to be picked, 130 interrupted (the points so far are written)."""
        return {"running": 1, "ok": 0, "failed": 1, "pick-missed": 4, "interrupted": INTERRUPTED}[self.facts.status]


def axis_of(budget: str) -> Axis:
    """What quality is set against where nothing else is asked: the cost that the budget is of, for filters MACs."""
    return next((axis for axis in schema.AXES if axis == budget), "macs")


def sweep(
    checkpoint: str | Path,
    shares: Sequence[float],
    settings: Settings | None = None,
    *,
    against: Axis | None = None,
    rule: Rule | None = None,
    out: str | Path | None = None,
    observer: Observer = SILENT,
    resume: bool = False,
) -> Swept:
    """Prunes to every one of the `shares` of the settings' budget; each gets a slim folder in `out`, as by `pipeline.prune`.

    Points that an earlier sweep finished there, from equal inputs and settings, are not computed again, and those at other
    shares are in the result, too. With `resume` the refinement or the training of a point that was interrupted goes on. A point
    that fails is in the result as such. What was picked earlier stays until another point is.

    With several workers the points are made in as many processes, and then timed alone, one after the other.

    Raises:
        QCompressError: what no point could be made with; InterruptedRunError, with the points so far written.

    """
    settings = replace(settings or Settings(), sparsity=0.0)
    _check(settings)
    source = Path(checkpoint)
    folder = claim(Path(out) if out else default_folder(source).with_suffix(".sweep"))
    settings = pricing.cacheable(pricing.with_table(settings, folder, resume=True), observer.say)
    job = prepare(source, settings, observer, price=partial(pricing.priced, settings, folder=folder))
    if rule is not None:
        check_unit(rule.unit, f"--pick {rule.text}", job.metric.name, job.metric.difference_unit)
    job = replace(job, settings=pricing.with_table(job.settings, folder, resume=True))
    course = _Course(job, folder, default_folder(source).stem, against or axis_of(settings.budget), observer, resume=resume)
    return course.run(shares, rule)


def _check(settings: Settings) -> None:
    if settings.plots:
        require()
    wanted(settings).check()
    check_backend(settings.search)
    if settings.target is not None or settings.search.selection is not None:
        raise UsageError("a sweep is over shares of a budget, expected no target and no selection")
    if is_remote(settings.search):
        hint = "sweep with the default backend, then prune with --sparsity"
        raise UsageError(f"sweep: {settings.search.backend} would be asked at every point", hint)


class _Course:
    """A sweep on its way: the points so far, which are written after every one."""

    def __init__(self, job: Job, folder: Path, name: str, against: Axis, observer: Observer, *, resume: bool) -> None:
        self._job, self._folder, self._name, self._observer, self._resume = job, folder, name, observer, resume
        self._judge: Judge | None = None
        metric = job.metric
        self._facts = SweepFacts(
            schema=1,
            status="running",
            checkpoint=checkpoint_facts(job.checkpoint),
            budget=job.settings.budget,
            against=against,
            metric=metric.name,
            unit=metric.unit,
            drop_unit=metric.difference_unit,
            higher_is_better=metric.higher_is_better,
            crops=len(job.judging()),
            seed=job.settings.seed,
            versions=versions(),
        )

    def run(self, shares: Sequence[float], rule: Rule | None) -> Swept:
        """All points, then the pick."""
        kept = {share: point for share in (*shares, *self._others(shares)) if (point := self._finished(share)) is not None}
        self._facts = self._facts.model_copy(update={"points": tuple(kept[share] for share in sorted(kept))})
        todo = {share: self._at(share) for share in shares if share not in kept}
        if not self._resume:
            for share in todo:
                refining.check_folder(self._place(share), resume=False, say=self._observer.say)
        every = sorted({*shares, *kept})
        status: SweepStatus = "ok"
        with files.aside(self._folder) as aside:
            made, cut_short = self._made_apart(todo, aside)
            for share, job in todo.items():
                if cut_short and share not in made:
                    continue
                point = self._finish(job, every.index(share) + 1, len(every), aside, made.pop(share, None))
                self._write(point)
                if point.status == "interrupted":
                    return self._ended("interrupted", None)
                status = "failed" if point.status == "failed" else status
        if cut_short:
            raise self._interrupted(len(every), [self._place(share) for share in todo])
        pick = None if rule is None else self._pick(rule)
        if pick is not None and pick.share is None and status == "ok":
            status = "pick-missed"
        return self._ended(status, pick)

    def _at(self, share: float) -> Job:
        """The job of a point; its stages are timed by themselves."""
        return replace(self._job, settings=replace(self._job.settings, sparsity=share), watch=Stopwatch(self._observer))

    def _place(self, share: float) -> Path:
        return self._folder / f"{self._name}-{share:g}.slim"

    def _others(self, shares: Sequence[float]) -> list[float]:
        """Further shares that the folder seems to have points of."""
        named = (place.name.removesuffix(".slim").rpartition("-")[2] for place in self._folder.glob("*.slim"))
        found = {float(text) for text in named if _SHARE.fullmatch(text)} - {*shares}
        return sorted(share for share in found if 0 < share < 1)

    def _finished(self, share: float) -> PointFacts | None:
        """The point of an earlier sweep, where it is the one that would be made here and its files are whole."""
        place = self._place(share)
        point = files.kept(place)
        if point is None or point.share != share or point.key is None or point.key != _key(self._at(share)):
            return None
        self._observer.say(f"{100 * share:g} % is there already: {place}")
        self._take_dense(read_report(place / "report.json"))
        return point

    def _made_apart(self, jobs: Mapping[float, Job], aside: Path) -> tuple[dict[float, Finished | Broken], bool]:
        """The points that workers made, and whether Ctrl-C came before all were; none where each is made when its turn comes.

        With workers, one or more, what the points share is computed first, by this process: then no number of them makes a
        difference.
        """
        settings, found = self._job.settings, dict[float, Finished | Broken]()
        if settings.workers is None and settings.ray is None:
            return found, False
        possible = {share: self._place(share) for share, job in jobs.items() if _refused(job) is None}
        if not all(_is_cached(jobs[share]) for share in possible):
            self._share_out()
        number = self._processes(len(possible))
        if number < 2:
            return found, False
        places = {share: (place, _within(aside, share)) for share, place in possible.items()}
        try:
            found.update(made_apart(self._job, places, number, resume=self._resume))
        except KeyboardInterrupt:
            if found:
                self._observer.say("interrupted: what is made so far is timed now and written (Ctrl-C again to give up)")
            return found, True
        except WorkerError as error:
            if not found:
                raise
            found = {share: found.get(share, Broken(sentence(error))) for share in possible}
        return found, False

    def _processes(self, points: int) -> int:
        """How many processes make points; 1: none but this one."""
        settings = self._job.settings
        if points < 2 or (settings.workers == 1 and settings.ray is None):
            return 1
        if settings.ray is not None or settings.device != "cpu":
            where = f"on {settings.device}" if settings.ray is None else "on a Ray cluster"
            self._observer.say(f"points are made one after the other: {where} workers share the scoring and refinement of each")
            return 1
        return min(settings.workers or 1, points)

    def _share_out(self) -> None:
        """Computes what no budget changes before any point is made."""
        if self._job.settings.repair == "lstsq":
            _ = self._job.static_repair
        choosing.prepare(self._job)

    def _finish(self, job: Job, number: int, total: int, aside: Path, found: Finished | Broken | None) -> PointFacts:
        """Makes a point unless that was `found`, and times it. Raises InterruptedRunError where it ends without a result."""
        share = job.settings.sparsity
        if found is None:
            self._observer.say(f"point {number} of {total}: {100 * share:g} % of {job.settings.budget}")
        elif isinstance(found, Finished):
            self._observer.say(f"point {number} of {total}: {100 * share:g} % of {job.settings.budget} is timed")
        try:
            if isinstance(found, Broken):
                self._observer.say(f"{100 * share:g} % failed: {found.reason}")
                return PointFacts(share=share, status="failed", reason=found.reason)
            _ = job.asked  # before the dense network is exported
            self._once(job, aside)
            made = self._made(job, _within(aside, share)) if found is None else _taken(found, job)
            return self._point(share, job, complete(job, made, self._place(share)))
        except FAILS as error:
            self._observer.say(f"failed: {error.message}")
            return PointFacts(share=share, status="failed", reason=sentence(error))
        except KeyboardInterrupt:
            raise self._interrupted(total) from None
        except InterruptedRunError as error:
            raise self._interrupted(total, hint=error.hint) from None

    def _made(self, job: Job, place: Path) -> Made:
        """By this process: with workers in one thread, as they are."""
        place.mkdir()
        alone = job.settings.workers is None and job.settings.ray is None
        with threads(None if alone else 1):
            return make(job, self._place(job.settings.sparsity), place, resume=self._resume)

    def _interrupted(self, total: int, begun: Sequence[Path] = (), hint: str | None = None) -> InterruptedRunError:
        """The error that says what there is, which is written; `begun` are folders that may have what can go on."""
        self._ended("interrupted", None)
        done = sum(point.status == "ok" for point in self._facts.points)
        if any(refining.unfinished(place) for place in begun):
            hint = "--resume goes on with what was begun, too"
        message = f"interrupted; {done} of {total} points are finished in {self._folder}"
        return InterruptedRunError(message, "; ".join(["the same command goes on with the others", *([hint] if hint else [])]))

    def _once(self, job: Job, scratch: Path) -> None:
        """What all points share, and where the last one left the dense network."""
        if job.memo.dense is None:
            with self._observer.stage("dense network"):
                job.model.cpu()
                job.memo.dense = dense_file(job, scratch)
                job.model.to(job.settings.device)
                self._judge = Judge(job.model, job.judging(), job.metric)
        job.model.to(job.settings.device)

    def _point(self, share: float, job: Job, result: Result) -> PointFacts:
        assert self._judge is not None
        judged = self._judge.judge(result.model.to(job.settings.device))
        self._take_dense(result.report)
        point = _point_of(share, result, job, judged)
        files.keep(point, result.folder)
        return point

    def _take_dense(self, report: Report) -> None:
        cost = report.cost
        assert cost.params.dense is not None
        assert cost.macs.dense is not None
        dense = DenseFacts(params=cost.params.dense, macs=cost.macs.dense, bytes=cost.bytes.dense, metric=report.metric.dense)
        self._facts = self._facts.model_copy(update={"dense": self._facts.dense or dense})

    def _write(self, point: PointFacts) -> None:
        points = sorted((*self._facts.points, point), key=lambda one: one.share)
        self._facts = schema.ranked(self._facts.model_copy(update={"points": tuple(points)}))
        files.write(self._facts, self._folder, picture=False)

    def _pick(self, rule: Rule) -> PickFacts:
        point = picked(rule, self._facts)
        if point is None or point.folder is None:
            return PickFacts(rule=rule.text, reason=_REASONS[rule.kind].format(limit=rule.text.partition(":")[2]))
        if self._has_pick():
            self._observer.say(f"{files.PICKED} of an earlier sweep is replaced")
        copied = files.copy_picked(self._folder, self._folder / point.folder)
        return PickFacts(rule=rule.text, share=point.share, folder=copied.name)

    def _ended(self, status: SweepStatus, pick: PickFacts | None) -> Swept:
        if (pick is None or pick.folder is None) and self._has_pick():
            self._observer.say(f"{files.PICKED} is what an earlier sweep picked: it stays as it is")
        self._facts = schema.ranked(self._facts.model_copy(update={"status": status, "pick": pick}))
        files.write(self._facts, self._folder, picture=self._job.settings.plots)
        return Swept(self._folder, self._facts)

    def _has_pick(self) -> bool:
        return (self._folder / files.PICKED).is_dir()


_REASONS = {
    "knee": "no point of the front lies below the chord between its ends",
    "drop": "no point's drop on the selection crops is within {limit}, margin included",
    "speedup": "no point's confidence interval lies above {limit}",
    "size": "no point's ONNX file is within {limit}",
}


def _point_of(share: float, result: Result, job: Job, judged: Judged) -> PointFacts:
    report, latency = result.report, result.report.latency
    dense, slim = report.metric.dense, report.metric.artifact
    interrupted = report.status == "interrupted"
    return PointFacts(
        share=share,
        status="interrupted" if interrupted else "ok",
        folder=result.folder.name,
        units=report.units.total,
        pruned=report.units.pruned,
        params=report.cost.params.slim,
        macs=report.cost.macs.slim,
        bytes=report.cost.bytes.slim,
        metric=slim,
        drop=None if dense is None or slim is None else job.metric.drop(dense, slim),
        judged=judged.drop,
        margin=judged.margin,
        speedup=latency.speedup if latency else None,
        ci95=latency.ci95 if latency else None,
        rounds=latency.runs if latency else 0,
        key=None if interrupted else _key(job),
        report=sha256((result.folder / "report.json").read_bytes()).hexdigest(),
    )


def _key(job: Job) -> str | None:
    """All that a point's folder depends on; None where that cannot be told, or its budget cannot be met."""
    try:
        chosen = run_key.key_of(job)
    except UsageError:
        return None
    if chosen is None:
        return None
    settings = job.settings
    return kept_scores.key_of(
        run=chosen,
        report=[job.splits.report.contents, job.splits.classes],
        written=[repr(settings.export), settings.crops],
        measured=[repr(settings.verify), processor.features()],
    )


def _within(aside: Path, share: float) -> Path:
    """Where the files of a point are until they are whole."""
    return aside / f"{share:g}"


def _taken(found: Finished, job: Job) -> Made:
    """What a worker made, with its seconds on the job's own clock."""
    job.watch.seconds.update(found.seconds)
    return found.made


def _refused(job: Job) -> UsageError | None:
    """Why no allowed counts meet the budget of a job, where none do."""
    try:
        _ = job.asked
    except UsageError as error:
        return error
    return None


def _is_cached(job: Job) -> bool:
    """Whether the cache seems to have what the point would be."""
    cache = job.settings.cache
    key = None if cache is None else run_key.key_of(job)
    return cache is not None and key is not None and kept_runs.exists(cache, key)
