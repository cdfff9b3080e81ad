"""The contract of tracing, on every architecture of the zoo: what is found, and that removal is masking, to the ONNX file."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from zoo import ARCHITECTURES, architecture, random_network

from qcompress import plans, seeds
from qcompress.errors import ArchitectureError
from qcompress.exporters import EXPORTERS
from qcompress.exporters.runtime import open_onnx
from qcompress.groups import Groups
from qcompress.masks import consumer_masks
from qcompress.selection import Selection
from qcompress.surgery import outputs_of, relative_difference, slim
from qcompress.tracing import trace

EXACT = 1e-10  # float64, relative: rounding stays below, anything that leaks is far above
SOURCE = plans.Source(file="net.pt", sha256="0" * 64, architecture="module", arguments={})
SETTINGS = {"budget": "filters", "sparsity": 0.5, "objective": "taylor", "backend": "none", "seed": 0}


@cache
def traced(name: str) -> tuple[nn.Module, tuple[Tensor, ...], Groups]:
    model, inputs = architecture(name)
    return model, inputs, trace(model, inputs if len(inputs) > 1 else inputs[0])


def run(model: nn.Module, inputs: tuple[Tensor, ...]) -> object:
    with torch.no_grad():
        return model(*(x.clone() for x in inputs))


def random_selection(name: str, groups: Groups, number: int) -> Selection:
    """In every group any number of units, from none to all but the floor."""
    generator = seeds.stream(number, f"zoo.{name}")
    x = np.zeros(len(groups.space), bool)
    for span, floor in zip(groups.space.spans, groups.space.floors, strict=True):
        size = span.stop - span.start
        x[span.start + generator.permutation(size)[: generator.integers(size - floor + 1)]] = True
    return Selection.of(groups.space, x)


def selections(name: str, groups: Groups) -> Iterator[Selection]:
    """One unit of every group alone, some at random, and all but the floors."""
    for span in groups.space.spans:
        yield Selection(groups.space, (span.stop - 1,))
    for number in range(4):
        yield random_selection(name, groups, number)
    x = np.ones(len(groups.space), bool)
    for span, floor in zip(groups.space.spans, groups.space.floors, strict=True):
        x[span.start : span.start + floor] = False
    yield Selection.of(groups.space, x)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_can_be_pruned_is_found(name: str) -> None:
    entry = ARCHITECTURES[name]
    _, _, groups = traced(name)
    assert len(groups.groups) >= entry.groups
    assert len(groups.space) >= entry.units


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_cannot_is_named_with_the_reason(name: str) -> None:
    model, _, groups = traced(name)
    kept = {entry.layer: entry.reason for entry in groups.kept_whole}
    for layer, words in ARCHITECTURES[name].kept.items():
        assert words in kept[layer]
    pruned = {member.layer for group in groups.groups for member in group.side("out")}
    mixing = (nn.modules.conv._ConvNd, nn.Linear, nn.LSTM, nn.MultiheadAttention)
    named = [layer for layer, module in model.named_modules() if isinstance(module, mixing)]
    assert not set(named) - pruned - kept.keys()
    assert all(reason.strip() for reason in kept.values())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_slim_is_masked(name: str) -> None:
    model, inputs, groups = traced(name)
    for selection in selections(name, groups):
        slimmed = slim(model, groups.cuts(selection))
        keep = torch.from_numpy(~selection.x)[None].double()
        with consumer_masks(model, groups, keep):
            masked = run(model, inputs)
        assert relative_difference(run(slimmed, inputs), masked) <= EXACT


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_costs_are_those_of_the_slim_network(name: str) -> None:
    model, inputs, groups = traced(name)
    for selection in (Selection(groups.space, ()), *selections(name, groups)):
        slimmed = slim(model, groups.cuts(selection))
        assert groups.params(selection.counts) == sum(parameter.numel() for parameter in slimmed.parameters())
        with FlopCounterMode(display=False) as counter:
            run(slimmed, tuple(x[:1] for x in inputs))
        assert groups.macs(selection.counts) == counter.get_total_flops() // 2


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_keeping_everything_is_the_identity(name: str) -> None:
    model, inputs, groups = traced(name)
    cuts = groups.cuts(Selection(groups.space, ()))
    assert not cuts
    same = slim(model, cuts)
    assert relative_difference(run(same, inputs), run(model, inputs)) == 0
    assert_same_state(same, model)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_plan_read_back_prunes_the_same(name: str, tmp_path: Path) -> None:
    model, inputs, groups = traced(name)
    selection = random_selection(name, groups, 0)
    cuts = groups.cuts(selection)
    plan = plans.Plan.of(SOURCE, groups, selection, **SETTINGS)  # type: ignore[arg-type]
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    back = plans.read(path)
    assert back == plan
    assert back.selection(groups.space) == selection
    assert back.layer_cuts == cuts
    again, once = slim(model, back.layer_cuts), slim(model, cuts)
    assert_same_state(again, once)
    assert relative_difference(run(again, inputs), run(once, inputs)) == 0


def assert_same_state(model: nn.Module, other: nn.Module) -> None:
    state, expected = model.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in state.items())


class OneToOne(nn.Module):
    """A network as a function of its first input, the others fixed, and all its outputs in one row per image."""

    def __init__(self, network: nn.Module, others: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.network = network
        for number, other in enumerate(others):
            self.register_buffer(f"other{number}", other)

    def forward(self, x: Tensor) -> Tensor:
        outputs = outputs_of(self.network(x, *self.buffers(recurse=False)))
        return torch.cat([output.flatten(1) for output in outputs], 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_slim_network_runs_in_onnxruntime(name: str, tmp_path: Path) -> None:
    model, inputs, groups = traced(name)
    slimmed = slim(copy.deepcopy(model), groups.cuts(random_selection(name, groups, 1))).float()
    first, *others = (x.float() for x in inputs)
    plain = not others and isinstance(run(slimmed, (first,)), Tensor)
    network = slimmed if plain else OneToOne(slimmed, tuple(others)).eval()
    artifact = EXPORTERS["onnx"](network, first, tmp_path / "slim.onnx", opset=18, dynamic=False, metadata={})
    written = torch.from_numpy(open_onnx(artifact.path)(first.numpy()))
    assert relative_difference(written, run(network, (first,))) <= 1e-5


_SEEDS = [*range(40), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(40, 120))]


@pytest.mark.parametrize("seed", _SEEDS)
def test_what_is_found_in_a_random_program_holds(seed: int) -> None:
    model, x = random_network(seed)
    try:
        groups = trace(model, x)
    except ArchitectureError as error:
        assert "no channels that can be pruned" in error.message
        return
    larger = torch.rand((3, 3, 12, 12), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for selection in selections(str(seed), groups):
        slimmed = slim(model, groups.cuts(selection))
        keep = torch.from_numpy(~selection.x)[None].double()
        for images in (x, larger):
            with consumer_masks(model, groups, keep):
                masked = run(model, (images,))
            assert relative_difference(run(slimmed, (images,)), masked) <= EXACT
        assert groups.params(selection.counts) == sum(parameter.numel() for parameter in slimmed.parameters())
        with FlopCounterMode(display=False) as counter:
            run(slimmed, (x[:1],))
        assert groups.macs(selection.counts) == counter.get_total_flops() // 2


def test_most_random_programs_can_be_pruned() -> None:
    def prunes(seed: int) -> bool:
        try:
            return bool(trace(*random_network(seed)).groups)
        except ArchitectureError:
            return False

    assert sum(map(prunes, range(20))) >= 12
