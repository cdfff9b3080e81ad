"""The file of a compression: built of a network that was cut and repaired, and its bytes before it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from qcompress import findings, finetuning, joint, quantise, tracing
from qcompress.deciding import Choice
from qcompress.errors import ExportError
from qcompress.exporters import EXPORTERS, Artifact, qdq
from qcompress.exporters.runtime import open_onnx
from qcompress.exporters.simulation import parity_db
from qcompress.jobs import Job
from qcompress.joint import MeasuredFile, Sizes
from qcompress.plans import Plan
from qcompress.recover.choice import Recovered
from qcompress.recover.design import Affine, set_matrix, weight_matrix
from qcompress.widths import LEAST_DB

__all__ = ["Built", "build", "exported", "fitted", "float_file", "foreseen", "in_integers"]

_CALIBRATED_ON = 32  # crops that ranges of activations are taken from


@dataclass(frozen=True, eq=False)
class Built:
    """A file and how it came about: `recovered` is the float32 network that it was made from.

    `sizes` has the bytes of every layer in the file, `method` how ranges of activations were found (None: none were needed),
    `steps` what was done to weights before, `simulation_db` how integer arithmetic compares with the file as written.
    """

    artifact: Artifact
    choice: Choice
    recovered: Recovered
    widths: Mapping[str, str]
    sizes: qdq.Sizes
    method: str | None
    steps: tuple[str, ...]
    simulation_db: float | None


def build(
    job: Job, repaired: tuple[Choice, Recovered], widths: Mapping[str, str], path: Path, scratch: Path, plan: Plan
) -> Built:
    """Trains where that is asked for, quantises and writes the file at `path`, of a network that was cut and repaired."""
    (choice, recovered), selection = repaired, repaired[0].kept
    if job.settings.recover == "finetune" and len(selection):
        recovered = finetuning.finetuned(job, recovered, dense=job.model)
    slim = recovered.model.cpu().eval()
    example = torch.zeros(job.frame.example_shape)
    with job.watch.stage("quantisation", 1.0) as advance:
        prepared = quantise.prepare(
            slim,
            widths,
            example,
            job.calibration().to("cpu"),
            job.metric,
            job.judging().to("cpu"),
            groups=tracing.trace(slim, example),
            progress=advance,
        )
        scales = {name: tensor.cpu().numpy() for name, tensor in prepared.scales.items()}
    with job.watch.stage("export"):
        float_path = exported(job, prepared.model, scratch / "float.onnx").path
        crops = job.calibration().inputs.cpu().numpy()[:_CALIBRATED_ON]
        metadata = findings.onnx_metadata(job.checkpoint, plan)
        method = _method(job, float_path, widths, crops, scales)
        whole = in_integers(job)
        artifact = qdq.quantise(
            float_path,
            path,
            widths,
            crops,
            method=method or "minmax",
            scales=scales,
            metadata=metadata,
            integer_int4=whole,
        )
        sizes = qdq.sizes(float_path, widths, metadata=metadata, integer_int4=whole)
        simulation = parity_db(path, crops[:8]) if method else None
    if simulation is not None and not simulation >= LEAST_DB:
        raise ExportError(
            f"the quantised file is computed otherwise than written: {simulation:.1f} dB, expected {LEAST_DB:g}",
            "report this, please; --bits 16,32 does without integers",
        )
    return Built(artifact, choice, recovered, widths, sizes, method, prepared.notes, simulation)


def _method(
    job: Job, float_path: Path, widths: Mapping[str, str], crops: NDArray[np.float32], scales: Mapping[str, NDArray[np.float32]]
) -> str | None:
    """How ranges of activations are found: as set, or what is best on the judging crops; None where no layer needs them."""
    if "int8" not in widths.values() and not (in_integers(job) and widths):
        return None
    asked = job.settings.compress.calibration
    if asked != "auto":
        return asked
    judging, chooser = job.judging().to("cpu"), job.metric.chooser

    def worth(path: Path) -> float:
        run = open_onnx(path)
        outputs = np.concatenate([run(image[None]) for image in judging.inputs.numpy()])
        value = chooser.overall(chooser.evidence_of(torch.from_numpy(outputs), judging.targets))
        return value if chooser.higher_is_better else -value

    return qdq.chosen_method(float_path, widths, crops, worth, scales=scales, integer_int4=in_integers(job)).method


def in_integers(job: Job) -> bool:
    """Whether int4 layers compute in integers too: where no layer may compute in float32, since changing over costs time."""
    return set(job.settings.compress.bits) <= {"int8", "int4"}


def fitted(sizes: Sizes, float_path: Path, allowed: tuple[str, ...], *, integer_int4: bool) -> Sizes:
    """`sizes` by what the exporter says of files of the dense network: at each width, and in mixtures."""
    layers = sizes.quantisable
    assignments = [dict.fromkeys(layers, width) for width in allowed]
    assignments += [
        {name: allowed[(place // step + shift) % len(allowed)] for place, name in enumerate(layers)}
        for step in (1, 2, 4)
        for shift in range(len(allowed))
        if len(allowed) > 1
    ]
    files = [MeasuredFile(qdq.size_of(float_path, widths, integer_int4=integer_int4), {}, widths) for widths in assignments]
    return joint.fitted(sizes, files)


def foreseen(job: Job, model: nn.Module, widths: Mapping[str, str], plan: Plan, scratch: Path) -> int:
    """Bytes of the file that `build` will write of a repaired network."""
    float_path, metadata = float_file(job, model, scratch), findings.onnx_metadata(job.checkpoint, plan)
    return qdq.size_of(float_path, widths, metadata=metadata, integer_int4=in_integers(job))


def float_file(job: Job, model: nn.Module, scratch: Path) -> Path:
    """As large as the one that is quantised: BatchNorm folded, a bias in every layer. What it computes is another matter."""
    folded = quantise.fold(model.cpu(), torch.zeros(job.frame.example_shape))
    model.to(job.settings.device)
    for layer in folded.modules():
        if isinstance(layer, Affine) and layer.bias is None:
            matrix = weight_matrix(layer)
            matrix[:, -1] = 1.0  # zeros would be left out of the file
            set_matrix(layer, matrix)
    return exported(job, folded, scratch / "folded.onnx").path


def exported(job: Job, model: nn.Module, path: Path, stage: str | None = None) -> Artifact:
    """A float32 file of `model`, with metadata as long as that of the one that is kept."""
    options, example = job.settings.export, torch.zeros(job.frame.example_shape)
    metadata = findings.onnx_metadata(job.checkpoint, None)
    if stage is None:
        return EXPORTERS["onnx"](model, example, path, opset=options.opset, dynamic=options.dynamic, metadata=metadata)
    with job.watch.stage(stage):
        return exported(job, model, path)
