"""Results as rows: of reports, or of the plain mappings that a benchmark keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qcompress.errors import InputError
from qcompress.markdown import metric_title
from qcompress.plots.naming import labels, removed_share
from qcompress.reports import Report

__all__ = ["Row", "of_mapping", "of_reports"]


@dataclass(frozen=True)
class Row:
    """One network pruned once.

    objective       what the units were chosen by, as a legend names it
    sparsity        share removed, 0 to 1
    align           kept counts are multiples of it
    dense           metric on the report images of the whole network, `cut` of the slim one, `repaired` after repair
    metric          name of the metric, as an axis names it, and its `unit`
    """

    network: str
    objective: str
    sparsity: float
    align: int
    seed: int
    dense: float
    cut: float
    repaired: float
    metric: str = "PSNR"
    unit: str = "dB"


def of_mapping(values: object) -> Row:
    """The row in a mapping with the keys network, objective, sparsity, align, seed, dense, cut, repaired; others are ignored.

    `metric` and `unit` may say what was measured; without them it is PSNR in dB.

    Raises:
        InputError: no mapping, a key is missing, or its value is not of its kind.

    """
    if not isinstance(values, Mapping):
        raise InputError(f"{values!r} is no result, expected a mapping")
    unit = str(values.get("unit", "dB"))
    return Row(
        network=str(_of(values, "network")),
        objective=str(_of(values, "objective")),
        sparsity=_number(values, "sparsity"),
        align=int(_number(values, "align")),
        seed=int(_number(values, "seed")),
        dense=_number(values, "dense"),
        cut=_number(values, "cut"),
        repaired=_number(values, "repaired"),
        metric=metric_title(str(values.get("metric", "psnr")), unit),
        unit=unit,
    )


def of_reports(reports: Sequence[Report]) -> list[Row]:
    """A row for each report that has the metric before and after; what differs besides share and seed tells them apart."""
    named = labels(reports, without=("file", "removed", "align", "seed"), always="objective")
    rows = []
    for report, label in zip(reports, named, strict=True):
        metric = report.metric
        repaired = metric.slim if metric.artifact is None else metric.artifact
        cut = metric.selected if metric.refined is None else metric.refined
        if metric.dense is None or repaired is None:
            continue
        rows.append(
            Row(
                network=report.checkpoint.file,
                objective=label,
                sparsity=removed_share(report),
                align=report.search.align or 1,
                seed=report.seed,
                dense=metric.dense,
                cut=math.nan if cut is None else cut,
                repaired=repaired,
                metric=metric_title(metric.name, metric.unit),
                unit=metric.unit,
            )
        )
    return rows


def _of(values: Mapping[str, object], key: str) -> object:
    if key not in values:
        raise InputError(f"a result has no {key!r}, only {', '.join(map(repr, values)) or 'nothing'}")
    return values[key]


def _number(values: Mapping[str, object], key: str) -> float:
    value = _of(values, key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{key!r} of a result is {value!r}, expected a number")
    return float(value)
