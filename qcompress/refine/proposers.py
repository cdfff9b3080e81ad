"""Everything that can propose candidates, by name: the default, its ablation and its rivals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from qcompress.errors import UsageError
from qcompress.refine.contract import Proposing
from qcompress.refine.hill_climbing import HillClimbing
from qcompress.refine.protes import Protes
from qcompress.refine.tensor_train import TensorTrain

__all__ = ["PROPOSERS", "proposer"]
PROPOSERS: Mapping[str, Proposing] = MappingProxyType(
    {
        "tensor-train": TensorTrain(),
        "hill-climbing": HillClimbing(),
        "protes": Protes(),
    }
)


def proposer(name: str, *, inside: bool = False) -> Proposing:
    """The proposer called `name`; with `inside`, one whose candidates keep the counts per group.

    Raises UsageError for an unknown name, and for one that cannot keep counts per group.
    """
    if name not in PROPOSERS:
        raise UsageError(f"proposer {name!r} is unknown, expected one of {', '.join(PROPOSERS)}")
    found = PROPOSERS[name]
    if not inside:
        return found
    if not isinstance(found, TensorTrain | HillClimbing):
        raise UsageError(f"proposer {name} knows no blocks of channels", "--align 1, or another --proposer")
    return replace(found, inside=True)
