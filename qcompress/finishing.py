"""The end of a run: files, verification, timing, report, pictures."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from qcompress import assembly, crops, findings, kept_findings, latency, seeds, slim_folder
from qcompress.deciding import Choice
from qcompress.findings import Findings, dense_file
from qcompress.jobs import Job
from qcompress.latency import Latency
from qcompress.output import staging
from qcompress.plans import Plan
from qcompress.plots.table import FOLDER, forget
from qcompress.recover.choice import Recovered
from qcompress.reports import Report

__all__ = ["INTERRUPTED", "Made", "Result", "compared", "finish", "recalled", "reported", "result_of", "saved"]

INTERRUPTED = 130  # what shells report for a process ended by Ctrl-C


@dataclass(frozen=True, eq=False)
class Made:
    """A run but for what is timed: what goes, the network that is left (CPU, eval mode), its files, and what they are worth.

    The files lie in the folder of the artifact. `name` is what the cache is to keep the findings under, once the dense network
    has its file; None where it has them, or there is none.
    """

    choice: Choice
    recovered: Recovered
    findings: Findings
    name: str | None = None

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


def finish(job: Job, choice: Choice, recovered: Recovered, plan: Plan, folder: Path, *, key: str | None = None) -> Result:
    """Exports and verifies; the folder's files appear together at the end, or not at all. Pictures come after them.

    `key` names an equal run, whose files and their quality are taken from the cache where it has them, and kept in it.
    """
    with staging(folder) as stage, tempfile.TemporaryDirectory() as scratch:
        saved(job, recovered, plan, stage)
        found = _found(job, choice, recovered, plan, key, stage, Path(scratch))
        report = reported(job, Made(choice, recovered, found), stage)
    return result_of(job, recovered, report, folder)


def saved(job: Job, recovered: Recovered, plan: Plan, stage: Path) -> None:
    """The slim network in `stage`; from here on both networks are on the CPU."""
    slim = recovered.model.cpu().eval()
    job.model.cpu()
    slim_folder.save(stage, plan, slim)


def reported(job: Job, made: Made, stage: Path) -> Report:
    """Times what was made in alternation with the dense network, and writes the report of it all into `stage`."""
    job.model.cpu()
    found = made.findings
    with tempfile.TemporaryDirectory() as scratch:
        if found.dense is None:
            with job.watch.stage("dense network"):
                found = replace(found, dense=job.memo.dense or dense_file(job, Path(scratch)))
        assert found.dense is not None
        kept(job, made.name, found)
        with job.watch.stage("latency"):
            timed = compared(job, found.dense.path, found.artifact.path)
    report = assembly.assemble(job, made.choice, made.recovered, found, timed, stage)
    assembly.write(report, stage)
    return report


def result_of(job: Job, recovered: Recovered, report: Report, folder: Path) -> Result:
    """The result of a run whose slim folder `folder` is there; draws the pictures into it."""
    crops.forget(folder, keep=report.crops is not None)
    return Result(folder, report, recovered.model, _pictures(job, report, folder))


def compared(job: Job, dense: Path, slim: Path) -> Latency:
    """The two ONNX files in alternation, as the settings want it, on the same input in every run of a seed."""
    verify, seed = job.settings.verify, job.settings.seed
    image = seeds.stream(seed, "latency input").random(job.frame.example_shape, dtype="float32")
    return latency.compare(dense, slim, image, seed=seed, threads=verify.threads, max_seconds=verify.max_seconds)


def _found(job: Job, choice: Choice, recovered: Recovered, plan: Plan, key: str | None, stage: Path, scratch: Path) -> Findings:
    """The files and what they are worth: from the cache where an equal run left them, else kept there."""
    known, name = recalled(job, recovered, plan, key, stage, scratch)
    if known is not None:
        return known
    found = findings.made(job, choice, recovered, plan, stage, scratch)
    kept(job, name, found)
    return found


def recalled(
    job: Job, recovered: Recovered, plan: Plan, key: str | None, stage: Path, scratch: Path
) -> tuple[Findings | None, str | None]:
    """The findings of the equal run that `key` names, if the cache has them, and else the name to keep ours under, if any.

    The files go where `findings.made` writes them.
    """
    cache = job.settings.cache
    if cache is None or key is None:
        return None, None
    name = kept_findings.key_of(key, job, recovered.model, plan)
    known = kept_findings.recall(cache, name, job, recovered.model, stage, scratch)
    return known, None if known is not None else name


def kept(job: Job, name: str | None, found: Findings) -> None:
    """Keeps findings, dense file included, in the cache under their name, if they have one."""
    if job.settings.cache is not None and name is not None:
        kept_findings.keep(job.settings.cache, name, job, found)


def _pictures(job: Job, report: Report, folder: Path) -> tuple[Path, ...]:
    """Drawn once the run's own files are safe; without them, those of an earlier run there would be of another network."""
    if not job.settings.plots:
        forget(folder / FOLDER)
        return ()
    from qcompress.plots.drawing import illustrate

    with job.watch.stage("plots"):
        return tuple(illustrate(report, folder))
