"""Networks of timm (an extra), by name: built without weights, never downloaded."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import JsonValue
from torch import nn

from qcompress.architectures.matching import Shapes
from qcompress.bounded_building import bounded
from qcompress.errors import ArchitectureError

__all__ = ["INSTALL", "PREFIX", "build", "completed"]

PREFIX = "timm:"
INSTALL = "pip install 'qcompress[timm]'"
_FETCHING = ("pretrained", "checkpoint", "cache_dir")  # beginnings of arguments that read or download weights


def completed(arch: str, shapes: Shapes, given: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """`given` with the number of classes and of input channels that a file of these shapes has, where they are not given.

    Raises:
        ArchitectureError: timm cannot be imported, or has no such network.

    """
    defaults = _timm(arch).get_pretrained_cfg(arch.removeprefix(PREFIX))
    found: dict[str, JsonValue] = {}
    classifier, first = getattr(defaults, "classifier", None), getattr(defaults, "first_conv", None)
    if isinstance(classifier, str) and f"{classifier}.weight" in shapes:
        found["num_classes"] = shapes[f"{classifier}.weight"][0]
    elif isinstance(classifier, str):
        found["num_classes"] = 0  # a backbone: saved without its classifier
    shape = shapes.get(f"{first}.weight", ()) if isinstance(first, str) else ()
    if len(shape) == 4:
        found["in_chans"] = shape[1]
    return found | dict(given)


def build(arch: str, arguments: Mapping[str, JsonValue], *, held: int) -> nn.Module:
    """The network ``timm:NAME``: in eval mode, float32, its weights to be filled in. torch's global generator stays as it was.

    `held` is how many numbers there are to fill in: see `bounded_building.bounded`.

    Raises:
        ArchitectureError: timm cannot be imported, has no such network, or refuses the arguments; or they would load weights,
            or make a network far larger than the file.

    """
    timm = _timm(arch)
    for name in arguments:
        if name.startswith(_FETCHING):
            raise ArchitectureError(f"--arch {arch}: argument {name[:60]} is not allowed: the weights come from the checkpoint")
    try:
        with torch.random.fork_rng(devices=[]), bounded(f"--arch {arch}", held):
            module = timm.create_model(arch.removeprefix(PREFIX), pretrained=False, **arguments)
    except ArchitectureError:
        raise
    except Exception as error:  # the networks check their arguments each in its own way
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ArchitectureError(f"--arch {arch}: {reason}", "its arguments go into --arch-args as JSON") from error
    if not isinstance(module, nn.Module):
        raise ArchitectureError(f"--arch {arch}: returned {type(module).__name__}, expected torch.nn.Module")
    return module.float().eval()


def _timm(arch: str) -> Any:
    """The package, if it has a network of this name; a name of the hub, which would be fetched, is none."""
    try:
        timm = importlib.import_module("timm")
    except Exception as error:  # a torchvision that does not fit torch raises RuntimeError
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ArchitectureError(f"--arch {arch}: timm cannot be imported: {reason}", INSTALL) from error
    name = arch.removeprefix(PREFIX)
    if ":" in name or "/" in name or not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name}*")[:4]) if name.replace("_", "").isalnum() else ""
        hint = f"similar names: {close}" if close else "python -c 'import timm; print(timm.list_models())' shows all"
        raise ArchitectureError(f"--arch {arch}: timm has no network of this name", hint)
    return timm
