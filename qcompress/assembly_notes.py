"""What a report says in sentences beside its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from qcompress import table_trust, targets
from qcompress.alignment import BLOCKS
from qcompress.asking import asked, met_already
from qcompress.errors import UsageError
from qcompress.exporters import timing
from qcompress.findings import Findings
from qcompress.latency_model import LatencyModel
from qcompress.latency_table import DeviceFacts
from qcompress.markdown import target_values
from qcompress.metrics import Metric
from qcompress.recover.choice import Recovered
from qcompress.reports import TargetFacts
from qcompress.settings import Settings
from qcompress.verify import Quality, Verification

if TYPE_CHECKING:
    from qcompress.deciding import Choice
    from qcompress.jobs import Job

__all__ = ["doubts", "elsewhere", "met_notes", "notes_of", "restated", "table_notes", "table_of", "target_notes"]


def notes_of(recovered: Recovered, job: Job, choice: Choice, found: Findings) -> tuple[str, ...]:
    """What of the choice, the repair and the cache differs from what was asked, or could be better."""
    notes, searched, settings = [], choice.search, job.settings
    if searched and searched.capacity != searched.asked:
        notes.append(
            f"{_capacity(searched.asked, settings, choice)} were to go, {_capacity(searched.capacity, settings, choice)} did: "
            f"{_why_more(settings)}"
        )
    if choice.search and len(choice.kept) and choice.align < BLOCKS[0] and _reachable(job, BLOCKS[0]):
        notes.append(
            f"channels are kept {'in any number' if choice.align == 1 else f'in multiples of {choice.align}'}; "
            f"runtimes compute in blocks of up to {BLOCKS[0]}, so --align {BLOCKS[0]} may be faster at the same sparsity"
        )
    notes += _qpu_notes(choice)
    notes += _cache_notes(choice, found)
    if choice.kept != choice.refined:
        notes.append("the refined selection was not kept: after repair the search's own was better on the selection images")
    if recovered.level != settings.repair and len(choice.kept):
        notes.append(f"repair {settings.repair} was not kept: on the selection images the network was better without")
    if recovered.batchnorm_reestimated:
        notes.append("BatchNorm statistics of the slim network were re-estimated on calibration images")
    return tuple(notes)


def _reachable(job: Job, align: int) -> bool:
    """Whether what was asked for can go in multiples of `align` channels."""
    settings = replace(job.settings, search=replace(job.settings.search, align=align))
    try:
        asked(job.groups, settings, job.prices)
    except UsageError:
        return False
    return True


def _cache_notes(choice: Choice, found: Findings) -> list[str]:
    """What of the report was not found out in this run."""
    kept = ["what was removed and the weights"] if choice.recalled else []
    kept += ["the files, their quality on the report images and parity"] if found.recalled else []
    if not kept:
        return []
    again = "the speed is measured anew, and one report image as a check" if found.recalled else "verified and measured anew"
    return [f"{', '.join(kept)} are those of an earlier, equal run (--cache): {again}"]


def _capacity(value: int, settings: Settings, choice: Choice) -> str:
    """A capacity for people."""
    if settings.budget == "macs" and settings.target is None and choice.align > 1:
        return f"{value:,} MACs in blocks of {choice.align} channels"
    return targets.shown(value, settings.budget)


def _why_more(settings: Settings) -> str:
    if settings.budget == "filters":
        return "the least that the allowed counts of channels add up to"
    return "whole channels do not meet a cost exactly, and the best selection found that reaches it frees so much"


def _qpu_notes(choice: Choice) -> list[str]:
    """What the machine was worth, said plainly: the search has finished its answers with classical means."""
    found, qpu = choice.search, choice.qpu
    if found is None or qpu is None or qpu.classical_energy is None:
        return []
    here = qpu.classical_energy
    tolerance = 1e-6 * max(abs(here), abs(found.energy))
    notes = []
    if not qpu.submissions:
        return [f"nothing was submitted to {qpu.solver}: without couplings, or without units to go, sorting is exact"]
    if not found.energy < found.greedy_energy - tolerance:
        notes.append(f"{qpu.solver} did not improve on greedy pruning with descent")
    if not found.energy < here - tolerance:
        energies = f"{found.energy:.6g}, classical {here:.6g}"
        notes.append(f"{qpu.solver} did not improve on the classical solver here ({energies})")
    if qpu.split:
        units = sum(block.units for block in qpu.split)
        sent = sum(block.on_chip for block in qpu.split)
        notes.append(f"{len(qpu.split)} groups went to the chip in part: {sent} of {units} units, the contested ones")
    return notes


def restated(checked: Verification, others: Mapping[str, Quality], name: str, unit: str) -> tuple[str, ...]:
    """Re-estimated statistics could have helped the dense network too: that part of the result is not pruning's merit."""
    restated = others.get("dense, re-estimated")
    if restated is None or checked.dense is None:
        return ()
    before, after = (quality.mean(name) for quality in (checked.dense, restated))
    return (f"re-estimating them alone takes the dense network from {before:.2f} to {after:.2f} {unit} on the report images",)


def doubts(metric: Metric, checked: Verification) -> tuple[str, ...]:
    """A dense network that makes its input worse is the wrong one, or is given the wrong images."""
    if checked.noisy is None or checked.dense is None:
        return ()
    before, after = checked.noisy.mean(metric.name), checked.dense.mean(metric.name)
    if (after >= before) if metric.higher_is_better else (after <= before):
        return ()
    return (
        f"the dense network is worse than its input ({after:.2f} {metric.unit}, input {before:.2f}): "
        "are these the images and the noise that it was trained for?",
    )


def target_notes(target: TargetFacts | None) -> tuple[str, ...]:
    """That a target was missed, or was never held against a measurement, in one line."""
    if target is None:
        return ()
    if target.skipped is not None:
        return (f"the target was held against the table's prediction alone: {target.skipped}",)
    if target.reached != "missed":
        return ()
    (asked, measured), unit = target_values(target), " ms" if target.unit == "ms" else " times as fast"
    tried = f"after {len(target.rounds)} choice{'s' * (len(target.rounds) != 1)}"
    ended = f"; {target.ended}" if target.ended else ""
    return (f"the target is missed: asked {asked}{unit}, measured {measured} {tried}{ended}",)


def met_notes(job: Job, choice: Choice) -> tuple[str, ...]:
    """A target that asks for nothing, where nothing else was asked for, such as groups that keep at most so many."""
    if job.settings.target is None or len(choice.kept) or choice.search is None:
        return ()
    said = met_already(job.settings, job.asked[0])
    return () if said is None else (said,)


def table_of(job: Job) -> LatencyModel | None:
    """The latency table that the budget was priced by, where one was used."""
    model = job.prices["latency"].cost if "latency" in job.prices else None
    return model if isinstance(model, LatencyModel) else None


def elsewhere(model: LatencyModel) -> bool:
    """Whether the table is of another machine than this one."""
    table, here = model.table.device, DeviceFacts(**timing.device())
    return (table.processor, table.system) != (here.processor, here.system)


def table_notes(job: Job) -> tuple[str, ...]:
    """What is doubtful about a latency table, and which machine a limit judges."""
    model, least = table_of(job), job.settings.limits.min_speedup
    if model is None:
        return ()
    said = table_trust.doubt(model)
    notes = () if said is None else (said,)
    if least is None or not elsewhere(model):
        return notes
    judged = f"--min-speedup {least:g} judges this machine, the latency table is of another ({model.table.device.processor})"
    return (*notes, f"{judged}: measure there, with qcompress verify --min-speedup")
