"""What is to go and which counts may meet it: from the settings, the traced network, and prices that were measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from qcompress import processor
from qcompress.alignment import Alignment, aligned_budget
from qcompress.budgets import BUDGETS, Budget, Cost, budget, cost_share, cost_within
from qcompress.errors import UsageError
from qcompress.groups import Groups
from qcompress.protection import Protection, protection
from qcompress.settings import Settings
from qcompress.targets import AtMost, Smallest, Speedup, shown, words

__all__ = ["NO_PRICES", "Price", "asked", "met_already", "share_of"]


@dataclass(frozen=True, eq=False)
class Price:
    """What a measured budget costs: `cost` as `budgets.Cost`, exact; `block` and `additive` as in `budgets.CostBudget`."""

    cost: Cost
    block: int = 1
    additive: Cost | None = None


NO_PRICES: Mapping[str, Price] = {}


def asked(groups: Groups, settings: Settings, prices: Mapping[str, Price] = NO_PRICES) -> tuple[Budget, Alignment]:
    """What is to go, and the counts per group that are allowed to meet it.

    A share of MACs is one of whole blocks of channels, as runtimes compute them; what `AtMost` says of MACs is of plain ones.
    `prices` are those of the measured budgets, by name.

    Raises UsageError where allowed counts do not reach the target.
    """
    whole = settings.target is None or isinstance(settings.target, Smallest)  # the latter has found a share by then
    limits = protection(groups, settings.search)
    at = _share(groups, settings, prices) if whole else _within(groups, settings, prices, limits)
    largest = prices["latency"].block if settings.budget == "latency" else processor.block()
    return aligned_budget(settings.search.align, at, groups.widths, largest, limits.multiples, limits.ceilings)


def met_already(settings: Settings, target: Budget) -> str | None:
    """That the dense network meets the target as it is, so that nothing has to go; None where it does not, or for a share."""
    if target.target > 0 or not isinstance(settings.target, (AtMost, Speedup)):
        return None
    by = " by the latency table" if settings.budget == "latency" else ""
    option = " ".join(words(settings.target, settings.sparsity, settings.budget))
    return f"{option}: the dense network has {shown(target.dense, settings.budget)}{by} already: nothing is removed"


def share_of(settings: Settings, target: Budget) -> float:
    """The share of the budget's capacity that was asked for."""
    if settings.target is None or isinstance(settings.target, Smallest):
        return settings.sparsity
    return target.target / max(target.dense, 1)


def _share(groups: Groups, settings: Settings, prices: Mapping[str, Price]) -> Callable[[int], Budget]:
    name, share = settings.budget, settings.sparsity
    if name not in BUDGETS:
        price = _price(prices, name)
        return lambda block: cost_share(name, share, groups.space, price.cost, block=price.block, additive=price.additive)

    def at(block: int) -> Budget:
        macs = partial(groups.macs, align=block)
        additive = partial(macs, additive=True) if block > 1 else None
        return budget(name, share, groups.space, groups.params, macs, block=block, additive_macs=additive)

    return at


def _within(groups: Groups, settings: Settings, prices: Mapping[str, Price], limits: Protection) -> Callable[[int], Budget]:
    counted = {"params": Price(groups.params), "macs": Price(groups.macs)}
    price, target = _price({**prices, **counted}, settings.budget), settings.target
    assert isinstance(target, (AtMost, Speedup))
    most = _most(settings, price)

    def at(block: int) -> Budget:
        prunable = Alignment(groups.space, block, groups.widths, limits.multiples, limits.ceilings).most.tolist()
        return cost_within(
            settings.budget,
            most,
            groups.space,
            price.cost,
            block=price.block,
            additive=price.additive,
            target=target,
            prunable=prunable,
        )

    return at


def _most(settings: Settings, price: Price) -> float:
    """What may stay, in the budget's own unit."""
    target = settings.target
    if isinstance(target, Speedup):
        return price.cost({}) / target.factor
    assert isinstance(target, AtMost)
    return target.amount * 1e9 if settings.budget == "latency" else target.amount


def _price(prices: Mapping[str, Price], name: str) -> Price:
    if name not in prices:
        raise UsageError(f"budget {name} has not been measured here", "prune with one of filters, params, macs")
    return prices[name]
