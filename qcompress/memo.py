"""What a run has computed that no budget changes: shared by its attempts at several budgets."""

from __future__ import annotations

from dataclasses import dataclass

from qcompress.exporters import Artifact
from qcompress.reconstruction import Eliminated
from qcompress.recover.static import StaticRepair
from qcompress.scores import Scores

__all__ = ["Memo"]


@dataclass(eq=False)
class Memo:
    """Filled on the way; None: not computed yet. `scores` are those of the dense network, `dense` is its ONNX file."""

    static_repair: StaticRepair | None = None
    eliminated: Eliminated | None = None
    scores: Scores | None = None
    dense: Artifact | None = None
