"""The points of a sweep made in processes of one torch thread: all of a run but its times, with the bits of one thread here."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from qcompress.errors import BackendError, ExportError, QCompressError, SurgeryError, UsageError
from qcompress.pipeline import Job, Made, make, wanted
from qcompress.progress import SILENT, Silent, Stopwatch
from qcompress.workers.bench import facts_of
from qcompress.workers.contract import Answer, Done, Facts, Failed, Lost, Point, Task
from qcompress.workers.hiring import processes

__all__ = ["FAILS", "Broken", "Finished", "made_apart", "sentence"]

FAILS = (UsageError, ExportError, BackendError, SurgeryError)
"""What ends a point but not the sweep; a full disk, say, ends both."""


@dataclass(frozen=True, eq=False)
class Finished:
    """A point but for its times: what the run left, the seconds of its stages, and what the user should know."""

    made: Made
    seconds: Mapping[str, float]
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class Broken:
    """A point that failed, and why."""

    reason: str
    said: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Points:
    """What every worker has: the job without its share, and by share where the folder is, and where its files go first."""

    job: Job
    places: Mapping[float, tuple[Path, Path]]
    resume: bool

    def bench(self, device: str) -> _Bench:
        """See `workers.contract.Load`: on the CPU, where the job is."""
        assert device == "cpu"
        return _Bench(self)


class _Bench:
    """Makes points. What they need alike is in the job's memo already."""

    def __init__(self, points: Points) -> None:
        self._points = points

    def do(self, task: Task) -> bytes:
        """`Finished` or `Broken`, pickled: a process that ends does not take along what torch would share with it."""
        assert isinstance(task, Point)
        return pickle.dumps(self._made(task.share))

    def facts(self) -> Facts:
        """Of the dense network."""
        job = self._points.job
        return facts_of(job.model, job.calibration().inputs[:1])

    def _made(self, share: float) -> Finished | Broken:
        job, (folder, aside) = self._points.job, self._points.places[share]
        shutil.rmtree(aside, ignore_errors=True)  # what a worker left that was lost
        aside.mkdir()
        heard = _Heard()
        settings = replace(job.settings, sparsity=share, workers=1, ray=None)
        job = replace(job, settings=settings, watch=Stopwatch(heard))
        try:
            made = make(job, folder, aside, resume=self._points.resume)
        except FAILS as error:
            return Broken(sentence(error), tuple(heard.lines))
        return Finished(made, job.watch.seconds, tuple(heard.lines))


class _Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        """Kept, for the process that was started to say."""
        self.lines.append(text)


def made_apart(
    job: Job, places: Mapping[float, tuple[Path, Path]], number: int, *, resume: bool
) -> Iterator[tuple[float, Finished | Broken]]:
    """The points of `places` as they are finished, by `number` processes; what these say, and their ends, are told.

    A point whose worker fails, or is lost again and again, is broken; the others are made.

    Raises:
        UsageError: the network or the metric cannot be sent.
        WorkerError: no workers can be had or kept.
        QCompressError: what ends a sweep, such as a full disk.

    """
    shares = list(places)
    points = Points(replace(job, watch=Stopwatch(SILENT)), places, resume)
    with (
        processes(points, number, from_here=wanted(job.settings).from_here, say=job.watch.say) as pool,
        job.watch.stage("points", float(len(shares))) as advance,
    ):
        for done, (place, answer) in enumerate(pool.answers([Point(share) for share in shares]), start=1):
            found = _found(answer)
            advance(done, f"{100 * shares[place]:g} % {'failed' if isinstance(found, Broken) else 'made'}")
            for line in found.said:
                job.watch.say(f"{100 * shares[place]:g} %: {line}")
            yield shares[place], found


def _found(answer: Answer) -> Finished | Broken:
    match answer:
        case Done(value):
            found = pickle.loads(value)  # of our own process
            assert isinstance(found, (Finished, Broken))
            return found
        case Failed(error):
            if isinstance(error, QCompressError):
                raise error
            return Broken(f"its worker failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        case Lost(reason):
            return Broken(reason)
    raise AssertionError(answer)


def sentence(error: QCompressError) -> str:
    """What went wrong and what to do, in one line."""
    return f"{error.message}; {error.hint}" if error.hint else error.message
