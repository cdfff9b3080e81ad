"""Numbers as a page shows them: short texts, and places on an axis in per cent."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from qcompress.plots.numbers import drawable

__all__ = ["Axis", "axis", "change", "fixed", "short", "size", "times"]

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


def short(value: float | None) -> str:
    """A large count in three digits.

    >>> short(5073666048), short(230691), short(384), short(None)
    ('5.07 G', '231 k', '384', '–')
    """
    if not drawable(value):
        return "–"
    for power, letter in ((4, "T"), (3, "G"), (2, "M"), (1, "k")):
        if abs(value) >= 1000**power:
            return f"{_three(value / 1000**power)} {letter}"
    return f"{value:g}"


def size(value: int | None) -> str:
    """Bytes.

    >>> size(354598), size(4200000), size(512)
    ('355 kB', '4.2 MB', '512 B')
    """
    if not drawable(value):
        return "–"
    for power, letter in ((3, "GB"), (2, "MB"), (1, "kB")):
        if value >= 1000**power:
            return f"{_three(value / 1000**power)} {letter}"
    return f"{value} B"


def fixed(value: float | None, digits: int, unit: str = "") -> str:
    """A measurement, a dash where there is none."""
    return f"{value:.{digits}f}{f' {unit}' if unit else ''}" if drawable(value) else "–"


def change(before: float | None, after: float | None) -> str:
    """What became of a quantity.

    >>> change(200, 100), change(3, 3), change(0, 1)
    ('−50 %', '±0 %', '')
    """
    if not drawable(before) or not drawable(after) or not before:
        return ""
    share = 100 * (after - before) / before
    return f"{share:+.0f} %".replace("-", "−") if round(share) else "±0 %"


def times(value: float | None) -> str:
    """A speedup."""
    return f"{value:.2f}×" if drawable(value) else "–"


@dataclass(frozen=True)
class Axis:
    """A range of values laid over 0 to 100 %; `ticks` are (place in per cent, text)."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    @property
    def crowded(self) -> bool:
        """Whether the texts are too long to stand side by side on a narrow screen."""
        return any(len(text) > 5 for _, text in self.ticks)

    def place(self, value: float) -> float:
        """Where `value` lies, in per cent, inside the range."""
        return round(100 * min(max((value - self.low) / (self.high - self.low), 0.0), 1.0), 2)


def axis(values: Iterable[float | None], *, margin: float = 0.06, wanted: int = 5) -> Axis | None:
    """An axis that holds all values that can be drawn, with about `wanted` round ticks; None where there are none."""
    known = [float(value) for value in values if drawable(value)]
    if not known:
        return None
    low, high = min(known), max(known)
    room = margin * (high - low) or max(abs(high), 1.0) * 0.05
    low, high = low - room, high + room
    step = _step((high - low) / wanted)
    first, last = math.ceil(low / step), math.floor(high / step)
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) + (1 if _odd(step) else 0)
    found = Axis(low, high, ())
    ticks = ((found.place(n * step), _tick(n * step, digits)) for n in range(first, last + 1))
    return Axis(low, high, tuple(ticks))


def _step(rough: float) -> float:
    """The smallest round number that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in _STEPS if step * power >= rough * (1 - 1e-9))


def _odd(step: float) -> bool:
    """Whether a step has a digit more than its power of ten: 2.5."""
    return abs(step / 10.0 ** math.floor(math.log10(step) + 1e-9) - 2.5) < 1e-6


def _tick(value: float, digits: int) -> str:
    if abs(value) >= 10_000:
        return short(value)
    return f"{value:.{digits}f}".replace("-", "−")


def _three(value: float) -> str:
    """Three significant digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
