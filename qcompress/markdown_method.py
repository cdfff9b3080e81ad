"""The part of report.md that says how the network was found: the search, the refinement, the repair, the widths."""

from __future__ import annotations

from collections.abc import Iterator

from qcompress.markdown_text import difference_unit, escape, percent, plain, scientific, signed, table
from qcompress.reports import (
    CompressionFacts,
    MetricFacts,
    QpuFacts,
    RecoverFacts,
    RefineFacts,
    Report,
    SearchFacts,
    SmallestFacts,
)

__all__ = ["method"]


def method(report: Report) -> Iterator[str]:
    """The paragraphs and tables, in the order of the run."""
    search, refine, data = report.search, report.refine, report.data
    text = f"Objective {escape(search.objective)}, solver {escape(search.backend)}, energy {plain(search.energy, 4)}"
    if search.greedy_energy is not None:
        text += f" (greedy {plain(search.greedy_energy, 4)})"
    text += _proven(search)
    yield text + "."
    if search.qpu is not None:
        yield from _qpu(search.qpu)
    if report.smallest is not None:
        yield from _smallest(report.smallest, report.metric)
    if refine is not None:
        yield (
            f"Refinement: {plain(refine.evaluations, 0)} evaluations, {refine.accepted} improvements, "
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
    yield table(("role", "images", "hash"), rows)


def _proven(search: SearchFacts) -> str:
    """What the lower bound says of the energy, and whether the search was worth more than greedy pruning."""
    if search.energy is None or search.lower_bound is None:
        return ""
    bound = plain(search.lower_bound, 4)
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


def _compressed(found: CompressionFacts) -> Iterator[str]:
    """The widths of the layers, and what choosing them with the units was worth by its own measure."""
    asked = "" if found.target is None else f" of at most {found.target:,} asked for"
    text = f"Units and widths were chosen together: a file of {found.size:,} bytes{asked}. "
    text += f"Expected loss {plain(found.pruning_loss, 4)} by units and {plain(found.width_loss, 4)} by widths"
    if found.greedy_loss is not None:
        text += f", by greedy steps {plain(found.greedy_loss, 4)} in all"
    if found.lower_bound is not None:
        text += f", at least {plain(found.lower_bound, 4)} for any choice"
    yield f"{text}."
    if found.simulation_db is not None or found.calibration is not None:
        yield (
            "Integer arithmetic in onnxruntime against the same file computed literally: "
            f"{plain(found.simulation_db, 1, ' dB')}; ranges of activations by {escape(found.calibration or '-')}. "
            f"{escape(found.int8)}."
        )
    if found.steps:
        yield "Weights, judged on the selection images: " + "; ".join(escape(step) for step in found.steps) + "."
    rows = ((escape(each.layer), each.width, f"{each.bytes:,}", plain(each.loss, 5)) for each in found.layers)
    yield table(("layer", "width", "bytes", "expected loss"), rows)


def _recovered(recover: RecoverFacts) -> str:
    """Which repair was kept, and what the fine-tuning did."""
    levels = {
        "none": "none was kept",
        "batchnorm": "BatchNorm statistics re-estimated",
        "bias": "biases",
        "lstsq": "least squares",
    }
    text = f"Repair: {levels[recover.level]}"
    if recover.batchnorm_reestimated and recover.level != "batchnorm":
        text += ", BatchNorm statistics re-estimated"
    training = recover.training
    if training is None:
        return f"{text}."
    unit = f" {recover.unit}" if recover.unit else ""
    minutes = None if training.seconds is None else training.seconds / 60
    teacher = {1.0: "from the dense network's outputs", 0.0: "from the targets"}.get(
        -1.0 if training.teaching is None else training.teaching, "from the dense network's outputs and the targets"
    )
    rate = f"learning rate {scientific(training.rate)}" + " (the best of those tried)" * bool(training.tried)
    if training.rate is None:
        rate = "learning rate not found yet"
    gained = f"{plain(training.start, 3, unit)} → {plain(training.best, 3, unit)} (step {training.best_step})"
    text += (
        f". Fine-tuning, {teacher}: {training.steps} steps of {training.batch} in {plain(minutes, 1)} minutes, "
        f"{training.optimiser.title()}, {rate}, seed {training.seed}; "
        f"{escape(recover.metric)} on the selection images {gained}"
    )
    reasons = {"patience": "ended because nothing got better", "interrupt": "interrupted"}
    return f"{text}; {reasons[training.ended]}." if training.ended in reasons else f"{text}."


def _steps(recover: RecoverFacts) -> Iterator[str]:
    """What each step before the last one left, where there were several."""
    if recover.steps:
        name = escape(recover.metric)
        yield f"Pruned in {len(recover.steps) + 1} steps; {name} on the selection images after those before the last:"
        rows = (
            (str(number), str(step.pruned), plain(step.repaired, 3), plain(step.trained, 3))
            for number, step in enumerate(recover.steps, start=1)
        )
        yield table(("step", "units gone", "repaired", "fine-tuned"), rows)


def _smallest(found: SmallestFacts, metric: MetricFacts) -> Iterator[str]:
    """The trials, and whether the report images confirm the result."""
    unit = difference_unit(metric)
    said = "is within the limit, too" if found.confirmed else "is **above the limit**"
    yield (
        f"The smallest network within a drop of {plain(found.limit, 3, unit)}: judged on {found.crops} crops of the selection "
        f"images, with a one-sided margin of {percent(found.confidence)}; on the report images the drop {said}."
    )
    rows = (
        (
            f"{100 * (trial.share or 0):.2f} %",
            f"{trial.params:,}",
            f"{trial.macs:,}",
            f"{signed(trial.drop, 3)}{unit}",
            plain(trial.margin, 3),
            "yes" if trial.within else "no",
        )
        for trial in found.trials
    )
    yield table(("share removed", "parameters", "MACs", "drop", "margin", "within"), rows)


def _predicted(refine: RefineFacts) -> Iterator[str]:
    """What energies said of the candidates, where there were enough to tell."""
    if refine.step_correlation is None:
        return
    text = (
        f"Energy against measured loss of {len(refine.steps)} candidates, each less the best before it: rank correlation "
        f"{signed(refine.step_correlation, 2)} (1: the energy orders them as the metric does)"
    )
    if refine.rank_correlation is not None:
        text += (
            f"; of the {len(refine.measured)} that were measured on every image, which are the climb itself: "
            f"{signed(refine.rank_correlation, 2)}"
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
        return f"{signed(refine.gain_db, 3)}{difference_unit(metric)}"
    if refine.metric == metric.name:
        return f"{signed(refine.gain, 3)}{difference_unit(metric)}"
    return f"{escape(refine.metric)} better by {plain(refine.gain, 3, f' {escape(refine.unit)}' if refine.unit else '')}"


def _qpu(qpu: QpuFacts) -> Iterator[str]:
    chip = f" ({escape(qpu.topology)}, graph {escape(qpu.graph_id or '-')})" if qpu.topology else ""
    text = (
        f"{escape(qpu.solver)}{chip}: {qpu.submissions} submissions of {qpu.reads} reads, "
        f"{plain(qpu.access_s, 3)} s of machine time (estimated {plain(qpu.estimated_s, 3)} s)"
    )
    if qpu.qubits is not None:
        text += f", up to {qpu.qubits} qubits, chains of up to {qpu.longest_chain}, {percent(qpu.chain_break_fraction)} broken"
    if qpu.bits is not None:
        text += (
            f"; {qpu.bits} bits of precision are an error of {percent(qpu.coefficient_error)} on the couplings and cost "
            f"{percent(qpu.precision_loss)} of the energy"
        )
    yield f"{text}. The classical solver here reaches energy {plain(qpu.classical_energy, 4)}."
    columns = ("model", "start", "raw", "polished", "annealed here", "chain breaks", "seconds")
    rows = (
        (
            str(number),
            *(plain(energy, 4) for energy in (probe.start, probe.raw, probe.polished, probe.classical)),
            percent(probe.chain_break_fraction),
            plain(probe.access_s, 3),
        )
        for number, probe in enumerate(qpu.probes, start=1)
    )
    if qpu.probes:
        yield table(columns, rows)
    if qpu.split:
        split = ((escape(block.block), str(block.units), str(block.on_chip)) for block in qpu.split)
        yield table(("group", "units", "on the chip"), split)
