"""Everything that can propose candidates, by name: the default, its ablation and its rivals."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from qcompress.refine.contract import Proposing
from qcompress.refine.hill_climbing import HillClimbing
from qcompress.refine.protes import Protes
from qcompress.refine.tensor_train import TensorTrain

__all__ = ["PROPOSERS"]

PROPOSERS: Mapping[str, Proposing] = MappingProxyType(
    {
        "tensor-train": TensorTrain(),
        "hill-climbing": HillClimbing(),
        "protes": Protes(),
    }
)
