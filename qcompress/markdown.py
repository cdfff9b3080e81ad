"""report.md: a report for people, the verdict first. Names from outside are escaped, so that they stay text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from qcompress.reports import (
    CompressionFacts,
    CostPair,
    LatencyFacts,
    MetricFacts,
    PredictedFacts,
    QpuFacts,
    RecoverFacts,
    RefineFacts,
    Report,
    SearchFacts,
    SmallestFacts,
    Status,
    TargetFacts,
)
from qcompress.visible import visible

__all__ = ["code_block", "escape", "headline", "metric_title", "summary_rows", "target_values", "to_markdown"]

_TITLES = {"ssim": "SSIM", "top1": "top-1 accuracy", "miou": "mean IoU"}
_BAR = 16  # characters of a full bar
_SAID: dict[Status, str] = {
    "ok": "Done",
    "threshold-missed": "**A limit was missed**",
    "undecided": "**A limit is undecided**",
    "interrupted": "**Interrupted**: the best so far",
}


def escape(text: str) -> str:
    r"""`text` as Markdown that shows exactly it: no markup, no HTML, no line breaks, no invisible characters.

    >>> print(escape("a_b|<i>.png"))
    a\_b\|&lt;i&gt;.png
    """
    text = visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")
    text = text.replace("://", "&#58;//").replace("www.", "www&#46;")  # what would become a link by itself
    text = re.sub(r"([\\`*_{}\[\]|~$!])", r"\\\1", text)
    return re.sub(r"^(\s*)([-+=#:]|\d+(?=[.)](\s|$)))", _begin_as_text, text)


def code_block(text: str) -> str:
    """`text` in a fence longer than any run of backticks in it, without characters that move the cursor."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{visible(text)}\n{fence}"


def headline(report: Report) -> str:
    """The verdict in one sentence."""
    units, metric = report.units, report.metric
    share = 100 * units.pruned / units.total if units.total else 0.0
    parts = [f"{units.pruned} of {units.total} units ({share:.1f} %) removed"]
    result = _last_metric(metric)
    if metric.dense is not None and result is not None:
        parts.append(f"{_metric_name(metric)} {_value(metric.dense, metric)} → {_value(result, metric)}")
    if report.latency is not None:
        parts.append(_speed(report.latency))
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
    rows.append(_metric_row(_metric_name(metric), metric.dense, _last_metric(metric), metric))
    if metric.ssim is not None and metric.name.lower() != "ssim":
        ours = metric.ssim.artifact if metric.ssim.artifact is not None else metric.ssim.slim
        rows.append(("SSIM", _plain(metric.ssim.dense, 4), _plain(ours, 4), _change(metric.ssim.dense, ours, 4)))
    if report.latency is not None:
        latency = report.latency
        rows.append(("latency", _plain(latency.dense_ms, 2, " ms"), _plain(latency.slim_ms, 2, " ms"), _speed(latency)))
    return [row for row in rows if row[1:3] != ("-", "-")]


def to_markdown(report: Report, pictures: Sequence[tuple[str, str]] = ()) -> str:
    """The text of report.md, with `pictures`: (path from there, caption) of each, both as Markdown takes them."""
    parts: list[str] = [f"# {escape(report.checkpoint.file)}", *_verdict(report)]
    parts += ["## Before and after", _table(("", "dense", "slim", "change"), summary_rows(report)), *_quality_notes(report)]
    parts += ["## Channels kept", *_bars(report)]
    if report.kept_whole:
        kept = ((escape(kept.layer), escape(kept.reason)) for kept in report.kept_whole)
        parts += ["## Not pruned", _table(("layer", "why"), kept, numeric=False)]
    parts += ["## How it was found", *_method(report)]
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
            f"ONNX against PyTorch: largest difference {_scientific(parity.max_abs_diff)}, relative {_scientific(parity.rel)} "
            f"(at most {_scientific(parity.gate)}): {verdict}."
        )


def _predicted_latency(latency: LatencyFacts, found: PredictedFacts) -> str:
    """What the table said, beside what was measured here."""
    times = f"{_plain(found.dense_ms, 2, ' ms')} and {_plain(found.slim_ms, 2, ' ms')}"
    ratio = found.dense_ms / found.slim_ms if found.dense_ms and found.slim_ms else None
    return (
        f"Predicted by the latency table ({escape(found.processor)}): {times}, {_plain(ratio, 2)} times as fast; "
        f"measured here: {_plain(latency.speedup, 2)} times."
    )


def target_values(found: TargetFacts) -> tuple[str, str]:
    """What was asked, and what was measured with its interval; without the unit."""
    return f"{found.asked or 0:g}", f"{_plain(found.measured, 2)} ({_interval(found.ci95)})"


def _target(found: TargetFacts) -> Iterator[str]:
    """Whether the file reaches what was asked, and the choices on the way."""
    unit = {"ms": " ms", "times": " times as fast"}[found.unit]
    asked, measured = target_values(found)
    said = {"met": "met", "missed": "**missed**", "undecided": "not decided, the interval contains it"}[found.reached]
    if found.skipped is not None:
        yield f"Target: {asked}{unit}, by the latency table alone: {escape(found.skipped)}."
        return
    ended = f" No tighter choice was made: {escape(found.ended)}." if found.ended else ""
    yield (
        f"Target: {asked}{unit}; measured of the ONNX file: {measured}: {said}.{ended} Each choice was timed before it was "
        "refined and repaired; where it missed, the table was corrected by what was measured over what was predicted:"
    )
    rows = (
        (
            str(number),
            *(_plain(value, 2) for value in (made.allowed, made.predicted, made.measured)),
            _interval(made.ci95),
            _plain(made.correction, 3),
            made.reached,
        )
        for number, made in enumerate(found.rounds, start=1)
    )
    bound = "at most" if found.unit == "ms" else "at least"
    head = ("choice", f"to be predicted, {bound}", "predicted", "measured", "95 % interval", "correction", "")
    yield _table(head, rows)


def _bars(report: Report) -> Iterator[str]:
    if not report.units.per_group:
        yield "No group can be pruned."
        return
    rows = (
        (escape(name), f"{_bar(units.total - units.pruned, units.total)}", f"{units.total - units.pruned} of {units.total}")
        for name, units in report.units.per_group.items()
    )
    yield _table(("group", "", "kept"), rows)


def _bar(kept: int, total: int) -> str:
    """A bar with at least one block where anything is kept, and a gap where anything went."""
    full = round(_BAR * kept / total) if total else 0
    full = min(max(full, kept > 0), _BAR - (kept < total))
    return "█" * full + "░" * (_BAR - full)


def _proven(search: SearchFacts) -> str:
    """What the lower bound says of the energy, and whether the search was worth more than greedy pruning."""
    if search.energy is None or search.lower_bound is None:
        return ""
    bound = _plain(search.lower_bound, 4)
    if search.relative_gap == 0:
        text = ", proven the optimum"
    elif search.relative_gap is None:
        text = f", no lower than {bound} for any selection"
    else:
        share = f"{100 * search.relative_gap:.2g} %"
        text = f", proven within {share} of the optimum (bound {bound}; 100 % is a random selection)"
    if search.greedy_energy is not None and not search.energy < search.greedy_energy - 1e-9 * abs(search.greedy_energy):
        text += "; the solver did not improve on greedy pruning"
    return text


def _method(report: Report) -> Iterator[str]:
    search, refine, data = report.search, report.refine, report.data
    text = f"Objective {escape(search.objective)}, solver {escape(search.backend)}, energy {_plain(search.energy, 4)}"
    if search.greedy_energy is not None:
        text += f" (greedy {_plain(search.greedy_energy, 4)})"
    text += _proven(search)
    yield text + "."
    if search.qpu is not None:
        yield from _qpu(search.qpu)
    if report.smallest is not None:
        yield from _smallest(report.smallest, report.metric)
    if refine is not None:
        yield (
            f"Refinement: {_plain(refine.evaluations, 0)} evaluations, {refine.accepted} improvements, "
            f"{_gained(refine, report.metric)} on the selection images{_ended(refine)}."
        )
        yield from _predicted(refine)
    if report.recover is not None:
        yield _recovered(report.recover)
        yield from _steps(report.recover)
    if report.compression is not None:
        yield from _compressed(report.compression)
    roles = (("calibration", data.calibration), ("selection", data.selection), ("report", data.report))
    rows = ((name, str(split.images), f"`{split.sha256[:16]}`") for name, split in roles)
    yield f"Images: {escape(data.source)}."
    yield _table(("role", "images", "hash"), rows)


def _compressed(found: CompressionFacts) -> Iterator[str]:
    """The widths of the layers, and what choosing them with the units was worth by its own measure."""
    asked = "" if found.target is None else f" of at most {found.target:,} asked for"
    text = f"Units and widths were chosen together: a file of {found.size:,} bytes{asked}. "
    text += f"Expected loss {_plain(found.pruning_loss, 4)} by units and {_plain(found.width_loss, 4)} by widths"
    if found.greedy_loss is not None:
        text += f", by greedy steps {_plain(found.greedy_loss, 4)} in all"
    if found.lower_bound is not None:
        text += f", at least {_plain(found.lower_bound, 4)} for any choice"
    yield f"{text}."
    if found.simulation_db is not None or found.calibration is not None:
        yield (
            "Integer arithmetic in onnxruntime against the same file computed literally: "
            f"{_plain(found.simulation_db, 1, ' dB')}; ranges of activations by {escape(found.calibration or '-')}. "
            f"{escape(found.int8)}."
        )
    if found.steps:
        yield "Weights, judged on the selection images: " + "; ".join(escape(step) for step in found.steps) + "."
    rows = ((escape(each.layer), each.width, f"{each.bytes:,}", _plain(each.loss, 5)) for each in found.layers)
    yield _table(("layer", "width", "bytes", "expected loss"), rows)


def _recovered(recover: RecoverFacts) -> str:
    """Which repair was kept, and what the fine-tuning did."""
    levels = {"none": "none was kept", "bias": "biases", "lstsq": "least squares"}
    text = f"Repair: {levels[recover.level]}"
    if recover.batchnorm_reestimated:
        text += ", BatchNorm statistics re-estimated"
    training = recover.training
    if training is None:
        return f"{text}."
    unit = f" {recover.unit}" if recover.unit else ""
    minutes = None if training.seconds is None else training.seconds / 60
    teacher = {1.0: "from the dense network's outputs", 0.0: "from the targets"}.get(
        -1.0 if training.teaching is None else training.teaching, "from the dense network's outputs and the targets"
    )
    rate = _scientific(training.rate) + " (the best of those tried)" * bool(training.tried)
    gained = f"{_plain(training.start, 3, unit)} → {_plain(training.best, 3, unit)} (step {training.best_step})"
    text += (
        f". Fine-tuning, {teacher}: {training.steps} steps of {training.batch} in {_plain(minutes, 1)} minutes, learning rate "
        f"{rate}, seed {training.seed}; {escape(recover.metric)} on the selection images {gained}"
    )
    reasons = {"patience": "ended because nothing got better", "interrupt": "interrupted"}
    return f"{text}; {reasons[training.ended]}." if training.ended in reasons else f"{text}."


def _steps(recover: RecoverFacts) -> Iterator[str]:
    """What each step before the last one left, where there were several."""
    if recover.steps:
        name = escape(recover.metric)
        yield f"Pruned in {len(recover.steps) + 1} steps; {name} on the selection images after those before the last:"
        rows = (
            (str(number), str(step.pruned), _plain(step.repaired, 3), _plain(step.trained, 3))
            for number, step in enumerate(recover.steps, start=1)
        )
        yield _table(("step", "units gone", "repaired", "fine-tuned"), rows)


def _smallest(found: SmallestFacts, metric: MetricFacts) -> Iterator[str]:
    """The trials, and whether the report images confirm the result."""
    unit = _difference_unit(metric)
    said = "is within the limit, too" if found.confirmed else "is **above the limit**"
    yield (
        f"The smallest network within a drop of {_plain(found.limit, 3, unit)}: judged on {found.crops} crops of the selection "
        f"images, with a one-sided margin of {_percent(found.confidence)}; on the report images the drop {said}."
    )
    rows = (
        (
            f"{100 * (trial.share or 0):.2f} %",
            f"{trial.params:,}",
            f"{trial.macs:,}",
            f"{_signed(trial.drop, 3)}{unit}",
            _plain(trial.margin, 3),
            "yes" if trial.within else "no",
        )
        for trial in found.trials
    )
    yield _table(("share removed", "parameters", "MACs", "drop", "margin", "within"), rows)


def _predicted(refine: RefineFacts) -> Iterator[str]:
    """What energies said of the candidates, where there were enough to tell."""
    if refine.step_correlation is None:
        return
    text = (
        f"Energy against measured loss of {len(refine.steps)} candidates, each less the best before it: rank correlation "
        f"{_signed(refine.step_correlation, 2)} (1: the energy orders them as the metric does)"
    )
    if refine.rank_correlation is not None:
        text += (
            f"; of the {len(refine.measured)} that were measured on every image, which are the climb itself: "
            f"{_signed(refine.rank_correlation, 2)}"
        )
    yield f"{text}."


def _ended(refine: RefineFacts) -> str:
    """What ended it, where that was not its evaluations."""
    reasons = {"minutes": "ended by the clock", "exhausted": "no further candidate was found", "interrupt": "interrupted"}
    reason = reasons.get(refine.ended or "")
    return f"; {reason}" if reason else ""


def _gained(refine: RefineFacts, metric: MetricFacts) -> str:
    """What the refinement gained, in what it climbed on; reports of before have one number, in the metric's unit."""
    if refine.metric is None:
        return f"{_signed(refine.gain_db, 3)}{_difference_unit(metric)}"
    if refine.metric == metric.name:
        return f"{_signed(refine.gain, 3)}{_difference_unit(metric)}"
    return f"{escape(refine.metric)} better by {_plain(refine.gain, 3, f' {escape(refine.unit)}' if refine.unit else '')}"


def _qpu(qpu: QpuFacts) -> Iterator[str]:
    chip = f" ({escape(qpu.topology)}, graph {escape(qpu.graph_id or '-')})" if qpu.topology else ""
    text = (
        f"{escape(qpu.solver)}{chip}: {qpu.submissions} submissions of {qpu.reads} reads, "
        f"{_plain(qpu.access_s, 3)} s of machine time (estimated {_plain(qpu.estimated_s, 3)} s)"
    )
    if qpu.qubits is not None:
        text += f", up to {qpu.qubits} qubits, chains of up to {qpu.longest_chain}, {_percent(qpu.chain_break_fraction)} broken"
    if qpu.bits is not None:
        text += (
            f"; {qpu.bits} bits of precision are an error of {_percent(qpu.coefficient_error)} on the couplings and cost "
            f"{_percent(qpu.precision_loss)} of the energy"
        )
    yield f"{text}. The classical solver here reaches energy {_plain(qpu.classical_energy, 4)}."
    columns = ("model", "start", "raw", "polished", "annealed here", "chain breaks", "seconds")
    rows = (
        (
            str(number),
            *(_plain(energy, 4) for energy in (probe.start, probe.raw, probe.polished, probe.classical)),
            _percent(probe.chain_break_fraction),
            _plain(probe.access_s, 3),
        )
        for number, probe in enumerate(qpu.probes, start=1)
    )
    if qpu.probes:
        yield _table(columns, rows)
    if qpu.split:
        split = ((escape(block.block), str(block.units), str(block.on_chip)) for block in qpu.split)
        yield _table(("group", "units", "on the chip"), split)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2g} %"


def _reproduction(report: Report) -> Iterator[str]:
    if report.command is not None:
        yield code_block(report.command)
    yield f"Seed {report.seed}; {', '.join(f'{escape(name)} {escape(version)}' for name, version in report.versions.items())}."
    hashes = [(escape(report.checkpoint.file), f"`{visible(report.checkpoint.sha256)}`")]
    hashes += [(escape(name), f"`{visible(facts.sha256)}`") for name, facts in report.files.items()]
    yield _table(("file", "sha256"), hashes, numeric=False)
    if report.timings_s:
        yield "Seconds: " + ", ".join(f"{escape(name)} {_plain(value, 1)}" for name, value in report.timings_s.items()) + "."


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: bool = True) -> str:
    """A Markdown table of cells that are Markdown already; all columns but the first are right-aligned where `numeric`."""
    rule = ["---", *(["---:" if numeric else "---"] * (len(columns) - 1))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, rule, *rows))


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
    return name, dense, slim, f"{_signed(100 * (pair.slim - pair.dense) / pair.dense, 1)} %"


def _metric_row(name: str, dense: float | None, slim: float | None, metric: MetricFacts) -> tuple[str, str, str, str]:
    change = _change(dense, slim, _digits(metric))
    return name, _value(dense, metric), _value(slim, metric), change if change == "-" else f"{change}{_difference_unit(metric)}"


def _metric_name(metric: MetricFacts) -> str:
    return metric_title(metric.name, metric.unit)


def _last_metric(metric: MetricFacts) -> float | None:
    """The metric of the furthest stage that was reached."""
    stages = (metric.artifact, metric.slim, metric.refined, metric.selected)
    return next((value for value in stages if value is not None), None)


def _digits(metric: MetricFacts) -> int:
    return 2 if metric.unit in ("dB", "%") else 4


def _unit(metric: MetricFacts) -> str:
    return f" {metric.unit}" if metric.unit else ""


def _difference_unit(metric: MetricFacts) -> str:
    return " points" if metric.unit == "%" else _unit(metric)


def _value(value: float | None, metric: MetricFacts) -> str:
    return _plain(value, _digits(metric), _unit(metric))


def _change(before: float | None, after: float | None, digits: int) -> str:
    return "-" if before is None or after is None else _signed(after - before, digits)


def _speed(latency: LatencyFacts) -> str:
    if latency.speedup is None:
        return latency.verdict
    if latency.verdict == "no difference shown":
        return f"no difference in speed shown ({_interval(latency.ci95)})"
    return f"{latency.speedup:.2f} times as fast ({_interval(latency.ci95)})"


def _interval(interval: tuple[float | None, float | None]) -> str:
    return " to ".join(_plain(end, 2) for end in interval)


def _plain(value: float | None, digits: int, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def _signed(value: float | None, digits: int) -> str:
    """With its sign, and never "-0.00"."""
    if value is None:
        return "-"
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def _scientific(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.1e}"


def _begin_as_text(match: re.Match[str]) -> str:
    """What would begin a list, a heading or a table, so that it does not."""
    blank, mark = match.group(1), match.group(2)
    return f"{blank}{mark[:-1]}&#{ord(mark[-1])};" if mark.isdecimal() else f"{blank}\\{mark}"
