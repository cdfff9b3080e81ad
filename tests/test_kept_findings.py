"""Kept files and figures: equal runs share them, others do not, and what does not hold is not believed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
from safetensors import safe_open
from torch import nn

from qcompress import Settings, keeping, kept_findings, pipeline, processor
from qcompress.pipeline import Choice, Job
from qcompress.plans import Plan
from qcompress.progress import SILENT, Silent, Stopwatch
from qcompress.selection import Selection
from qcompress.settings import DataOptions, ExportOptions, Limits, VerifyOptions
from qcompress.slim_folder import source_of

pytestmark = pytest.mark.slow  # one run, and two exports

RECORD = "qcompress_findings"


@dataclass(eq=False)
class Entry:
    """What is in a file of the cache."""

    files: dict[str, bytes]
    record: dict[str, Any]
    dtype: str = "U8"

    def put(self, name: str, data: bytes) -> None:
        """Another file, with its own hash: whoever writes the one can write the other."""
        self.files[name] = data
        sha = hashlib.sha256(data).hexdigest()
        if name == "crops":
            self.record["picture"] = sha
        else:
            self.record[f"{name}_file"]["sha256"] = sha


class Listening(Silent):
    """Takes down what is said."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def say(self, text: str) -> None:
        self._said.append(text)


@dataclass(frozen=True, eq=False)
class Run:
    """A run whose findings are kept under `key` in `cache`."""

    job: Job
    slim: nn.Module
    plan: Plan
    key: str
    cache: Path

    @property
    def path(self) -> Path:
        return self.cache / f"{self.key}.findings.safetensors"

    def read(self) -> Entry:
        with safe_open(self.path, "np") as file:
            files = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
            return Entry(files, json.loads(file.metadata()[RECORD]))

    def recalled(self, cache: Path, scratch: Path) -> tuple[bool, str]:
        """Whether the entry in `cache` is used, and what is said of it; nothing is written where it is not."""
        stage, aside, said = scratch / "stage", scratch / "aside", list[str]()
        stage.mkdir(parents=True)
        aside.mkdir()
        job = replace(self.job, watch=Stopwatch(Listening(said)))
        found = kept_findings.recall(cache, self.key, job, self.slim, stage, aside)
        assert (found is not None) == bool(list(stage.iterdir()))
        return found is not None, "; ".join(said)


@pytest.fixture(scope="module")
def run(checkpoint: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("findings")
    data = DataOptions(images, "gaussian:25", calibration_crops=4, selection_crops=4, crop=32)
    brief = VerifyOptions(size=32, max_seconds=0.2)
    job = pipeline.prepare(checkpoint, Settings(data=data, verify=brief, recover="none", cache=folder / "cache"), SILENT)
    selection = Selection(job.groups.space, (0, 1, 2))
    of = source_of(job.checkpoint)
    plan = Plan.of(of, job.groups, selection, budget="filters", sparsity=0.1, objective="plan", backend="plan", seed=0)
    choice, recovered = pipeline.repair(job, Choice(selection, selection, selection))
    pipeline.finish(job, choice, recovered, plan, folder / "net.slim", key="0" * 64)
    key = kept_findings.key_of("0" * 64, job, recovered.model, plan)
    return Run(job, recovered.model, plan, key, folder / "cache")


def test_the_key_is_of_what_matters(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(job: Job, run_key: str = "0" * 64) -> str:
        return kept_findings.key_of(run_key, job, run.slim, run.plan)

    job, settings = run.job, run.job.settings
    assert (
        key(replace(job, settings=replace(settings, limits=Limits(max_drop=1.0), verify=VerifyOptions(threads=2)))) == run.key
    )
    pairs = job.splits.report.pairs
    brighter = replace(pairs[0], input=pairs[0].input + np.float32(1e-3))
    others = [
        key(job, "1" * 64),
        key(replace(job, settings=replace(settings, export=ExportOptions(opset=20)))),
        key(replace(job, settings=replace(settings, crops=False))),
        key(replace(job, frame=replace(job.frame, example_shape=(1, 3, 64, 64)))),
        key(replace(job, splits=replace(job.splits, classes=("one", "other")))),
        *(
            key(replace(job, splits=replace(job.splits, report=replace(job.splits.report, pairs=changed))))
            for changed in (pairs[:-1], (brighter, *pairs[1:]), (replace(pairs[0], name="other"), *pairs[1:]))
        ),
    ]
    other_plan = run.plan.model_copy(update={"seed": 1})
    others.append(kept_findings.key_of("0" * 64, job, run.slim, other_plan))
    with monkeypatch.context() as patch:
        patch.setattr(kept_findings, "version", lambda name: f"{name} of tomorrow")
        others.append(key(job))
    monkeypatch.setattr(processor, "features", lambda: ("another",))
    others.append(key(job))
    assert len({run.key, *others}) == len(others) + 1


def flipped(entry: Entry) -> None:
    data = bytearray(entry.files["slim"])
    data[len(data) // 2] ^= 1
    entry.files["slim"] = bytes(data)


def other_weights(entry: Entry) -> None:
    model = onnx.load_from_string(entry.files["slim"])
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.raw_data = bytes(len(weight.raw_data))
    entry.put("slim", model.SerializeToString())


def other_dense(entry: Entry) -> None:
    entry.put("dense", entry.files["slim"])


def other_places(entry: Entry) -> None:
    model = onnx.load_from_string(entry.files["slim"])
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "/etc/hostname")
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    entry.put("slim", model.SerializeToString())


def no_network(entry: Entry) -> None:
    entry.put("slim", b"no network")


def no_picture(entry: Entry) -> None:
    entry.put("crops", b"<svg/>")


def another_side(entry: Entry) -> None:
    entry.record["sheet"]["side"] //= 2


def a_stray_file(entry: Entry) -> None:
    entry.files["../stray"] = b"0"


def no_bytes(entry: Entry) -> None:
    entry.dtype = "I8"


def no_type_of_numpy(entry: Entry) -> None:
    entry.dtype = "F8_E4M3"


def better(entry: Entry) -> None:
    values = entry.record["artifact"]["per_image"]["psnr"]
    entry.record["artifact"]["per_image"]["psnr"] = [value + 0.01 for value in values]


def better_reference(entry: Entry) -> None:
    values = entry.record["dense"]["per_image"]["psnr"]
    entry.record["dense"]["per_image"]["psnr"] = [value - 0.01 for value in values]


def fewer_images(entry: Entry) -> None:
    entry.record["images"] = entry.record["images"][:-1]


def another_metric(entry: Entry) -> None:
    entry.record["slim"]["overall"]["lpips"] = 0.0


def no_parity(entry: Entry) -> None:
    entry.record["parity"]["rel"] = 1.0


def an_escape(entry: Entry) -> None:
    entry.record["notes"] = ["\x1b[2J"]


def another_key(entry: Entry) -> None:
    entry.record["key"] = "1" * 64


CHANGES = [
    (flipped, "or damaged"),
    (other_weights, "do not compute"),
    (other_dense, "do not compute"),
    (other_places, "external data"),
    (no_network, "not a readable ONNX"),
    (no_picture, "no picture"),
    (another_side, "another size"),
    (a_stray_file, "another kind"),
    (no_bytes, "no bytes"),
    (no_type_of_numpy, "it is damaged"),
    (better, "worth something else"),
    (better_reference, "worth something else"),
    (fewer_images, "images and metrics"),
    (another_metric, "images and metrics"),
    (no_parity, "differs from the network"),
    (an_escape, "no text"),
    (another_key, "of another run"),
]


def test_what_holds_is_used(run: Run, tmp_path: Path) -> None:
    entry = run.read()
    write(entry, tmp_path / run.path.name)
    assert run.recalled(tmp_path, tmp_path / "scratch")[0]
    assert (tmp_path / "scratch" / "stage" / "model.onnx").read_bytes() == entry.files["slim"]


@pytest.mark.parametrize(("change", "why"), CHANGES)
def test_what_does_not_hold_is_a_miss(change: Callable[[Entry], None], why: str, run: Run, tmp_path: Path) -> None:
    entry = run.read()
    change(entry)
    write(entry, tmp_path / run.path.name)
    used, said = run.recalled(tmp_path, tmp_path / "scratch")
    assert not used
    assert why in said


def test_what_cannot_be_kept_is_said(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = list[str]()
    job = replace(run.job, watch=Stopwatch(Listening(said)))
    (tmp_path / "stage").mkdir()
    found = kept_findings.recall(run.cache, run.key, job, run.slim, tmp_path / "stage", tmp_path)
    assert found is not None
    (tmp_path / "file").touch()
    kept_findings.keep(tmp_path / "file", run.key, job, found)
    monkeypatch.setattr(keeping, "LARGEST_RECORD", 1000)
    kept_findings.keep(tmp_path / "cache", run.key, job, found)
    assert not (tmp_path / "cache").exists()
    assert ["cannot write" in said[-2], "1,000 are read" in said[-1]] == [True, True]
    assert all(line.startswith("cache: not kept: ") for line in said[-2:])


def test_figures_that_are_no_numbers_are_alike() -> None:
    assert kept_findings._alike(math.nan, math.nan)
    assert kept_findings._alike(math.inf, math.inf)
    assert not kept_findings._alike(math.nan, 1.0)
    assert not kept_findings._alike(1.0, math.nan)


def test_a_file_that_was_cut_off_is_a_miss(run: Run, tmp_path: Path) -> None:
    for number, data in enumerate((b"", run.path.read_bytes()[:-100], run.path.read_bytes()[:100])):
        (tmp_path / run.path.name).write_bytes(data)
        assert not run.recalled(tmp_path, tmp_path / f"scratch{number}")[0]


def write(entry: Entry, path: Path) -> None:
    arrays = {name: np.frombuffer(data, np.uint8) for name, data in entry.files.items()}
    data = safetensors.numpy.save(arrays, {RECORD: json.dumps(entry.record)})
    size = 8 + int.from_bytes(data[:8], "little")
    header = data[8:size].replace(b'"U8"', f'"{entry.dtype}"'.encode())
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[size:])
