"""`formulate`: the problem of a checkpoint as files, to be solved on another machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from qcompress import choosing, offline, qubo, slim_folder
from qcompress._version import __version__
from qcompress.budgets import BUDGETS
from qcompress.errors import UsageError
from qcompress.files import claim_file
from qcompress.offline import Ask, ProblemFile, Provenance
from qcompress.pipeline import prepare, wanted
from qcompress.pricing import priced
from qcompress.progress import SILENT, Observer
from qcompress.settings import Settings

__all__ = ["Formulated", "formulate"]


@dataclass(frozen=True, eq=False)
class Formulated:
    """Where the problem was written, and what its JSON says."""

    path: Path
    record: ProblemFile
    interactions: int


def formulate(
    checkpoint: str | Path, settings: Settings | None = None, *, out: str | Path = "problem.bqm", observer: Observer = SILENT
) -> Formulated:
    """Scores the units of `checkpoint` and writes the problem to `out` (…bqm) and, beside it, what its variables are (…json).

    Raises:
        QCompressError: one of its kinds, see `qcompress.errors`.

    """
    settings, path = (settings or Settings()), Path(out)
    if path.suffix == ".json":
        raise UsageError(f"--out {path}: expected a name like problem.bqm", "the JSON of the units is written beside it")
    if path.resolve() == Path(checkpoint).resolve():
        raise UsageError(f"--out {path}: is the checkpoint itself", "choose another name, such as problem.bqm")
    if settings.target is not None or settings.budget not in BUDGETS:
        names = ", ".join(BUDGETS)
        raise UsageError(
            f"budget {settings.budget}: a problem is written for a share of {names} only", "name a sparsity of one"
        )
    if settings.search.keep_at_most or settings.search.multiple_of:
        raise UsageError("keep_at_most, multiple_of: a problem file has no place for them", "prune here, with qcompress prune")
    claim_file(path)

    wanted(settings).check()
    job = prepare(Path(checkpoint), settings, observer, price=partial(priced, settings))
    settings = job.settings
    with job.crew() as crew:
        problem = choosing.problem(job, crew, *job.asked)
    record = offline.write_problem(
        problem,
        path,
        widths=job.groups.widths,
        tool=f"qcompress {__version__}",
        checkpoint=slim_folder.source_of(job.checkpoint),
        layers=offline.layer_records(job.groups),
        ask=Ask(budget=settings.budget, sparsity=settings.sparsity, align=settings.search.align),
        provenance=Provenance(
            scores=choosing.digest(problem),
            images=job.splits.calibration.sha256,
            objective=qubo.name_of(settings.search.objective),
            coefficients=qubo.coefficients_of(settings.search.objective),
            metric=settings.metric,
            seed=settings.seed,
        ),
    )
    return Formulated(path, record, problem.to_bqm().num_interactions)
