"""The Pareto front of cost against drop, and its knee. Lower is better for both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Place", "knee", "on_front"]


class Place(NamedTuple):
    """What a network costs and how much worse it is than the dense one; nan where that is not known."""

    cost: float
    drop: float


def on_front(places: Sequence[Place]) -> list[bool]:
    """For each place whether no other is as good in both and better in one; equal places share theirs.

    >>> on_front([Place(1, 0), Place(0.5, 0.2), Place(0.6, 0.3), Place(0.5, math.nan)])
    [True, True, False, False]
    """
    known = [place for place in places if _known(place)]
    return [_known(place) and not any(_dominates(other, place) for other in known) for place in places]


def knee(places: Sequence[Place]) -> int | None:
    """Which place of the front lies farthest below the chord between the front's ends; None where none lies below it.

    Both axes are scaled so that the front's ends are at 0 and 1. This is the maximum of the difference curve of Satopaa,
    Albrecht, Irwin and Raghavan (Finding a "Kneedle" in a Haystack, ICDCSW 2011), which is the distance from the chord but for
    a factor. The curve is not smoothed and has no threshold: a sweep has few points, and one knee is asked for.

    >>> knee([Place(1, 0), Place(0.5, 0.1), Place(0.25, 1.0), Place(0.6, 0.3)]), knee([Place(1, 0), Place(0.5, 0.1)])
    (1, None)
    """
    front = sorted((place, number) for number, (place, kept) in enumerate(zip(places, on_front(places), strict=True)) if kept)
    if len(front) < 3:
        return None
    (cheapest, worst), (dearest, best) = front[0][0], front[-1][0]
    if not (cheapest < dearest and best < worst):
        return None

    def below(place: Place) -> float:
        return 1 - (place.cost - cheapest) / (dearest - cheapest) - (place.drop - best) / (worst - best)

    place, number = max(front, key=lambda one: below(one[0]))
    return number if below(place) > _LEAST else None


_LEAST = 1e-9  # the ends are on the chord, but for rounding


def _known(place: Place) -> bool:
    return math.isfinite(place.cost) and math.isfinite(place.drop)


def _dominates(other: Place, place: Place) -> bool:
    return other.cost <= place.cost and other.drop <= place.drop and other != place
