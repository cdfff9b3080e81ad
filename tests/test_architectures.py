from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from qcompress.architectures import ARCHITECTURES, construct, recognise
from qcompress.architectures.half_unet import HalfUNet
from qcompress.architectures.matching import compare, shapes_of
from qcompress.errors import ArchitectureError

CASES: list[tuple[str, dict[str, Any]]] = [
    ("half-unet", {"channels": 1, "width": 6, "levels": 3, "ghost": False}),
    ("half-unet", {"channels": 3, "width": 8, "levels": 2, "ghost": True}),
    ("half-unet", {"channels": 3, "width": 4, "levels": 1, "ghost": False, "residual": False, "out_channels": 2}),
    ("dncnn", {"channels": 1, "depth": 4, "width": 5}),
    ("dncnn", {"channels": 3, "depth": 5, "width": 4, "batchnorm": True, "epsilon": 1e-4}),
    ("dncnn", {"channels": 1, "depth": 3, "width": 7, "batchnorm": True, "bias": [False] * 3, "container": "dncnn"}),
    ("dncnn", {"depth": 3, "batchnorm": True, "bias": [True, False, False], "container": "dncnn", "epsilon": 1e-4}),
    ("unet", {"widths": [4, 6, 8], "residual": True}),
    ("unet", {"widths": [4, 6], "channels": 1, "bias": True, "up": "bilinear", "up_kernel": 1, "residual": True}),
    ("unet", {"widths": [3, 5, 7, 9], "decoder": [4, 6, 5], "out_channels": 1}),
    ("unet", {"style": "named", "widths": [4, 8, 16], "out_channels": 2}),
    ("unet", {"style": "named", "widths": [4, 8, 16, 16], "decoder": [4, 4, 8], "up": "bilinear", "bias": True}),
]


def build(name: str, arguments: dict[str, Any]) -> Any:
    """A small network with reproducible weights, BatchNorm statistics included."""
    module = ARCHITECTURES[name].build(**arguments).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for entry, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
            if entry.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return module


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_recognised_from_its_own_shapes(name: str, arguments: dict[str, Any]) -> None:
    module = build(name, arguments)
    found = recognise(shapes_of(module))
    assert found is not None
    assert found[0].name == name
    for key, value in arguments.items():
        assert found[1][key] == value
    again = ARCHITECTURES[name].build(**found[1]).eval()
    again.load_state_dict(module.state_dict(), strict=True)
    x = torch.rand(2, module.channels, 3 * module.stride, 2 * module.stride, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(module(x), again(x))
        assert module(x).shape[2:] == x.shape[2:]
    assert again.stride == module.stride
    assert found[1]["channels"] == module.channels


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_counters_may_be_missing_but_nothing_else(name: str, arguments: dict[str, Any]) -> None:
    shapes = shapes_of(build(name, arguments))
    old = {key: shape for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}
    assert recognise(old) is not None
    for key in list(old)[:: max(1, len(old) // 7)]:
        less = {other: shape for other, shape in old.items() if other != key}
        found = recognise(less)
        assert found is None or not compare(shapes_of(found[0].build(**found[1])), less)
    assert recognise({**old, "another.weight": (3, 3)}) is None


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_stride_is_needed_and_enough(name: str) -> None:
    module = build(name, {"channels": 3})
    with torch.no_grad():
        assert module(torch.zeros(1, 3, 3 * module.stride, 5 * module.stride)).shape == (
            1,
            3,
            3 * module.stride,
            5 * module.stride,
        )
        if module.stride > 1:
            with pytest.raises(RuntimeError):
                module(torch.zeros(1, 3, 3 * module.stride // 2, 3 * module.stride))


def test_dncnn_is_the_input_less_the_chain() -> None:
    module = build(
        "dncnn", {"channels": 2, "depth": 3, "width": 4, "batchnorm": True, "bias": [False] * 3, "container": "dncnn"}
    )
    state: dict[str, Tensor] = module.state_dict()
    x = torch.rand(1, 2, 5, 7, generator=torch.Generator().manual_seed(1))
    y = functional.conv2d(x, state["dncnn.0.weight"], padding=1).relu()
    y = functional.conv2d(y, state["dncnn.2.weight"], padding=1)
    mean, variance = (state[f"dncnn.3.running_{what}"][None, :, None, None] for what in ("mean", "var"))
    y = (y - mean) / (variance + 1e-5).sqrt() * state["dncnn.3.weight"][None, :, None, None]
    y = functional.conv2d((y + state["dncnn.3.bias"][None, :, None, None]).relu(), state["dncnn.5.weight"], padding=1)
    assert torch.allclose(module(x), x - y, atol=1e-6)


def test_published_key_names() -> None:
    names = set(build("dncnn", {"channels": 1, "depth": 17, "width": 4}).state_dict())
    assert names == {f"model.{2 * layer}.{what}" for layer in range(17) for what in ("weight", "bias")}
    named = set(build("unet", {"style": "named", "widths": [4, 8]}).state_dict())
    assert {
        "inc.double_conv.0.weight",
        "down1.maxpool_conv.1.double_conv.4.running_var",
        "up1.up.bias",
        "outc.conv.bias",
    } <= named
    numbered = set(build("unet", {"widths": [4, 8]}).state_dict())
    assert {"e0.0.weight", "e1.4.running_mean", "u0.weight", "d0.3.weight", "out.bias"} <= numbered


def test_unet_joins_skips_in_the_order_of_its_style() -> None:
    """With the half of the weights that the upsampled maps meet set to zero, what is below the skip has no influence."""
    for style, start in (("numbered", 0), ("named", 4)):
        module = build("unet", {"style": style, "widths": [4, 8], "channels": 1})
        block = module.d0 if style == "numbered" else module.up1.conv.double_conv
        bottom = module.e1 if style == "numbered" else module.down1
        x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            before = module(x)
            block[0].weight[:, start : start + 4] = 0
            cut = module(x)
            for parameter in bottom.parameters():
                parameter.mul_(-3)
            assert torch.equal(module(x), cut)
            assert not torch.allclose(before, cut)


def test_construct_allocates_nothing_and_draws_nothing() -> None:
    before = torch.random.get_rng_state()
    module = construct("unet", {"widths": [1024, 2048, 4096]})
    assert all(parameter.is_meta for parameter in module.parameters())
    assert not module.training
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("alexnet", {}, "half-unet, dncnn, unet"),
        ("half-unet", {"width": "wide"}, "width"),
        ("half-unet", {"depth": 3}, "depth"),
        ("half-unet", {"width": 5}, "even"),
        ("half-unet", {"levels": 10**9}, "levels"),
        ("half-unet", {"out_channels": 1}, "as many outputs"),
        ("dncnn", {"width": 16384, "depth": 1000}, "parameters"),
        ("dncnn", {"container": "__class__"}, "container"),
        ("unet", {"widths": [4]}, "widths"),
        ("unet", {"widths": [4, 8], "decoder": [4, 4]}, "one entry fewer"),
        ("unet", {"style": "named", "widths": [4, 1]}, "halves"),
    ],
)
def test_impossible_arguments(name: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ArchitectureError, match=says) as caught:
        construct(name, arguments)
    assert "\n" not in caught.value.message


def test_half_unet_refuses_a_residual_between_different_channels() -> None:
    with pytest.raises(ValueError, match="3 inputs and 1 outputs"):
        HalfUNet(3, 4, 2, out_channels=1)


names = st.sampled_from(
    [
        *("enc.0.0.0.weight", "enc.0.0.primary.0.weight", "enc..weight", "out.weight", "model.0.weight", "model.2.weight"),
        *("model.x.weight", "model.weight", "dncnn.0.weight", "dncnn.4.weight", "e0.0.weight", "e0.3.weight", "e.0.weight"),
        *("eleven.0.weight", "u0.1.weight", "d0.3.weight", "inc.double_conv.0.weight", "inc.double_conv.3.weight"),
        *("outc.conv.weight", "down1.maxpool_conv.1.double_conv.0.weight", "up1.up.weight", "", "."),
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(names, st.lists(st.integers(0, 5), max_size=5).map(tuple), max_size=12))
def test_recognise_never_fails_and_never_lies(shapes: dict[str, tuple[int, ...]]) -> None:
    found = recognise(shapes)
    if found is not None:
        assert not compare(shapes_of(found[0].build(**found[1])), shapes)


def test_mismatch_is_told_in_one_line() -> None:
    mismatch = compare({"a": (1,), "b": (2,), "c.num_batches_tracked": ()}, {"b": (3,), **{f"x{i}": (1,) for i in range(5)}})
    assert str(mismatch) == "missing: a; unexpected: x0, x1, x2 and 2 more; of another shape: b (file [3], network [2])"
    assert mismatch.count == 7
    assert not compare({"a": (1,)}, shapes_of({"a": torch.zeros(1)}))


def test_a_plain_network_is_not_recognised() -> None:
    assert recognise(shapes_of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3)))) is None
    assert recognise({}) is None
