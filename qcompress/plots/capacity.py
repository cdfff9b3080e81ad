"""The capacity search: what each gamma freed, and at which energy, beside what was asked and what was found."""

from __future__ import annotations

from matplotlib.figure import Figure

from qcompress.plots.numbers import drawable
from qcompress.plots.style import COLOURS, INK, MARKERS, QUIET, figure, legend, styled
from qcompress.reports import Report

__all__ = ["capacity_search", "probes"]

_UNITS = {"filters": "units", "params": "parameters", "macs": "MACs"}


def probes(report: Report) -> list[tuple[float, float, float]]:
    """(gamma, capacity, energy) in the order of the search; [] for a search that needs no gamma."""
    steps = ([step.get(key) for key in ("gamma", "capacity", "energy")] for step in report.search.trace)
    return [(a, b, c) for a, b, c in steps if drawable(a) and drawable(b) and drawable(c)]


@styled
def capacity_search(report: Report) -> Figure:
    """Capacity above, energy below, over one axis of gamma; numbers give the order. The report has probes (see `probes`)."""
    search = report.search
    gammas, capacities, energies = zip(*probes(report), strict=True)
    drawn, (above, below) = figure(4.4, rows=2, same_x=True)
    unit = _UNITS.get(search.budget or "", "capacity")
    entries = []
    for ax, values, number in ((above, capacities, 0), (below, energies, 1)):
        order = sorted(range(len(gammas)), key=lambda k: gammas[k])
        ax.plot([gammas[k] for k in order], [values[k] for k in order], color=COLOURS[number], linewidth=0.8, alpha=0.6)
        ax.plot(gammas, values, MARKERS[number], color=COLOURS[number])
        for place, (gamma, value) in enumerate(zip(gammas, values, strict=True), start=1):
            ax.annotate(str(place), (gamma, value), (4, 4), textcoords="offset points", fontsize=7, color=QUIET)
        ax.margins(y=0.15)
    if drawable(search.asked):
        entries.append((above.axhline(search.asked, color=QUIET, linestyle="--", linewidth=1.0), "asked"))
    if drawable(search.energy):
        entries.append((below.axhline(search.energy, color=INK, linewidth=1.0), "found"))
    if drawable(search.lower_bound):
        entries.append((below.axhline(search.lower_bound, color=QUIET, linestyle=":", linewidth=1.2), "lower bound"))
    above.set_ylabel(f"freed, {unit}")
    below.set_ylabel("energy")
    below.set_xlabel(f"gamma, energy per {'unit' if unit == 'units' else unit} freed")
    legend(drawn, entries)
    return drawn
