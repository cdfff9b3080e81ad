"""Damaged and random bytes in front of every loader: it succeeds, or raises an error of ours; nothing else, and no hang."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hostile import convolution, damaged, fuzzed, survives, torch_bytes
from hypothesis import given
from PIL import Image
from scipy.io import savemat

from qcompress import checkpoints, plans
from qcompress.architectures.dncnn import build_dncnn
from qcompress.data.files import read_image
from qcompress.data.validation_mat import Blocks
from qcompress.exporters.runtime import open_onnx
from qcompress.plans import Plan, PlanCut, PlanGroup, Source

pytestmark = pytest.mark.timeout(60)

RNG = np.random.default_rng(3)
PIXELS = RNG.integers(0, 256, (9, 11, 3), dtype=np.uint8)
ARGUMENTS = {"channels": 1, "depth": 3, "width": 3, "batchnorm": True}
STATE = {
    name: torch.rand(tensor.shape, generator=torch.Generator().manual_seed(1)) + 0.1 if tensor.is_floating_point() else tensor
    for name, tensor in build_dncnn(**ARGUMENTS).state_dict().items()  # type: ignore[arg-type]
}
PLAN = Plan(
    tool="qcompress",
    checkpoint=Source(file="a.pt", sha256="0" * 64, architecture="dncnn", arguments=dict(ARGUMENTS)),
    groups={"model.0": PlanGroup(size=3, pruned=())},
    cuts={"model.0": PlanCut(kept_out=(0, 1, 2), kept_in=None)},
    example_shape=(1, 1, 32, 32),
    budget="filters",
    sparsity=0.0,
    objective="hybrid",
    backend="neal",
    seed=0,
)
CHECKPOINTS = (
    torch_bytes(STATE),
    torch_bytes({"state_dict": STATE, "epoch": 3}),
    torch_bytes(STATE, legacy=True),
    safetensors.torch.save(STATE),
)
ONNX = (
    convolution().SerializeToString(),
    convolution(location="weights.bin", offset="0", length="4").SerializeToString(),
)


def image_bytes(kind: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


IMAGES = {
    "png": (image_bytes("PNG"), image_bytes("PNG", "P"), image_bytes("PNG", "L")),
    "jpg": (image_bytes("JPEG"), image_bytes("JPEG", progressive=True)),
    "tif": (image_bytes("TIFF"), image_bytes("TIFF", compression="tiff_adobe_deflate"), image_bytes("TIFF", "1")),
    "bmp": (image_bytes("BMP"), image_bytes("BMP", "P")),
    "webp": (image_bytes("WEBP"), image_bytes("WEBP", lossless=True)),
}


def mat_bytes(*, compressed: bool) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, {"noisy": RNG.integers(0, 256, (2, 2, 8, 8, 3), dtype=np.uint8)}, do_compression=compressed)  # type: ignore[arg-type]
    return buffer.getvalue()


MATS = (mat_bytes(compressed=False), mat_bytes(compressed=True))


def load_checkpoint(path: Path) -> None:
    checkpoints.load(path)


def read_blocks(path: Path) -> None:
    blocks = Blocks(path, path)
    for scene, block in blocks.places():
        blocks.read(scene, block)
        break


def run_onnx(path: Path) -> None:
    network = open_onnx(path)
    if len(network.input_shape) == 4 and all(size is None or size < 20 for size in network.input_shape):
        network(np.zeros([size or 8 for size in network.input_shape], np.float32))


LOADERS: dict[str, tuple[Callable[[Path], object], str, tuple[bytes, ...]]] = {
    "checkpoint": (load_checkpoint, "a.pt", CHECKPOINTS),
    "plan": (plans.read, "plan.json", (PLAN.to_json().encode(),)),
    "onnx": (run_onnx, "a.onnx", ONNX),
    "mat": (read_blocks, "noisy.mat", MATS),
    **{f"image {ending}": (read_image, f"a.{ending}", files) for ending, files in IMAGES.items()},
}


def attack(folder: Path, name: str, data: bytes) -> None:
    load, file, _ = LOADERS[name]
    (folder / file).write_bytes(data)
    survives(lambda: load(folder / file))


@pytest.mark.parametrize("name", LOADERS)
def test_the_files_to_be_damaged_are_good(tmp_path: Path, name: str) -> None:
    (tmp_path / "weights.bin").write_bytes(np.float32(0.5).tobytes())
    load, file, files = LOADERS[name]
    for data in files:
        (tmp_path / file).write_bytes(data)
        load(tmp_path / file)


@pytest.mark.parametrize("name", LOADERS)
def test_damaged_files(tmp_path: Path, name: str) -> None:
    (tmp_path / "weights.bin").write_bytes(np.float32(0.5).tobytes())

    @fuzzed(150)
    @given(data=damaged(LOADERS[name][2]))
    def run(data: bytes) -> None:
        attack(tmp_path, name, data)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADERS)
def test_damaged_files_at_length(tmp_path: Path, name: str) -> None:
    (tmp_path / "weights.bin").write_bytes(np.float32(0.5).tobytes())

    @fuzzed(2000)
    @given(data=damaged(LOADERS[name][2]))
    def run(data: bytes) -> None:
        attack(tmp_path, name, data)

    run()
