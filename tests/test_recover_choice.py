"""Of the repairs, the one that the selection crops prefer."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from conftest import lively
from torch import nn

from qcompress import surgery, tracing
from qcompress.architectures.half_unet import HalfUNet
from qcompress.data.images import CalibrationCrops, SelectionCrops
from qcompress.errors import InputError
from qcompress.groups import Cut, Groups
from qcompress.metrics import metric as named
from qcompress.recover import Level, choice, reestimate_batchnorm
from qcompress.recover.choice import mean_metric, recover_best
from qcompress.recover.moments import measure_moments
from qcompress.recover.static import StaticRepair
from qcompress.selection import Selection


def setting() -> tuple[nn.Module, nn.Module, Groups, Mapping[str, Cut], CalibrationCrops, SelectionCrops]:
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


@pytest.mark.parametrize("level", ["none", "batchnorm", "bias", "lstsq"])
def test_what_is_kept_is_never_worse_than_the_cut_network_on_the_selection_crops(level: Level) -> None:
    model, slim, groups, cuts, calibration, selection = setting()
    metric = named("psnr")
    found = recover_best(level, model, slim, groups, cuts, calibration, selection, metric)
    cut, kept = mean_metric(slim, selection, metric), mean_metric(found.model, selection, metric)
    assert kept >= cut
    assert f"{kept:.3f} dB" in found.note
    if level == "none":
        assert kept == cut
        assert not found.batchnorm_reestimated
    if level == "lstsq":
        assert kept > cut + 1


def test_statistics_alone_are_a_repair() -> None:
    model, _, groups, cuts, calibration, given = setting()
    model = reestimate_batchnorm(model, calibration)  # as trained networks are, at home with their statistics
    slim = surgery.slim(model, cuts)
    with torch.no_grad():
        selection = SelectionCrops(given.inputs, model(given.inputs))
    found = recover_best("batchnorm", model, slim, groups, cuts, calibration, selection, named("psnr"))
    assert found.value > mean_metric(slim, selection, named("psnr")) + 1
    assert (found.level, found.batchnorm_reestimated, found.layers) == ("batchnorm", True, ())
    assert all(map(torch.equal, found.model.parameters(), slim.parameters()))


def test_repair_that_makes_it_worse_is_not_kept() -> None:
    model, slim, groups, cuts, calibration, selection = setting()
    with torch.no_grad():
        wanted = SelectionCrops(selection.inputs, slim(selection.inputs))  # here the cut network itself is perfect
    found = recover_best("lstsq", model, slim, groups, cuts, calibration, wanted, named("psnr"))
    assert found.level == "none"
    assert "worse than no repair" in found.note


def static_of(model: nn.Module, groups: Groups, calibration: CalibrationCrops) -> StaticRepair:
    return StaticRepair(model, measure_moments(model, groups.consumers, calibration))


def test_the_static_repair_is_kept_where_it_measures_better_and_the_note_says_so() -> None:
    model, slim, groups, cuts, calibration, selection = setting()
    static = static_of(model, groups, calibration)
    repaired = copy.deepcopy(slim)
    static.repair(repaired, cuts)
    with torch.no_grad():
        wanted = SelectionCrops(selection.inputs, repaired(selection.inputs).clamp(0, 1))  # nothing can measure better here
    before = {name: value.clone() for name, value in slim.state_dict().items()}
    found = recover_best("lstsq", model, slim, groups, cuts, calibration, wanted, named("psnr"), static)
    assert found.level == "lstsq"
    assert not found.layers
    assert not found.batchnorm_reestimated
    assert "without following errors" in found.note
    assert all(torch.equal(value, repaired.state_dict()[name]) for name, value in found.model.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in slim.state_dict().items())


def test_with_the_static_repair_what_is_kept_is_no_worse_than_it_or_the_cut() -> None:
    model, slim, groups, cuts, calibration, selection = setting()
    metric, static = named("psnr"), static_of(model, groups, calibration)
    repaired = copy.deepcopy(slim)
    static.repair(repaired, cuts)
    found = recover_best("lstsq", model, slim, groups, cuts, calibration, selection, metric, static)
    assert found.value >= max(mean_metric(repaired, selection, metric), mean_metric(slim, selection, metric))


def test_other_levels_do_without_the_static_repair() -> None:
    model, slim, groups, cuts, calibration, selection = setting()
    static = static_of(model, groups, calibration)
    plain, given = (
        recover_best("bias", model, slim, groups, cuts, calibration, selection, named("psnr"), one) for one in (None, static)
    )
    assert plain.value == given.value
    state = plain.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in given.model.state_dict().items())


@pytest.mark.parametrize("metric", ["psnr", "lower"])
def test_what_measures_as_no_number_is_never_kept(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, slim, groups, cuts, calibration, selection = setting()
    measure = replace(named("psnr"), higher_is_better=metric == "psnr")
    given = iter([math.nan, 3.0, 4.0, math.nan, math.nan])
    monkeypatch.setattr(choice, "mean_metric", lambda *_: next(given))
    static = static_of(model, groups, calibration)
    found = recover_best("lstsq", model, slim, groups, cuts, calibration, selection, measure, static)
    assert found.value == (4.0 if metric == "psnr" else 3.0)
    monkeypatch.setattr(choice, "mean_metric", lambda *_: math.nan)
    with pytest.raises(InputError, match="not a number"):
        recover_best("none", model, slim, groups, cuts, calibration, selection, measure)
