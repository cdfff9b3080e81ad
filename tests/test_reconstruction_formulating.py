"""The objective reconstruction on small networks: budgets, floors, the same answer everywhere, and what is hostile."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import lively
from numpy.typing import NDArray
from torch import Tensor, nn

from qcompress.alignment import Alignment
from qcompress.architectures.half_unet import HalfUNet
from qcompress.budgets import Budget, budget
from qcompress.data.images import CalibrationCrops
from qcompress.errors import InputError, UsageError
from qcompress.groups import Groups
from qcompress.joint import Demand, Sizes, Solve, Solved, choose
from qcompress.metrics import Metric, metric
from qcompress.problem import Problem
from qcompress.reconstruction import Eliminated, eliminated, expanded, formulate
from qcompress.reconstruction.calibration import _between, _monotone, calibrate
from qcompress.reconstruction.expansion import Reconstruction
from qcompress.reconstruction.formulating import _price, _priced
from qcompress.recover.moments import measure_moments
from qcompress.search import to_capacity
from qcompress.selection import Selection, UnitSpace
from qcompress.settings import SearchOptions
from qcompress.solvers.profile import Profiles
from qcompress.surgery import outputs_of
from qcompress.tracing import trace
from qcompress.workers.bench import threads

PSNR = metric("psnr")


def known_of(
    model: nn.Module, inputs: Tensor, targets: Tensor, measure: Metric = PSNR, *, floor: int = 1, calibrated: bool = True
) -> Eliminated:
    groups = trace(model, inputs[:1], floor=floor)
    crops = CalibrationCrops(inputs, targets)
    moments = measure_moments(model, groups.consumers, crops, positions=2000)
    return eliminated(model, groups, crops, measure, moments, calibrated=calibrated)


@cache
def half_unet(floor: int = 1, calibrated: bool = True) -> Eliminated:
    """Of a network of 40 units in 5 groups that restores its inputs a little better than not at all."""
    model = lively(HalfUNet(3, 8, 2, ghost=False))
    inputs = torch.rand((10, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        targets = (model(inputs) + 0.01 * torch.randn(inputs.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    return known_of(model, inputs, targets, floor=floor, calibrated=calibrated)


def asked(groups: Groups, kind: str, sparsity: float, align: int = 1) -> tuple[Budget, Alignment]:
    macs = partial(groups.macs, align=align)
    additive = partial(macs, additive=True) if align > 1 else None
    wanted = budget(kind, sparsity, groups.space, groups.params, macs, block=align, additive_macs=additive)
    return wanted, Alignment(groups.space, align, groups.widths)


@pytest.mark.parametrize("align", [1, 4])
@pytest.mark.parametrize("kind", ["filters", "params", "macs"])
def test_its_start_and_its_solution_meet_the_budget(kind: str, align: int) -> None:
    found = half_unet()
    target, alignment = asked(found.groups, kind, 0.4, align)
    made = formulate(found, target, alignment, 0)
    solved = to_capacity(made.problem, target, Profiles(), 0, align=alignment)
    for selection in (made.start, solved.selection):
        counts = found.groups.space.counts(selection.x)
        assert alignment.allows(counts)
        reached = int(target.capacity(counts))
        assert reached == alignment.reach(target).target if kind == "filters" else reached >= target.target


def test_the_solution_is_no_worse_than_the_start_and_no_swap_improves_it() -> None:
    found = half_unet(calibrated=False)
    target, alignment = asked(found.groups, "filters", 0.5)
    made = formulate(found, target, alignment, 0)
    x = to_capacity(made.problem, target, Profiles(), 0).selection.x
    model = Reconstruction(found.groups.space, found.parts)
    start = model.loss(made.start.x)
    if not np.array_equal(x, made.start.x):
        changes = 0.0
        for span in found.groups.space.spans:
            trial = made.start.x.copy()
            trial[span] = x[span]
            changes += model.loss(trial) - start
        assert changes <= 1e-8 * start
    energy = float(made.problem.energy(x))
    for out in np.flatnonzero(x):
        for into in np.flatnonzero(~x):
            other = x.copy()
            other[out], other[into] = False, True
            if alignment.allows(found.groups.space.counts(other)):
                assert float(made.problem.energy(other)) >= energy - 1e-9 * abs(energy)


def test_floors_hold() -> None:
    found = half_unet(floor=3)
    target, alignment = asked(found.groups, "filters", 0.6)
    made = formulate(found, target, alignment, 0)
    assert all(profile.most == 5 for profile in found.profiles)
    assert (found.groups.space.counts(made.start.x) <= 5).all()
    with pytest.raises(UsageError):
        formulate(found, asked(half_unet().groups, "filters", 0.7)[0], alignment, 0)


def test_a_target_of_nothing_prunes_nothing() -> None:
    found = half_unet()
    target, alignment = asked(found.groups, "filters", 0.0)
    made = formulate(found, target, alignment, 0)
    assert not made.start.x.any()
    assert len(to_capacity(made.problem, target, Profiles(), 0).selection) == 0


def digest() -> str:
    found = half_unet()
    made = formulate(found, *asked(found.groups, "filters", 0.5), 3)
    arrays = [made.start.x, made.problem.linear, *made.problem.couplings, *found.predicted]
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def test_it_is_the_same_in_another_process() -> None:
    code = "import torch; torch.set_num_threads(1); import test_reconstruction_formulating as t; print(t.digest())"
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    half_unet.cache_clear()
    with threads(1):
        assert told.stdout.strip() == digest()


def test_without_calibration_nothing_is_measured() -> None:
    found = half_unet(calibrated=False)
    assert found.measurements == 0
    for profile, predicted in zip(found.profiles, found.predicted, strict=True):
        assert np.array_equal(profile.energies, predicted)
    assert half_unet().measurements > 1


def test_measured_losses_pull_the_predicted_ones_within_a_factor() -> None:
    loss = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    at, values = _monotone([2, 4], [8.0, 4.0])
    assert values.tolist() == [0, 8, 8]  # never falling
    np.testing.assert_allclose(_between(loss, at, values), np.sqrt(loss * [0, 4, 8, 8, 8]))
    np.testing.assert_allclose(_between(loss, at, 1000 * values), np.sqrt(8) * loss)
    np.testing.assert_allclose(_between(loss, at, 0 * values), loss / np.sqrt(8))
    np.testing.assert_allclose(_between(0 * loss, at, values), [0, 4, 8, 8, 8])  # nothing predicted: the measured ones


def test_a_cut_too_deep_to_measure_is_left_out() -> None:
    at, values = _monotone([1, 2, 3], [0.5, np.inf, np.nan])
    assert at.tolist() == [0, 1]
    assert values.tolist() == [0, 0.5]


class Several(nn.Module):
    """Two groups; the second reaches the output through numbers that no gradient follows; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)
        self.second, self.two = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.one(torch.relu(self.first(x)))
        return y, self.two(torch.relu(self.second(x))).detach() + y


def both(output: object, target: Tensor) -> Tensor:
    return (torch.cat(outputs_of(output), 1) - target).square().flatten(1).mean(1).double()


def test_several_outputs_and_a_group_that_no_gradient_reaches() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Several().double().eval()
    inputs = torch.rand((8, 3, 10, 10), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.cat(model(inputs), 1).detach()
    found = known_of(model, inputs, targets, Metric("both", "", False, both, both))
    assert found.groups.space.groups == ("first", "second")
    assert not found.predicted[1].any()
    assert (np.diff(found.profiles[1].energies) >= 0).all()
    assert found.profiles[1].energies[-1] > 0  # what was measured
    made = formulate(found, *asked(found.groups, "filters", 0.5), 0)
    assert len(made.start) == round(0.5 * 11 + 0.01)


def broken(output: Tensor, target: Tensor) -> Tensor:
    return output.flatten(1).mean(1).double() * float("nan")


def test_a_metric_of_the_dense_network_that_is_no_number_is_one_clear_error() -> None:
    model = lively(HalfUNet(3, 8, 2, ghost=False))
    inputs = torch.rand((4, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="whole network") as caught:
        known_of(model, inputs, inputs, Metric("broken", "", True, broken, broken))
    assert "\n" not in caught.value.message
    assert "calibrated=0" in (caught.value.hint or "")


def test_outputs_that_are_no_numbers_are_one_clear_error() -> None:
    model = lively(HalfUNet(3, 8, 2, ghost=False))
    inputs = torch.rand((4, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    inputs[2, 0, 3, 3] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        known_of(model, inputs, inputs)


def test_what_is_calibrated_on_are_the_first_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcompress.reconstruction.calibration._PIXELS", 9 * 16 * 16)
    seen: list[int] = []

    def counting(output: Tensor, target: Tensor) -> Tensor:
        seen.append(len(output))
        return both(output, target)

    model = lively(HalfUNet(3, 8, 2, ghost=False))
    inputs = torch.rand((10, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    groups = trace(model, inputs[:1])
    orders: list[NDArray[np.intp]] = [np.arange(size - 1) for size in groups.space.sizes]
    losses = [np.arange(size, dtype=np.float64) for size in groups.space.sizes]
    crops = CalibrationCrops(inputs, inputs)
    measure = Metric("counting", "", False, counting, both)
    corrected, calls, _ = calibrate(model, groups, crops, measure, lambda name, cut: None, orders, losses)
    assert set(seen) == {9}
    assert calls == 1 + 4 * len(orders) <= len(seen)  # one more, to see whether the network can be followed
    assert all(one[0] == 0 and (np.diff(one) >= 0).all() for one in corrected)


def test_the_price_grows_until_the_solution_is_no_worse() -> None:
    space = UnitSpace.of([("a", 3)])
    local = Problem(space, np.array([0.0, -5.0, 0.0]), (np.zeros((3, 3)),))
    start = np.array([True, False, False])

    def solve(problem: Problem) -> Solved:
        rows = np.eye(3, dtype=bool)
        return Solved(Selection.of(space, rows[int(np.argmin([problem.energy(row) for row in rows]))]))

    def always(found: Solved) -> bool:
        return True

    def never(found: Solved) -> bool:
        return False

    assert _price(local, start, solve, never, 0.1) == 0.1
    price = _price(local, start, solve, always, 0.1)
    assert np.array_equal(solve(_priced(local, start, price)).selection.x, start)
    assert 2.5 <= price <= 5  # each of the two flips is charged
    assert np.array_equal(solve(_priced(local, start, _price(local, start, solve, always, 0.0))).selection.x, start)


@pytest.mark.parametrize("align", [1, 4])
def test_units_and_widths_for_a_size(align: int) -> None:
    found, problems = half_unet(), list[Problem]()
    sizes = Sizes(found.groups)
    loss = float(sum(profile.energies[-1] for profile in found.profiles))
    losses = {name: {"int8": 0.002 * loss, "int4": 0.02 * loss} for name in sizes.quantisable}

    def expand(start: NDArray[np.bool_], solve: Solve) -> Problem:
        problems.append(expanded(found, start, solve).problem)
        return problems[0]

    most = sizes.bytes() // 5
    chosen = choose(found.profiles, losses, sizes, Demand(most), expand=expand, options=SearchOptions(align=align))
    assert chosen.bytes == sizes.bytes(chosen.selection.counts, chosen.widths) <= most
    assert len(problems) == 1
    assert Alignment(found.groups.space, align, found.groups.widths).allows([*chosen.selection.counts.values()])
    assert chosen.bound is not None
    assert chosen.bound <= chosen.energy * (1 + 1e-9)  # no exchange pays here
