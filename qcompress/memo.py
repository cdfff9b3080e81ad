"""What a run has computed that no budget changes, and its last search: shared by its attempts at several budgets."""

from __future__ import annotations

from dataclasses import dataclass

from qcompress.alignment import Alignment
from qcompress.budgets import Budget
from qcompress.data.images import TrainingImages
from qcompress.exporters import Artifact
from qcompress.reconstruction import Eliminated
from qcompress.recover.static import StaticRepair
from qcompress.scores import Scores
from qcompress.searching import Found

__all__ = ["Memo"]


@dataclass(eq=False)
class Memo:
    """Filled on the way; None: not computed yet. `scores` are those of the dense network, `dense` is its ONNX file.

    `training` are the images of a training folder. `found` is what the last search found, by a backend here, for which budget
    and counts.
    """

    static_repair: StaticRepair | None = None
    eliminated: Eliminated | None = None
    scores: Scores | None = None
    dense: Artifact | None = None
    training: TrainingImages | None = None
    found: tuple[Budget, Alignment, Found] | None = None
