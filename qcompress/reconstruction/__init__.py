"""Choosing units by what is lost once the layers behind them are repaired."""

from __future__ import annotations

from qcompress.reconstruction.formulating import Eliminated, Formulated, eliminated, expanded, formulate

__all__ = ["Eliminated", "Formulated", "eliminated", "expanded", "formulate"]
