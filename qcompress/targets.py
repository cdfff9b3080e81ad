"""How far to prune, where it is not a share: what may stay, in the unit that the user has, or how much faster it must be."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from qcompress.errors import UsageError

__all__ = ["UNITS", "AtMost", "Smallest", "Speedup", "Target", "parse_amount", "reachable", "shown", "words"]

UNITS: Mapping[str, str] = {
    "filters": "units",
    "params": "parameters",
    "macs": "MACs",
    "size": "bytes",
    "latency": "picoseconds",
}
"""What capacity counts, by the name of the budget."""

_THOUSANDS = {"": 0, "k": 3, "m": 6, "g": 9, "t": 12}
_BINARY = {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_SECONDS = {"ns": -9, "us": -6, "ms": -3, "s": 0, "": -3}
_EXAMPLES = {"params": "100k", "macs": "1.2G", "size": "250kB", "latency": "8ms"}
_AMOUNT = re.compile(r"^\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*$", re.ASCII)


@dataclass(frozen=True)
class AtMost:
    """At most `amount` stays: parameters, MACs, bytes of the ONNX file, or milliseconds, as the budget counts."""

    amount: float

    def __post_init__(self) -> None:
        if not 0 < self.amount < math.inf:  # nan fails too
            hint = "for example --target-macs 300M or --target-size 250kB"
            raise UsageError(f"at most {self.amount:g} is to stay, expected a finite amount above 0", hint)


@dataclass(frozen=True)
class Speedup:
    """At most the time of the dense network divided by `factor` stays; for the budget latency."""

    factor: float

    def __post_init__(self) -> None:
        if not 1 <= self.factor < math.inf:
            raise UsageError(f"speedup is {self.factor}, expected at least 1", "2 halves the time")


@dataclass(frozen=True)
class Smallest:
    """As much of the budget goes as the limit of the drop allows."""


Target = AtMost | Speedup | Smallest


def parse_amount(text: str, budget: str, option: str) -> float:
    """A number with its unit, as `AtMost` takes it: thousands by k, M, G, T; bytes also by KiB and MiB; times by ns, us, ms, s.

    Without a unit it is single parameters, MACs or bytes, or milliseconds. Letters' case matters to nobody.

    Raises UsageError.

    >>> parse_amount("1.2G", "macs", "--target-macs"), parse_amount("250 kB", "size", "--target-size")
    (1200000000.0, 250000.0)
    >>> parse_amount("8ms", "latency", "--target-latency"), parse_amount("0.5s", "latency", "--target-latency")
    (8.0, 500.0)
    """
    found = _AMOUNT.match(text)
    scale = None if found is None else _scale(found.group(2).lower(), budget)
    if found is None or scale is None or len(text) > 40:
        raise UsageError(
            f"{option} {text[:40]!r}: expected a number, with a unit if need be", f"for example {option} {_EXAMPLES[budget]}"
        )
    return float(Decimal(found.group(1)) * scale)


def _scale(unit: str, budget: str) -> Decimal | None:
    """What a unit stands for in the budget's own; None for none of its."""
    if budget == "latency":
        return Decimal(10) ** (_SECONDS[unit] + 3) if unit in _SECONDS else None
    if budget == "size" and unit in _BINARY:
        return Decimal(_BINARY[unit])
    own = {"size": "b", "macs": "macs", "params": "params"}[budget]
    unit = unit.removesuffix(own)
    return Decimal(10) ** _THOUSANDS[unit] if unit in _THOUSANDS else None


def shown(capacity: float, budget: str) -> str:
    """A capacity of the budget for people.

    >>> shown(1234567, "macs"), shown(8_250_000_000, "latency")
    ('1,234,567 MACs', '8.250 ms')
    >>> shown(13_160_000, "latency")
    '0.01316 ms'
    """
    if budget != "latency":
        return f"{capacity:,.0f} {UNITS.get(budget, budget)}"
    milliseconds = capacity / 1e9
    return f"{milliseconds:,.3f} ms" if milliseconds >= 1 else f"{milliseconds:.4g} ms"


def reachable(target: AtMost | Speedup, budget: str, least: int, dense: int) -> str:
    """The option that asks for the most that can be: `least` is the capacity that stays at any rate.

    >>> reachable(Speedup(100), "latency", 36, 1300), reachable(AtMost(0.01), "latency", 36_123_400, 1300_000_000)
    ('--speedup 36.1', '--target-latency 0.03613ms')
    """
    if isinstance(target, Speedup):
        return f"--speedup {_digits(dense / max(least, 1), 3, math.floor):.9g}"
    if budget == "latency":
        return f"--target-latency {_digits(least / 1e9, 4, math.ceil):.9g}ms"
    return f"--target-{budget} {least}"


def _digits(value: float, digits: int, rounded: Callable[[Decimal], int]) -> Decimal:
    """With so many significant digits, rounded in one direction."""
    exact = Decimal(value)
    step = Decimal(1).scaleb(exact.adjusted() + 1 - digits)
    return rounded(exact / step) * step


def words(target: Target | None, sparsity: float, budget: str) -> list[str]:
    """What the command line says of a target, or of the share of a budget.

    >>> words(None, 0.5, "filters"), words(AtMost(8), 0.5, "latency"), words(AtMost(1.2e9), 0.5, "macs")
    (['--sparsity', '0.5'], ['--target-latency', '8ms'], ['--target-macs', '1200000000'])
    """
    if isinstance(target, Speedup):
        return ["--speedup", f"{target.factor:.9g}"]
    if isinstance(target, AtMost):
        amount = f"{target.amount:.12g}ms" if budget == "latency" else f"{target.amount:.15g}"
        return [f"--target-{budget}", amount]
    share = ["--smallest"] if isinstance(target, Smallest) else ["--sparsity", f"{sparsity:g}"]
    return [*share, *(["--budget", budget] if budget != "filters" else [])]
