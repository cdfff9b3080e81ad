"""Options of a backend, set by name: from numbers, or from text as a command line has it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from qcompress.errors import UsageError

__all__ = ["configured"]


def configured(name: str, backend: Any, options: dict[str, float | str | bool]) -> Any:
    """`backend` (a dataclass) with `options`, each as the type of its default.

    Raises UsageError for an option that it does not have, and for a value of another kind.
    """
    known = {field.name: field.default for field in dataclasses.fields(backend)} if dataclasses.is_dataclass(backend) else {}
    for key in options:
        if key not in known:
            raise UsageError(f"backend {name} has no option {key!r}, expected one of: {', '.join(known) or '(it has none)'}")
    if not options:
        return backend
    return dataclasses.replace(backend, **{key: _typed(name, key, value, known[key]) for key, value in options.items()})


def _typed(name: str, key: str, value: float | str | bool, default: Any) -> Any:
    kind = type(default)
    try:
        if kind is bool and isinstance(value, str):
            return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
        number = kind(value) if kind in (int, float, bool, str) else value
    except (ValueError, KeyError, OverflowError):
        raise UsageError(f"backend {name}: {key} is {value!r}, expected {_words(kind)}") from None
    if kind in (int, float) and not (math.isfinite(float(number)) and 0 <= float(number) == float(value)):
        raise UsageError(f"backend {name}: {key} is {value!r}, expected {_words(kind)}")
    return number


def _words(kind: type) -> str:
    return {int: "a whole number of 0 or more", float: "a number of 0 or more", bool: "true or false"}.get(kind, kind.__name__)
