"""Values as report.json can hold them, and what all of its parts have in common."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

__all__ = ["Facts", "Number", "Scalar", "Text"]

_DIGITS = 7  # significant digits that are kept of a float: more than any measurement here has


def _plain(value: object) -> object:
    """A float as JSON can hold it: finite (None otherwise), without the digits that say nothing."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def _encodable(value: object) -> object:
    """Text as UTF-8 can hold it: a file's name may have bytes that are no characters, which come out as escapes."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


Number = Annotated[float | None, BeforeValidator(_plain)]
Text = Annotated[str, BeforeValidator(_encodable)]
Scalar = bool | int | Number | str


class Facts(BaseModel):
    """Frozen, complete, and readable from any object that has attributes of the same names."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)
