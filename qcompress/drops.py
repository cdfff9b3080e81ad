"""How much worse a metric may become, as people write it: a number, perhaps with the unit of the metric's differences."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from qcompress.errors import UsageError

__all__ = ["Drop", "check_unit", "parse_drop"]

_UNITS = {"": "", "db": "dB", **dict.fromkeys(("pt", "pts", "point", "points", "%"), "points")}
_AMOUNT = re.compile(r"^\s*([+-]?[\d.]+(?:e[+-]?\d+)?|[+-]?inf|nan)\s*([a-z]*|%)\s*$", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Drop:
    """An amount in `unit`, dB or points; "": in whatever unit the metric's differences have."""

    amount: float
    unit: str = ""


def parse_drop(text: str, option: str) -> Drop:
    """The value of `option`. Raises UsageError.

    >>> parse_drop("0.1dB", "--max-drop"), parse_drop("2 pts", "--max-drop"), parse_drop("1e-3", "--max-drop")
    (Drop(amount=0.1, unit='dB'), Drop(amount=2.0, unit='points'), Drop(amount=0.001, unit=''))
    """
    found = _AMOUNT.match(text)
    unit = None if found is None else _UNITS.get(found.group(2).lower())
    try:
        amount = math.nan if found is None else float(found.group(1))
    except ValueError:
        amount = math.nan
    example = f"{option}0.1dB" if option.endswith(":") else f"{option} 0.1dB"
    if unit is None or not 0 <= amount < math.inf:  # nan fails too
        raise UsageError(
            f"{option} {text[:40]!r}: expected a finite number of 0 or more, perhaps with dB or points",
            f"for example {example}",
        )
    return Drop(amount, unit)


def check_unit(unit: str, option: str, metric: str, difference_unit: str) -> None:
    """Raises UsageError where a drop has a unit that is not the one of the metric's differences."""
    if unit not in ("", difference_unit):
        has = f"in {difference_unit}" if difference_unit else "numbers without a unit"
        raise UsageError(
            f"{option} is given in {unit}, but drops of {metric} are {has}", "a number alone is in the metric's own unit"
        )
