"""Whether a latency table is to be believed: what it predicts of the whole networks that it was made with."""

from __future__ import annotations

from qcompress.errors import InputError
from qcompress.latency_model import PICOSECONDS, LatencyModel

__all__ = ["check", "doubt", "errors", "errors_text"]

WARNED = 0.25
"""An error at which a table is doubted: those of a quiet machine in docs/benchmarks.md are off by 6 % at most."""

REFUSED = 2.0
"""A table that is off by this factor on a network of its own tells nothing of others."""

FLAT = 0.98
"""Of the dense network's time, predicted for one unit of every group: pruning would gain nothing."""

_HINT = "make it again with qcompress profile, on a quieter machine; or prune by another --budget, such as macs"


def check(model: LatencyModel) -> None:
    """Raises InputError for a table that contradicts itself grossly, or to which all networks are alike."""
    worst = _worst(model)
    if worst is not None and not 1 / REFUSED <= 1 + worst[1] <= REFUSED:
        raise InputError(f"the latency table contradicts itself: off by {_said(*worst)}, which it was made with", _HINT)
    fewest = _fewest(model)
    dense, least = model({}), model(fewest)
    if fewest and least > FLAT * dense:
        share = 100 * least / max(dense, 1)
        raise InputError(
            f"the latency table is flat: with one unit per group the network takes {share:.1f} % of its time", _HINT
        )


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
    return ", ".join(_said(share, error) for share, error in errors(model))


def errors(model: LatencyModel) -> list[tuple[float, float]]:
    """(share of units removed, predicted over measured time less 1) of every network that the model is fitted to."""
    units = max(sum(model.groups.space.sizes), 1)
    return [
        (sum(found.pruned.values()) / units, model(found.pruned) / (PICOSECONDS * model.table.ns(found.job)) - 1)
        for found in model.networks
    ]


def _fewest(model: LatencyModel) -> dict[str, int]:
    """All units but one of each group of the table, whatever the user protects: what is judged is the table.

    Empty where the run leaves some of them out (--ignore): what is left may well be next to nothing of the time.
    """
    sizes = dict(zip(model.groups.space.groups, model.groups.space.sizes, strict=True))
    timed = model.table.groups
    return {name: sizes[name] - 1 for name in timed} if timed.keys() <= sizes.keys() else {}


def _worst(model: LatencyModel) -> tuple[float, float] | None:
    return max(errors(model), key=lambda found: max(1 + found[1], 1 / max(1 + found[1], 1e-9)), default=None)


def _said(share: float, error: float) -> str:
    network = f"with {100 * share:.0f} % of the units removed" if share else "on the dense network"
    return f"{100 * error:+.1f} % {network}"
