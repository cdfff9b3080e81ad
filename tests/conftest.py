"""Small trained-looking networks and photographs that several test files share."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from qcompress.architectures.half_unet import HalfUNet


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights with BatchNorm statistics that a mask on the producer would let leak."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * 0.2)
                if module.bias is not None:
                    module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.1)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
    return model.eval()


def photograph(seed: int, size: int = 48) -> Image.Image:
    """A smooth random picture."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return small.resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Half-UNet of two levels, eight channels wide: 40 units in 5 groups."""
    path = tmp_path_factory.mktemp("checkpoint") / "net.pt"
    torch.save({"state_dict": lively(HalfUNet(3, 8, 2, ghost=False)).state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clean photographs of 48x48 pixels."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(8):
        photograph(number).save(folder / f"picture{number}.png")
    return folder


def _torchvision_without_compiled_parts() -> torch.library.Library | None:
    """For tests alone: the two operations that a torchvision built for another torch misses when it is imported.

    spandrel, timm and onnx2torch import torchvision, torchmetrics does so where it is installed; none of them needs these here.
    """
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library: torch.library.Library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operation in ("nms", "qnms"):
            library.define(f"{operation}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        return library
    return None


_LIBRARY = _torchvision_without_compiled_parts()  # alive as long as the tests run
