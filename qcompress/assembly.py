"""From what the stages returned to the report, and the report's two files."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from qcompress import bisection, commands, html, rank_correlation
from qcompress._version import __version__
from qcompress.alignment import BLOCKS
from qcompress.assembly_notes import doubts, elsewhere, met_notes, notes_of, restated, table_notes, table_of, target_notes
from qcompress.checkpoints import Checkpoint
from qcompress.commands import given
from qcompress.data.images import ImageSet
from qcompress.exporters import Artifact
from qcompress.files import write_text
from qcompress.findings import Findings
from qcompress.gate.limits import Gate, Measured, Outcome, against_limits
from qcompress.groups import Groups, Side
from qcompress.latency import Latency
from qcompress.markdown import to_markdown
from qcompress.metrics import Metric
from qcompress.recover.choice import Recovered
from qcompress.reports import (
    BlockCost,
    Cached,
    CheckpointFacts,
    Cost,
    CostPair,
    DataFacts,
    FileFacts,
    GroupUnits,
    Kept,
    LatencyFacts,
    LayerFacts,
    MetricFacts,
    ParityFacts,
    PerImage,
    PredictedFacts,
    RecoverFacts,
    RefineFacts,
    Report,
    RoundFacts,
    SearchFacts,
    SmallestFacts,
    SplitFacts,
    SsimFacts,
    Status,
    StepFacts,
    TargetFacts,
    TrainingFacts,
    TrialFacts,
    UnitFacts,
    to_json,
)
from qcompress.rounds import Measured as Timed
from qcompress.rounds import Round, alike, kept
from qcompress.selection import Selection
from qcompress.settings import Limits, Settings
from qcompress.verify import Quality, Verification

if TYPE_CHECKING:
    from qcompress.deciding import Choice
    from qcompress.jobs import Job

__all__ = ["assemble", "checkpoint_facts", "gated", "versions", "write"]

_STATUS: dict[Outcome, Status] = {"passed": "ok", "failed": "threshold-missed", "undecided": "undecided"}
_VERSIONS_OF = ("torch", "torch-pruning", "onnx", "onnxruntime", "dimod", "dwave-samplers", "teneva", "numpy")


def versions() -> dict[str, str]:
    """What this run computed with."""
    found = {name: version(name) for name in _VERSIONS_OF}
    return {"qcompress": __version__, "python": platform.python_version(), **found}


def gated(limits: Limits, unit: str, drop: float | None, latency: Latency | None, size_bytes: int) -> Gate:
    """The limits against what was measured; `drop` is how much worse the artifact is than the dense network, in `unit`."""
    speedup = None if latency is None else (latency.speedup, *latency.ci95)
    rounds = latency.runs if latency else 0
    return Gate(against_limits(limits, Measured(drop, unit, speedup, rounds, size_bytes)), limits.undecided)


def assemble(
    job: Job,
    choice: Choice,
    recovered: Recovered,
    found: Findings,
    timed: Latency,
    stage: Path,
) -> Report:
    """The report of a run of the main job, whose files are in `stage`."""
    settings = job.settings
    checked, others, artifact = found.checked, found.others, found.artifact
    metric = _metric_facts(job, checked, others)
    interrupted = choice.refinement is not None and choice.refinement.interrupted
    interrupted |= recovered.training is not None and not recovered.training.complete
    assert checked.dense is not None
    assert found.dense is not None
    name = job.metric.name
    drop = job.metric.drop(checked.dense.mean(name), checked.artifact.mean(name))  # not the report's: there infinity is null
    target = _target_facts(job, timed)
    gate = gated(settings.limits, job.metric.difference_unit, drop, timed, artifact.size_bytes)
    status: Status = "interrupted" if interrupted else _STATUS[gate.outcome]
    return Report(
        schema=1,
        status=status,
        reasons=gate.reasons,
        notes=(
            *gate.waved,
            *artifact.notes,
            *checked.notes,
            *notes_of(recovered, job, choice, found),
            *met_notes(job, choice),
            *target_notes(target),
            *table_notes(job),
            *restated(checked, others, name, job.metric.unit),
            *doubts(job.metric, checked),
            *([job.metric.note] if job.metric.note and choice.search else []),
        ),
        checkpoint=checkpoint_facts(job.checkpoint),
        units=_unit_facts(choice.kept),
        kept_whole=tuple(Kept(layer=kept.layer, reason=kept.reason) for kept in job.groups.kept_whole),
        cost=_cost_facts(job.groups, choice, artifact, found.dense),
        metric=metric,
        latency=LatencyFacts.model_validate(timed).model_copy(update={"predicted": _predicted(job, choice)}),
        target=target,
        parity=ParityFacts.model_validate(checked.parity),
        search=_search_facts(settings, choice),
        smallest=_smallest_facts(job, drop),
        refine=_refine_facts(choice, job.metric.chooser),
        recover=_recover_facts(job, choice, recovered),
        data=_data_facts(job),
        layers=_layer_facts(job.groups, choice.kept),
        crops=found.sheet,
        cached=_cached(choice, found),
        files={path.name: _file_facts(path) for path in sorted(stage.iterdir())},
        command=commands.prune_command(job.checkpoint, settings) if choice.search else None,
        seed=settings.seed,
        versions=versions(),
        timings_s=dict(job.watch.seconds),
    )


def write(report: Report, folder: Path) -> None:
    """report.json, report.md and report.html."""
    write_text(folder / "report.json", to_json(report))
    write_text(folder / "report.md", to_markdown(report))
    html.write(report, folder)


def checkpoint_facts(checkpoint: Checkpoint) -> CheckpointFacts:
    """What was pruned."""
    return CheckpointFacts(file=given(checkpoint), sha256=checkpoint.sha256, architecture=checkpoint.architecture)


def _cached(choice: Choice, found: Findings) -> tuple[Cached, ...]:
    """The same as fields of the report."""
    kept: list[Cached] = ["search", "refine", "recover"] if choice.recalled else []
    kept += ["metric", "parity"] if found.recalled else []
    return (*kept, *(("crops",) if found.recalled and found.sheet is not None else ()))


def _metric_facts(job: Job, checked: Verification, others: Mapping[str, Quality]) -> MetricFacts:
    name, task = job.metric.name, job.frame.task

    def mean(quality: Quality | None, of: str = name) -> float | None:
        return None if quality is None else float(quality.mean(of))

    def each(quality: Quality | None) -> tuple[float, ...]:
        return () if quality is None else quality.per_image[name]

    with_ssim = any(metric.name == "ssim" for metric in job.metrics)
    return MetricFacts(
        name=name,
        unit=job.metric.unit,
        higher_is_better=job.metric.higher_is_better,
        images=len(checked.images),
        noisy=mean(checked.noisy) if task == "denoising" else None,
        bicubic=mean(checked.noisy) if task == "super-resolution" else None,
        dense=mean(checked.dense),
        selected=mean(others.get("selected")),
        refined=mean(others.get("refined")),
        slim=mean(checked.slim),
        artifact=mean(checked.artifact),
        ssim=SsimFacts(
            dense=mean(checked.dense, "ssim"), slim=mean(checked.slim, "ssim"), artifact=mean(checked.artifact, "ssim")
        )
        if with_ssim
        else None,
        per_image=PerImage(
            names=checked.images, dense=each(checked.dense), slim=each(checked.slim), artifact=each(checked.artifact)
        ),
    )


def _unit_facts(selection: Selection) -> UnitFacts:
    sizes = zip(selection.space.groups, selection.space.sizes, strict=True)
    per_group = {name: GroupUnits(total=size, pruned=selection.counts[name]) for name, size in sizes}
    return UnitFacts(total=len(selection.space), pruned=len(selection), per_group=per_group)


def _layer_facts(groups: Groups, selection: Selection) -> tuple[LayerFacts, ...]:
    """The layers that have channels of their own, with the groups that these belong to."""
    touching: dict[tuple[str, Side], list[str]] = {}
    for group in groups.groups:
        for member in group.members:
            touching.setdefault((member.layer, member.side), []).append(group.name)
    return tuple(
        LayerFacts(
            name=layer.name,
            kind=layer.kind,
            inputs=layer.inputs,
            kept_inputs=groups.kept_channels(layer, "in", selection.counts),
            outputs=layer.outputs,
            kept_outputs=groups.kept_channels(layer, "out", selection.counts),
            reads=tuple(dict.fromkeys(touching.get((layer.name, "in"), ()))),
            writes=tuple(dict.fromkeys(touching.get((layer.name, "out"), ()))),
        )
        for layer in groups.layers
        if layer.kind not in ("heads", "product", "other")
    )


def _cost_facts(groups: Groups, choice: Choice, artifact: Artifact, dense: Artifact) -> Cost:
    selection, block = choice.kept, choice.align if choice.align > 1 else BLOCKS[0]
    return Cost(
        params=CostPair(dense=groups.params(), slim=groups.params(selection.counts)),
        macs=CostPair(dense=groups.macs(), slim=groups.macs(selection.counts)),
        aligned_macs=BlockCost(dense=groups.macs(None, block), slim=groups.macs(selection.counts, block), block=block),
        bytes=CostPair(dense=dense.size_bytes, slim=artifact.size_bytes),
    )


def _search_facts(settings: Settings, choice: Choice) -> SearchFacts:
    found = choice.search
    proven = found.certificate if found else None
    return SearchFacts(
        backend=settings.search.backend if found else "plan",
        objective=repr(settings.search.objective) if found else "plan",
        budget=settings.budget if found else None,
        asked=found.asked if found else None,
        capacity=found.capacity if found else None,
        align=choice.align if found else None,
        energy=found.energy if found else None,
        greedy_energy=found.greedy_energy if found else None,
        lower_bound=proven.bound if proven else None,
        relative_gap=proven.relative_gap if proven else None,
        exact_groups=proven.exact_groups if proven else None,
        trace=tuple(probe._asdict() for probe in found.trace) if found else (),
        qpu=choice.qpu,
    )


def _smallest_facts(job: Job, drop: float) -> SmallestFacts | None:
    """How the share of the budget was found, where it was looked for; `drop` is that on the report images."""
    sized = job.sized
    if sized is None:
        return None
    return SmallestFacts(
        limit=sized.limit,
        confidence=bisection.CONFIDENCE,
        crops=sized.crops,
        share=job.settings.sparsity,
        confirmed=drop <= sized.limit,
        trials=tuple(TrialFacts(**asdict(trial), within=trial.within(sized.limit)) for trial in sized.trials),
    )


def _predicted(job: Job, choice: Choice) -> PredictedFacts | None:
    """What the latency table said of the networks, where one was used."""
    model = table_of(job)
    if model is None:
        return None
    times = {"dense_ms": model({}) / 1e9, "slim_ms": model(choice.kept.counts) / 1e9}
    return PredictedFacts(**times, processor=model.table.device.processor, elsewhere=elsewhere(model))


def _target_facts(job: Job, timed: Latency) -> TargetFacts | None:
    """A target of latency against the file that was written, and the rounds before it."""
    paced = job.paced
    if paced is None:
        return None
    goal, last = paced.goal, Round(1, 1, (Timed(timed.speedup, timed.ci95, timed.dense_ms, timed.runs),))
    played, (*_, ended) = alike(paced.rounds), alike((*paced.rounds, last))
    found = ended.measured
    rounds = tuple(
        RoundFacts(
            allowed=goal.predicted(made.allowed_ps),
            predicted=goal.predicted(made.predicted_ps),
            measured=goal.value(made.measured),
            ci95=goal.interval(made.measured),
            runs=made.measured.runs,
            correction=goal.correction(made),
            reached=goal.reached(made.measured),
            looks=len(made.looks),
            kept=made.allowed_ps == kept(goal, paced.rounds).allowed_ps,
        )
        for made in played
    )
    return TargetFacts(
        unit=goal.unit,
        asked=goal.asked,
        measured=goal.value(found),
        ci95=goal.interval(found),
        reached=goal.reached(found),
        rounds=rounds,
        skipped=paced.skipped,
        ended=paced.ended,
    )


def _refine_facts(choice: Choice, chooser: Metric) -> RefineFacts:
    result, name, unit = choice.refinement, chooser.name, chooser.unit
    if result is None:
        return RefineFacts(evaluations=0, accepted=0, gain_db=0.0 if unit == "dB" else None, gain=0.0, metric=name, unit=unit)
    return RefineFacts(
        evaluations=result.evaluations,
        accepted=result.accepted,
        gain_db=result.gain if unit == "dB" else None,
        gain=result.gain,
        metric=name,
        unit=unit,
        higher_is_better=chooser.higher_is_better,
        ended=result.ended,
        history=result.history,
        measured=result.measured,
        steps=result.steps,
        rank_correlation=rank_correlation.of_losses(result.measured),
        step_correlation=rank_correlation.of_losses(result.steps),
    )


def _recover_facts(job: Job, choice: Choice, recovered: Recovered) -> RecoverFacts:
    options, training, chooser = job.settings.finetune, recovered.training, job.metric.chooser
    found = None
    if training is not None:
        source = None if options.source is None else str(options.source)
        found = TrainingFacts.model_validate(vars(training) | {"seed": job.settings.seed, "source": source})
    return RecoverFacts(
        level=recovered.level,
        batchnorm_reestimated=recovered.batchnorm_reestimated,
        metric=chooser.name,
        unit=chooser.unit,
        value=recovered.value,
        training=found,
        steps=tuple(StepFacts.model_validate(step) for step in choice.trail),
    )


def _data_facts(job: Job) -> DataFacts:
    images, form = job.splits, job.frame.form

    def facts(role: ImageSet) -> SplitFacts:
        return SplitFacts(images=len(role), scenes=len({pair.scene for pair in role.pairs}), sha256=role.sha256)

    return DataFacts(
        source=images.source,
        task=job.frame.task,
        scale=form.scale,
        size=form.size,
        mean=form.mean,
        std=form.std,
        calibration=facts(images.calibration),
        selection=facts(images.selection),
        report=facts(images.report),
    )


def _file_facts(path: Path) -> FileFacts:
    data = path.read_bytes()
    return FileFacts(sha256=sha256(data).hexdigest(), bytes=len(data))
