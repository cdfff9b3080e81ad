"""What two classifiers say of one image, and how far they are apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Answers", "answers"]

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Answers:
    """Of one image: the class that each ranks first, and for some classes the probability by each.

    shown   (class, probability by the dense network, by the slim one), without repetition: what the dense network ranks first,
            what the slim one does, the true class
    change  total variation distance of the two distributions: 0 where they are the same, 1 where they have nothing in common
    """

    dense: int
    slim: int
    shown: tuple[tuple[int, float, float], ...]
    change: float

    @property
    def differ(self) -> bool:
        """Whether the image got another class."""
        return self.dense != self.slim


def answers(dense: Floats, slim: Floats, label: int) -> Answers:
    """Of the outputs (classes,) for an image of the class `label`."""
    ours, theirs = _probabilities(slim), _probabilities(dense)
    first = int(theirs.argmax()), int(ours.argmax())
    shown = tuple((number, float(theirs[number]), float(ours[number])) for number in dict.fromkeys((*first, label)))
    return Answers(*first, shown, float(np.abs(ours - theirs).sum() / 2))


def _probabilities(output: Floats) -> NDArray[np.float64]:
    """(classes,) by softmax, or as they are where the network has taken it itself."""
    values = output.astype(np.float64)
    if values.min() >= 0 and abs(values.sum() - 1) < 1e-3:
        return values
    powers = np.exp(values - values.max())
    shares: NDArray[np.float64] = powers / powers.sum()
    return shares
