"""How far an error at the outputs of a layer carries to the output of the network, place by place."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from qcompress import seeds
from qcompress.data.images import CalibrationCrops
from qcompress.errors import InputError
from qcompress.frozen import answer, frozen
from qcompress.progress import Advance
from qcompress.recover.design import divisions
from qcompress.recover.moments import affine
from qcompress.surgery import outputs_of

__all__ = ["measure_sensitivity"]


def measure_sensitivity(
    model: nn.Module,
    layers: Iterable[str],
    crops: CalibrationCrops,
    *,
    batch: int = 8,
    progress: Advance | None = None,
) -> dict[str, Tensor]:
    """(g, outputs / g, outputs / g) float64 per layer of g divisions: mean over crops, sum over places, of J'J.

    J is the derivative of all that the network returns in the layer's outputs at one place, before what follows them. An error
    e there changes the network's output by about e J'J e' in squares: the Gauss-Newton curvature, places taken as independent
    (as in K-FAC, Martens and Grosse, ICML 2015). It is measured by random projections: one normal vector v of the output's
    shape per crop, the gradient of v . output, one forward and one backward pass. Layers on which the output does not depend,
    as far as gradients know, are left out; the network is left as it was. Raises InputError where a gradient is not finite.

    The loss itself is not differentiated: its gradients follow the residuals of the calibration crops, and a choice by
    them was worse (docs/benchmarks.md).
    """
    names = list(layers)
    sums: dict[str, Tensor] = {}
    handles = []

    def watch(name: str) -> None:
        module = affine(model, name)
        axis, g = (-1 if isinstance(module, nn.Linear) else 1), divisions(module)

        def take(gradient: Tensor) -> None:
            rows = gradient.detach().movedim(axis, -1)
            rows = rows.reshape(-1, g, rows.shape[-1] // g).transpose(0, 1).double()
            sums[name] = sums.get(name, 0.0) + rows.transpose(1, 2) @ rows

        # A hook on the tensor sees the gradient before anything that changes the tensor in place, such as a ReLU.
        handles.append(module.register_forward_hook(lambda _, __, output: _hooked(output, take)))

    with frozen(model), torch.enable_grad():
        try:
            for name in names:
                watch(name)
            for start in range(0, len(crops), batch):
                inputs = crops.inputs[start : start + batch].clone().requires_grad_(True)
                _projected(outputs_of(answer(model, inputs)), start).backward()  # type: ignore[no-untyped-call]
                if progress:
                    progress(min(start + batch, len(crops)) / len(crops))
        finally:
            for handle in handles:
                handle.remove()
    for name, found in sums.items():
        if not bool(torch.isfinite(found).all()):
            message = f"layer {name}: how the output depends on it, on the calibration images, is not finite"
            raise InputError(message, "another --objective does not differentiate all outputs")
    return {name: found / len(crops) for name, found in sums.items()}


def _projected(outputs: list[Tensor], start: int) -> Tensor:
    """() the sum over all outputs that can be differentiated, each times normal numbers of its own.

    Raises InputError where there is none.
    """
    parts = [(output * _normal(output, start, place)).sum() for place, output in enumerate(outputs) if output.requires_grad]
    if not parts:
        hint = "is its forward under no_grad? --objective magnitude needs no gradients"
        raise InputError("the network's output does not depend on its input in a way that can be differentiated", hint)
    return torch.stack([part.double() for part in parts]).sum()


def _normal(like: Tensor, start: int, place: int) -> Tensor:
    """Independent normal numbers, the same for the same shape, crops and place among the outputs, on every device."""
    own = f"/{place}" if place else ""
    generator = torch.Generator().manual_seed(seeds.integer(start, f"sensitivity/{tuple(like.shape)}{own}"))
    return torch.randn(like.shape, generator=generator).to(like)


def _hooked(output: Tensor, take: Callable[[Tensor], None]) -> None:
    if output.requires_grad:
        output.register_hook(take)  # type: ignore[no-untyped-call]
