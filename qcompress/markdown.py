"""report.md: a report for people, the verdict first. Names from outside are escaped, so that they stay text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qcompress.markdown_method import method
from qcompress.markdown_text import code_block, difference_unit, escape, plain, scientific, signed, table, unit
from qcompress.reports import (
    CompressionFacts,
    CostPair,
    LatencyFacts,
    MetricFacts,
    PredictedFacts,
    Report,
    Status,
    TargetFacts,
)
from qcompress.visible import visible
from qcompress.widths import counted

__all__ = ["headline", "metric_title", "summary_rows", "target_values", "to_markdown"]

_TITLES = {"ssim": "SSIM", "top1": "top-1 accuracy", "miou": "mean IoU"}
_BAR = 16  # characters of a full bar
_SAID: dict[Status, str] = {
    "ok": "Done",
    "threshold-missed": "**A limit was missed**",
    "undecided": "**A limit is undecided**",
    "interrupted": "**Interrupted**: the best so far",
}


def headline(report: Report) -> str:
    """The verdict in one sentence."""
    units, metric = report.units, report.metric
    share = 100 * units.pruned / units.total if units.total else 0.0
    parts = [f"{units.pruned} of {units.total} units ({share:.1f} %) removed"]
    if report.compression is not None and report.compression.layers:
        parts.append(f"widths of layers chosen ({_widths(report.compression)})")
    result = _last_metric(metric)
    if metric.dense is not None and result is not None:
        parts.append(f"{_metric_name(metric)} {_value(metric.dense, metric)} → {_value(result, metric)}")
    if report.latency is not None:
        there, here = _elsewhere(report.latency), _speed(report.latency)
        predicted = [] if there is None else [f"predicted to be {_ratio(there)} on the latency table's device"]
        parts += [*predicted, here if there is None else f"{here} on this machine"]
    if report.parity is not None and not report.parity.passed:
        parts.append("but the ONNX file does not compute what PyTorch computes")
    return ", ".join(parts)


def metric_title(name: str, unit: str) -> str:
    """A metric as people call it.

    >>> metric_title("psnr", "dB"), metric_title("top1", "%")
    ('PSNR', 'top-1 accuracy')
    """
    return _TITLES.get(name, name.upper() if unit == "dB" else name)


def summary_rows(report: Report) -> list[tuple[str, str, str, str]]:
    """(quantity, dense, slim, change) for every quantity that was measured, as text."""
    units, metric = report.units, report.metric
    rows = [_cost_row("units", CostPair(dense=units.total, slim=units.total - units.pruned))]
    rows += [_cost_row(name, pair) for name, pair in _costs(report)]
    if report.compression is not None:
        rows.append(("widths of layers", f"{len(report.compression.layers)} float32", _widths(report.compression) or "-", "-"))
    rows.append(_metric_row(_metric_name(metric), metric.dense, _last_metric(metric), metric))
    if metric.ssim is not None and metric.name.lower() != "ssim":
        ours = metric.ssim.artifact if metric.ssim.artifact is not None else metric.ssim.slim
        rows.append(("SSIM", plain(metric.ssim.dense, 4), plain(ours, 4), _change(metric.ssim.dense, ours, 4)))
    if report.latency is not None:
        latency = report.latency
        there = _elsewhere(latency)
        if there is not None:
            times = (plain(there.dense_ms, 2, " ms"), plain(there.slim_ms, 2, " ms"))
            rows.append(("latency on the table's device, predicted", *times, _ratio(there)))
        title = "latency" if there is None else "latency on this machine"
        rows.append((title, plain(latency.dense_ms, 2, " ms"), plain(latency.slim_ms, 2, " ms"), _speed(latency)))
    return [row for row in rows if row[1:3] != ("-", "-")]


def _widths(facts: CompressionFacts) -> str:
    """How many layers have which width."""
    return counted(layer.width for layer in facts.layers)


def to_markdown(report: Report, pictures: Sequence[tuple[str, str]] = ()) -> str:
    """The text of report.md, with `pictures`: (path from there, caption) of each, both as Markdown takes them."""
    parts: list[str] = [f"# {escape(report.checkpoint.file)}", *_verdict(report)]
    parts += ["## Before and after", table(("", "dense", "slim", "change"), summary_rows(report)), *_quality_notes(report)]
    parts += ["## Channels kept", *_bars(report)]
    if report.kept_whole:
        kept = ((escape(kept.layer), escape(kept.reason)) for kept in report.kept_whole)
        parts += ["## Not pruned", table(("layer", "why"), kept, numeric=False)]
    parts += ["## How it was found", *method(report)]
    if pictures:
        parts += ["## Pictures", *(f"![]({path})\n\n{caption}" for path, caption in pictures)]
    parts += ["## To reproduce", *_reproduction(report)]
    return "\n\n".join(parts) + "\n"


def _verdict(report: Report) -> Iterator[str]:
    yield f"{_SAID[report.status]}: {headline(report)}."
    lines = [f"- {escape(reason)}" for reason in report.reasons] + [f"- Note: {escape(note)}" for note in report.notes]
    if lines:
        yield "\n".join(lines)


def _quality_notes(report: Report) -> Iterator[str]:
    metric, latency, parity = report.metric, report.latency, report.parity
    stages = [("noisy input", metric.noisy), ("bicubic", metric.bicubic), ("dense", metric.dense)]
    stages += [("selected", metric.selected), ("refined", metric.refined)]
    stages += [("slim, repaired", metric.slim), ("ONNX file", metric.artifact)]
    steps = ", ".join(f"{name} {_value(value, metric)}" for name, value in stages if value is not None)
    yield f"{_metric_name(metric)} on {metric.images} images that no stage has seen: {steps}."
    if latency is not None:
        clock = "CPU time of its thread" if latency.clock == "thread" else "wall time"
        size = f" on {'x'.join(map(str, latency.input_shape))}" if latency.input_shape else ""
        yield (
            f"Latency{size}: {latency.threads} thread{'s' * (latency.threads != 1)}, {latency.runs} interleaved rounds, "
            f"{clock}; the same file against itself: {_interval(latency.noise)}."
        )
    if latency is not None and latency.predicted is not None:
        yield _predicted_latency(latency, latency.predicted)
    if report.target is not None:
        yield from _target(report.target)
    if parity is not None:
        verdict = "passed" if parity.passed else "**failed**"
        yield (
            f"ONNX against PyTorch: largest difference {scientific(parity.max_abs_diff)}, relative {scientific(parity.rel)} "
            f"(at most {scientific(parity.gate)}): {verdict}."
        )


def _predicted_latency(latency: LatencyFacts, found: PredictedFacts) -> str:
    """What the table said, beside what was measured here."""
    times = f"{plain(found.dense_ms, 2, ' ms')} and {plain(found.slim_ms, 2, ' ms')}"
    where = "on this machine, which is another" if found.elsewhere else "here"
    return (
        f"Predicted by the latency table ({escape(found.processor)}): {times}, {_ratio(found)}; "
        f"measured {where}: {plain(latency.speedup, 2)} times."
    )


def target_values(found: TargetFacts) -> tuple[str, str]:
    """What was asked, and what was measured with its interval; without the unit."""
    return f"{found.asked or 0:g}", f"{plain(found.measured, 2)} ({_interval(found.ci95)})"


def _target(found: TargetFacts) -> Iterator[str]:
    """Whether the file reaches what was asked, and the choices on the way."""
    unit = {"ms": " ms", "times": " times as fast"}[found.unit]
    asked, measured = target_values(found)
    said = {"met": "met", "missed": "**missed**", "undecided": "not decided, the interval contains it"}[found.reached]
    if found.skipped is not None:
        yield f"Target: {asked}{unit}, by the latency table alone: {escape(found.skipped)}."
        return
    ended = f" No further choice was made: {escape(found.ended)}." if found.ended else ""
    yield (
        f"Target: {asked}{unit}; measured of the ONNX file: {measured}: {said}.{ended} Each choice was timed before it was "
        "refined and repaired; where it missed or overshot, the table was corrected by measured over predicted time:"
    )
    rows = (
        (
            str(number),
            *(plain(value, 2) for value in (made.allowed, made.predicted, made.measured)),
            _interval(made.ci95),
            plain(made.correction, 3),
            made.reached + ", timed twice" * (made.looks > 1) + ", kept" * made.kept,
        )
        for number, made in enumerate(found.rounds, start=1)
    )
    bound = "at most" if found.unit == "ms" else "at least"
    head = ("choice", f"to be predicted, {bound}", "predicted", "measured", "95 % interval", "correction", "")
    yield table(head, rows)


def _bars(report: Report) -> Iterator[str]:
    if not report.units.per_group:
        yield "No group can be pruned."
        return
    rows = (
        (escape(name), f"{_bar(units.total - units.pruned, units.total)}", f"{units.total - units.pruned} of {units.total}")
        for name, units in report.units.per_group.items()
    )
    yield table(("group", "", "kept"), rows)


def _bar(kept: int, total: int) -> str:
    """A bar with at least one block where anything is kept, and a gap where anything went."""
    full = round(_BAR * kept / total) if total else 0
    full = min(max(full, kept > 0), _BAR - (kept < total))
    return "█" * full + "░" * (_BAR - full)


def _reproduction(report: Report) -> Iterator[str]:
    if report.command is not None:
        yield code_block(report.command)
    yield f"Seed {report.seed}; {', '.join(f'{escape(name)} {escape(version)}' for name, version in report.versions.items())}."
    hashes = [(escape(report.checkpoint.file), f"`{visible(report.checkpoint.sha256)}`")]
    hashes += [(escape(name), f"`{visible(facts.sha256)}`") for name, facts in report.files.items()]
    yield table(("file", "sha256"), hashes, numeric=False)
    if report.timings_s:
        yield "Seconds: " + ", ".join(f"{escape(name)} {plain(value, 1)}" for name, value in report.timings_s.items()) + "."


def _costs(report: Report) -> Iterator[tuple[str, CostPair]]:
    yield "parameters", report.cost.params
    yield "MACs per image", report.cost.macs
    if report.cost.aligned_macs is not None:
        yield f"MACs in blocks of {report.cost.aligned_macs.block} channels", report.cost.aligned_macs
    yield "ONNX file, bytes", report.cost.bytes


def _cost_row(name: str, pair: CostPair) -> tuple[str, str, str, str]:
    dense, slim = ("-" if value is None else f"{value:,}" for value in (pair.dense, pair.slim))
    if not pair.dense or pair.slim is None:
        return name, dense, slim, "-"
    return name, dense, slim, f"{signed(100 * (pair.slim - pair.dense) / pair.dense, 1)} %"


def _metric_row(name: str, dense: float | None, slim: float | None, metric: MetricFacts) -> tuple[str, str, str, str]:
    change = _change(dense, slim, _digits(metric))
    return name, _value(dense, metric), _value(slim, metric), change if change == "-" else f"{change}{difference_unit(metric)}"


def _metric_name(metric: MetricFacts) -> str:
    return metric_title(metric.name, metric.unit)


def _last_metric(metric: MetricFacts) -> float | None:
    """The metric of the furthest stage that was reached."""
    stages = (metric.artifact, metric.slim, metric.refined, metric.selected)
    return next((value for value in stages if value is not None), None)


def _digits(metric: MetricFacts) -> int:
    return 2 if metric.unit in ("dB", "%") else 4


def _value(value: float | None, metric: MetricFacts) -> str:
    return plain(value, _digits(metric), unit(metric))


def _change(before: float | None, after: float | None, digits: int) -> str:
    return "-" if before is None or after is None else signed(after - before, digits)


def _elsewhere(latency: LatencyFacts) -> PredictedFacts | None:
    """What was predicted for another machine than the one that measured."""
    return latency.predicted if latency.predicted is not None and latency.predicted.elsewhere else None


def _ratio(found: PredictedFacts) -> str:
    ratio = found.dense_ms / found.slim_ms if found.dense_ms and found.slim_ms else None
    return f"{plain(ratio, 2)} times as fast"


def _speed(latency: LatencyFacts) -> str:
    """What was measured."""
    if latency.speedup is None:
        return latency.verdict
    if latency.verdict == "no difference shown":
        return f"no difference in speed shown ({_interval(latency.ci95)})"
    return f"{latency.speedup:.2f} times as fast ({_interval(latency.ci95)})"


def _interval(interval: tuple[float | None, float | None]) -> str:
    return " to ".join(plain(end, 2) for end in interval)
