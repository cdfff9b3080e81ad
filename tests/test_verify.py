"""Verification: parity, quality and sizes of an ONNX file, on images of any size."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qcompress.architectures.half_unet import HalfUNet
from qcompress.data.images import Pair, ReportImages
from qcompress.errors import DataError, InputError
from qcompress.exporters import export_onnx
from qcompress.verify import PARITY_GATE, Parity, verify, verify_onnx


class Scale(nn.Module):
    """Multiplies by a number: its quality can be computed by hand."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Halve(nn.Module):
    """Half as high and wide as its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, ::2, ::2]


def pair(name: str, channels: int = 3, height: int = 24, width: int = 40) -> Pair:
    rng = np.random.default_rng(len(name))
    clean = rng.random((channels, height, width), np.float32)
    noisy = (clean + rng.normal(0, 0.1, clean.shape)).astype(np.float32)
    return Pair(name, name, noisy, clean)


def report(*pairs: Pair) -> ReportImages:
    return ReportImages(pairs or (pair("a"), pair("bb", height=32), pair("ccc", width=24)))


def write(model: nn.Module, path: Path, *, channels: int = 3, side: int = 16, dynamic: bool = True, batch: int = 1) -> Path:
    example = torch.rand(batch, channels, side, side, generator=torch.Generator().manual_seed(0))
    return export_onnx(model, example, path, opset=18, dynamic=dynamic, metadata={}).path


def decibels(output: NDArray[np.float32], clean: NDArray[np.float32]) -> float:
    error = np.clip(output, 0, 1).astype(np.float64) - clean
    return float(-10 * np.log10(np.mean(error**2)))


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(Scale(0.9), tmp_path_factory.mktemp("scaled") / "model.onnx")


@pytest.fixture(scope="module")
def half_unet(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    model = HalfUNet(width=4, levels=3).train()
    return model, write(model, tmp_path_factory.mktemp("half-unet") / "model.onnx")


def test_quality_is_that_of_the_definition(scaled: Path) -> None:
    images = report()
    found = verify(scaled, reference=Scale(0.9), dense=Scale(1.0), report=images)
    assert found.images == ("a", "bb", "ccc")
    assert found.notes == ()
    assert found.artifact.per_image["psnr"] == pytest.approx(
        [decibels(0.9 * p.input, p.target) for p in images.pairs], abs=1e-4
    )
    assert found.noisy is not None
    assert found.noisy.per_image["psnr"] == pytest.approx([decibels(p.input, p.target) for p in images.pairs], abs=1e-4)
    assert found.dense == found.noisy
    assert found.slim is not None
    assert found.slim.per_image["psnr"] == pytest.approx(found.artifact.per_image["psnr"], abs=1e-5)
    assert found.artifact.mean() == pytest.approx(np.mean(found.artifact.per_image["psnr"]))
    assert all(0 < value < 1 for value in found.artifact.per_image["ssim"])
    assert found.artifact.mean("ssim") == pytest.approx(np.mean(found.artifact.per_image["ssim"]))


def test_size_and_hash_are_those_of_the_file(scaled: Path) -> None:
    found = verify_onnx(scaled, report())
    data = scaled.read_bytes()
    assert (found.size_bytes, found.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (found.dense, found.slim, found.parity) == (None, None, None)


def test_parity_of_the_same_network_passes_and_of_another_fails(scaled: Path) -> None:
    images = report()
    same = verify(scaled, reference=Scale(0.9), dense=None, report=images).parity
    assert same is not None and same.passed
    other = verify(scaled, reference=Scale(0.9 * (1 + 2e-5)), dense=None, report=images).parity
    assert other is not None and not other.passed
    largest = max(float(np.abs(p.input).max()) for p in images.pairs)
    assert other.max_abs_diff == pytest.approx(0.9 * 2e-5 * largest, rel=0.05)
    assert other.rel == pytest.approx(2e-5, rel=0.05)


@pytest.mark.parametrize(("rel", "passed"), [(0.0, True), (PARITY_GATE, True), (1.1e-5, False), (float("nan"), False)])
def test_gate(rel: float, passed: bool) -> None:
    assert Parity(rel, rel).passed is passed


def test_network_that_returns_nan_fails_parity(tmp_path: Path) -> None:
    path = write(Scale(1.0), tmp_path / "x.onnx")
    found = verify(path, reference=Scale(float("nan")), dense=None, report=report())
    assert found.parity is not None and not found.parity.passed


@pytest.mark.slow
def test_a_real_network_at_sizes_that_its_stride_does_not_divide(half_unet: tuple[nn.Module, Path]) -> None:
    model, path = half_unet
    images = report(pair("a", height=31, width=41), pair("bb", height=32, width=40))
    found = verify(path, reference=model, dense=model, report=images)
    assert found.parity is not None and found.parity.passed
    assert found.notes == ("images cropped or repeated about their centre to multiples of 4: 1 of 2",)
    assert found.noisy is not None
    assert found.noisy.per_image["psnr"][0] == pytest.approx(
        decibels(images.pairs[0].input[:, 1:29, :40], images.pairs[0].target[:, 1:29, :40]), abs=1e-4
    )
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_stride_of_a_foreign_file_is_found_by_running_it(tmp_path: Path, half_unet: tuple[nn.Module, Path]) -> None:
    path = tmp_path / "foreign.onnx"
    foreign = onnx.load(half_unet[1])
    del foreign.metadata_props[:]
    onnx.save(foreign, path)
    found = verify_onnx(path, report(pair("a", height=30, width=38)))
    assert found.notes == ("images cropped or repeated about their centre to multiples of 4: 1 of 1",)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(16, 16), (40, 17), (9, 50), (5, 7)])
def test_fixed_sizes_get_images_cropped_or_tiled(tmp_path: Path, height: int, width: int) -> None:
    path = write(Scale(0.5), tmp_path / "x.onnx", dynamic=False, batch=2)
    found = verify(path, reference=Scale(0.5), dense=None, report=report(pair("a", height=height, width=width)))
    assert found.parity is not None and found.parity.passed
    assert bool(found.notes) is ((height, width) != (16, 16))
    assert all("16x16, all that the file takes" in note for note in found.notes)


def test_against_a_reference_file(tmp_path: Path, scaled: Path) -> None:
    dense = write(Scale(1.0), tmp_path / "dense.onnx")
    found = verify_onnx(scaled, report(), reference=dense)
    assert found.dense == found.noisy
    assert found.parity is not None and not found.parity.passed
    assert found.parity.rel == pytest.approx(0.1, rel=1e-4)
    assert verify_onnx(scaled, report(), reference=Scale(1.0)).dense == found.dense


def test_images_that_do_not_fit(scaled: Path, half_unet: tuple[nn.Module, Path]) -> None:
    with pytest.raises(DataError, match=r"a has 1 channels, model\.onnx takes 3"):
        verify_onnx(scaled, report(pair("a", channels=1)))
    with pytest.raises(DataError, match="no images"):
        verify_onnx(scaled, ReportImages(()))
    path = half_unet[1]
    with pytest.raises(DataError, match="a is 40x3 pixels, the network needs at least 4x4"):
        verify_onnx(path, report(pair("a", height=3)))


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a network")
    for path, says in ((bad, "not a readable ONNX file"), (tmp_path / "none.onnx", "no such file"), (tmp_path, "no such file")):
        with pytest.raises(InputError, match=says) as caught:
            verify_onnx(path, report())
        assert "\n" not in caught.value.message
    with pytest.raises(InputError, match="expected"):
        verify_onnx(write(Halve(), tmp_path / "half.onnx"), report())
    with pytest.raises(InputError, match="dimensions"):
        linear = export_onnx(nn.Linear(4, 4), torch.rand(2, 4), tmp_path / "l.onnx", opset=18, dynamic=True, metadata={})
        verify_onnx(linear.path, report())


def test_perfect_output_has_infinite_psnr(scaled: Path) -> None:
    clean = pair("a").target
    found = verify(scaled, reference=Scale(0.9), dense=Scale(1.0), report=report(Pair("a", "a", clean, clean)))
    assert found.dense is not None
    assert found.dense.per_image["psnr"] == (float("inf"),)
    assert found.dense.mean("ssim") == pytest.approx(1.0)
