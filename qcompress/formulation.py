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
from qcompress.targets import AtMost, Smallest

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
    _check_budget(settings)
    claim_file(path)

    wanted(settings).check()
    job = prepare(Path(checkpoint), settings, observer, price=partial(priced, settings))
    settings = job.settings
    target, alignment = job.asked
    with job.crew() as crew:
        problem = choosing.problem(job, crew, target, alignment)
    record = offline.write_problem(
        problem,
        path,
        widths=job.groups.widths,
        alignment=alignment,
        tool=f"qcompress {__version__}",
        checkpoint=slim_folder.source_of(job.checkpoint),
        layers=offline.layer_records(job.groups),
        ask=_ask(settings),
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


def _check_budget(settings: Settings) -> None:
    """Raises UsageError for what a problem file cannot hold: costs that do not follow from the layers' counts alone."""
    if isinstance(settings.target, Smallest):
        raise UsageError(
            "the smallest network within a drop is found by measuring networks, which no problem file can ask for",
            "name a share or --target-params, --target-macs; or prune --smallest here",
        )
    if settings.budget not in BUDGETS:
        held = ", ".join(BUDGETS)
        raise UsageError(
            f"budget {settings.budget}: its cost is measured on the exported network, a problem file holds {held} only",
            f"--target-params or --target-macs; or prune by {settings.budget} here",
        )


def _ask(settings: Settings) -> Ask:
    search, target = settings.search, settings.target
    return Ask(
        budget=settings.budget,
        sparsity=settings.sparsity,
        align=search.align,
        at_most=target.amount if isinstance(target, AtMost) else None,
        keep=dict(search.keep),
        keep_at_most=dict(search.keep_at_most),
        multiple_of=dict(search.multiple_of),
    )
