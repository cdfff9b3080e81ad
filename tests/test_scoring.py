"""Scores against finite differences and against numpy on stored activations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qcompress.data.images import CalibrationCrops
from qcompress.groups import Group, Groups, Layer, LayerKind, Member, Side
from qcompress.masks import consumer_masks
from qcompress.scoring import magnitudes, mask_gradients, mean_inputs, measure_activations, score


class Net(nn.Module):
    """Two convolutions with BatchNorm, pooling and a flat end: maps with one, two and several channels per unit."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, 5, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(5)
        self.up = nn.ConvTranspose2d(5, 4, 2, 2)
        self.side = nn.Conv2d(5, 2, 1)
        self.end = nn.Conv2d(4, 1, 3, padding=1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu_(self.norm(self.one(x)))
        y: Tensor = x + self.end(torch.tanh(self.up(a))) + self.side(a * a).mean(1, keepdim=True)
        return y


def member(name: str, side: Side, size: int) -> Member:
    return Member(name, side, tuple((channel,) for channel in range(size)))


def layer(name: str, kind: LayerKind, inputs: int, outputs: int) -> Layer:
    return Layer(name, kind, inputs, outputs, kernel=1, positions=0, bias=True)


GROUPS = Groups(
    groups=(
        Group("one", (member("one", "out", 5), member("norm", "out", 5), member("up", "in", 5), member("side", "in", 5))),
        Group("up", (member("up", "out", 4), member("end", "in", 4))),
    ),
    layers=(
        layer("one", "conv", 1, 5),
        layer("norm", "batchnorm", 5, 5),
        layer("up", "conv_transpose", 5, 4),
        layer("side", "conv", 5, 2),
        layer("end", "conv", 4, 1),
    ),
    kept_whole=(),
    example_shape=(1, 1, 6, 6),
)


def decibels(output: Tensor, clean: Tensor) -> Tensor:
    return 10 * torch.log10((output - clean).square().flatten(1).mean(1))


@pytest.fixture
def model() -> Net:
    net, generator = Net().double().eval(), torch.Generator().manual_seed(3)
    for tensor in [*net.parameters(), *net.buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - (tensor.dim() > 1) * 0.5
    return net


@pytest.fixture
def crops() -> CalibrationCrops:
    generator = torch.Generator().manual_seed(4)
    clean = torch.rand(7, 1, 6, 6, generator=generator, dtype=torch.float64)
    return CalibrationCrops(clean + 0.1 * torch.randn(clean.shape, generator=generator, dtype=torch.float64), clean)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_gradients_are_finite_differences_of_each_image(model: Net, crops: CalibrationCrops, batch: int) -> None:
    gradients = mask_gradients(model, GROUPS, crops, decibels, batch)

    def loss_at(keep: Tensor) -> Tensor:
        with torch.no_grad(), consumer_masks(model, GROUPS, keep[None]):
            return decibels(model(crops.inputs), crops.targets)

    step, ones = 1e-6, torch.ones(9, dtype=torch.float64)
    for unit, nudge in enumerate(torch.eye(9, dtype=torch.float64) * step):
        slope = (loss_at(ones + nudge) - loss_at(ones - nudge)) / (2 * step)
        np.testing.assert_allclose(gradients[:, unit], slope.numpy(), rtol=1e-5, atol=1e-6)


def test_a_loss_that_is_not_per_image_is_refused(model: Net, crops: CalibrationCrops) -> None:
    with pytest.raises(ValueError, match="expected one value each"):
        mask_gradients(model, GROUPS, crops, lambda output, clean: (output - clean).square().mean())


def inputs_of(model: Net, crops: CalibrationCrops) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    with torch.no_grad():
        a = torch.relu(model.norm(model.one(crops.inputs)))
        maps = {"up": a, "side": a * a, "end": torch.tanh(model.up(a))}
    return {name: x.transpose(0, 1).flatten(1).numpy() for name, x in maps.items()}


@pytest.mark.parametrize("batch", [2, 7])
def test_similarity_and_means_match_stored_activations(model: Net, crops: CalibrationCrops, batch: int) -> None:
    found, maps = measure_activations(model, GROUPS, crops, batch), inputs_of(model, crops)
    np.testing.assert_allclose(found.similarity[1], np.corrcoef(maps["end"]), atol=1e-10)
    both = np.cov(maps["up"], bias=True) + np.cov(maps["side"], bias=True)
    np.testing.assert_allclose(found.similarity[0], both / np.sqrt(np.outer(both.diagonal(), both.diagonal())), atol=1e-10)
    for name, x in maps.items():
        typical = np.median(x.reshape(len(x), len(crops), -1).mean(2), 1)
        np.testing.assert_allclose(found.means[name].numpy(), typical, atol=1e-12)
        np.testing.assert_allclose(mean_inputs(model, [name], crops)[name].numpy(), typical, atol=1e-12)


def test_a_constant_map_is_like_no_other(model: Net, crops: CalibrationCrops) -> None:
    with torch.no_grad():
        model.norm.weight[2] = 0
        model.up.weight[:, 1:3] = 0
    first, second = measure_activations(model, GROUPS, crops).similarity
    assert first[2].tolist() == [0, 0, 1, 0, 0]
    assert second[1].tolist() == [0, 1, 0, 0]
    assert abs(first[0, 1]) > 0


def test_several_channels_of_a_unit_are_one_long_map() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.Linear(12, 1)).double()
    x = torch.rand(9, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wide = Member("2", "in", tuple(tuple(range(4 * u, 4 * u + 4)) for u in range(3)))
    groups = Groups(
        (Group("0", (member("0", "out", 3), wide)),), (layer("0", "conv", 1, 3), layer("2", "linear", 12, 1)), (), ()
    )
    with torch.no_grad():
        flat = net[0](x).reshape(9, 3, 4)
    centred = (flat - flat.mean(0)).transpose(0, 1).flatten(1).numpy()
    expected = centred @ centred.T / np.outer(np.linalg.norm(centred, axis=1), np.linalg.norm(centred, axis=1))
    found = measure_activations(net, groups, CalibrationCrops(x, x), batch=2)
    np.testing.assert_allclose(found.similarity[0], expected, atol=1e-10)


def test_magnitudes_are_means_of_the_producers_slices(model: Net) -> None:
    found = magnitudes(model, GROUPS)
    np.testing.assert_allclose(found[:5], model.one.weight.detach().abs().mean((1, 2, 3)).numpy())
    np.testing.assert_allclose(found[5:], model.up.weight.detach().abs().mean((0, 2, 3)).numpy())


def test_magnitudes_of_a_grouped_transposed_convolution_and_of_two_producers() -> None:
    net = nn.ModuleDict({"a": nn.ConvTranspose2d(4, 6, 3, groups=2), "b": nn.Conv2d(3, 6, 1)})
    groups = Groups(
        (Group("a", (member("a", "out", 6), member("b", "out", 6))),),
        (layer("a", "conv_transpose", 4, 6), layer("b", "conv", 3, 6)),
        (),
        (),
    )
    a, b = (net[name].get_parameter("weight").detach() for name in "ab")
    expected = [
        torch.cat([a[u // 3 * 2 : u // 3 * 2 + 2, u % 3].flatten(), b[u].flatten()]).abs().mean().item() for u in range(6)
    ]
    np.testing.assert_allclose(magnitudes(net, groups), expected, rtol=1e-6)


def test_score_puts_it_together_and_leaves_the_model_alone(model: Net, crops: CalibrationCrops) -> None:
    model.train()
    model.norm.eval()
    model.one.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shares: list[float] = []
    scores = score(model, GROUPS, crops, decibels, batch=2, progress=lambda done, note="": shares.append(done))
    gradients = mask_gradients(model, GROUPS, crops, decibels)
    np.testing.assert_allclose(scores.taylor, np.abs(gradients).mean(0))
    np.testing.assert_allclose(scores.fisher, (gradients**2).mean(0) / 2)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert model.training
    assert not model.norm.training
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["one.weight"]
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
