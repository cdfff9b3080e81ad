"""Architectures that are recognised from the names and shapes in a state dict: one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from pydantic import JsonValue, ValidationError
from torch import nn

from qcompress.architectures.dncnn import build_dncnn, recognise_dncnn
from qcompress.architectures.half_unet import build_half_unet, recognise_half_unet
from qcompress.architectures.unet import build_unet, recognise_unet
from qcompress.errors import ArchitectureError

__all__ = ["ARCHITECTURES", "Architecture", "construct", "recognise"]

_MOST_PARAMETERS = 2**30


@dataclass(frozen=True)
class Architecture:
    """A family of networks.

    `recognise` takes parameter names -> shapes and returns the arguments with which `build` makes a network of exactly these
    parameters, or None. `build` checks its arguments (pydantic's ValidationError or ValueError); its modules have the integer
    attributes `channels` (of the input) and `stride` (input heights and widths are multiples of it).
    """

    name: str
    summary: str
    build: Callable[..., nn.Module]
    recognise: Callable[[Mapping[str, tuple[int, ...]]], dict[str, JsonValue] | None]


ARCHITECTURES: dict[str, Architecture] = {
    entry.name: entry
    for entry in (
        Architecture(
            "half-unet",
            "Half-UNet: one width at all scales, which are added; plain or Ghost blocks",
            build_half_unet,
            recognise_half_unet,
        ),
        Architecture("dncnn", "DnCNN: a chain of convolutions, with or without BatchNorm", build_dncnn, recognise_dncnn),
        Architecture("unet", "U-Net with concatenated skips, transposed or bilinear upsampling", build_unet, recognise_unet),
    )
}


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Architecture, dict[str, JsonValue]] | None:
    """The first architecture in the table that has exactly these parameters, with its arguments; None if there is none."""
    for architecture in ARCHITECTURES.values():
        arguments = architecture.recognise(shapes)
        if arguments is not None:
            return architecture, arguments
    return None


def construct(name: str, arguments: Mapping[str, JsonValue]) -> nn.Module:
    """The network `name` of the table, in eval mode, on the meta device: no memory, no weights, no random numbers.

    Fill it with ``load_state_dict(..., assign=True)`` or ``to_empty``.

    Raises:
        ArchitectureError: a name that is not in the table, or arguments that its `build` refuses.

    """
    if name not in ARCHITECTURES:
        raise ArchitectureError(f"unknown architecture {name!r}, expected one of {', '.join(ARCHITECTURES)}")
    try:
        with torch.device("meta"):
            module = ARCHITECTURES[name].build(**arguments)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:60].encode("unicode_escape").decode()
        raise ArchitectureError(f"{name}: argument {where}: {first['msg']}, got {first['input']!r:.60}") from error
    except ValueError as error:
        raise ArchitectureError(f"{name}: {error}") from error
    parameters = sum(parameter.numel() for parameter in module.parameters())
    if parameters > _MOST_PARAMETERS:
        raise ArchitectureError(
            f"{name}: these arguments make {parameters:,} parameters, expected at most {_MOST_PARAMETERS:,}"
        )
    return module.eval()
