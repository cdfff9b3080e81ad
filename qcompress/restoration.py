"""Restoration networks that spandrel knows from their weights (an extra): built again from the names and shapes alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from qcompress.architectures.matching import Shapes, shapes_of
from qcompress.bounded_building import bounded
from qcompress.errors import ArchitectureError

__all__ = ["INSTALL", "PREFIX", "Restoration", "build", "importable", "recognise"]

PREFIX = "spandrel:"
INSTALL = "pip install 'qcompress[restoration]'"
_MOST_NUMBERS = 2**28  # in a network that a plan describes: 1 GiB of float32
_MOST_TENSORS = 100_000
_MOST_PER_TENSOR, _SPARE_LAYERS = 4, 64  # layers without weights are counted, too
_FACTORY = "name the code that builds it: --arch package.module:factory"
_WRONG = 1e-5  # relative difference between two buildings of one network


class Restoration(nn.Module):
    """A network of spandrel's as an ordinary module: image in, image out, of `channels` and a multiple of `stride` pixels."""

    def __init__(self, network: nn.Module, call: Callable[[nn.Module, Tensor], Tensor], channels: int, stride: int) -> None:
        super().__init__()
        self.network = network
        self.channels = channels
        self.stride = stride
        self._call = call

    def forward(self, x: Tensor) -> Tensor:
        """The output for a batch of images (N, channels, H, W)."""
        return self._call(self.network, x)


def importable() -> str | None:
    """None if spandrel can be imported, else the reason, in one line."""
    try:
        importlib.import_module("spandrel")
    except Exception as error:  # a torchvision that does not fit torch raises RuntimeError
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None


def recognise(state: Mapping[str, Tensor]) -> tuple[str, dict[str, JsonValue], nn.Module] | None:
    """Architecture (``spandrel:NAME``), arguments to `build` it again, and the network with these weights; None if unknown.

    The network is the one that `build` makes of the shapes, with the weights put into it, so that a slim folder rebuilds what
    was pruned.

    Raises:
        ArchitectureError: spandrel cannot be imported; it knows the network, but cannot load it; what it builds depends on
            more than shapes, or is far larger than the file.

    """
    held = sum(tensor.numel() for tensor in state.values())
    found = _describe(dict(state), held)
    if found is None:
        return None
    name = PREFIX + str(found.architecture.id)
    shapes: dict[str, JsonValue] = {key: list(shape) for key, shape in shapes_of(state).items()}
    arguments: dict[str, JsonValue] = {"shapes": shapes}
    wrapped = _wrapped(found)
    rebuilt = build(name, arguments, held=held)
    try:
        rebuilt.load_state_dict(wrapped.state_dict(), strict=True)
    except RuntimeError as error:
        raise _undetermined(name, " ".join(str(error).split())[:200]) from error
    _compare(name, wrapped.float().eval(), rebuilt)
    return name, arguments, rebuilt


def build(name: str, arguments: Mapping[str, JsonValue], *, held: int) -> nn.Module:
    """The network ``spandrel:NAME`` of a file whose tensors had these names and shapes; its weights are to be filled in.

    `held` is how many numbers there are to fill in: see `bounded_building.bounded`.

    Raises:
        ArchitectureError: spandrel cannot be imported, makes something else of these shapes, or they are too many or too large.

    """
    shapes = _checked(name, arguments.get("shapes"))
    found = _describe({key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}, held)
    if found is None or PREFIX + str(found.architecture.id) != name:
        got = "nothing" if found is None else PREFIX + str(found.architecture.id)
        raise ArchitectureError(
            f"{name}: spandrel recognises {got} in the recorded shapes", "is it another version of spandrel?"
        )
    return _wrapped(found).float().eval()


def _describe(state: dict[str, Tensor], held: int) -> Any:
    """Spandrel's descriptor of the network with these weights; None if it knows none. The weights are not changed.

    Spandrel counts layers by the largest number in names: one called ``body.999999999.weight`` is not shown to it.
    """
    most = _MOST_PER_TENSOR * len(state) + _SPARE_LAYERS
    if any(len(part) > 9 or int(part) > most for key in state for part in key.split(".") if part.isdecimal()):
        raise ArchitectureError(f"a name among {len(state)} tensors counts more than {most:,} layers", _FACTORY)
    reason = importable()
    if reason is not None:
        raise ArchitectureError(f"spandrel cannot be imported: {reason}", INSTALL)
    spandrel = importlib.import_module("spandrel")
    try:
        with torch.random.fork_rng(devices=[]), bounded("spandrel", held):
            return spandrel.ModelLoader(device="cpu").load_from_state_dict(state)
    except spandrel.UnsupportedModelError:
        return None
    except ArchitectureError:
        raise
    except Exception as error:  # detection by a few names: what then fails may fail with anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ArchitectureError(
            f"spandrel cannot build a network of these {len(state)} tensors: {reason}",
            _FACTORY,
        ) from error


def _wrapped(found: Any) -> Restoration:
    name = PREFIX + str(found.architecture.id)
    if found.purpose == "Inpainting":
        raise ArchitectureError(f"{name}: takes an image and a mask, expected a network of one image")
    if found.size_requirements.square:
        raise ArchitectureError(f"{name}: takes square images only, expected a network for images of any shape")
    call = found._call_fn  # the public call clamps, pads and knows no gradients
    return Restoration(found.model, call, int(found.input_channels), int(found.size_requirements.multiple_of))


def _checked(name: str, shapes: JsonValue) -> Shapes:
    """The shapes of a plan, bounded: they decide how much memory the network takes."""
    if not isinstance(shapes, dict) or len(shapes) > _MOST_TENSORS:
        raise ArchitectureError(f"{name}: expected the shapes of at most {_MOST_TENSORS:,} tensors")
    checked: dict[str, tuple[int, ...]] = {}
    total = 0
    for key, shape in shapes.items():
        if not isinstance(shape, list) or len(shape) > 8:
            raise ArchitectureError(f"{name}: {key[:80]!a} has the shape {shape!r:.60}, expected a list of sizes")
        sizes = tuple(
            size for size in shape if isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= _MOST_NUMBERS
        )
        if len(sizes) < len(shape):
            raise ArchitectureError(f"{name}: {key[:80]!a} has the shape {shape!r:.60}, expected a list of sizes")
        count = 1
        for size in sizes:
            count *= size
        total += count
        checked[key] = sizes
    if total > _MOST_NUMBERS:
        raise ArchitectureError(f"{name}: these shapes make {total:,} numbers, expected at most {_MOST_NUMBERS:,}")
    return checked


def _compare(name: str, one: Restoration, other: nn.Module) -> None:
    side = one.stride * -(-40 // one.stride)
    picture = torch.linspace(0, 1, one.channels * side * side).reshape(1, one.channels, side, side)
    try:
        with torch.no_grad():
            expected, got = one(picture), other(picture)
    except Exception as error:  # foreign code
        raise ArchitectureError(f"{name}: fails on a {side}x{side} image: {' '.join(str(error).split())[:200]}") from error
    if expected.shape != got.shape or not bool((expected - got).abs().max() <= _WRONG * expected.abs().max()):
        raise _undetermined(name, "another output")


def _undetermined(name: str, reason: str) -> ArchitectureError:
    return ArchitectureError(
        f"{name}: what spandrel builds depends on more than the shapes of the weights ({reason})",
        _FACTORY,
    )
