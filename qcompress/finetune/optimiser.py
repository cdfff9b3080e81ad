"""What moves the weights: Muon those of layers, as matrices; Adam all others.

Muon (Jordan and others, 2024, https://kellerjordan.github.io/posts/muon/) gives the step of a matrix singular values that are
all about one, so directions that the gradient hardly has move as far as those that it has most of. Why that helps so much after
a repair was not looked into; that it does is in docs/benchmarks.md. Steps are as long as Adam's would be (Liu and others, arXiv
2502.16982), so one learning rate serves both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qcompress.finetune.state import Tensors
from qcompress.settings import Optimiser

__all__ = ["WIDEST", "Mover", "matrices"]

WIDEST = 512
"""A matrix whose smaller side is larger goes to Adam: evening out its singular values may take more operations than a pass."""

_BETAS = (0.9, 0.999)
_MOMENTUM = 0.95
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


def matrices(model: nn.Module) -> frozenset[str]:
    """Names of the weights that are one matrix, from channels to channels: not of grouped layers, which are many small ones."""
    return frozenset(
        f"{name}.weight" if name else "weight"
        for name, layer in model.named_modules()
        if isinstance(layer, _LAYERS)
        and isinstance(layer.weight, nn.Parameter)
        and getattr(layer, "groups", 1) == 1
        and 1 < min(len(layer.weight), layer.weight[0].numel()) <= WIDEST
    )


class Mover:
    """An optimiser of `weights`, the parameters of `model` by name, which it moves in place.

    first, second  moments to go on with, after `steps` steps; empty to begin. Those that Muon moves have no second one
    """

    def __init__(
        self, model: nn.Module, weights: Tensors, kind: Optimiser, first: Tensors, second: Tensors, steps: int
    ) -> None:
        found = matrices(model) if kind == "muon" else frozenset[str]()
        self._weights = {name: weight for name, weight in weights.items() if name not in found}
        self._layers = {name: weight for name, weight in weights.items() if name in found}
        self._flat = {name: _flat(weight, weight.detach()) for name, weight in self._layers.items()}
        self._adam = torch.optim.Adam(self._weights.values(), lr=0.0, betas=_BETAS) if self._weights else None
        self._muon = (
            torch.optim.Muon(self._flat.values(), lr=0.0, weight_decay=0.0, momentum=_MOMENTUM, adjust_lr_fn="match_rms_adamw")
            if self._flat
            else None
        )
        self._take_up(first, second, steps)

    def _take_up(self, first: Tensors, second: Tensors, steps: int) -> None:
        for name, moment in first.items():
            weight = self._layers.get(name)
            if weight is None:
                place, count = self._weights[name], torch.tensor(float(steps))
                both = (part.to(place, copy=True) for part in (moment, second[name]))
                assert self._adam is not None
                self._adam.state[place] = dict(zip(("exp_avg", "exp_avg_sq", "step"), (*both, count), strict=True))
            else:
                assert self._muon is not None
                self._muon.state[self._flat[name]] = {"momentum_buffer": _flat(weight, moment.to(weight), copy=True)}

    def zero(self) -> None:
        """Forgets the gradients."""
        for weight in (*self._weights.values(), *self._layers.values()):
            weight.grad = None

    def step(self, rate: float) -> None:
        """Moves the weights by their gradients."""
        for name, weight in self._layers.items():
            self._flat[name].grad = None if weight.grad is None else _flat(weight, weight.grad, copy=True)
        for optimiser in (self._adam, self._muon):
            if optimiser is not None:
                for group in optimiser.param_groups:
                    group["lr"] = rate
                optimiser.step()

    def moments(self) -> tuple[Tensors, Tensors]:
        """Copies of the first and second moments, of the parameters that have some, in the parameters' shapes."""
        first, second = {}, {}
        for name, weight in self._weights.items():
            state = self._adam.state.get(weight) if self._adam is not None else None
            if state:
                first[name], second[name] = state["exp_avg"].clone(), state["exp_avg_sq"].clone()
        for name, weight in self._layers.items():
            state = self._muon.state.get(self._flat[name]) if self._muon is not None else None
            if state:
                first[name] = _shaped(weight, state["momentum_buffer"])
        return first, second


def _order(weight: Tensor) -> list[int]:
    """The dimensions behind the first, as they lie in memory."""
    return sorted(range(1, weight.dim()), key=weight.stride, reverse=True)


def _flat(weight: Tensor, values: Tensor, *, copy: bool = False) -> Tensor:
    """(rows, columns) `values`, shaped like `weight`, with columns as they lie in its memory; the same memory unless `copy`."""
    arranged = values.permute(0, *_order(weight))
    return arranged.reshape(len(weight), -1).clone() if copy else arranged.view(len(weight), -1)


def _shaped(weight: Tensor, flat: Tensor) -> Tensor:
    """What `_flat` made a matrix of, back in the shape of `weight`; a copy."""
    order = [0, *_order(weight)]
    back = [order.index(axis) for axis in range(weight.dim())]
    return flat.reshape([weight.shape[axis] for axis in order]).permute(back).clone()
