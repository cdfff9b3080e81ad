"""What a candidate is worth does not depend on what else is measured, before or beside it, nor on how it is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import lively
from torch import Tensor, nn
from zoo import Flow, conv

from qcompress import seeds
from qcompress.architectures.half_unet import HalfUNet
from qcompress.data.images import SelectionCrops
from qcompress.errors import PlanError
from qcompress.groups import Cut, Groups
from qcompress.metrics import metric
from qcompress.metrics_images import psnr
from qcompress.refine.objective import MaskedMetric, SlicedMetric
from qcompress.refine.swaps import swapped
from qcompress.selection import Selection
from qcompress.surgery import SlicedShell, Weights, slim
from qcompress.tracing import trace

PSNR = metric("psnr")
BATCH = 4


def crops(count: int = 10, size: int = 16) -> SelectionCrops:
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand((count, 3, size, size), generator=generator)
    return SelectionCrops(clean + 0.1 * torch.randn(clean.shape, generator=generator), clean)


@pytest.fixture(scope="module")
def half_unet() -> tuple[nn.Module, Groups]:
    model = lively(HalfUNet(3, 8, 3, ghost=False))
    return model, trace(model, torch.zeros(1, 3, 16, 16))


def candidates(groups: Groups, count: int = 12) -> list[Selection]:
    generator = seeds.stream(0, "objective")
    x = np.zeros(len(groups.space), bool)
    for span in groups.space.spans:
        x[span.start : (span.start + span.stop) // 2] = True
    return [Selection.of(groups.space, mask) for mask in swapped(groups.space, x, generator.integers(1, 3, count), generator)]


def by_hand(model: nn.Module, groups: Groups, selection: Selection, images: range) -> list[float]:
    """In the chunks that are promised: of BATCH, from the start of the range."""
    thin, data = slim(model, groups.cuts(selection)), crops()
    inputs = data.inputs.contiguous(memory_format=torch.channels_last)
    values: list[float] = []
    with torch.no_grad():
        for start in range(images.start, images.stop, BATCH):
            chunk = slice(start, min(start + BATCH, images.stop))
            values += PSNR.per_image(thin(inputs[chunk].clone()), data.targets[chunk]).tolist()
    return values


@pytest.mark.parametrize("limit", [0, 200_000, 2**31])
def test_values_are_those_of_the_slim_network_whatever_else_is_asked(half_unet: tuple[nn.Module, Groups], limit: int) -> None:
    model, groups = half_unet
    evaluate = SlicedMetric(model, groups, crops(), PSNR, BATCH, limit=limit)
    chosen = candidates(groups)
    for images in (range(2), range(3, 10), range(10)):
        expected = np.array([by_hand(model, groups, selection, images) for selection in chosen])
        assert np.array_equal(evaluate(chosen, images), expected)
        assert np.array_equal(evaluate(chosen[5:2:-1], images), expected[5:2:-1])
    assert evaluate.reuses == bool(limit)
    assert np.allclose(MaskedMetric(model, groups, crops(), PSNR, BATCH)(chosen, range(10)), expected, atol=1e-4)


def writing(module: nn.Module, x: Tensor) -> Tensor:
    """Writes into memory that two tensors share."""
    y = torch.relu(module.get_submodule("a")(x))
    y.flatten(2).mul_(2)
    z: Tensor = module.get_submodule("b")(y)
    return z


def leaving(module: nn.Module, x: Tensor) -> Tensor:
    """Asks for values outside of torch."""
    z: Tensor = module.get_submodule("b")(torch.relu(module.get_submodule("a")(x)))
    return z * float(np.isfinite(z.detach().numpy()).all())


def secretive(module: nn.Module, x: Tensor) -> Tensor:
    """Changes a buffer behind torch's back, to what follows from the cut of the last layer."""
    norm, last = module.get_submodule("norm"), module.get_submodule("b")
    assert isinstance(last, nn.Conv2d)
    norm.get_buffer("running_mean").numpy()[:] = last.in_channels
    return honest(module, x)


def honest(module: nn.Module, x: Tensor) -> Tensor:
    x = module.get_submodule("norm")(x)
    y: Tensor = module.get_submodule("b")(torch.relu(module.get_submodule("a")(x)))
    return y


@pytest.mark.parametrize("forward", [writing, leaving, secretive])
def test_a_network_that_cannot_be_followed_is_measured_as_it_is(forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    layers = {"norm": nn.BatchNorm2d(3), "a": conv(3, 6), "b": conv(6, 3)}
    groups = trace(Flow(honest, **layers).eval(), torch.zeros(1, 3, 16, 16))
    model = Flow(forward, **layers).eval()
    evaluate = SlicedMetric(model, groups, crops(), PSNR, BATCH)
    chosen = [Selection(groups.space, units) for units in ((0,), (1, 2), (3, 4, 5))]
    values = evaluate(chosen, range(10))
    assert not evaluate.reuses
    assert np.array_equal(values, [by_hand(model, groups, selection, range(10)) for selection in chosen])


def test_a_failure_of_the_network_is_raised() -> None:
    model = lively(HalfUNet(3, 8, 3, ghost=False))
    groups = trace(model, torch.zeros(1, 3, 16, 16))
    odd = SelectionCrops(torch.rand(2, 3, 18, 18), torch.rand(2, 3, 18, 18))
    with pytest.raises(RuntimeError, match="size of tensor"):
        SlicedMetric(model, groups, odd, PSNR)(candidates(groups, 1), range(2))


def doubled(model: nn.Module) -> Callable[[str, Cut], tuple[Tensor, Tensor | None] | None]:
    """For layers with a cut input: twice the sliced weights, and a bias of ones; for the last layer no bias."""

    def weights(name: str, cut: Cut) -> tuple[Tensor, Tensor | None] | None:
        if cut.kept_in is None:
            return None
        weight = model.get_parameter(f"{name}.weight")[:, list(cut.kept_in)]
        weight = weight if cut.kept_out is None else weight[list(cut.kept_out)]
        return 2 * weight, None if name == "out" else torch.ones(len(weight))

    return weights


def test_layers_get_the_weights_that_are_given_for_their_cut(half_unet: tuple[nn.Module, Groups]) -> None:
    model, groups = half_unet
    weights = doubled(model)
    evaluate = SlicedMetric(model, groups, crops(), PSNR, BATCH, weights=weights)
    for selection in (*candidates(groups, 6), Selection(groups.space, ()), *candidates(groups, 6)):
        cuts = groups.cuts(selection)
        expected = slim(model, cuts)
        for name, cut in cuts.items():
            given = weights(name, cut) if isinstance(expected.get_submodule(name), nn.Conv2d) else None
            if given is not None:
                layer = expected.get_submodule(name)
                for key, tensor in zip(("weight", "bias"), given, strict=True):
                    layer.register_parameter(key, None if tensor is None else nn.Parameter(tensor.detach()))
        with torch.no_grad():
            values = PSNR.per_image(
                expected(crops().inputs[:BATCH].contiguous(memory_format=torch.channels_last)), crops().targets[:BATCH]
            )
        assert np.array_equal(evaluate([selection], range(BATCH))[0], values.numpy())
    assert evaluate.reuses


def test_weights_that_do_not_fit_are_refused(half_unet: tuple[nn.Module, Groups]) -> None:
    model, groups = half_unet
    evaluate = SlicedMetric(model, groups, crops(), PSNR, weights=lambda name, cut: (torch.ones(1, 1, 3, 3), None))
    with pytest.raises(PlanError, match=r"layer enc\.0\.0\.0: the weights that were given for its cut are"):
        evaluate(candidates(groups, 1), range(2))


def test_half_precision_is_close_and_does_not_depend_on_what_is_reused(half_unet: tuple[nn.Module, Groups]) -> None:
    model, groups = half_unet
    chosen = candidates(groups, 6)
    half = [SlicedMetric(model, groups, crops(), PSNR, BATCH, limit=limit, precision=torch.bfloat16) for limit in (0, 2**31)]
    values = [evaluate([*chosen, *chosen], range(10)) for evaluate in half]
    assert np.array_equal(values[0], values[1])
    full = SlicedMetric(model, groups, crops(), PSNR, BATCH)([*chosen, *chosen], range(10))
    assert not np.array_equal(values[0], full)
    assert np.allclose(values[0], full, atol=0.1)


def test_weights_are_asked_for_once_while_they_fit(
    half_unet: tuple[nn.Module, Groups], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, groups = half_unet
    asked: list[tuple[str, Cut]] = []
    weights = doubled(model)

    def counted(name: str, cut: Cut) -> tuple[Tensor, Tensor | None] | None:
        given = weights(name, cut)
        if given is not None:
            asked.append((name, cut))
        return given

    one, other = (Selection(groups.space, pruned) for pruned in ((0, 9), (1, 9)))
    expected = [float(network(torch.ones(1, 3, 16, 16)).sum()) for network in _cuts_in_turn(model, groups, weights, one, other)]
    found = [float(network(torch.ones(1, 3, 16, 16)).sum()) for network in _cuts_in_turn(model, groups, counted, one, other)]
    assert found == expected
    assert len(asked) == len(set(asked))
    asked.clear()
    monkeypatch.setattr("qcompress.surgery.REMEMBERED", 0)
    found = [float(network(torch.ones(1, 3, 16, 16)).sum()) for network in _cuts_in_turn(model, groups, counted, one, other)]
    assert found == expected
    assert len(asked) > len(set(asked))


def _cuts_in_turn(model: nn.Module, groups: Groups, weights: Weights, *selections: Selection) -> Iterator[nn.Module]:
    shell = SlicedShell(model, weights)
    for _ in range(3):
        for selection in selections:
            yield shell.cut(groups.cuts(selection))


class Pair(nn.Module):
    """Two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.last(torch.relu(self.first(x)))
        return y, y * 2


def test_networks_with_several_outputs_are_measured_and_checked() -> None:
    model = lively(Pair())
    groups = trace(model, torch.zeros(1, 3, 16, 16))
    pair = replace(PSNR, per_image=lambda output, target: psnr(output[1] - output[0], target))
    evaluate = SlicedMetric(model, groups, crops(), pair, BATCH)
    plain = SlicedMetric(model, groups, crops(), pair, BATCH, limit=0)
    for pruned in ((), (0,), (1,), (1, 2), (0,)):
        selection = [Selection(groups.space, pruned)]
        assert np.array_equal(evaluate(selection, range(4)), plain(selection, range(4)))
    assert evaluate.reuses
