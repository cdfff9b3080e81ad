"""Moments, static repair and the formulation on every network of the zoo that takes one image."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from zoo import ARCHITECTURES, architecture

from qcompress import seeds
from qcompress.alignment import aligned_budget
from qcompress.budgets import BUDGETS, Budget, budget
from qcompress.data.images import CalibrationCrops
from qcompress.errors import UsageError
from qcompress.groups import Groups
from qcompress.metrics import Metric
from qcompress.reconstruction import Eliminated, eliminated, formulate
from qcompress.recover.moments import measure_moments
from qcompress.recover.static import StaticRepair
from qcompress.search import to_capacity
from qcompress.selection import Selection
from qcompress.solvers.profile import Profiles
from qcompress.surgery import outputs_of, slim
from qcompress.tracing import trace

NAMES = [name for name, network in ARCHITECTURES.items() if len(network.shapes) == 1 and len(network.shapes[0]) == 3]
QUICK = (
    "plain",
    "resnet-basic",
    "densenet",
    "unet-transposed",
    "half-unet-ghost",
    "srresnet",
    "feature-pyramid",
    "shufflenet-v2",
)
CROPS = 24


def each(values: Callable[[int, str], object]) -> list[object]:
    """For every network its values; those of all but a few are slow."""
    marks = [() if name in QUICK else (pytest.mark.slow,) for name in NAMES]
    found = [values(number, name) for number, name in enumerate(NAMES)]
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=mark)
        for value, mark in zip(found, marks, strict=True)
    ]


def distance(output: object, dense: Tensor) -> Tensor:
    """(N,) mean squared distance of all outputs to the dense ones, which stand in one row per image."""
    return (rows_of(output) - dense).square().mean(1)


def rows_of(output: object) -> Tensor:
    return torch.cat([one.double().flatten(1) for one in outputs_of(output)], 1)


METRIC = Metric("distance", "", False, distance, distance)


@cache
def known(name: str) -> tuple[nn.Module, Groups, CalibrationCrops, StaticRepair, Eliminated]:
    model, (x,) = architecture(name)
    groups = trace(model, x)
    generator = torch.Generator().manual_seed(5)
    inputs = torch.rand((CROPS, *x.shape[1:]), generator=generator, dtype=torch.float64)
    with torch.no_grad():
        crops = CalibrationCrops(inputs, rows_of(model(inputs.clone())))
    moments = measure_moments(model, groups.consumers, crops)
    return model, groups, crops, StaticRepair(model, moments), eliminated(model, groups, crops, METRIC, moments)


@pytest.mark.parametrize("name", each(lambda _, name: name))
def test_repair_makes_it_no_worse(name: str) -> None:
    model, groups, crops, repair, _ = known(name)
    generator = seeds.stream(0, f"zoo.{name}")
    x = np.zeros(len(groups.space), bool)
    for span, size in zip(groups.space.spans, groups.space.sizes, strict=True):
        x[span.start + generator.permutation(size)[: size // 4]] = True
    cuts = groups.cuts(Selection.of(groups.space, x))
    cut, repaired = slim(model, cuts), slim(model, cuts)
    repair.repair(repaired, cuts)
    with torch.no_grad():
        before, after = (float(distance(net(crops.inputs.clone()), crops.targets).mean()) for net in (cut, repaired))
    assert after <= before


@pytest.mark.parametrize("align", [1, 8])
@pytest.mark.parametrize(("name", "kind"), each(lambda number, name: (name, BUDGETS[number % len(BUDGETS)])))
def test_the_formulation_meets_the_budget(name: str, kind: str, align: int) -> None:
    _, groups, _, _, found = known(name)
    macs = partial(groups.macs, align=align)

    def at(block: int) -> Budget:
        additive = partial(macs, additive=True) if block > 1 else None
        return budget(kind, 0.2, groups.space, groups.params, macs, block=block, additive_macs=additive)

    try:
        wanted, alignment = aligned_budget(align, at, groups.widths)
    except UsageError as error:
        assert align > 1  # groups this small may have no whole block to give
        pytest.skip(error.message)
    made = formulate(found, wanted, alignment, 0)
    found_again = to_capacity(made.problem, wanted, Profiles(), 0, align=alignment)
    for selection in (made.start, found_again.selection):
        counts = groups.space.counts(selection.x)
        assert alignment.allows(counts)
        reached = int(wanted.capacity(counts))
        assert reached == alignment.reach(wanted).target if wanted.counts_units else reached >= wanted.target
    assert found_again.energy <= float(made.problem.energy(made.start.x)) + 1e-9 * abs(found_again.energy)
    assert made.price >= 0
