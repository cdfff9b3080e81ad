"""What matters stays: shares of groups that are kept at least or at most, and multiples of their own, by patterns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from fractions import Fraction

from qcompress.errors import UsageError
from qcompress.groups import Group, Groups
from qcompress.settings import SearchOptions

__all__ = ["Protection", "protected", "protection"]


@dataclass(frozen=True)
class Protection:
    """Per group, in order: units that stay at least, and at most; the multiple of channels that it keeps, 0 for the run's.

    `ceilings` and `multiples` are empty where nothing was said.
    """

    floors: tuple[int, ...]
    ceilings: tuple[int, ...]
    multiples: tuple[int, ...]


def protection(groups: Groups, options: SearchOptions) -> Protection:
    """What the patterns of the options say of the groups; where several match one, the strictest counts.

    A pattern (fnmatch) is for groups of that name, and for those that a layer of that name makes.

    Raises UsageError for a pattern that matches none, and for a group that is to keep more than it may.
    """
    sizes = groups.space.sizes
    keep, most = _matched(groups, options.keep, "--keep"), _matched(groups, options.keep_at_most, "--keep-at-most")
    floors = tuple(
        max([floor, *(math.ceil(_share(share) * size) for share in shares)])
        for floor, size, shares in zip(groups.space.floors, sizes, keep, strict=True)
    )
    ceilings = tuple(
        min([size, *(math.floor(_share(share) * size) for share in shares)]) for size, shares in zip(sizes, most, strict=True)
    )
    for group, floor, ceiling in zip(groups.groups, floors, ceilings, strict=True):
        if floor > ceiling:
            raise UsageError(
                f"group {group.name} is to keep at least {floor} and at most {ceiling} of its {group.size} units",
                "change --keep, --keep-at-most or --floor",
            )
    multiples = tuple(math.lcm(*map(int, of)) if of else 0 for of in _matched(groups, options.multiple_of, "--multiple-of"))
    return Protection(floors, ceilings if options.keep_at_most else (), multiples if options.multiple_of else ())


def protected(groups: Groups, options: SearchOptions) -> Groups:
    """The groups with the floors that the options ask for: nothing ever takes them below. Raises as `protection`."""
    if not (options.keep or options.keep_at_most or options.multiple_of):
        return groups
    return replace(groups, floors=protection(groups, options).floors)


def _matched(groups: Groups, patterns: Mapping[str, float], option: str) -> list[list[float]]:
    """Per group the values of the patterns that match it."""
    found: list[list[float]] = [[] for _ in groups.groups]
    for pattern, value in patterns.items():
        places = [place for place, group in enumerate(groups.groups) if _matches(group, pattern)]
        if not places:
            some = ", ".join(group.name for group in groups.groups[:3])
            raise UsageError(f"{option} {pattern!r} matches no group", f"groups are called {some}, ...: see qcompress inspect")
        for place in places:
            found[place].append(value)
    return found


def _matches(group: Group, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in (group.name, *(member.layer for member in group.side("out"))))


def _share(share: float) -> Fraction:
    """The decimal number that it prints as."""
    return Fraction(str(float(share)))
