"""What the options of a config file may be: strict, since a text in the place of a number is a mistake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError, create_model

from qcompress.cli.option_table import Option

__all__ = ["mistake"]

Scalar = StrictStr | StrictInt | StrictFloat
_PLAIN: Mapping[type, Any] = {int: StrictInt, float: StrictInt | StrictFloat, bool: StrictBool, str: Scalar}
_SPECIAL: Mapping[str, Any] = {  # texts on the command line that stand for something else
    "arch-args": StrictStr | dict[str, Any],
    "max-drop": Scalar,
    "mean": StrictStr | list[StrictInt | StrictFloat],
    "std": StrictStr | list[StrictInt | StrictFloat],
}


def mistake(values: Mapping[str, Any], options: Sequence[Option]) -> tuple[str, str] | None:
    """The first key whose value is of the wrong type, and what was expected; None where all are right."""
    fields: dict[str, Any] = {option.name: (_type(option) | None, Field(default=None, alias=option.key)) for option in options}
    model: type[BaseModel] = create_model("ConfigFile", __config__=ConfigDict(extra="forbid"), **fields)
    try:
        model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return str(first["loc"][0]), first["msg"]
    return None


def _type(option: Option) -> Any:
    if option.multiple:
        return list[StrictStr] | dict[str, Scalar] if option.pairs else list[StrictStr]
    if option.choices:
        return Literal[option.choices]
    return _SPECIAL.get(option.key, _PLAIN.get(option.kind, StrictStr))
