"""Every format of EXPORTERS and every runtime of RUNTIMES, as far as they are installed: one contract for all."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qcompress.errors import BackendError, ExportError, InputError, UsageError
from qcompress.exporters import EXPORTERS, RUNTIMES, Artifact, files_of, format_of, runtime_of
from qcompress.exporters.base import Opened, Prepared, Weights, load_package
from qcompress.exporters.padding import padded
from qcompress.exporters.parity import Difference, Parity
from qcompress.exporters.quiet import silent
from qcompress.exporters.through_onnx import as_onnx, shared_onnx

METADATA = {"producer": "qcompress 0", "plan_sha256": "ab" * 32}
PACKAGES = {
    "openvino": "openvino",
    "ncnn": "pnnx",
    "mnn": "MNN",
    "litert": "litert_torch",
    "executorch": "executorch",
    "coreml": "coremltools",
}
LIGHT = {"openvino", "ncnn", "mnn"}  # `make extras` has these, `make formats` all
KEEPS_METADATA = set(EXPORTERS) - {"litert", "safetensors", "coreml"}


class SmallUNet(nn.Module):
    """Two levels with a skip: height and width must be even."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.up, self.leave = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.relu(self.enter(x))
        low = torch.relu(self.deep(nn.functional.max_pool2d(skip, 2)))
        y: Tensor = x + self.leave(torch.cat([skip, self.up(low)], 1))
        return y


def content(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(3).random(shape, np.float32))


@pytest.fixture(scope="module", autouse=True)
def _written_once() -> Iterator[None]:
    with shared_onnx():
        yield


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return SmallUNet().eval()


def is_installed(name: str) -> bool:
    extra = EXPORTERS[name].extra
    return extra is None or importlib.util.find_spec(PACKAGES[extra]) is not None


HERE = [name for name in EXPORTERS if is_installed(name)]


def test_what_is_installed_to_be_tested_is_tested() -> None:
    wanted = set(PACKAGES) if os.environ.get("QCOMPRESS_FORMATS") else LIGHT if os.environ.get("QCOMPRESS_EXTRAS") else set()
    assert wanted | {"onnx", "ort", "pt2", "safetensors"} <= set(HERE)


@pytest.fixture(scope="module", params=HERE)
def written(request: pytest.FixtureRequest, network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    name: str = request.param
    path = tmp_path_factory.mktemp(name) / f"net{EXPORTERS[name].suffix}"
    return EXPORTERS[name](network, content(1, 3, 16, 16), path, opset=18, dynamic=True, metadata=METADATA)


def test_it_is_verified_and_describes_its_files(written: Artifact) -> None:
    here = written.format != "coreml" or sys.platform == "darwin"
    assert written.state == ("verified" if here else "unverified")
    assert (written.parity is not None) == here
    files = written.files or (written.path,)
    assert files == files_of(written.path)
    assert sorted(written.path.parent.iterdir()) == sorted(files)
    assert (format_of(written.path), runtime_of(written.path)) == (written.format, EXPORTERS[written.format].runtime)
    data = b"".join(file.read_bytes() for file in files if file.is_file())
    if not written.path.is_dir():
        assert (written.size_bytes, written.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_nothing_local_is_in_it(written: Artifact) -> None:
    for file in [path for path in written.path.parent.rglob("*") if path.is_file()]:
        data = file.read_bytes()
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                data = b"".join(archive.read(name) for name in archive.namelist())
        for place in (Path(__file__).parents[1], Path(torch.__file__).parents[2]):
            assert str(place).encode() not in data, file.name


def test_its_runtime_computes_what_torch_computes_at_every_size_that_it_takes(network: nn.Module, written: Artifact) -> None:
    runtime = EXPORTERS[written.format].runtime
    if runtime is None or written.state == "unverified":
        return  # nothing here opens it
    opened = RUNTIMES[runtime](written.path, exact=True)
    free = [size is None for size in opened.input_shape]
    assert free[1] is False
    if written.format in KEEPS_METADATA:
        assert METADATA.items() <= dict(opened.metadata).items()
    for shape in ((1, 3, 16, 16), (1, 3, 12, 16), (2, 3, 16, 14)):
        if any(size != wanted and not may for size, wanted, may in zip(shape, (1, 3, 16, 16), free, strict=True)):
            continue
        images = content(*shape).numpy()
        with torch.inference_mode():
            expected = network(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(opened(images), expected, rtol=0, atol=2e-5 * np.abs(expected).max())
        opened.bind(images)()
    if any(free):
        assert opened.metadata["stride"] == "2"


def test_a_wrong_shape_and_a_damaged_file_are_refused(written: Artifact, tmp_path: Path) -> None:
    runtime = EXPORTERS[written.format].runtime
    if runtime is None or written.state == "unverified":
        return  # nothing here opens it
    with pytest.raises(InputError, match="cannot run on an input of shape"):
        RUNTIMES[runtime](written.path)(content(1, 2, 16, 16).numpy())
    broken = tmp_path / written.path.name
    broken.write_bytes(b"this is no network\n" * 40)
    for beside in files_of(written.path)[1:]:
        (tmp_path / beside.name).write_bytes(b"")
    for path in (broken, tmp_path / f"none{EXPORTERS[written.format].suffix}"):
        with pytest.raises(InputError) as caught:
            RUNTIMES[runtime](path)
        assert "\n" not in caught.value.message


class Residual(nn.Module):
    """A block of a residual network without weights in its shortcut, and a mean over height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.block, self.classes = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 2, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        shortcut = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        y: Tensor = self.classes(torch.relu(self.block(x) + shortcut).mean((2, 3)))
        return y


@pytest.mark.skipif("ncnn" not in HERE, reason="needs ncnn and pnnx")
def test_ncnn_has_shortcuts_that_skip_rows_and_columns(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Residual().eval()
    written = EXPORTERS["ncnn"](
        network, content(1, 3, 16, 16), tmp_path / "net.ncnn.param", opset=18, dynamic=True, metadata={}
    )
    assert written.state == "verified"
    opened = RUNTIMES["ncnn"](written.path, exact=True)
    for images in (content(1, 3, 16, 16), content(1, 3, 17, 12)):
        with torch.inference_mode():
            expected = network(images).numpy()
        np.testing.assert_allclose(opened(images.numpy()), expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", HERE)
def test_float16_weights_are_smaller_or_refused(name: str, network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / f"net{EXPORTERS[name].suffix}"

    def export() -> Artifact:
        return EXPORTERS[name](
            network, content(1, 3, 16, 16), path, opset=18, dynamic=False, metadata=METADATA, weights="float16"
        )

    if name in ("ort", "pt2", "litert", "executorch"):
        with pytest.raises(ExportError, match="cannot be written with float16 weights"):
            export()
        assert list(tmp_path.iterdir()) == []
        return
    artifact = export()
    numbers = sum(parameter.numel() for parameter in network.parameters())
    weights = artifact.files[1] if artifact.files else artifact.path
    assert weights.stat().st_size < 4 * numbers or artifact.path.is_dir()
    assert artifact.parity is None or (artifact.parity.least_db == 80 and artifact.parity.rel > 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ("onnx", "pt2", "openvino", "mnn") if name in HERE])
def test_padded_inside_any_size_works(name: str, network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / f"net{EXPORTERS[name].suffix}"
    whole = padded(network, content(1, 3, 16, 16), 2)
    artifact = EXPORTERS[name](whole, content(1, 3, 16, 16), path, opset=18, dynamic=True, metadata={})
    assert artifact.dynamic
    opened = RUNTIMES[EXPORTERS[name].runtime or ""](path, exact=True)
    images = content(1, 3, 15, 21)
    with torch.inference_mode():
        expected = network(nn.functional.pad(images, (0, 1, 0, 1), mode="replicate"))[..., :15, :21].numpy()
    np.testing.assert_allclose(opened(images.numpy()), expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_what_needs_no_padding_gets_none_and_what_returns_no_image_cannot_have_it(network: nn.Module) -> None:
    assert padded(network, content(1, 3, 16, 16), 1) is network
    with pytest.raises(UsageError, match="--pad inside is for networks that return an image"):
        padded(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), content(1, 3, 16, 16), 2)


def test_a_runtime_that_computes_something_else_leaves_no_file(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qcompress.exporters import program

    def wrong(path: Path, threads: int = 1, *, exact: bool = False) -> Opened:
        return Opened(path.name, (1, 3, 16, 16), {}, lambda images: Prepared(lambda: None, lambda: images + 1))

    monkeypatch.setattr(program, "open_program", wrong)
    with pytest.raises(ExportError, match="differs from PyTorch in its own runtime"):
        EXPORTERS["pt2"](network, content(1, 3, 16, 16), tmp_path / "x.pt2", opset=18, dynamic=False, metadata={})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_one_line_with_its_command() -> None:
    with pytest.raises(BackendError, match="the package no_such_package is not installed") as caught:
        load_package("no_such_package", "openvino")
    assert caught.value.hint == "pip install 'qcompress[openvino]'"


def test_every_format_names_a_runtime_that_opens_it_and_an_extra_that_there_is() -> None:
    import tomllib

    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, row in EXPORTERS.items():
        assert row.runtime is None or row.suffix.endswith(RUNTIMES[row.runtime].suffixes), name
    named = {row.extra for row in EXPORTERS.values()} | {row.extra for row in RUNTIMES.values()}
    assert named - {None} <= set(extras)


def test_parity_is_judged_by_the_gate_that_it_has() -> None:
    difference = Difference()
    difference.add(np.array([1.0, 2.001], np.float32), np.array([1.0, 2.0], np.float32))
    assert not difference.parity().passed
    assert difference.parity(gate=1e-3).passed
    found = difference.parity(least_db=60)
    assert found.db == pytest.approx(20 * np.log10(2 / (0.001 / np.sqrt(2))), abs=0.01)
    assert found.passed
    assert not dataclasses.replace(found, least_db=80).passed
    assert not Parity(float("nan"), float("nan"), db=float("nan"), least_db=80).passed
    same = Difference()
    same.add(np.ones(3), np.ones(3))
    assert same.parity(least_db=80) == Parity(0.0, 0.0, db=None, least_db=80)
    assert same.parity(least_db=80).passed


def test_silence_holds_for_python_and_c_and_ends(capfd: pytest.CaptureFixture[str]) -> None:
    with silent(), pytest.raises(ValueError, match="seen"):
        sys.stdout.write("python\n")
        os.write(1, b"descriptor\n")
        os.write(2, b"error\n")
        raise ValueError("seen")
    os.write(1, b"after\n")
    assert capfd.readouterr() == ("after\n", "")


def test_what_several_converters_read_is_written_once() -> None:
    small = nn.Conv2d(1, 1, 1)

    def path(weights: Weights = "float32") -> Path:
        with as_onnx(small, content(1, 1, 4, 4), opset=18, dynamic=False, metadata={}, weights=weights) as source:
            assert source.artifact.path.is_file()
            return source.artifact.path

    with shared_onnx():
        first = path()
        assert path() == first
        assert path("float16") != first
    assert not first.exists()
