"""From a report to the page: what the template is given, and the rules under which a browser shows it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from qcompress._version import __version__
from qcompress.html import charts
from qcompress.html.classes import cards, changes
from qcompress.html.compression import compression
from qcompress.html.graph import graph
from qcompress.html.numbers import change, fixed, short, size, times
from qcompress.html.pictures import Strip
from qcompress.markdown import headline, metric_title
from qcompress.reports import Report, Status
from qcompress.visible import visible

__all__ = ["render", "to_html"]

_VERDICTS: dict[Status, tuple[str, str]] = {
    "ok": ("Done", "good"),
    "threshold-missed": ("A limit was missed", "bad"),
    "undecided": ("A limit is undecided", "open"),
    "interrupted": ("Interrupted: the best so far", "open"),
}


@dataclass(frozen=True)
class Tile:
    """A quantity; each note is kept on one line, the bars are per cent of the larger of both, None where they say nothing."""

    title: str
    value: str
    notes: tuple[str, ...]
    dense: float | None = None
    slim: float | None = None


def to_html(report: Report, strips: Sequence[Strip] = ()) -> str:
    """The text of report.html; `strips` are the windows of its crops."""
    verdict, mood = _VERDICTS[report.status]
    return render(
        "report.html.jinja",
        report=report,
        title=re.split(r"[/\\]", report.checkpoint.file)[-1] or report.checkpoint.file,
        verdict=verdict,
        mood=mood,
        headline=headline(report),
        tiles=_tiles(report),
        strips=strips,
        cards=cards(strips),
        changes=changes(report),
        graph=graph(report),
        compression=compression(report),
        latency=charts.latency(report.latency),
        images=charts.images(report.metric),
        stages=charts.stages(report.metric),
        energies=None if report.compression else charts.energies(report.search),  # it has its own
        climb=charts.climb(report),
        trace=charts.trace(report.search),
        metric=metric_title(report.metric.name, report.metric.unit),
        digits=2 if report.metric.unit in ("dB", "%") else 4,
        judged=metric_title(report.recover.metric, report.recover.unit) if report.recover else "the metric",
    )


def render(template: str, **values: Any) -> str:
    """A page of `template`. Everything in `values` is text to be escaped; what cannot be seen is shown as its escape."""
    script = _asset("slider.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    # Our own files, as they are: the hash of the script would not hold otherwise.
    own = {"style": Markup(_asset("style.css")), "script": Markup(script)}
    return _environment().get_template(template).render(policy=policy, version=__version__, **own, **values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("qcompress.html"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fixed": fixed, "short": short, "size": size}
    return environment


def _shown(value: object) -> object:
    """What an expression of a template becomes: text from outside without what would move the cursor or turn the writing."""
    return visible(value) if type(value) is str else value


def _asset(name: str) -> str:
    return (files("qcompress.html") / "templates" / name).read_text(encoding="utf-8")


def _tiles(report: Report) -> list[Tile]:
    """What is looked at first, as far as it was measured."""
    metric, cost = report.metric, report.cost
    ours = metric.artifact if metric.artifact is not None else metric.slim
    digits = 2 if metric.unit in ("dB", "%") else 4
    found = []
    if ours is not None:
        found.append(_quality(metric_title(metric.name, metric.unit), metric.dense, ours, digits, metric.unit))
    if metric.ssim is not None and metric.name != "ssim":
        after = metric.ssim.artifact if metric.ssim.artifact is not None else metric.ssim.slim
        found += [] if after is None else [_quality("SSIM", metric.ssim.dense, after, 4, "")]
    if report.latency is not None and report.latency.speedup is not None:
        low, high = (fixed(end, 2) for end in report.latency.ci95)
        predicted = report.latency.predicted
        if predicted is not None and predicted.elsewhere and predicted.dense_ms and predicted.slim_ms:
            found.append(Tile("predicted speed", times(predicted.dense_ms / predicted.slim_ms), (predicted.processor,)))
        title = "speed on this machine" if predicted is not None and predicted.elsewhere else "speed"
        found.append(Tile(title, times(report.latency.speedup), ("95 % interval", f"{low} to {high}")))
    counts = (
        ("ONNX file", cost.bytes.dense, cost.bytes.slim, size),
        ("MACs per image", cost.macs.dense, cost.macs.slim, short),
        ("parameters", cost.params.dense, cost.params.slim, short),
    )
    for title, dense, slim, text in counts:
        if slim is not None:
            notes: tuple[str, ...] = (f"{text(dense)} dense", change(dense, slim)) if dense else ()
            if title == "ONNX file" and report.compression is not None and report.compression.target is not None:
                notes = (*notes, f"≤ {size(report.compression.target)} asked")
            largest = max(dense or 0, slim, 1)
            found.append(Tile(title, text(slim), notes, 100 * (dense or 0) / largest, 100 * slim / largest))
    return found


def _quality(title: str, dense: float | None, slim: float, digits: int, unit: str) -> Tile:
    lost = () if dense is None else (f"{slim - dense:+.{digits}f}".replace("-", "−"),)
    return Tile(title, fixed(slim, digits, unit), (f"{fixed(dense, digits)} dense", *lost))
