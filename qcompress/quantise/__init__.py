"""Layers with fewer bits: what that costs, a network that is simulated so, and weights put on their grids with little loss.

`fold` takes BatchNorm out, `noise.measure` says what a width costs a layer, `prepare` gives weights and ranges for chosen
widths, and `simulated` computes what a file with them computes.
"""

from __future__ import annotations

from qcompress.quantise.folding import fold
from qcompress.quantise.preparing import Prepared, prepare
from qcompress.quantise.simulate import simulated

__all__ = ["Prepared", "fold", "prepare", "simulated"]
