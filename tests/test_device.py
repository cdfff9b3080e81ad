"""Scores and repair on an accelerator: the same answers as on the processor. Skipped where there is no accelerator."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from conftest import lively

from qcompress import scoring, surgery, tracing
from qcompress.architectures.half_unet import HalfUNet
from qcompress.data.images import CalibrationCrops
from qcompress.groups import Groups
from qcompress.metrics import psnr_loss
from qcompress.recover import Level, recover, reestimate_batchnorm
from qcompress.selection import Selection

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

DEVICE = "cuda"
MODEL = lively(HalfUNet(3, 8, 2)).double()


@pytest.fixture(autouse=True)
def _full_precision() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def groups() -> Groups:
    return tracing.trace(MODEL, torch.zeros(1, 3, 32, 32, dtype=torch.float64))


@pytest.fixture(scope="module")
def crops() -> CalibrationCrops:
    rng = np.random.default_rng(0)
    clean = torch.from_numpy(rng.random((10, 3, 32, 32)))
    return CalibrationCrops(clean + 0.1 * torch.from_numpy(rng.standard_normal(clean.shape)), clean)


def test_scores(groups: Groups, crops: CalibrationCrops) -> None:
    here = scoring.score(MODEL, groups, crops, psnr_loss)
    there = scoring.score(copy.deepcopy(MODEL).to(DEVICE), groups, crops.to(DEVICE), psnr_loss)
    for name in ("magnitude", "taylor", "fisher", "gradients"):
        np.testing.assert_allclose(getattr(there, name), getattr(here, name), rtol=1e-6, atol=1e-9)
    for ours, theirs in zip(here.similarity, there.similarity, strict=True):
        np.testing.assert_allclose(theirs, ours, atol=1e-7)


@pytest.mark.parametrize("level", ["bias", "lstsq"])
def test_repair(groups: Groups, crops: CalibrationCrops, level: Level) -> None:
    gone = np.concatenate([np.arange(size) < size // 2 for size in groups.space.sizes])
    cuts = groups.cuts(Selection.of(groups.space, gone))
    outputs = []
    for device in ("cpu", DEVICE):
        dense, data = copy.deepcopy(MODEL).to(device), crops.to(device)
        repaired = recover(level, dense, surgery.slim(dense, cuts), groups, cuts, data).model
        restated = reestimate_batchnorm(repaired, data)
        outputs.append(restated(data.inputs).detach().cpu().numpy())
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-6, atol=1e-7)
