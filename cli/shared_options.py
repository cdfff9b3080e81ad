"""Options that two commands have in common, declared once: as the parameters of the function that makes something of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from inspect import Parameter
from types import SimpleNamespace
from typing import get_type_hints

__all__ = ["takes"]

Command = Callable[..., None]


def takes(shared: Callable[..., object], *, before: str, but: Collection[str] = ()) -> Callable[[Command], Command]:
    """A decorator: the command, which ends in ``**given``, also has the parameters of `shared`, save those named in `but`.

    They come before its own parameter `before`; where it has one of the same name, that one takes its place among them.
    """

    def decorate(command: Command) -> Command:
        own = _parameters(command)
        given = {name: own.get(name, one) for name, one in _parameters(shared).items() if name not in but}
        place = list(own).index(before)
        every = dict(list(own.items())[:place]) | given | own
        command.__signature__ = inspect.Signature(list(every.values()))  # type: ignore[attr-defined]
        command.__annotations__ = {name: one.annotation for name, one in every.items()}
        return command

    return decorate


def _parameters(function: Callable[..., object]) -> dict[str, Parameter]:
    """Those that have a name, their annotations as objects; what is returned may be known to type checkers only."""
    named = {name: one for name, one in inspect.signature(function).parameters.items() if one.kind is not Parameter.VAR_KEYWORD}
    notes = SimpleNamespace(__annotations__={name: one.annotation for name, one in named.items()})
    hints = get_type_hints(notes, inspect.unwrap(function).__globals__, include_extras=True)
    return {name: one.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY) for name, one in named.items()}
