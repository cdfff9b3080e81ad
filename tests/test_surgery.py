"""Removal is masking, exactly; costs are true; and a plan of another network is refused."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from zoo import ODD, PRUNABLE, Flow, conv, network

from qcompress.errors import ArchitectureError, PlanError, SurgeryError
from qcompress.groups import Cut, Groups
from qcompress.selection import Selection
from qcompress.surgery import SlicedShell, check, relative_difference, slim
from qcompress.tracing import trace

EXACT = 1e-12  # float64: anything that leaks is far above


@cache
def traced(name: str) -> tuple[nn.Module, Tensor, Groups, SlicedShell]:
    model, x = network(name)
    return model, x, trace(model, x), SlicedShell(model.eval())


def draw_selection(data: st.DataObject, groups: Groups) -> Selection:
    """Any selection, from one unit to all but the floors, each group by itself."""
    x = np.zeros(len(groups.space), bool)
    for span, floor in zip(groups.space.spans, groups.space.floors, strict=True):
        units = range(span.start, span.stop)
        x[data.draw(st.lists(st.sampled_from(units), unique=True, max_size=len(units) - floor))] = True
    return Selection.of(groups.space, x)


def most(groups: Groups) -> Selection:
    """All but the floors."""
    x = np.zeros(len(groups.space), bool)
    for span, floor in zip(groups.space.spans, groups.space.floors, strict=True):
        x[span.start : span.stop - floor] = True
    return Selection.of(groups.space, x)


def assert_exact(name: str, selection: Selection) -> None:
    """Masked, slim and shell agree, and the costs that were promised are those of the slim network."""
    model, x, groups, shell = traced(name)
    cuts = groups.cuts(selection)
    slimmed = slim(model, cuts).eval()
    assert check(model, groups, selection, slimmed, x, EXACT) <= EXACT
    with torch.no_grad():
        assert relative_difference(shell.cut(cuts)(x), slimmed(x)) == 0
    counts = selection.counts
    assert groups.params(counts) == sum(p.numel() for p in slimmed.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        slimmed(x[:1])
    if name in PRUNABLE:  # of functional operations in the odd ones (attention) nothing is promised
        assert groups.macs(counts) == counter.get_total_flops() // 2


@pytest.mark.parametrize("name", PRUNABLE)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_slim_is_masked_for_any_selection(name: str, data: st.DataObject) -> None:
    assert_exact(name, draw_selection(data, traced(name)[2]))


@pytest.mark.parametrize("name", PRUNABLE)
def test_slim_is_masked_for_one_unit_and_for_all_but_the_floors(name: str) -> None:
    groups = traced(name)[2]
    for place in range(0, len(groups.space), 5):
        assert_exact(name, Selection(groups.space, (place,)))
    assert_exact(name, most(groups))


@pytest.mark.parametrize("name", ODD)
def test_odd_networks_are_right_or_refused(name: str) -> None:
    try:
        groups = traced(name)[2]
    except ArchitectureError as error:
        assert "kept whole" in error.message
        return
    generator = np.random.default_rng(0)
    for selection in (
        most(groups),
        *(Selection.of(groups.space, groups.space.allows(x) * x) for x in generator.integers(2, size=(4, len(groups.space)))),
    ):
        assert_exact(name, selection)


def test_a_selection_changes_the_network() -> None:
    model, x, groups, _ = traced("unet")
    model.eval()
    with torch.no_grad():
        assert relative_difference(slim(model, groups.cuts(most(groups)))(x), model(x)) > 1e-3


@pytest.mark.parametrize("name", PRUNABLE)
def test_keeping_all_is_the_identity(name: str) -> None:
    model, x, groups, _ = traced(name)
    cuts = groups.cuts(Selection(groups.space, ()))
    assert cuts == {}
    same = slim(model, cuts)
    assert same is not model
    assert all(torch.equal(a, b) for a, b in zip(same.state_dict().values(), model.state_dict().values(), strict=True))
    every = {layer.name: Cut(tuple(range(layer.outputs))) for layer in groups.layers if layer.kind == "conv"}
    with torch.no_grad():
        assert relative_difference(slim(model, every).eval()(x), model.eval()(x)) == 0


def test_the_argument_keeps_its_tensors_and_flags_are_handed_on() -> None:
    model, x = network("half-unet-ghost")
    groups = trace(model, x)
    model.requires_grad_(False)
    layer = model.get_submodule("enc.0.1.primary.0")
    layer.requires_grad_(True)
    layer.eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    slimmed = slim(model, groups.cuts(most(groups)))
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in state.items()}
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [p.requires_grad for p in slimmed.parameters()] == [p.requires_grad for p in model.parameters()]
    assert [m.training for m in slimmed.modules()] == [m.training for m in model.modules()]
    assert all(p.is_leaf and p.grad_fn is None for p in slimmed.parameters())


def test_attributes_follow_the_tensors() -> None:
    model, _, groups, _ = traced("half-unet-ghost")
    slimmed = slim(model, groups.cuts(most(groups)))
    depthwise = slimmed.get_submodule("enc.0.0.cheap.0")
    assert isinstance(depthwise, nn.Conv2d)
    assert (depthwise.groups, depthwise.in_channels, depthwise.out_channels) == (1, 1, 1)
    norm = slimmed.get_submodule("enc.0.0.cheap.1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.num_features == 1
    assert norm.running_var is not None
    assert norm.running_var.shape == (1,)


def test_a_slim_network_can_be_trained_and_saved() -> None:
    model, x, groups, _ = traced("unet")
    slimmed = slim(copy.deepcopy(model).train(), groups.cuts(most(groups)))
    slimmed(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in slimmed.parameters())
    slimmed.load_state_dict(copy.deepcopy(slimmed.state_dict()))


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        ({"nowhere": Cut((0,))}, "cuts layer nowhere, which the network does not have"),
        ({"2": Cut((0, 9))}, r"layer 2, side out: kept channels are 2 in 0..9, expected at least one, ascending, in 0..3"),
        ({"2": Cut((-1, 0))}, "2 in -1..0"),
        ({"2": Cut((1, 0))}, "expected at least one, ascending"),
        ({"2": Cut((1, 1))}, "expected at least one, ascending"),
        ({"2": Cut(())}, "kept channels are none"),
        ({"0": Cut(None, (0, 1, 2))}, r"layer 0, side in: .* in 0..1"),
        ({"3": Cut(None, (0,))}, "expected no cut at this side"),
        ({"4": Cut((0,))}, "layer 4: its divisions of 2 channels would not be kept whole"),
        ({"5": Cut((0,))}, "layer 5 is a LayerNorm"),
        ({"6": Cut((0,))}, "layer 6 is a ParametrizedConv2d, of own plain tensors: it cannot"),
        ({"0": Cut((0,)), "1": Cut((0,))}, "layer 1 is a ReLU"),
    ],
)
def test_cuts_that_do_not_fit_are_refused_by_slim_and_shell(cuts: dict[str, Cut], message: str) -> None:
    grouped, normed = conv(4, 4, groups=2), nn.utils.parametrizations.weight_norm(conv(4, 4))
    model = nn.Sequential(conv(2, 4), nn.ReLU(), conv(4, 4), nn.BatchNorm2d(4), grouped, nn.LayerNorm([4, 4, 4]), normed).eval()
    x = torch.rand(1, 2, 4, 4)
    with pytest.raises(PlanError, match=message):
        slim(model, cuts)
    shell = SlicedShell(model)
    with pytest.raises(PlanError, match=message):
        shell.cut(cuts)
    with torch.no_grad():
        assert torch.equal(shell.cut({})(x), model(x))


def test_check_notices_a_network_that_is_not_the_masked_one() -> None:
    model, x, groups, _ = traced("dncnn-norm")
    one, other = (Selection(groups.space, (place,)) for place in (0, 1))
    with pytest.raises(SurgeryError, match=r"differs from the masked one by .* relative, expected at most 1e-05"):
        check(model, groups, one, slim(model, groups.cuts(other)), x)
    broken = slim(model, groups.cuts(one))
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    with pytest.raises(SurgeryError, match="by inf"):
        check(model, groups, one, broken, x)


def test_check_leaves_training_networks_as_they_were() -> None:
    model, x = network("dncnn-norm")
    groups = trace(model, x)
    selection = Selection(groups.space, (0, 3))
    slimmed = slim(model, groups.cuts(selection))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    check(model, groups, selection, slimmed, x)
    assert model.training
    assert slimmed.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_relative_difference_of_what_networks_return() -> None:
    a = torch.tensor([1.0, -4.0])
    assert relative_difference(a + torch.tensor([0.0, 1.0]), a) == 0.25
    assert relative_difference({"x": a, "y": [a]}, {"x": a, "y": [a * 2]}) == 0.5
    assert relative_difference(torch.zeros(2), torch.zeros(2)) == 0
    assert relative_difference(torch.ones(2), torch.zeros(2)) == float("inf")
    assert relative_difference(a[:1], a) == float("inf")
    assert relative_difference(a * torch.nan, a) == float("inf")
    assert relative_difference(None, None) == float("inf")


def test_the_shell_starts_from_dense_every_time_and_owns_its_tensors() -> None:
    model, x, groups, _ = traced("half-unet-ghost")
    model.eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    shell = SlicedShell(model)
    generator = np.random.default_rng(0)
    with torch.no_grad():
        for _ in range(10):
            chosen = np.concatenate([generator.permutation(size) < size // 2 for size in groups.space.sizes])
            cuts = groups.cuts(Selection.of(groups.space, chosen))
            inner = shell.cut(cuts)
            assert relative_difference(inner(x), slim(model, cuts)(x)) == 0
        assert shell.cut({}) is inner
        assert torch.equal(inner(x), model(x))
    for key, value in inner.state_dict().items():
        assert torch.equal(value, state[key])
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(p.requires_grad for p in inner.parameters())


def test_float32_agrees_to_its_own_precision() -> None:
    model, x, groups, _ = traced("half-unet-ghost")
    single = copy.deepcopy(model).float().eval()
    selection = most(groups)
    assert check(single, groups, selection, slim(single, groups.cuts(selection)), x.float()) < 1e-5


def test_a_network_that_writes_into_its_input_is_given_a_copy() -> None:
    def forward(module: nn.Module, x: Tensor) -> Tensor:
        x *= 255
        y: Tensor = module.get_submodule("b")(torch.relu(module.get_submodule("a")(x)))
        return y

    model = Flow(forward, a=conv(3, 6), b=conv(6, 3)).double()
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    before = x.clone()
    groups = trace(model, x)
    assert groups.space.sizes == (6,)
    selection = most(groups)
    assert check(model, groups, selection, slim(model, groups.cuts(selection)), x, EXACT) <= EXACT
    assert torch.equal(x, before)
