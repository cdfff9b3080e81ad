"""Which values of a report can be a place on an axis: reports come from strangers, too."""

from __future__ import annotations

import math
from typing import TypeGuard

from qcompress.errors import InputError
from qcompress.reports import Report
from qcompress.visible import visible

__all__ = ["check", "drawable"]

_LARGEST = 1e30  # no measurement comes near, and sums and squares of it are still numbers
_MOST_UNITS = 2**31
_MOST_GROUPS = 2000  # more would take minutes, and no one could read them


def drawable(value: object) -> TypeGuard[int | float]:
    """Whether `value` is a number that was measured: no truth value, finite, not absurdly large.

    >>> drawable(3), drawable(None), drawable(True), drawable(float("nan")), drawable(10**400)
    (True, False, False, False, False)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < _LARGEST and (isinstance(value, int) or math.isfinite(value))


def check(report: Report, name: str) -> None:
    """Raises InputError for groups beyond drawing, or with counts that no network has; `name` is the report's for the user."""
    units = report.units
    if len(units.per_group) > _MOST_GROUPS:
        raise InputError(f"{name}: {len(units.per_group)} groups, expected at most {_MOST_GROUPS}")
    if not 0 <= units.pruned <= units.total < _MOST_UNITS:
        raise InputError(f"{name}: no network has the counts of its units")
    for group, found in units.per_group.items():
        if not 0 <= found.pruned <= found.total < _MOST_UNITS or not found.total:
            raise InputError(f"{name}: no network has the counts of its group {visible(group)}")
