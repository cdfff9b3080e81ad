"""Finished files and what they are worth on disk, by a hash of everything they depend on: an unchanged run measures its speed.

One safetensors file per key, the files in it as bytes and a record of plain values in its metadata; no pickle, no code, no
paths. What comes back is validated as data from a stranger: the record by its types and bounds, the files by their hashes, the
ONNX files as any ONNX file is; they must compute what their networks in PyTorch compute on one report image, and be worth on it
what the record says. Whatever does not hold is a miss. The figures of the other images are taken as they are.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import nn

from qcompress import crops, findings, keeping, kept_scores, loading, processor
from qcompress import verify as verification
from qcompress.errors import InputError
from qcompress.exporters import Artifact
from qcompress.exporters.parity import Parity
from qcompress.exporters.runtime import open_bytes
from qcompress.files import write_bytes
from qcompress.findings import Findings
from qcompress.plans import Plan
from qcompress.reports import CropSheet
from qcompress.verify import Quality, Verification
from qcompress.weights import read_bytes

if TYPE_CHECKING:
    from qcompress.jobs import Job

__all__ = ["keep", "key_of", "recall"]

_RECORD = "qcompress_findings"  # in the metadata
_WRITERS = ("onnxscript", "onnx-ir", "pillow")  # what else the files depend on, beside the versions in the key of a run
_OTHERS = ({"selected", "refined"}, {"selected", "refined", "dense, re-estimated"})
_CLOSE = 1e-4  # by which a figure may differ from the one that was kept: far more than rounding does, less than is shown

Sha = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Sentence = Annotated[str, Field(max_length=2000)]
Name = Annotated[str, Field(max_length=1000)]
Values = Annotated[tuple[float, ...], Field(max_length=1_000_000)]
Bytes = NDArray[np.uint8]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, ser_json_inf_nan="constants")


class _File(_Record):
    """What an `Artifact` says of its file; how many bytes that has is counted."""

    sha256: Sha
    opset: Annotated[int, Field(ge=0, le=10_000)]
    dynamic: bool
    notes: Annotated[tuple[Sentence, ...], Field(max_length=100)]


class _Quality(_Record):
    """A `Quality`."""

    per_image: dict[Name, Values]
    overall: dict[Name, float]


class _Parity(_Record):
    """A `Parity`."""

    max_abs_diff: float
    rel: float
    gate: float
    db: float | None
    least_db: float | None


class _Found(_Record):
    """What is in the metadata of the file."""

    format: Literal["qcompress findings 1"] = "qcompress findings 1"
    key: Sha
    slim_file: _File
    dense_file: _File | None
    images: Annotated[tuple[Name, ...], Field(max_length=1_000_000)]
    noisy: _Quality | None
    dense: _Quality
    slim: _Quality
    artifact: _Quality
    parity: _Parity
    notes: Annotated[tuple[Sentence, ...], Field(max_length=100)]
    others: Annotated[dict[Name, _Quality], Field(max_length=10)]
    sheet: CropSheet | None
    picture: Sha | None


def key_of(run: str, job: Job, slim: nn.Module, plan: Plan) -> str:
    """A hash of all that the files and their quality depend on: the equal runs called `run`, what they left, and how that is
    written and looked at. A processor computes in its own way, so its kind counts, too; limits and speed do not.
    """
    state = {name: kept_scores.digest_of(tensor.detach().cpu().numpy()) for name, tensor in slim.state_dict().items()}
    report = job.splits.report.pairs
    return kept_scores.key_of(
        run=run,
        weights=state,
        plan=plan.sha256,
        metadata=findings.onnx_metadata(job.checkpoint, plan),
        export=repr(job.settings.export),
        shape=job.frame.example_shape,
        form=repr(job.frame.form),
        crops=job.settings.crops,
        images=[(pair.name, kept_scores.digest_of(pair.input), kept_scores.digest_of(pair.target)) for pair in report],
        classes=job.splits.classes,
        metrics=[metric.name for metric in job.metrics],
        writers={name: version(name) for name in _WRITERS},
        machine=[platform.system(), platform.machine(), processor.features()],
    )


def keep(folder: Path, key: str, job: Job, found: Findings) -> None:
    """Writes what was found under `key`, the dense file with it; says so where that is not possible."""
    with keeping.attempted(job.watch.say):
        write_bytes(_path(folder, key), _packed(key, job, found))
        job.watch.say(f"cache: files and figures kept as {_path(folder, key)}")


def _packed(key: str, job: Job, found: Findings) -> bytes:
    """An entry as it is in its file. Raises ValidationError, or OutputError where its record is too large."""
    checked, parity = found.checked, found.checked.parity
    assert found.dense is not None
    assert parity is not None
    assert checked.dense is not None
    assert checked.slim is not None
    files = {"slim": found.artifact.path.read_bytes()}
    if job.checkpoint.architecture != loading.ONNX:  # else the dense file is the checkpoint itself
        files["dense"] = found.dense.path.read_bytes()
    if found.sheet is not None:
        files["crops"] = (found.artifact.path.parent / crops.FILE).read_bytes()
    record = _Found(
        key=key,
        slim_file=_file(found.artifact),
        dense_file=_file(found.dense) if "dense" in files else None,
        images=checked.images,
        noisy=None if checked.noisy is None else _Quality(**asdict(checked.noisy)),
        parity=_Parity(**asdict(parity)),
        notes=checked.notes,
        others={name: _Quality(**asdict(quality)) for name, quality in found.others.items()},
        sheet=found.sheet,
        picture=hashlib.sha256(files["crops"]).hexdigest() if "crops" in files else None,
        dense=_Quality(**asdict(checked.dense)),
        slim=_Quality(**asdict(checked.slim)),
        artifact=_Quality(**asdict(checked.artifact)),
    )
    arrays = {name: np.frombuffer(data, np.uint8) for name, data in files.items()}
    return safetensors.numpy.save(arrays, {_RECORD: keeping.bounded(record.model_dump_json())})


def recall(folder: Path, key: str, job: Job, slim: nn.Module, stage: Path, scratch: Path) -> Findings | None:
    """What is kept under `key`, its files written as `findings.made` does; None where nothing is, or it does not hold."""
    path = _path(folder, key)
    if not path.is_file():
        return None
    try:
        with job.watch.stage("kept files"):
            record, files = _read(path, key)
            _check_record(record, job)
            found = _unpacked(record, files, job, scratch)
            _check_files(found, job, slim)
    except (InputError, ValueError, RecursionError) as error:
        job.watch.say(f"cache: {path} is not used: {' '.join(str(error).split())[:200]}")
        return None
    for name, data in (("model.onnx", files["slim"]), (crops.FILE, files.get("crops"))):
        if data is not None:
            write_bytes(stage / name, data)
    job.watch.say(f"cache: files and figures from {path}; the speed is measured anew")
    place = stage / "model.onnx"
    return replace(found, artifact=replace(found.artifact, path=place), checked=replace(found.checked, path=place))


def _path(folder: Path, key: str) -> Path:
    return folder / f"{key}.findings.safetensors"


def _file(artifact: Artifact) -> _File:
    return _File(sha256=artifact.sha256, opset=artifact.opset, dynamic=artifact.dynamic, notes=artifact.notes)


def _read(path: Path, key: str) -> tuple[_Found, dict[str, bytes]]:
    """The record and the files in `path`. Raises InputError or ValueError."""
    data = read_bytes(path)
    try:
        arrays: Mapping[str, Bytes] = safetensors.numpy.load(data)
    except (SafetensorError, KeyError, TypeError) as error:  # the latter two of types that numpy lacks
        raise ValueError("it is damaged") from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # well-formed: it was just parsed
    text = str((header.get("__metadata__") or {}).get(_RECORD, ""))
    if len(text) > keeping.LARGEST_RECORD or not set(arrays) <= {"slim", "dense", "crops"} or "slim" not in arrays:
        raise ValueError("it is of another kind")
    if any(array.dtype != np.uint8 or array.ndim != 1 for array in arrays.values()):
        raise ValueError("its files are no bytes")
    try:
        record = _Found.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"its record is damaged: {'.'.join(map(str, first['loc']))[:100]}: {first['msg']}") from error
    files = {name: array.tobytes() for name, array in arrays.items()}
    said = {"slim": record.slim_file.sha256, "crops": record.picture}
    said["dense"] = record.dense_file.sha256 if record.dense_file else None
    there = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    if record.key != key or there != {name: sha for name, sha in said.items() if sha is not None}:
        raise ValueError("it is of another run, or damaged")
    return record, files


def _check_record(record: _Found, job: Job) -> None:
    """Raises ValueError where the record cannot be one of this job."""
    names = {metric.name for metric in job.metrics}
    qualities = [record.dense, record.slim, record.artifact, *record.others.values(), *([record.noisy] if record.noisy else [])]
    for quality in qualities:
        lengths = {len(values) for values in quality.per_image.values()}
        if set(quality.per_image) != names or set(quality.overall) != names or lengths != {len(record.images)}:
            raise ValueError("its figures are not those of this run's images and metrics")
    if set(record.others) not in _OTHERS:
        raise ValueError("its networks are not those of this run")
    if record.images != tuple(pair.name for pair in job.splits.report.pairs):
        raise ValueError("its images are not those of this run")
    if (record.noisy is None) != job.splits.report.pairs[0].is_labelled or (record.sheet is None) != (record.picture is None):
        raise ValueError("its figures are not those of this run's task")
    if (record.dense_file is None) != (job.checkpoint.architecture == loading.ONNX):
        raise ValueError("its dense network is not this one")
    if not Parity(**record.parity.model_dump()).passed:
        raise ValueError("its ONNX file differs from the network")
    sentences = (*record.notes, *record.slim_file.notes)
    if not all(sentence.isprintable() for sentence in sentences):
        raise ValueError("its notes are no text")


def _unpacked(record: _Found, files: Mapping[str, bytes], job: Job, scratch: Path) -> Findings:
    """The findings, their files in `scratch`. Raises InputError or ValueError where one cannot be what it should be."""
    if record.sheet is not None:
        _check_picture(files["crops"], record.sheet)
    for name in ("slim", "dense"):
        if name in files:
            open_bytes(files[name], f"the {name} file")  # which refuses what needs other files
            write_bytes(scratch / f"{name}.onnx", files[name])
    slim = _artifact(record.slim_file, scratch / "slim.onnx")
    dense = (
        findings.dense_file(job, scratch) if record.dense_file is None else _artifact(record.dense_file, scratch / "dense.onnx")
    )
    checked = Verification(
        path=slim.path,
        size_bytes=slim.size_bytes,
        sha256=slim.sha256,
        images=record.images,
        noisy=None if record.noisy is None else Quality(**record.noisy.model_dump()),
        dense=Quality(**record.dense.model_dump()),
        slim=Quality(**record.slim.model_dump()),
        artifact=Quality(**record.artifact.model_dump()),
        parity=Parity(**record.parity.model_dump()),
        notes=record.notes,
    )
    others = {name: Quality(**quality.model_dump()) for name, quality in record.others.items()}
    return Findings(slim, dense, checked, others, record.sheet, recalled=True)


def _artifact(record: _File, path: Path) -> Artifact:
    return Artifact(path, "onnx", path.stat().st_size, record.sha256, record.opset, record.dynamic, record.notes)


def _check_picture(data: bytes, sheet: CropSheet) -> None:
    """Raises ValueError where the bytes are no picture of that size."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
            size = opened.size
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError("its crops are no picture") from error
    if size != (sheet.side * len(sheet.columns), sheet.side * len(sheet.rows)):
        raise ValueError("its crops are of another size")


def _check_files(found: Findings, job: Job, slim: nn.Module) -> None:
    """Raises ValueError where a file does not compute what its network does on the smallest report image, or is not worth on
    it what was kept; InputError where it does not run on it.
    """
    assert found.dense is not None
    pairs = job.splits.report.pairs
    place = min(range(len(pairs)), key=lambda n: pairs[n].input.size)
    one = replace(job.splits.report, pairs=(pairs[place],))
    again = verification.verify(found.artifact.path, reference=slim, dense=job.model, report=one, metrics=job.metrics)
    dense = verification.verify(found.dense.path, reference=job.model, dense=None, report=one, metrics=job.metrics)
    if not all(checked.parity is not None and checked.parity.passed for checked in (again, dense)):
        raise ValueError("its ONNX files do not compute what the networks do")
    for role in ("noisy", "dense", "slim", "artifact"):
        kept, now = getattr(found.checked, role), getattr(again, role)
        for name in now.per_image if now else ():
            if not _alike(kept.per_image[name][place], now.per_image[name][0]):
                raise ValueError(f"{role} is worth something else on {pairs[place].name} than it says")


def _alike(kept: float, now: float) -> bool:
    """Whether two figures are the same but for rounding; what is no number is, too, where both are."""
    return math.isclose(kept, now, rel_tol=_CLOSE, abs_tol=_CLOSE) or (math.isnan(kept) and math.isnan(now))
