"""The ONNX files of the slim and the dense network, and what they are worth on images that no stage has seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from qcompress import crops, loading, surgery
from qcompress import verify as verification
from qcompress._version import __version__
from qcompress.checkpoints import Checkpoint
from qcompress.errors import ExportError
from qcompress.exporters import EXPORTERS, Artifact, graph
from qcompress.files import write_bytes
from qcompress.plans import Plan
from qcompress.recover import reestimate_batchnorm
from qcompress.recover.choice import Recovered
from qcompress.reports import CropSheet
from qcompress.verify import Quality, Verification

if TYPE_CHECKING:
    from qcompress.deciding import Choice
    from qcompress.jobs import Job

__all__ = ["Findings", "dense_file", "made", "onnx_metadata", "sheet", "slim_file"]


@dataclass(frozen=True, eq=False)
class Findings:
    """All of a report that does not depend on how busy the machine is.

    `artifact` is the slim ONNX file and `dense` the one to compare its speed with (None: not yet there); `checked` is what the
    slim one is worth, `others` by name the quality of networks on the way to it, `sheet` the crops that were written beside it.
    `recalled`: an earlier, equal run found this.
    """

    artifact: Artifact
    dense: Artifact | None
    checked: Verification
    others: Mapping[str, Quality]
    sheet: CropSheet | None
    recalled: bool = False


def made(job: Job, choice: Choice, recovered: Recovered, plan: Plan, stage: Path, scratch: Path | None = None) -> Findings:
    """Exports and verifies; the slim file and the sheet of crops go to `stage`, the dense file to `scratch` if there is one.

    The networks are on the CPU. Raises ExportError where a file does not compute what its network does.
    """
    slim = recovered.model
    with job.watch.stage("export"):
        artifact, dense = slim_file(job, slim, stage / "model.onnx", plan), job.memo.dense
        if dense is None and scratch is not None:
            dense = dense_file(job, scratch, plan)
    with job.watch.stage("verification"):
        checked = verification.verify(
            artifact.path, reference=slim, dense=job.model, report=job.splits.report, metrics=job.metrics
        )
        if checked.parity is None or not checked.parity.passed:
            raise ExportError(f"the ONNX file differs from the PyTorch network: {checked.parity}", "report this, please")
        others = {
            name: verification.measure(surgery.slim(job.model, job.groups.cuts(selection)), job.splits.report, job.metrics)
            for name, selection in (("selected", choice.selected), ("refined", choice.refined))
        }
        if recovered.batchnorm_reestimated:
            restated = reestimate_batchnorm(job.model, job.calibration().to("cpu"))
            others["dense, re-estimated"] = verification.measure(restated, job.splits.report, job.metrics)
        return Findings(artifact, dense, checked, others, sheet(job, checked, stage))


def dense_file(job: Job, folder: Path, plan: Plan | None = None) -> Artifact:
    """The ONNX file of the dense network, written into `folder` unless the run began with it; of no plan, it is as large."""
    options, source = job.settings.export, job.checkpoint
    if source.architecture == loading.ONNX:
        return graph.original(source.path)
    return EXPORTERS["onnx"](
        job.model,
        torch.zeros(job.frame.example_shape),
        folder / "dense.onnx",
        opset=options.opset,
        dynamic=options.dynamic,
        metadata=onnx_metadata(source, plan),
    )


def onnx_metadata(checkpoint: Checkpoint, plan: Plan | None) -> dict[str, str]:
    """What the ONNX file says of its origin; without a plan, blanks of the same length."""
    return {
        "producer": f"qcompress {__version__}",
        "architecture": checkpoint.architecture,
        "checkpoint_sha256": checkpoint.sha256,
        "plan_sha256": plan.sha256 if plan else " " * 64,
        "stride": str(checkpoint.stride),
    }


def sheet(job: Job, checked: Verification, stage: Path) -> CropSheet | None:
    """Writes the sheet of crops into `stage`, where the settings want one and outputs are pictures."""
    if not job.settings.crops:
        return None
    found = crops.sheet(checked.path, job.model, job.splits.report, checked, job.metric, job.frame.form, job.splits.classes)
    if found is None:
        return None
    write_bytes(stage / crops.FILE, found[1])
    return found[0]


def slim_file(job: Job, slim: nn.Module, path: Path, plan: Plan | None = None) -> Artifact:
    """The ONNX file of a slim network: the original's graph with other weights, where the run began with one."""
    options, source, example = job.settings.export, job.checkpoint, torch.zeros(job.frame.example_shape)
    metadata = onnx_metadata(source, plan)
    if source.architecture == loading.ONNX:
        return graph.rewrite(source.path, job.model, slim, example, path, metadata=metadata)
    return EXPORTERS["onnx"](slim, example, path, opset=options.opset, dynamic=options.dynamic, metadata=metadata)
