"""Layers with fewer bits: what that costs, a network that is simulated so, and weights put on their grids with little loss."""

from __future__ import annotations

from qcompress.quantise.folding import fold
from qcompress.quantise.simulate import simulated

__all__ = ["fold", "simulated"]
