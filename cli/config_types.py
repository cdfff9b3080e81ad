"""What the options of a config file may be: strict, since a text in the place of a number is a mistake."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qcompress.cli.option_table import Option

__all__ = ["Mistake", "mistake"]

_WORDS: Mapping[type, str] = {int: "a whole number", float: "a number", bool: "true or false"}
_ENTRIES: Mapping[str, type] = {"SHARE": float, "N": int}  # of a table, by what follows = in the metavar
_NUMBERS = ("mean", "std")  # texts on the command line, which a file may have as lists of numbers
_LONGEST = 60


class Mistake(NamedTuple):
    """A value that is not of its option's kind: its key, that of the entry in a table, and what was expected."""

    key: str
    entry: str | None
    expected: str


def mistake(values: Mapping[str, Any], options: Sequence[Option]) -> Mistake | None:
    """The first value of the wrong kind, None where all are right. Every key is one of the options'."""
    known = {option.key: option for option in options}
    for key, value in values.items():
        found = _mistake(known[key], value)
        if found is not None:
            return found
    return None


def _mistake(option: Option, value: Any) -> Mistake | None:
    entries = value.items() if option.pairs and isinstance(value, Mapping) else ()
    kind = _ENTRIES.get(option.metavar.partition("=")[2], str)
    for name, entry in entries:
        if not _is(kind, entry):
            # an unquoted name with dots is a table in a table
            why = 'names with dots in quotes: "enc.0" = ...' if isinstance(entry, Mapping) else _expected(_word(kind), entry)
            return Mistake(option.key, name, why)
    expected = None if isinstance(value, Mapping) and option.pairs else _refused(option, value)
    return None if expected is None else Mistake(option.key, None, _expected(expected, value))


def _refused(option: Option, value: Any) -> str | None:
    """What was expected, where `value` is something else."""
    if option.multiple:
        also = f", or a table of {option.metavar}" if option.pairs else ""
        return None if isinstance(value, list) and all(isinstance(one, str) for one in value) else f"a list of texts{also}"
    if option.choices:
        return None if value in option.choices else f"one of {', '.join(option.choices)}"
    if option.key == "arch-args":
        return None if isinstance(value, str | Mapping) else "a table"
    if option.key in _NUMBERS and isinstance(value, list):
        return None if all(_is(float, one) for one in value) else "a list of numbers"
    return None if _is(option.kind, value) else _word(option.kind)


def _is(kind: type, value: object) -> bool:
    """Whether a value of a file is of a kind; numbers are texts, too, as on the command line. True is no number here."""
    if isinstance(value, bool) or kind is bool:
        return kind is bool and isinstance(value, bool)
    if kind in (int, float):
        return isinstance(value, int if kind is int else (int, float))
    return isinstance(value, str) or (kind is str and isinstance(value, (int, float)))


def _word(kind: type) -> str:
    return _WORDS.get(kind, "a text")


def _expected(expected: str, value: object) -> str:
    got = json.dumps(value, default=str)
    return f"expected {expected}, got {got if len(got) <= _LONGEST else f'{got[:_LONGEST]}...'}"
