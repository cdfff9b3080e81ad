"""Networks of the user's own: a factory named ``package.module:factory``, and what sizes of input its network takes."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import nn

from qcompress.errors import ArchitectureError, CheckpointError, QCompressError

__all__ = ["check_output", "importable_from_here", "is_factory", "make", "probe_input"]

_STRIDES = (1, 2, 4, 8, 16, 32)


def is_factory(arch: str) -> bool:
    """Whether `arch` has the form ``package.module:factory``."""
    return re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", arch) is not None


@contextmanager
def importable_from_here() -> Iterator[None]:
    """Let modules in the current folder be imported inside the block, as ``python -m`` would."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def make(arch: str, arguments: Mapping[str, JsonValue]) -> nn.Module:
    """Import and call ``package.module:factory`` with `arguments`; the module in eval mode, float32. Runs the user's code.

    torch's global generator is left as it was.

    Raises:
        ArchitectureError: it cannot be imported, it raises, or it returns something else than a module.

    """
    module_name, _, path = arch.partition(":")
    try:
        with importable_from_here():
            importlib.invalidate_caches()
            factory: object = importlib.import_module(module_name)
    except QCompressError:
        raise
    except Exception as error:  # a module that is imported may raise anything
        hint = f"run from the folder that holds {module_name.partition('.')[0]}, or install it"
        raise ArchitectureError(f"--arch {arch}: cannot be imported: {_told(error)}", hint) from error
    for attribute in path.split("."):
        factory = getattr(factory, attribute, None)
    if factory is None:
        raise ArchitectureError(f"--arch {arch}: module {module_name} has no {path}", "check the name after the colon")
    if not callable(factory):
        raise ArchitectureError(f"--arch {arch}: is not callable", "name a function or class that returns the network")
    try:
        with torch.random.fork_rng(devices=[]):
            module = factory(**arguments)
    except Exception as error:  # the same
        hint = "its arguments go into --arch-args as JSON"
        raise ArchitectureError(f"--arch {arch}: raised {_told(error)}", hint) from error
    if not isinstance(module, nn.Module):
        raise ArchitectureError(f"--arch {arch}: returned {type(module).__name__}, expected torch.nn.Module")
    if isinstance(module, torch.jit.ScriptModule):
        raise ArchitectureError(
            f"--arch {arch}: returned a TorchScript module, which cannot be traced", "return the plain module"
        )
    return module.float().eval()


def probe_input(module: nn.Module) -> tuple[int, int]:
    """The input channels of `module`, and the stride of its input sizes.

    Its integer attributes `channels` and `stride` where it has them. Otherwise channels are those of its first convolution (or
    3, or 1: a network may rearrange its input first), and the stride is the smallest of 1, 2, 4, 8, 16, 32 at which a forward
    pass works and an image's two sides are scaled alike. A network that takes none of these sizes gets stride 1.
    """
    candidates = _channels(module)
    stride = _integer(module, "stride")
    if stride is not None:
        return candidates[0], stride
    for channels in candidates:
        for stride in _STRIDES:
            if _takes(module, channels, stride):
                return channels, stride
    return candidates[0], 1


def check_output(module: nn.Module, channels: int, stride: int, name: str) -> None:
    """Refuse a network whose output is not finite on an ordinary picture, finite though its weights are.

    Nothing is said of a network that does not take an image of `channels`, or does not return one tensor.

    Raises:
        CheckpointError: NaN or infinity in the output, as negative variances or huge weights make.

    """
    side = stride * -(-40 // stride)
    picture = torch.linspace(0, 1, channels * side * side).reshape(1, channels, side, side)
    try:
        with torch.no_grad():
            output = module(picture)
    except Exception:  # foreign code: any failure says that this is not an image network
        return
    if isinstance(output, torch.Tensor) and output.is_floating_point() and not bool(torch.isfinite(output).all()):
        message = f"{name}: the network's output is NaN or infinite"
        raise CheckpointError(message, "the training diverged or the file is damaged: use an earlier checkpoint")


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _integer(module: nn.Module, name: str) -> int | None:
    value = getattr(module, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _channels(module: nn.Module) -> list[int]:
    stated = _integer(module, "channels")
    if stated is not None:
        return [stated]
    convolutions = [
        m.in_channels for m in module.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d)
    ]
    linears = [m.in_features for m in module.modules() if isinstance(m, nn.Linear)]
    return list(dict.fromkeys([*(convolutions or linears)[:1], 3, 1]))


def _takes(module: nn.Module, channels: int, stride: int) -> bool:
    """Whether an odd multiple of `stride` (at least 40 pixels) goes through, and both sides come out scaled alike."""
    least = -(-40 // stride)
    height, width = (stride * (least + 1 - least % 2 + extra) for extra in (0, 2))
    try:
        with torch.no_grad():
            output = module(torch.zeros(1, channels, height, width))
    except Exception:  # foreign code: any failure says that this size does not fit
        return False
    if not isinstance(output, torch.Tensor) or output.ndim != 4:
        return True
    return bool(output.shape[2] * width == output.shape[3] * height)
