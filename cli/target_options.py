"""How far to prune, on the command line: a share of a budget, or one target in the unit that the user has."""

from __future__ import annotations

from collections.abc import Set
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, NotRequired, TypedDict, Unpack

import typer

from qcompress.errors import UsageError

if TYPE_CHECKING:
    from qcompress.targets import Target

__all__ = [
    "TARGETS",
    "Asked",
    "Budget",
    "BudgetName",
    "LatencyTable",
    "Smallest",
    "Sparsity",
    "Speedup",
    "TargetLatency",
    "TargetMacs",
    "TargetParams",
    "TargetSize",
    "of_the_line",
    "parse_target",
]


class Budget(StrEnum):
    """What is counted."""

    filters = "filters"
    params = "params"
    macs = "macs"
    size = "size"
    latency = "latency"


Sparsity = Annotated[
    float | None,
    typer.Option("--sparsity", "-s", help="Share of the budget to remove: 0 to below 1 (default: 0.5, without a target)."),
]
BudgetName = Annotated[
    Budget | None,
    typer.Option(
        "--budget",
        help="What the share is taken of: filters, params, macs, size (bytes of the ONNX file) or latency (default: filters).",
    ),
]
TargetParams = Annotated[
    str | None, typer.Option(metavar="N", help="Leave at most so many parameters: 100k, 2.5M; in place of --sparsity.")
]
TargetMacs = Annotated[
    str | None,
    typer.Option(metavar="N", help="Leave at most so many multiply-accumulates per image of --size: 300M, 1.2G."),
]
TargetSize = Annotated[
    str | None, typer.Option(metavar="BYTES", help="The float32 ONNX file is to be at most so large: 250kB, 1.5MB, 1MiB.")
]
TargetLatency = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="One image of --size is to take at most so long: 8ms, 0.5s; held against what is measured, as --speedup.",
    ),
]
Speedup = Annotated[
    float | None,
    typer.Option(
        metavar="FACTOR",
        help="The network is to be so many times as fast: 2. Where a choice by the latency table is measured to miss that, the "
        "table is corrected and another choice made, three at most.",
    ),
]

Smallest = Annotated[
    bool,
    typer.Option(
        "--smallest",
        help="Remove as much of the budget as the drop that --max-drop allows: judged on selection images, with a margin, and "
        "confirmed on the report images.",
    ),
]
LatencyTable = Annotated[
    Path | None,
    typer.Option(
        help="What `profile` measured, on this machine or another (default: it is measured here, in a minute or two)."
    ),
]


class Asked(NamedTuple):
    """The fields of `Settings` of the same names."""

    sparsity: float
    budget: str
    target: Target | None


TARGETS = ("sparsity", "budget", "target_params", "target_macs", "target_size", "target_latency", "speedup", "smallest")


class Given(TypedDict):
    """The options that say how far to prune."""

    sparsity: float | None
    budget: Budget | None
    target_params: NotRequired[str | None]
    target_macs: NotRequired[str | None]
    target_size: NotRequired[str | None]
    target_latency: NotRequired[str | None]
    speedup: NotRequired[float | None]
    smallest: NotRequired[bool]


def of_the_line(on_the_line: Set[str], **given: Unpack[Given]) -> Given:
    """What counts where a config file has targets, too: if the command line names one, those of the file do not."""
    named = on_the_line - {"budget"}
    if not named:
        return given
    kept = {name: value for name, value in given.items() if name in on_the_line}
    if named <= {"sparsity", "smallest"}:
        kept["budget"] = given["budget"]
    empty = Given(sparsity=None, budget=None)
    return {**empty, **kept}  # type: ignore[typeddict-item]


def parse_target(
    sparsity: float | None,
    budget: Budget | None,
    *,
    target_params: str | None = None,
    target_macs: str | None = None,
    target_size: str | None = None,
    target_latency: str | None = None,
    speedup: float | None = None,
    smallest: bool = False,
) -> Asked:
    """The share or the one target that is asked for. Raises UsageError for several, and for a budget that is not the target's.

    >>> parse_target(None, None, target_macs="300M")
    Asked(sparsity=0.5, budget='macs', target=AtMost(amount=300000000.0))
    """
    from qcompress import targets

    amounts = {"params": target_params, "macs": target_macs, "size": target_size, "latency": target_latency}
    given = {f"--target-{name}": name for name, text in amounts.items() if text is not None}
    given |= {"--speedup": "latency"} if speedup is not None else {}
    given |= {"--smallest": (budget or Budget.filters).value} if smallest else {}
    options = [*(["--sparsity"] if sparsity is not None else []), *given]
    if len(options) > 1:
        raise UsageError(f"{' and '.join(options)} are given, expected one of them", "a run has one target")
    if not given:
        return Asked(0.5 if sparsity is None else sparsity, (budget or Budget.filters).value, None)
    (option, name), *_ = given.items()
    if budget not in (None, name):
        raise UsageError(f"{option} is a target of {name}, but --budget {budget} is given", "leave --budget out")
    if smallest:
        return Asked(0.5, name, targets.Smallest())
    if speedup is not None:
        return Asked(0.5, name, targets.Speedup(speedup))
    return Asked(0.5, name, targets.AtMost(targets.parse_amount(str(amounts[name]), name, option)))
