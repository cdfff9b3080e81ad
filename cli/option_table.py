"""The options of a command as a table, read off its function: what a config file may say, and with which defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from typer.models import OptionInfo

__all__ = ["Option", "options_of"]


@dataclass(frozen=True)
class Option:
    """An option: its parameter `name`, its `key` as on the command line but for the dashes, what it takes, default and help.

    kind      str, int, float, bool, or Path for a file's name
    choices   all that it takes, where they are few
    multiple  whether it may be repeated; pairs: each time with NAME=VALUE
    """

    name: str
    key: str
    kind: type
    default: Any
    help: str
    metavar: str
    choices: tuple[str, ...] = ()
    multiple: bool = False

    @property
    def pairs(self) -> bool:
        """Whether it is repeated with NAME=VALUE: a table in a file."""
        return self.multiple and "=" in self.metavar


def options_of(command: Callable[..., object]) -> tuple[Option, ...]:
    """Those of a command's function, in their order; arguments and what typer gives it are none."""
    hints = get_type_hints(command, include_extras=True)
    found = []
    for name, parameter in inspect.signature(command).parameters.items():
        kind, *notes = get_args(hints[name]) if hasattr(hints[name], "__metadata__") else (hints[name],)
        info = next((note for note in notes if isinstance(note, OptionInfo)), None)
        if info is not None:
            found.append(_option(name, kind, parameter.default, info))
    return tuple(found)


def _option(name: str, kind: Any, default: Any, info: OptionInfo) -> Option:
    declared = (info.default, *(info.param_decls or ()))  # in an annotation its first name is where a default would be
    names = (part for text in declared if isinstance(text, str) for part in text.split("/"))
    long = next((part for part in names if part.startswith("--")), f"--{name.replace('_', '-')}")
    if isinstance(kind, UnionType):
        kind = next(part for part in get_args(kind) if part is not NoneType)
    multiple = get_origin(kind) is list
    kind = get_args(kind)[0] if multiple else kind
    choices = tuple(kind) if issubclass(kind, StrEnum) else ()
    return Option(
        name=name,
        key=long.removeprefix("--"),
        kind=str if choices else kind,
        default=default.value if isinstance(default, StrEnum) else default,
        help=info.help or "",
        metavar=info.metavar or "",
        choices=tuple(str(choice.value) for choice in choices),
        multiple=multiple,
    )
