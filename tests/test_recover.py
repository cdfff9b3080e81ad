"""Repair against closed forms, direct least squares, and networks whose removed units are redundant."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from qcompress.data.images import CalibrationCrops
from qcompress.errors import UsageError
from qcompress.groups import Cut, Group, Groups, Layer, LayerKind, Member, Side
from qcompress.masks import consumer_masks
from qcompress.recover import Level, recover, reestimate_batchnorm
from qcompress.recover.bias import _response
from qcompress.recover.design import Affine, divisions, output_rows, places_of, rows, set_matrix, weight_matrix
from qcompress.recover.lstsq import refit
from qcompress.recover.outliers import outlier_weights
from qcompress.recover.passes import Passes
from qcompress.recover.ridge import NormalEquations
from qcompress.scoring import mean_inputs
from qcompress.selection import Selection
from qcompress.surgery import slim as cut_away


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    for number, tensor in enumerate([*model.parameters(), *model.buffers()]):
        if tensor.is_floating_point():
            tensor.data = noise(*tensor.shape, seed=100 * seed + number) * 0.4
            if tensor.dim() == 1:
                tensor.data = tensor.data.abs() + 0.5
    return model.double().eval()


def crops(*shape: int, seed: int = 7) -> CalibrationCrops:
    return CalibrationCrops(noise(*shape, seed=seed), noise(*shape, seed=seed))


LAYERS: list[tuple[Affine, tuple[int, ...]]] = [
    (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 7, 6)),
    (nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=(2, 1), dilation=(2, 1), bias=False), (2, 4, 9, 8)),
    (nn.Conv2d(4, 6, (4, 3), padding="same", dilation=(1, 2)), (2, 4, 9, 8)),
    (nn.Conv2d(4, 6, 3, padding="valid"), (2, 4, 5, 5)),
    (nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="reflect"), (2, 4, 7, 6)),
    (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 7, 6)),
    (nn.Conv2d(4, 6, 3, padding=1, padding_mode="replicate"), (2, 4, 7, 6)),
    (nn.Conv2d(4, 6, 3, padding=1, groups=2), (2, 4, 7, 6)),
    (nn.Conv2d(4, 4, 3, padding=1, groups=4), (2, 4, 7, 6)),
    (nn.Conv2d(4, 8, 3, stride=2, groups=4), (2, 4, 7, 6)),
    (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 7)),
    (nn.Conv3d(2, 3, 2), (2, 2, 3, 4, 3)),
    (nn.ConvTranspose2d(4, 6, 2, 2), (2, 4, 5, 3)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, dilation=2), (2, 4, 5, 3)),
    (nn.ConvTranspose2d(4, 6, (3, 4), stride=(1, 3), padding=(2, 3), groups=2), (2, 4, 5, 3)),
    (nn.ConvTranspose1d(4, 4, 4, stride=2, padding=1, groups=4, bias=False), (2, 4, 5)),
    (nn.Linear(4, 6), (3, 4)),
    (nn.Linear(4, 6, bias=False), (3, 5, 4)),
]
SAME = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
NAMES = [f"{number}-{type(layer).__name__}" for number, (layer, _) in enumerate(LAYERS)]


@SAME
@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=NAMES)
def test_rows_times_matrix_is_the_layer(layer: Affine, shape: tuple[int, ...]) -> None:
    layer = copy.deepcopy(layer).double()
    x = noise(*shape)
    output = layer(x).detach()
    total = places_of(layer, output)
    places = torch.randperm(total, generator=torch.Generator().manual_seed(0))[: max(1, total // 2)]
    seen = rows(layer, x, output, places)
    matrix = weight_matrix(layer)
    given_out = (seen @ matrix[:, :-1] + matrix[:, -1:]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(given_out, output_rows(layer, output, places))
    assert len(seen) == divisions(layer)


@SAME
@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=NAMES)
def test_matrices_go_back_and_forth(layer: Affine, shape: tuple[int, ...]) -> None:
    layer = copy.deepcopy(layer).double()
    x = noise(*shape)
    output = layer(x)
    set_matrix(layer, weight_matrix(layer))
    torch.testing.assert_close(layer(x), output)
    assert layer.weight.requires_grad


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.sampled_from([1e-6, 1e-2, 10.0]))
@settings(max_examples=30, deadline=None)
def test_streamed_is_one_shot(parts: list[int], ridge: float) -> None:
    total = sum(parts)
    weight = noise(total, seed=3).abs() + 0.1
    x, y, start = noise(3, total, 4), noise(3, total, 2, seed=1), noise(3, 5, 2, seed=2)
    streamed = NormalEquations()
    for begin, end in itertools.pairwise(np.cumsum([0, *parts]).tolist()):
        streamed.add(x[:, begin:end], y[:, begin:end], weight[begin:end])
    w = streamed.solve(start, ridge)
    scale = weight.sqrt()[:, None]
    for g in range(3):  # the ridge as further rows: sqrt(penalty) * w = sqrt(penalty) * start
        root = (ridge * (scale * x[g]).square().mean() * total).sqrt() * torch.eye(4, 5, dtype=torch.float64)
        left = torch.cat([scale * torch.cat([x[g], torch.ones(total, 1)], 1), root])
        right = torch.cat([scale * y[g], root @ start[g]])
        torch.testing.assert_close(w[g], torch.linalg.lstsq(left, right).solution, rtol=1e-6, atol=1e-8)
        error = torch.cat([x[g], torch.ones(total, 1)], 1) @ w[g] - y[g]
        torch.testing.assert_close(
            streamed.residual(w)[g], (scale * error).square().sum(0) / weight.sum(), rtol=1e-6, atol=1e-12
        )
    variance = np.stack([np.diagonal(np.atleast_2d(np.cov(part.T, aweights=weight, bias=True))) for part in y.numpy()])
    torch.testing.assert_close(streamed.variance(), torch.from_numpy(variance), rtol=1e-6, atol=1e-12)


def test_dead_inputs_keep_their_weights() -> None:
    equations, start = NormalEquations(), noise(2, 4, 2)
    x = noise(2, 50, 3)
    x[0], x[1, :, 1] = 0, 0
    equations.add(x, noise(2, 50, 2, seed=1), torch.ones(50))
    w = equations.solve(start, 1e-3)
    assert torch.isfinite(w).all()
    torch.testing.assert_close(w[0, :3], start[0, :3])
    torch.testing.assert_close(w[1, 1], start[1, 1])


class Net(nn.Module):
    """Channels that reach a plain, a depthwise and a transposed convolution and a concatenation; one layer is called twice."""

    def __init__(self, pad: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=pad)
        self.norm = nn.BatchNorm2d(6)
        self.depth = nn.Conv2d(6, 6, 3, padding=pad, groups=6, bias=False)
        self.join = nn.Conv2d(12, 5, 3, padding=pad, bias=False)
        self.norm2 = nn.BatchNorm2d(5)
        self.up = nn.ConvTranspose2d(5, 4, 2, 2)
        self.last = nn.Conv2d(4, 2, 3, stride=2, padding=pad, padding_mode="replicate")
        self.twice = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu_(self.norm(self.first(x)))
        b = torch.relu_(self.norm2(self.join(torch.cat([a, torch.relu(self.depth(a))], 1))))
        y: Tensor = self.twice(self.twice(self.last(torch.relu(self.up(b)))))
        return y


def member(name: str, side: Side, size: int, start: int = 0) -> Member:
    return Member(name, side, tuple((start + channel,) for channel in range(size)))


def layer_of(name: str, kind: LayerKind, inputs: int, outputs: int) -> Layer:
    return Layer(name, kind, inputs, outputs, kernel=9, positions=1, bias=True)


GROUPS = Groups(
    groups=(
        Group(
            "first",
            (
                member("first", "out", 6),
                member("norm", "out", 6),
                member("depth", "out", 6),
                member("join", "in", 6),
                member("join", "in", 6, 6),
            ),
        ),
        Group("join", (member("join", "out", 5), member("norm2", "out", 5), member("up", "in", 5))),
        Group("up", (member("up", "out", 4), member("last", "in", 4))),
    ),
    layers=(
        layer_of("first", "conv", 1, 6),
        layer_of("norm", "batchnorm", 6, 6),
        layer_of("depth", "depthwise", 6, 6),
        layer_of("join", "conv", 12, 5),
        layer_of("norm2", "batchnorm", 5, 5),
        layer_of("up", "conv_transpose", 5, 4),
        layer_of("last", "conv", 4, 2),
        layer_of("twice", "conv", 2, 2),
    ),
    kept_whole=(),
    example_shape=(1, 1, 12, 12),
)


def pruned(units: tuple[int, ...]) -> dict[str, Cut]:
    return GROUPS.cuts(Selection(GROUPS.space, units))


def redundant() -> nn.Module:
    """A `Net` in which units 4 and 5 of the first group, 4 of the second and 3 of the third repeat others up to a factor."""
    model = randomised(Net())
    with torch.no_grad():
        for name in ("first", "norm", "depth"):
            for tensor in model.get_submodule(name).state_dict().values():
                if tensor.dim():
                    tensor[4], tensor[5] = tensor[0], tensor[1]
        for tensor in (*model.get_submodule("norm2").state_dict().values(), model.get_parameter("join.weight")):
            if tensor.dim():
                tensor[4] = tensor[2]
        model.get_parameter("norm2.weight")[4] *= 3  # relu(3 x) = 3 relu(x)
        model.get_parameter("norm2.bias")[4] *= 3
        model.get_parameter("up.weight")[:, 3] = 2 * model.get_parameter("up.weight")[:, 0]
        model.get_parameter("up.bias")[3] = 2 * model.get_parameter("up.bias")[0]
    return model


REDUNDANT = (4, 5, 10, 14)


def test_refit_recovers_what_the_kept_units_span() -> None:
    model, cuts = redundant(), pruned(REDUNDANT)
    data, fresh = crops(20, 1, 12, 12), noise(3, 1, 12, 12, seed=99)
    slim = cut_away(model, cuts)
    result = recover("lstsq", model, slim, GROUPS, cuts, data, ridge=1e-9, batch=3)
    with torch.no_grad():
        dense = model(fresh)
        assert (slim(fresh) - dense).abs().max() > 1e-2 * dense.abs().max()
        assert (result.model(fresh) - dense).abs().max() < 1e-5 * dense.abs().max()
    assert [figure.layer for figure in result.layers] == ["join", "up", "last"]
    assert all(figure.refitted and figure.after < 1e-6 < figure.before for figure in result.layers)


@pytest.mark.parametrize("positions", [1000, 5000])
def test_refit_is_closer_to_dense_on_other_images(positions: int) -> None:
    model, cuts = randomised(Net()), pruned((1, 5, 7, 13))
    data, fresh = crops(20, 1, 12, 12), noise(10, 1, 12, 12, seed=99)
    slim = cut_away(model, cuts)
    levels: tuple[Level, ...] = ("none", "bias", "lstsq")
    results = {level: recover(level, model, slim, GROUPS, cuts, data, positions=positions) for level in levels}
    with torch.no_grad():
        errors = {level: float((result.model(fresh) - model(fresh)).square().mean()) for level, result in results.items()}
    assert errors["lstsq"] < errors["bias"] < errors["none"]
    assert [figure.layer for figure in results["lstsq"].layers] == ["join", "up", "last", "twice"]
    assert all(figure.after <= figure.before for figure in results["lstsq"].layers)
    torch.testing.assert_close(results["none"].model(fresh), slim(fresh), rtol=0, atol=0)


def test_repair_changes_no_argument_and_keeps_flags() -> None:
    model, cuts, data = randomised(Net()), pruned((1, 13)), crops(5, 1, 12, 12)
    slim = cut_away(model, cuts)
    slim.train()
    slim.get_submodule("norm").eval()
    before = [copy.deepcopy(network.state_dict()) for network in (model, slim)]
    shares: list[float] = []
    result = recover("lstsq", model, slim, GROUPS, cuts, data, progress=lambda done, note="": shares.append(done))
    for network, state in zip((model, slim), before, strict=True):
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in result.model.modules())
    assert result.model.training
    assert not result.model.get_submodule("norm").training
    assert all(parameter.requires_grad for parameter in result.model.parameters())
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_the_same_arguments_give_the_same_network() -> None:
    model, cuts, data = randomised(Net()), pruned((1, 13)), crops(5, 1, 12, 12)
    slim = cut_away(model, cuts)
    states = [recover("lstsq", model, slim, GROUPS, cuts, data, positions=100).model.state_dict() for _ in range(2)]
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=0, atol=0)


@pytest.mark.parametrize("limit", [4_000, 200_000, 2**31])
def test_what_is_kept_from_layer_to_layer_changes_no_bit(limit: int) -> None:
    model, cuts, data = randomised(Net()).float(), pruned((1, 5, 7, 13)), crops(11, 1, 12, 12)
    data = CalibrationCrops(data.inputs.float(), data.targets.float())
    networks = [cut_away(model, cuts) for _ in range(2)]
    figures = [
        refit(model, network, GROUPS, cuts, data, ridge=1e-3, batch=3, positions=1000, limit=kept)
        for network, kept in zip(networks, (0, limit), strict=True)
    ]
    assert figures[0] == figures[1]
    assert any(figure.refitted for figure in figures[0])
    for name, tensor in networks[0].state_dict().items():
        assert torch.equal(tensor, networks[1].state_dict()[name])


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that are really done."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.done: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.done[func._overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("limit", "done"), [(0, 15), (2**20, 6)])  # 0 + 1 + ... + 5; each once, and one to check
def test_layers_before_the_one_that_is_looked_at_are_not_run_again(limit: int, done: int) -> None:
    names = [str(2 * n) for n in range(6)]
    model = nn.Sequential(*(m for n in range(6) for m in (nn.Conv1d(1 if n == 0 else 2, 2, 3), nn.Tanh()))).eval()
    twin, x = copy.deepcopy(model), noise(2, 1, 30).float()
    passes, expected = Passes(model, limit), x
    with torch.no_grad(), Counting() as counting:
        for name in names:
            (seen,) = passes(name, 0, x, 1, lambda call, seen, output: seen.clone())
            model.get_submodule(name).weight = nn.Parameter(2 * model.get_parameter(f"{name}.weight"))
            assert torch.equal(seen, expected)
            with _disable_current_modes():
                layer = twin.get_submodule(name)
                layer.get_parameter("weight").mul_(2)
                expected = layer(expected).tanh()
    assert counting.done["tanh"] == done


def test_a_refit_that_does_not_hold_up_is_not_taken() -> None:
    """Two crops, few places, no ridge: the fit is to noise, and the crop held back shows it."""
    model, cuts, data = randomised(Net()), pruned((1,)), crops(2, 1, 12, 12)
    slim = cut_away(model, cuts)
    result = recover("lstsq", model, slim, GROUPS, cuts, data, ridge=1e-12, positions=30)
    figure = next(figure for figure in result.layers if figure.layer == "join")
    assert not figure.refitted
    assert figure.after == figure.before
    bias = recover("bias", model, slim, GROUPS, cuts, data).model
    torch.testing.assert_close(result.model.get_parameter("join.weight"), bias.get_parameter("join.weight"))


def test_shared_weights_and_layers_of_no_kind_are_left_alone() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1))
    net[4].weight = net[2].weight
    randomised(net)
    groups = Groups(
        (Group("0", (member("0", "out", 3), member("2", "in", 3))),),
        tuple(layer_of(str(n), "other" if n == 1 else "conv", 3, 3) for n in (0, 1, 2, 4, 5)),
        (),
        (1, 1, 8, 8),
    )
    worse = copy.deepcopy(net)  # as if the first layer had lost a unit: the others see other inputs
    with torch.no_grad():
        worse.get_parameter("0.weight")[0] *= 0.5
    result = recover("lstsq", net, worse, groups, {}, crops(6, 1, 8, 8))
    assert [figure.layer for figure in result.layers] == ["0", "5"]
    assert result.model.get_parameter("4.weight") is result.model.get_parameter("2.weight")


def test_a_wild_crop_does_not_decide() -> None:
    """One crop in twenty is a thousand times brighter: ordinary images are repaired as if it were not there."""
    model, cuts, data, fresh = randomised(Net()), pruned((1, 5, 7, 13)), crops(20, 1, 12, 12), noise(10, 1, 12, 12, seed=99)
    slim = cut_away(model, cuts)
    wild = CalibrationCrops(data.inputs.clone(), data.targets)
    wild.inputs[2] *= 1000

    def error(level: Level, seen: CalibrationCrops) -> float:
        with torch.no_grad():
            return float((recover(level, model, slim, GROUPS, cuts, seen).model(fresh) - model(fresh)).square().mean())

    for level in ("bias", "lstsq"):
        assert error(level, wild) < 1.5 * error(level, data) < 1.5 * error("none", data)


@given(st.lists(st.just(0.0) | st.floats(1e-6, 1e6), min_size=1, max_size=9))
def test_outlier_weights_bound_what_a_crop_counts(energies: list[float]) -> None:
    weights = outlier_weights(torch.tensor(energies, dtype=torch.float64))
    middle = float(np.sort(energies)[(len(energies) - 1) // 2])
    assert ((weights > 0) & (weights <= 1)).all()
    if middle > 0:
        assert all(w * e <= middle * (1 + 1e-9) for w, e in zip(weights.tolist(), energies, strict=True))
    else:
        assert (weights == 1).all()


def test_one_crop_cannot_be_held_back() -> None:
    model, cuts = randomised(Net()), pruned((1,))
    with pytest.raises(UsageError, match="got 1 calibration crop"):
        recover("lstsq", model, cut_away(model, cuts), GROUPS, cuts, crops(1, 1, 12, 12))


def test_bias_repair_is_exact_for_constant_channels_without_padding() -> None:
    model, cuts = randomised(Net(pad=0)), pruned((1, 4))
    model.depth = nn.Conv2d(6, 6, 1, groups=6, bias=False).double()
    with torch.no_grad():
        model.get_parameter("first.weight")[[1, 4]] = 0
    slim = cut_away(model, cuts)
    repaired = recover("bias", model, slim, GROUPS, cuts, crops(3, 1, 12, 12)).model
    fresh = noise(2, 1, 12, 12, seed=5)
    assert not torch.allclose(slim(fresh), model(fresh), rtol=1e-2)
    torch.testing.assert_close(repaired(fresh), model(fresh))
    assert repaired.get_parameter("join.bias").shape == (5,)


def test_bias_repair_is_the_network_filled_with_means() -> None:
    """Without padding, and with a stride that divides the transposed kernel evenly, the two are the same."""
    model = randomised(Net(pad=0))
    model.depth = nn.Conv2d(6, 6, 1, groups=6).double()
    model.up = nn.ConvTranspose2d(5, 4, 1, 1).double()
    units, data, fresh = (0, 3, 8, 12), crops(4, 1, 12, 12), noise(2, 1, 12, 12, seed=5)
    cuts = pruned(units)
    repaired = recover("bias", model, cut_away(model, cuts), GROUPS, cuts, data).model
    keep = torch.ones(1, 15, dtype=torch.float64)
    keep[0, list(units)] = 0
    fill = mean_inputs(model, ["join", "up", "last"], data)
    with torch.no_grad(), consumer_masks(model, GROUPS, keep, fill):
        filled = model(fresh)
    torch.testing.assert_close(repaired(fresh), filled)


@SAME
@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=NAMES)
def test_bias_repair_gives_the_mean_back_in_every_kind_of_layer(layer: Affine, shape: tuple[int, ...]) -> None:
    """A layer's mean response to a constant input, far from borders, is what `_response` says."""
    layer = copy.deepcopy(layer).double()
    values = noise(4 if shape[1] != 2 else 2)
    spatial = 1 if isinstance(layer, nn.Linear) else len(shape) - 2
    axis = -1 if isinstance(layer, nn.Linear) else 1
    size = (1, len(values)) if isinstance(layer, nn.Linear) else (1, len(values), *[60] * spatial)
    x = values.reshape(1, -1, *[1] * (len(size) - 2)).expand(size)
    flat = layer(x) - (0 if layer.bias is None else layer.bias.reshape(-1, *[1] * (len(size) - 2)))
    if not isinstance(layer, nn.Linear):  # whole periods of the strides 1, 2 and 3
        flat = flat[(..., *(slice(6, 6 + (length - 12) // 6 * 6) for length in flat.shape[2:]))]
    mean = flat.movedim(axis, -1).reshape(-1, flat.shape[axis]).mean(0).detach()
    torch.testing.assert_close(_response(layer, values), mean, rtol=1e-6, atol=1e-8)


def test_batchnorm_statistics_become_those_of_the_crops() -> None:
    model = randomised(Net())
    assert isinstance(model, Net)
    model.norm.momentum = 0.3
    data = crops(8, 1, 12, 12)
    state = copy.deepcopy(model.state_dict())
    new = reestimate_batchnorm(model, data, batch=4)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)
    with torch.no_grad():
        maps = model.get_submodule("first")(data.inputs)
    parts = maps.split(4)
    torch.testing.assert_close(new.get_buffer("norm.running_mean"), maps.mean((0, 2, 3)))
    torch.testing.assert_close(new.get_buffer("norm.running_var"), torch.stack([p.var((0, 2, 3)) for p in parts]).mean(0))
    assert new.get_submodule("norm").momentum == 0.3
    assert not new.training
    for name, tensor in new.named_parameters():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)
