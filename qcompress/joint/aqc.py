"""Pruning and quantisation as one quadratic model without constraints, as in Wang et al., arXiv 2505.16332: objective `aqc`.

    p_{n,i} = 1: filter i of layer n goes;   b_n = b_max - sum_k 2^k q_{n,k}: bits that the weights of layer n keep
    H = L_p + beta L_q - gamma R
    L_p = sum_n (sum_i a_{n,i} p_{n,i})^2                  a_{n,i} = mean |w| of the filter
    L_q = sum_n c_n (sum_k 2^k q_{n,k})^2
    R   = 1 - sum_n sum_i N_{n,i} (1 - p_{n,i}) b_n / (b_max sum N)      N_{n,i} weights of the filter

R has products p q, so H is quadratic as it stands. Inputs that a layer loses with the filters before it are not in R. Filters
that go together (a unit, in one or several layers) share one p; of a filter that no unit owns, p is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcompress.errors import UsageError
from qcompress.groups import Groups
from qcompress.joint.sizes import QUANTISABLE
from qcompress.problem import Problem
from qcompress.selection import Unit

if TYPE_CHECKING:
    from dimod import BinaryQuadraticModel

__all__ = ["Aqc", "AqcModel", "aqc_model"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Aqc:
    """The model's settings. gamma is none of them: it is searched for, so that the size is met.

    beta       weight of L_q
    b_max      bits of a weight as it is
    exponents  the k: 2^k bits go with q_{n,k}. By default bits go in fours, as files have no widths in between
    layer      c_n, by layer; of the others it is (sum_i a_{n,i})^2 / b_max^2: all bits of a layer are worth as much as all its
               filters. This choice is ours.

    Raises UsageError where all bits could go, and for a beta or a c_n that is not a number of 0 or more.
    """

    beta: float = 1.0
    b_max: int = 32
    exponents: tuple[int, ...] = (2, 3, 4)
    layer: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        most = sum(2**k for k in self.exponents)
        if len(set(self.exponents)) != len(self.exponents) or min(self.exponents, default=0) < 0 or most >= self.b_max:
            raise UsageError(
                f"objective aqc: exponents {self.exponents} take {most} of {self.b_max} bits, expected different ones, from 0, "
                "that leave at least 1"
            )
        for value in (self.beta, *(self.layer or {}).values()):
            if not (np.isfinite(value) and value >= 0):
                raise UsageError(f"objective aqc: {value} is no weight of a loss, expected a number of 0 or more")


@dataclass(frozen=True, eq=False)
class AqcModel:
    """H of a network; made by `aqc_model`. p (..., n) are the network's units, q (..., layers, exponents) bits by layer.

    magnitude  (layers, n) sum of a_{n,i} over the filters that a unit owns in a layer
    weights    (layers, n) the same of N_{n,i};  rest  (layers,) of the filters that no unit owns
    scale      (layers,) c_n
    """

    groups: Groups
    settings: Aqc
    layers: tuple[str, ...]
    magnitude: Floats
    weights: Floats
    rest: Floats
    scale: Floats

    @cached_property
    def powers(self) -> Floats:
        """(exponents,) 2^k."""
        return 2.0 ** np.array(self.settings.exponents, np.float64)

    def removed(self, q: ArrayLike) -> Floats:
        """(..., layers) bits that go."""
        return np.asarray(np.asarray(q, np.float64) @ self.powers)

    def pruning(self, p: ArrayLike) -> Floats:
        """(...) L_p."""
        return np.asarray(((np.asarray(p, np.float64) @ self.magnitude.T) ** 2).sum(-1))

    def quantisation(self, removed: ArrayLike) -> Floats:
        """(...) L_q, for (..., layers) bits that go."""
        return np.asarray((np.asarray(removed, np.float64) ** 2) @ self.scale)

    def loss(self, p: ArrayLike, removed: ArrayLike) -> Floats:
        """(...) L_p + beta L_q."""
        return np.asarray(self.pruning(p) + self.settings.beta * self.quantisation(removed))

    def reduction(self, p: ArrayLike, removed: ArrayLike) -> Floats:
        """(...) R."""
        kept = self.rest + (1 - np.asarray(p, np.float64)) @ self.weights.T
        bits = self.settings.b_max - np.asarray(removed, np.float64)
        return np.asarray(1 - (kept * bits).sum(-1) / (self.settings.b_max * self._all))

    @cached_property
    def _all(self) -> float:
        return float(self.weights.sum() + self.rest.sum())

    @cached_property
    def variables(self) -> tuple[Unit, ...]:
        """Labels of the model: the units, then ("bits of " + layer, k) for every layer and exponent."""
        bits = (Unit(f"bits of {layer}", k) for layer in self.layers for k in self.settings.exponents)
        return (*self.groups.space.units, *bits)

    def bqm(self, gamma: float) -> BinaryQuadraticModel:
        """H at `gamma`, over `variables`."""
        import dimod

        units, price = len(self.groups.space), gamma / self._all
        squares, powers = self.settings.beta * self.scale[:, None], self.powers
        held = self.weights.sum(1) + self.rest
        bits = squares * powers**2 - price * held[:, None] / self.settings.b_max * powers
        linear = np.concatenate(((self.magnitude**2).sum(0) - price * self.weights.sum(0), bits.ravel()))
        pairs: list[tuple[NDArray[np.intp], NDArray[np.intp], Floats]] = []
        for number, (own, weights) in enumerate(zip(self.magnitude, self.weights, strict=True)):
            q = units + number * len(powers) + np.arange(len(powers))
            p = np.flatnonzero(own)
            first, second = np.triu_indices(len(p), 1)
            pairs.append((p[first], p[second], 2 * own[p[first]] * own[p[second]]))
            first, second = np.triu_indices(len(powers), 1)
            pairs.append((q[first], q[second], 2 * squares[number] * powers[first] * powers[second]))
            p = np.flatnonzero(weights)
            products = price / self.settings.b_max * np.outer(weights[p], powers)
            pairs.append((np.repeat(p, len(powers)), np.tile(q, len(p)), products.ravel()))
        rows, columns, values = (np.concatenate([each[part] for each in pairs]) for part in range(3))
        return dimod.BinaryQuadraticModel.from_numpy_vectors(
            linear, (rows, columns, values), 0.0, dimod.BINARY, variable_order=list(self.variables)
        )

    @cached_property
    def problem(self) -> Problem:
        """L_p inside groups, over the units: all of it, where no layer has filters of two groups."""
        couplings = []
        for span in self.groups.space.spans:
            own = self.magnitude[:, span]
            block = 2 * own.T @ own
            np.fill_diagonal(block, 0.0)
            couplings.append((block + block.T) / 2)
        return Problem(self.groups.space, np.asarray((self.magnitude**2).sum(0)), tuple(couplings))


def aqc_model(groups: Groups, magnitudes: Mapping[str, Sequence[float] | Floats], settings: Aqc | None = None) -> AqcModel:
    """H of the network of `groups`, for the layers of `magnitudes`: by name (outputs,) mean |w| of every filter.

    Raises UsageError for a layer that has no filters of weights, or another number of them.
    """
    settings, space = settings or Aqc(), groups.space
    named = {layer.name: layer for layer in groups.layers if layer.kind in QUANTISABLE}
    names = tuple(name for name in named if name in magnitudes)
    if foreign := sorted(set(magnitudes) - set(named)):
        raise UsageError(f"objective aqc: magnitudes are given of {', '.join(foreign)}, expected layers with filters")
    owners = {name: np.full(named[name].outputs, -1, np.intp) for name in names}
    for group, span in zip(groups.groups, space.spans, strict=True):
        for member in group.side("out"):
            for unit, channels in enumerate(member.channels if member.layer in owners else ()):
                owners[member.layer][list(channels)] = span.start + unit
    magnitude, weights, rest = np.zeros((len(names), len(space))), np.zeros((len(names), len(space))), np.zeros(len(names))
    scale = np.zeros(len(names))
    for number, name in enumerate(names):
        layer, mean, owner = named[name], np.asarray(magnitudes[name], np.float64), owners[name]
        if mean.shape != (layer.outputs,) or not np.isfinite(mean).all() or (mean < 0).any():
            raise UsageError(f"objective aqc: layer {name} needs {layer.outputs} magnitudes of 0 or more, got {mean.shape}")
        each = (layer.params(layer.inputs, layer.outputs) - layer.bias * layer.outputs) / layer.outputs
        owned = owner >= 0
        np.add.at(magnitude[number], owner[owned], mean[owned])
        np.add.at(weights[number], owner[owned], each)
        rest[number] = each * int((~owned).sum())
        scale[number] = (settings.layer or {}).get(name, (float(mean.sum()) / settings.b_max) ** 2)
    return AqcModel(groups, settings, names, magnitude, weights, rest, scale)
