"""Static repair: a consumer of removed channels is refitted from what the dense network's channels tell about each other.

The fit of one layer needs its own cut and the moments of the dense network, no image and no other layer's repair. So it takes
milliseconds, which is what lets a search measure candidates as they will be after a repair; and it cannot follow a chain of
errors down the network, which the sequential repair (`lstsq`) does for better or worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qcompress.groups import Cut
from qcompress.recover.design import Affine, divisions, parameters_of
from qcompress.recover.moments import SecondMoments, affine

__all__ = ["RIDGE", "StaticRepair"]

RIDGE = 1e-4
"""Times the mean of x^2: 1e-3 and 1e-2 cost 0.02 and 0.1 dB on DnCNN, elsewhere it does not matter (docs/benchmarks.md)."""


@dataclass(frozen=True, eq=False)
class StaticRepair:
    """Weights of layers under their cuts: minimal mean |dense output - output|^2 over what the dense network sees.

    Callable as `surgery.Weights`. `dense` is the network that the moments are of; it is read, never changed.
    """

    dense: nn.Module
    moments: Mapping[str, SecondMoments]
    ridge: float = RIDGE

    def __call__(self, name: str, cut: Cut) -> tuple[Tensor, Tensor] | None:
        """Weight and bias of layer `name` under `cut`; None where no input went, or nothing is known of the layer."""
        found = self.moments.get(name)
        if cut.kept_in is None or found is None:
            return None
        module = affine(self.dense, name)
        return parameters_of(module, self._matrix(module, found, cut))

    def to(self, device: torch.device | str, dense: nn.Module) -> StaticRepair:
        """The same on `device`, where `dense` is the network."""
        moved = {name: found.to(device) for name, found in self.moments.items()}
        return StaticRepair(dense, moved, self.ridge)

    def repair(self, slim: nn.Module, cuts: Mapping[str, Cut]) -> None:
        """Gives the layers of `slim`, which `cuts` made from the dense network, their weights, in place."""
        for name, cut in cuts.items():
            given = self(name, cut)
            if given is None:
                continue
            module, (weight, bias) = affine(slim, name), given
            trained = module.weight.requires_grad
            module.weight, module.bias = nn.Parameter(weight, trained), nn.Parameter(bias, trained)

    def _matrix(self, module: Affine, found: SecondMoments, cut: Cut) -> Tensor:
        """(g, D' + 1, outputs' / g) the fitted weights of what is kept, the bias in the last row."""
        second = found.damped(self.ridge)
        assert cut.kept_in is not None
        kept = found.columns(c for c in cut.kept_in if c < found.channels)  # all divisions keep equal places
        rows = torch.tensor([*kept, second.shape[1] - 1], device=second.device)
        answers = second[:, rows] @ found.weight
        fitted = torch.linalg.solve(second[:, rows[:, None], rows], answers)
        if found.shared > 1:
            fitted = self._unshared(module, fitted, found)
        return _outputs(fitted, module, cut)

    @staticmethod
    def _unshared(module: Affine, fitted: Tensor, found: SecondMoments) -> Tensor:
        """One row per channel and tap again; what the taps have of constants goes into the bias, borders aside."""
        g, size, outputs = fitted.shape[0], fitted.shape[1] - 1, fitted.shape[2] // found.shared
        bias = found.seen * fitted[:, -1:].reshape(g, 1, found.shared, outputs).sum(2)
        if module.bias is not None:
            bias = bias + module.bias.detach().double().reshape(g, 1, outputs)
        return torch.cat((fitted[:, :-1].reshape(g, size * found.shared, outputs), bias), 1)


def _outputs(matrix: Tensor, module: Affine, cut: Cut) -> Tensor:
    """The columns of the outputs that stay: of every division the same places."""
    if cut.kept_out is None:
        return matrix
    each = matrix.shape[2]
    places = [c for c in cut.kept_out if c < each] if divisions(module) > 1 else list(cut.kept_out)
    return matrix[:, :, torch.tensor(places, device=matrix.device)]
