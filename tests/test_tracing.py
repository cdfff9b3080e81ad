"""Tracing is right or refuses with a reason, on every network of the zoo, and leaves the caller's network alone."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from zoo import ODD, PRUNABLE, Flow, conv, network

from qcompress.architectures.half_unet import HalfUNet
from qcompress.errors import ArchitectureError, UsageError
from qcompress.groups import Groups
from qcompress.tracing import trace
from qcompress.tracing_layers import count_costs, kind_of
from qcompress.tracing_trial import failures


def members(groups: Groups, name: str) -> set[tuple[str, str, int]]:
    """(layer, side, channels per unit) of the group called `name`."""
    group = next(group for group in groups.groups if group.name == name)
    return {(member.layer, member.side, len(member.channels[0])) for member in group.members}


def macs(model: nn.Module, x: Tensor) -> int:
    """What PyTorch itself counts on one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x[:1])
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize("name", PRUNABLE)
def test_costs_of_the_dense_network_are_exact(name: str) -> None:
    model, x = network(name)
    groups = trace(model, x)
    assert groups.params() == sum(p.numel() for p in model.parameters())
    assert groups.macs() == macs(model.eval(), x)
    assert groups.example_shape == (1, *x.shape[1:])


@pytest.mark.parametrize("name", ["grouped", "multiplied", "grouped-transposed", "weight-norm", "standardised", "tied", "idle"])
def test_costs_of_layers_that_are_not_cut_are_exact_too(name: str) -> None:
    model, x = network(name)
    groups = trace(model, x)
    assert groups.params() == sum(p.numel() for p in model.parameters())
    assert groups.macs() == macs(model.eval(), x)


@pytest.mark.parametrize("name", [*PRUNABLE, *ODD])
def test_the_network_is_left_as_it_was(name: str) -> None:
    model, x = network(name)
    model.requires_grad_(False)
    next(model.parameters()).requires_grad_(True)
    first = next(iter(model.children()))
    first.eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    image = x.clone()
    random_state = torch.random.get_rng_state()
    try:
        trace(model, x)
    except ArchitectureError:
        assert name in ODD
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [True] + [False] * (len(list(model.parameters())) - 1)
    assert model.training
    assert not first.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(image, x)
    assert torch.equal(random_state, torch.random.get_rng_state())


def test_addition_couples_the_second_block_of_every_scale() -> None:
    groups = trace(HalfUNet(width=4, levels=5, ghost=False), torch.zeros(1, 3, 32, 32))
    producers = {layer for layer, side, _ in members(groups, "enc.0.1.0") if side == "out" and layer.endswith(".0")}
    assert producers == {f"enc.{level}.1.0" for level in range(5)}
    consumers = {layer for layer, side, _ in members(groups, "enc.0.1.0") if side == "in"}
    assert consumers == {f"enc.{level}.0.0" for level in range(1, 5)} | {"dec.0.0"}


def test_a_ghost_unit_carries_its_depthwise_copy_and_both_places_in_the_concatenation() -> None:
    groups = trace(HalfUNet(width=8, levels=2), torch.zeros(1, 3, 8, 8))
    kinds = {("primary.0", "out"), ("primary.1", "out"), ("cheap.0", "out"), ("cheap.1", "out")}
    assert members(groups, "enc.0.0.primary.0") == {(f"enc.0.0.{layer}", side, 1) for layer, side in kinds} | {
        ("enc.0.1.primary.0", "in", 2)
    }
    consumer = groups.groups[0].side("in")[0]
    assert consumer.channels == ((0, 4), (1, 5), (2, 6), (3, 7))


def test_a_channel_behind_a_flatten_owns_several_columns() -> None:
    model, x = network("classifier")
    group = trace(model, x).groups[1]
    assert [(member.layer, member.side) for member in group.members] == [("3", "out"), ("6", "in")]
    assert group.members[1].channels[2] == tuple(range(32, 48))


def test_groups_and_layers_are_in_order_of_execution() -> None:
    model, x = network("unet")
    groups = trace(model, x)
    assert [group.name for group in groups.groups] == ["e0.0", "e1.0", "e2.0", "u1", "d1.0", "u0", "d0.0"]
    names = [layer.name for layer in groups.layers]
    assert names.index("e2.0") < names.index("u1") < names.index("d1.0") < names.index("out")
    for group in groups.groups:
        assert group.name == group.members[0].layer


def test_one_layer_in_two_groups_gives_both_a_name() -> None:
    model, x = network("parts")
    groups = trace(model, x)
    assert [group.name for group in groups.groups] == ["whole", "whole#2"]
    assert members(groups, "whole#2") == {("whole", "out", 1), ("right", "out", 1), ("out", "in", 1)}


REASONS = {
    "a": {
        "permuted": "operation index mixes its channels",
        "rolled": "operation roll is not known to keep channels apart",
        "channel-softmax": "operation _softmax mixes its channels",
        "channel-mean": "operation mean mixes its channels",
        "constant-gain": "its channels meet a constant of a fixed size",
    },
    "b": {"padded": "2 of its 8 outputs only: padding adds channels"},
    "0": {
        "layer-norm": "operation native_layer_norm in 2 mixes its channels",
        "weight-norm": "operation convolution in 2 is not known",
        "standardised": "its channels meet 2 (operation convolution), which is not cut",
        "tokens": "its channels meet 2.attention",
    },
    "2": {
        "tied": "it shares a parameter with another layer",
        "standardised": "Standardised is no kind of layer that can be cut",
    },
    "2.attention.out_proj": {"tokens": "it is a part of 2.attention, which is not cut"},
    "never": {"idle": "the forward pass does not reach it"},
}

UNITS = {
    "swapped": [4, 6],
    "gated": [4, 6],
    "half-unused": [4, 6],
    "shuffled": [4, 6],
    "selective": [4, 6],
    "reversed": [8, 6],
    "stacked": [8, 6],
    "repeated": [8, 6],
    "with-ramp": [8, 6],
    "padded": [6],
    "pixel-shuffle": [2, 6],
    "pixel-unshuffle": [8, 6],
    "group-norm": [2, 6],
    "instance-norm": [8, 6],
    "plain-instance-norm": [8, 6],
    "grouped": [4, 4, 6],
    "multiplied": [8, 6],
    "narrowed": [4, 6],
    "grouped-transposed": [4, 6],
    "layer-scale": [8, 6],
    "detached": [8, 6],
}
"""Units per group where several channels, or channels at several places, are one unit."""


@pytest.mark.parametrize("name", UNITS)
def test_units_of_several_channels(name: str) -> None:
    assert list(trace(*network(name)).space.sizes) == UNITS[name]


@pytest.mark.parametrize(
    ("layer", "name", "text"), [(layer, name, text) for layer, rows in REASONS.items() for name, text in rows.items()]
)
def test_every_layer_kept_whole_has_its_reason(layer: str, name: str, text: str) -> None:
    model, x = network(name)
    kept = {entry.layer: entry.reason for entry in trace(model, x).kept_whole}
    assert text in kept[layer]


def test_outputs_and_what_is_tied_to_the_input_are_kept() -> None:
    model = Flow(lambda m, x: m.out(torch.relu(x + m.a(x))), a=conv(3, 3), out=conv(3, 2), b=conv(2, 2))
    with pytest.raises(ArchitectureError, match=r"a is kept whole: its channels are tied to the network's input"):
        trace(model, torch.zeros(1, 3, 8, 8))
    kept = {entry.layer: entry.reason for entry in trace(HalfUNet(width=4, levels=2), torch.zeros(1, 3, 8, 8)).kept_whole}
    assert kept == {"out": "its outputs are the network's outputs"}


def test_ignored_layers_keep_their_outputs_and_whatever_is_coupled_to_them() -> None:
    model = HalfUNet(width=4, levels=3, ghost=False)
    groups = trace(model, torch.zeros(1, 3, 16, 16), ignore=["enc.1.*"])
    assert [group.name for group in groups.groups] == ["enc.0.0.0", "enc.2.0.0", "dec.0.0", "dec.1.0"]
    kept = {entry.layer: entry.reason for entry in groups.kept_whole}
    assert kept.keys() == {"enc.0.1.0", "enc.1.0.0", "enc.1.1.0", "enc.2.1.0", "out"}
    assert kept["enc.0.1.0"] == "it matches --ignore 'enc.1.*'"


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"--ignore 'encoder\*' matches no layer") as caught:
        trace(HalfUNet(width=4, levels=2), torch.zeros(1, 3, 8, 8), ignore=["encoder*"])
    assert "enc.0.0.primary.0" in (caught.value.hint or "")


def test_floors_reach_the_space() -> None:
    groups = trace(HalfUNet(width=8, levels=2), torch.zeros(1, 3, 8, 8), floor=3)
    assert set(groups.space.floors) == {3}
    with pytest.raises(UsageError, match="floor is 0"):
        trace(HalfUNet(width=8, levels=2), torch.zeros(1, 3, 8, 8), floor=0)


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (HalfUNet(width=4, levels=2), (1, 4, 8, 8), r"fails on an input of shape \(1, 4, 8, 8\): RuntimeError"),
        (conv(3, 3), (1, 3, 8, 8), "no channels that can be pruned; .*network's outputs"),
        (nn.ReLU(), (1, 3, 8, 8), r"\(ReLU\) has no channels that can be pruned"),
        (Flow(lambda m, x: 3, a=conv(3, 3)), (1, 3, 8, 8), "no channels that can be pruned"),
    ],
)
def test_unusable_networks_are_refused_in_one_line(model: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message) as caught:
        trace(model, torch.zeros(shape))
    assert "\n" not in caught.value.message


def test_grad_modes_around_the_call_do_not_matter() -> None:
    model, x = network("unet")
    expected = trace(model, x)
    with torch.no_grad():
        assert trace(model, x) == expected
    with torch.inference_mode():
        assert trace(model, x.clone()) == expected


def test_half_precision_is_traced_in_full() -> None:
    model = HalfUNet(width=4, levels=2)
    expected = trace(model, torch.zeros(1, 3, 8, 8))
    assert trace(copy.deepcopy(model).half(), torch.zeros(1, 3, 8, 8, dtype=torch.float16)) == expected


def test_groups_of_a_large_image_are_those_of_a_small_one_at_other_costs() -> None:
    model = HalfUNet(width=4, levels=3)
    small, large = (trace(model, torch.zeros(1, 3, size, 2 * size)) for size in (16, 80))
    assert large.groups == small.groups
    assert large.macs() == 25 * small.macs()


SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
from zoo import network
from qcompress.tracing import trace
for name in ("dense", "half-unet-ghost", "classifier", "layer-scale"):
    print(trace(*network(name)))
"""


@pytest.mark.slow
def test_the_order_is_the_same_in_another_process_with_another_hash_seed() -> None:
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert runs[0].splitlines()[0] == str(trace(*network("dense")))


def test_the_full_half_unet_is_traced_within_three_seconds() -> None:
    model = HalfUNet(width=64, levels=5)
    start = time.process_time()
    trace(model, torch.zeros(1, 3, 128, 128))
    assert time.process_time() - start < 3


def test_the_trial_finds_a_coupling_that_is_missing_a_member() -> None:
    model, x = network("half-unet-ghost")
    groups = trace(model, x)
    first = groups.groups[0]
    for place, left_out in enumerate(first.members):
        wrong = copy.copy(groups)
        broken = type(first)(first.name, first.members[:place] + first.members[place + 1 :])
        object.__setattr__(wrong, "groups", (broken, *groups.groups[1:]))
        assert wrong.groups[0] != first
        assert set(failures(model, wrong, (x[:1],))) == {first.name}, left_out.layer


def test_the_trial_finds_units_that_are_joined_wrongly() -> None:
    model, x = network("half-unet-ghost")
    groups = trace(model, x)
    first = groups.groups[0]
    consumer = first.members[-1]
    turned = type(consumer)(consumer.layer, consumer.side, consumer.channels[1:] + consumer.channels[:1])
    wrong = copy.copy(groups)
    object.__setattr__(wrong, "groups", (type(first)(first.name, (*first.members[:-1], turned)), *groups.groups[1:]))
    assert set(failures(model, wrong, (x[:1],))) == {first.name}


def test_kinds_of_layers() -> None:
    assert kind_of(conv(4, 4)) == "conv"
    assert kind_of(conv(1, 1)) == "conv"
    assert kind_of(conv(4, 4, groups=4)) == "depthwise"
    assert kind_of(conv(4, 8, groups=4)) == "depthwise"
    assert kind_of(conv(32, 16, groups=8)) == "depthwise"  # many small divisions: whole ones go
    assert kind_of(conv(32, 16, groups=2)) == "conv"  # few large ones: all lose channels
    assert kind_of(nn.GroupNorm(2, 8)) == "groupnorm"
    assert kind_of(nn.InstanceNorm2d(8)) == "instancenorm"
    assert kind_of(nn.ConvTranspose1d(4, 2, 3)) == "conv_transpose"
    assert kind_of(nn.BatchNorm1d(3, affine=False)) == "batchnorm"
    assert kind_of(nn.LayerNorm(3)) == "other"
    assert kind_of(nn.utils.parametrizations.weight_norm(conv(2, 2))) == "other"


def test_a_layer_called_twice_costs_twice() -> None:
    model, x = network("shared")
    costs = {layer.name: layer for layer in count_costs(model.eval(), (x[:1],)).layers}
    assert costs["b"].positions == 2 * costs["a"].positions
