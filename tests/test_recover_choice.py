"""Of the repairs, the one that the selection crops prefer."""

from __future__ import annotations

import pytest
import torch
from conftest import lively
from torch import nn

from qcompress import surgery, tracing
from qcompress.architectures.half_unet import HalfUNet
from qcompress.data.images import CalibrationCrops, SelectionCrops
from qcompress.metrics import metric as named
from qcompress.recover import Level
from qcompress.recover.choice import mean_metric, recover_best
from qcompress.selection import Selection


def setting() -> tuple[nn.Module, nn.Module, object, object, CalibrationCrops, SelectionCrops]:
    model = lively(HalfUNet(3, 8, 2, ghost=False))
    groups = tracing.trace(model, torch.zeros(1, 3, 16, 16))
    cuts = groups.cuts(Selection(groups.space, (0, 3, 9, 20, 33)))
    generator = torch.Generator().manual_seed(0)
    noisy = torch.rand(8, 3, 32, 32, generator=generator)
    with torch.no_grad():
        clean = model(noisy)  # the dense network is perfect here: a good repair is one that comes close to it
    return (
        model,
        surgery.slim(model, cuts),
        groups,
        cuts,
        CalibrationCrops(noisy[:5], clean[:5]),
        SelectionCrops(noisy[5:], clean[5:]),
    )


@pytest.mark.parametrize("level", ["none", "bias", "lstsq"])
def test_what_is_kept_is_never_worse_than_the_cut_network_on_the_selection_crops(level: Level) -> None:
    model, slim, groups, cuts, calibration, selection = setting()
    metric = named("psnr")
    found = recover_best(level, model, slim, groups, cuts, calibration, selection, metric)  # type: ignore[arg-type]
    cut, kept = mean_metric(slim, selection, metric), mean_metric(found.model, selection, metric)
    assert kept >= cut
    assert f"{kept:.3f} dB" in found.note
    if level == "none":
        assert kept == cut
        assert not found.batchnorm_reestimated
    if level == "lstsq":
        assert kept > cut + 1


def test_repair_that_makes_it_worse_is_not_kept() -> None:
    model, slim, groups, cuts, calibration, selection = setting()
    with torch.no_grad():
        wanted = SelectionCrops(selection.inputs, slim(selection.inputs))  # here the cut network itself is perfect
    found = recover_best("lstsq", model, slim, groups, cuts, calibration, wanted, named("psnr"))  # type: ignore[arg-type]
    assert found.level == "none"
    assert "worse than no repair" in found.note
