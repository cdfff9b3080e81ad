"""Which shares of the budget a sweep tries: as listed, or spread evenly over a range."""

from __future__ import annotations

from qcompress.errors import UsageError

__all__ = ["parse_shares"]

_RANGE = (0.2, 0.8)
_POINTS, _MOST = 5, 50
_DIGITS = 4  # of a share, as `--smallest` has them
_EXAMPLE = "for example --at 0.2,0.35,0.5, or --at 0.2:0.6 --points 5"


def parse_shares(at: str | None, points: int | None) -> tuple[float, ...]:
    """The values of --at and --points, ascending: shares with commas between, or a range FROM:TO and the number of points.

    Raises UsageError.

    >>> parse_shares("0.5,0.25", None), parse_shares("0.2:0.6", 3), parse_shares(None, None)
    ((0.25, 0.5), (0.2, 0.4, 0.6), (0.2, 0.35, 0.5, 0.65, 0.8))
    """
    if at is not None and ":" not in at:
        if points is not None:
            raise UsageError("--at lists shares, and --points is given", "a range FROM:TO is what --points spreads over")
        found = [_share(part, at) for part in at.split(",")]
    else:
        low, high = _RANGE if at is None else _ends(at)
        number = _POINTS if points is None else points
        if not 2 <= number <= _MOST:
            raise UsageError(f"--points {number}: expected 2 to {_MOST}", "one share is what `qcompress prune` takes")
        found = [round(low + (high - low) * step / (number - 1), _DIGITS) for step in range(number)]
    if len(found) > _MOST:
        raise UsageError(f"--at: {len(found)} shares, expected at most {_MOST}", _EXAMPLE)
    if len(set(found)) < len(found):
        raise UsageError(f"--at {at}: a share is there twice, to {_DIGITS} digits", _EXAMPLE)
    return tuple(sorted(found))


def _ends(at: str) -> tuple[float, float]:
    low, _, high = at.partition(":")
    found = _share(low, at), _share(high, at)
    if not found[0] < found[1]:
        raise UsageError(f"--at {at}: expected a range that grows", _EXAMPLE)
    return found


def _share(text: str, at: str) -> float:
    try:
        share = round(float(text), _DIGITS)
    except ValueError:
        raise UsageError(f"--at {at[:80]!r}: expected shares with commas between, or FROM:TO", _EXAMPLE) from None
    if not 0 < share < 1:  # nan fails too
        raise UsageError(f"--at {at[:80]}: {text.strip()[:20]} is no share between 0 and 1", _EXAMPLE)
    return share
