"""Whether a latency table is to be believed: what it predicts of the whole networks that it was made with."""

from __future__ import annotations

from qcompress.errors import InputError
from qcompress.latency_model import PICOSECONDS, LatencyModel

__all__ = ["check", "doubt", "errors_text"]

WARNED = 0.25
"""An error at which a table is doubted: those in docs/benchmarks.md are off by half as much at most."""

REFUSED = 2.0
"""A table that is off by this factor on a network of its own tells nothing of others."""

FLAT = 0.98
"""Of the dense network's time, predicted for the fewest units that there can be: pruning would gain nothing."""

_HINT = "make it again with qcompress profile, on a quieter machine; or prune by another --budget, such as macs"


def check(model: LatencyModel) -> None:
    """Raises InputError for a table that contradicts itself grossly, or to which all networks are alike."""
    worst = _worst(model)
    if worst is not None and not 1 / REFUSED <= 1 + worst[1] <= REFUSED:
        raise InputError(f"the latency table contradicts itself: off by {_said(*worst)}, which it was made with", _HINT)
    space = model.groups.space
    fewest = {name: size - floor for name, size, floor in zip(space.groups, space.sizes, space.floors, strict=True)}
    dense, least = model({}), model(fewest)
    if space.groups and least > FLAT * dense:
        share = 100 * least / max(dense, 1)
        raise InputError(f"the latency table is flat: with the fewest units the network takes {share:.1f} % of its time", _HINT)


def doubt(model: LatencyModel) -> str | None:
    """Why what it predicts is to be doubted; None where it is not."""
    worst = _worst(model)
    if worst is None or abs(worst[1]) <= WARNED:
        return None
    return f"the latency table is doubtful: off by {_said(*worst)}, which it was made with; make it again on a quieter machine"


def errors_text(model: LatencyModel) -> str:
    """The error of every network that was timed, with what it is.

    Such as `-0.1 % on the dense network, +2.0 % with 40 % of the units removed`.
    """
    return ", ".join(_said(share, error) for share, error in _errors(model))


def _errors(model: LatencyModel) -> list[tuple[float, float]]:
    """(share of units removed, predicted over measured time less 1) of those networks that have groups of ours only."""
    sizes = dict(zip(model.groups.space.groups, model.groups.space.sizes, strict=True))
    found = []
    for network in model.table.networks:
        if model.table.times_ns[network.job] is None or any(k >= sizes.get(name, 0) for name, k in network.pruned.items()):
            continue
        error = model(network.pruned) / (PICOSECONDS * model.table.ns(network.job)) - 1
        found.append((sum(network.pruned.values()) / max(sum(sizes.values()), 1), error))
    return found


def _worst(model: LatencyModel) -> tuple[float, float] | None:
    return max(_errors(model), key=lambda found: max(1 + found[1], 1 / max(1 + found[1], 1e-9)), default=None)


def _said(share: float, error: float) -> str:
    network = f"with {100 * share:.0f} % of the units removed" if share else "on the dense network"
    return f"{100 * error:+.1f} % {network}"
