"""Pruning and quantisation chosen together: units of groups and widths of layers, for a file of a given size. No torch."""

from qcompress.joint.aqc import Aqc, AqcModel, aqc_model
from qcompress.joint.aqc_search import choose_aqc
from qcompress.joint.choice import Expand, Solve, Solved, choose
from qcompress.joint.demand import Demand, JointResult
from qcompress.joint.fitting import MeasuredFile, fitted
from qcompress.joint.sizes import FileFacts, Sizes

__all__ = [
    "Aqc",
    "AqcModel",
    "Demand",
    "Expand",
    "FileFacts",
    "JointResult",
    "MeasuredFile",
    "Sizes",
    "Solve",
    "Solved",
    "aqc_model",
    "choose",
    "choose_aqc",
    "fitted",
]
