"""What tells reports apart, for the lines and legends of pictures that show several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from qcompress.reports import Report

__all__ = ["facets", "labels", "removed_share"]


def removed_share(report: Report) -> float:
    """Share of the units that went, 0 to 1."""
    return report.units.pruned / report.units.total if report.units.total else 0.0


def facets(reports: Sequence[Report]) -> list[dict[str, str]]:
    """For each report what it is and how it was found, in words; of objectives their arguments too, where names do not do."""
    objectives = {report.search.objective for report in reports}
    names = Counter(_class_of(objective) for objective in objectives)
    return [
        {
            "file": report.checkpoint.file,
            "objective": _objective(report, names),
            "backend": report.search.backend,
            "removed": f"{100 * removed_share(report):.3g} %",
            "align": f"align {report.search.align or 1}",
            "refined": "refined" if report.refine is not None and (report.refine.evaluations or 0) > 1 else "not refined",
            "seed": f"seed {report.seed}",
        }
        for report in reports
    ]


def labels(reports: Sequence[Report], without: Sequence[str] = (), *, always: str = "") -> list[str]:
    """A label for each report: the facets in which they differ, save those in `without`, and the one that is shown `always`."""
    found = facets(reports)
    telling = [
        name for name in (found[0] if found else {}) if name not in without and len({facet[name] for facet in found}) > 1
    ]
    kept = [name for name in (found[0] if found else {}) if name in telling or name == always]
    return [", ".join(facet[name] for name in kept) for facet in found]


def _objective(report: Report, names: Counter[str]) -> str:
    text = report.search.objective
    return _class_of(text) if names[_class_of(text)] == 1 else text


def _class_of(objective: str) -> str:
    """The name before the arguments.

    >>> _class_of("Hybrid(alpha=1.0)"), _class_of("plan")
    ('Hybrid', 'plan')
    """
    return objective.partition("(")[0]
