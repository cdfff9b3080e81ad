"""Which widths each layer may take, and what each of them loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompress.errors import UsageError
from qcompress.joint.problem import JointSpace
from qcompress.joint.sizes import Sizes
from qcompress.widths import WIDTHS

__all__ = ["Offers", "offers_of"]


@dataclass(frozen=True, eq=False)
class Offers:
    """Per layer of `sizes.layers`: the places in `WIDTHS` that it may take, the widest first, and what each loses."""

    sizes: Sizes
    places: tuple[NDArray[np.int64], ...]
    losses: tuple[NDArray[np.float64], ...]

    @property
    def space(self) -> JointSpace:
        """The units, and steps of the layers that have a choice."""
        pairs = zip(self.sizes.layers, self.places, strict=True)
        free = [(layer.name, len(own) - 1) for layer, own in pairs if len(own) > 1]
        return JointSpace(self.sizes.groups.space, tuple(name for name, _ in free), tuple(steps for _, steps in free))

    @property
    def steps(self) -> list[NDArray[np.float64]]:
        """The losses of the layers that have a choice."""
        return [own for own in self.losses if len(own) > 1]

    def named(self, places: Sequence[int]) -> dict[str, str]:
        """The widths at `places` (layers,), by name of every layer that can be quantised."""
        every = zip(self.sizes.layers, self.places, places, strict=True)
        quantisable = set(self.sizes.quantisable)
        return {layer.name: WIDTHS[own[place]] for layer, own, place in every if layer.name in quantisable}

    def lost(self, places: Sequence[int]) -> float:
        """What the widths at `places` (layers,) lose."""
        return float(sum(own[place] for own, place in zip(self.losses, places, strict=True)))


def offers_of(sizes: Sizes, losses: Mapping[str, Mapping[str, float]], allowed: Sequence[str]) -> Offers:
    """Of the widths `allowed`, those with a finite loss; a loss is at least that of a wider width, and float32 loses nothing.

    Layers without losses stay float32. Raises UsageError for losses of another layer, and for a layer that has no width left.
    """
    if foreign := sorted(set(losses) - set(sizes.quantisable)):
        raise UsageError(f"losses are given of {', '.join(foreign)}, expected layers that can be quantised")
    places, values = [], []
    for layer in sizes.layers:
        own = {"float32": 0.0, **losses[layer.name]} if layer.name in losses else None
        names = [width for width in WIDTHS if width in allowed and np.isfinite(own.get(width, np.inf))] if own else ["float32"]
        if not names:
            raise UsageError(
                f"layer {layer.name} has no loss that is a number at {', '.join(allowed)}", "allow more widths with --bits"
            )
        places.append(np.array([WIDTHS.index(width) for width in names], np.int64))
        values.append(np.maximum.accumulate(np.maximum([own[width] if own else 0.0 for width in names], 0.0)))
    return Offers(sizes, tuple(places), tuple(values))
