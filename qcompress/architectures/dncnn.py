"""DnCNN (Zhang et al., TIP 26:3142, 2017): 3x3 convolutions in a chain predict the noise; keys as in the file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue, validate_call
from torch import Tensor, nn

from qcompress.architectures.matching import Shapes, fits

__all__ = ["DnCNN", "build_dncnn", "recognise_dncnn"]


class DnCNN(nn.Module):
    """Convolution, ReLU, then (convolution, optional BatchNorm, ReLU) ``depth - 2`` times, then a convolution.

    Input and output are ``(N, channels, H, W)``, any H and W (`stride` 1). The chain is an `nn.Sequential` called `container`,
    so that its keys are ``model.0.weight`` or ``dncnn.0.weight`` as in the file. `bias` says whether the first convolution, the
    middle ones, and the last have one. With ``residual`` the output is the input less what the chain predicts.
    """

    def __init__(
        self,
        channels: int = 1,
        depth: int = 17,
        width: int = 64,
        batchnorm: bool = False,
        bias: tuple[bool, bool, bool] = (True, True, True),
        epsilon: float = 1e-5,
        container: str = "model",
        residual: bool = True,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=bias[0]), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers.append(nn.Conv2d(width, width, 3, padding=1, bias=bias[1]))
            if batchnorm:
                layers.append(nn.BatchNorm2d(width, eps=epsilon))
            layers.append(nn.ReLU(inplace=True))
        layers.append(nn.Conv2d(width, channels, 3, padding=1, bias=bias[2]))
        self.add_module(container, nn.Sequential(*layers))
        self.container = container
        self.residual = residual
        self.channels = channels
        self.stride = 1

    def forward(self, x: Tensor) -> Tensor:
        noise: Tensor = getattr(self, self.container)(x)
        return x - noise if self.residual else noise


@validate_call(config=ConfigDict(strict=True))
def build_dncnn(
    channels: Annotated[int, Field(ge=1, le=1024)] = 1,
    depth: Annotated[int, Field(ge=2, le=1000)] = 17,
    width: Annotated[int, Field(ge=1, le=16384)] = 64,
    batchnorm: bool = False,
    bias: Annotated[list[bool], Field(min_length=3, max_length=3)] | None = None,
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 1e-5,
    container: Literal["model", "dncnn"] = "model",
    residual: bool = True,
) -> DnCNN:
    """A `DnCNN` from checked arguments (they may come from a file); `bias` None: everywhere."""
    first, middle, last = bias or (True, True, True)
    return DnCNN(channels, depth, width, batchnorm, (first, middle, last), epsilon, container, residual)


def recognise_dncnn(shapes: Shapes) -> dict[str, JsonValue] | None:
    """The arguments of the DnCNN that has these parameters, or None.

    BatchNorm's epsilon is not in a state dict: the published code with ``dncnn.`` keys and no biases has 1e-5, the rest 1e-4.
    A chain with dilated convolutions has the same names and shapes and cannot be told apart: build such a one by ``--arch``.
    """
    containers = {name.partition(".")[0] for name in shapes}
    convolutions = [name for name, shape in shapes.items() if name.endswith(".weight") and len(shape) == 4]
    numbers = {name: name.split(".")[1] for name in convolutions}
    if len(containers) != 1 or len(convolutions) < 3 or not all(number.isdecimal() for number in numbers.values()):
        return None
    ordered = sorted(convolutions, key=lambda name: int(numbers[name]))
    biases = [name.removesuffix("weight") + "bias" in shapes for name in (ordered[0], ordered[1], ordered[-1])]
    container = containers.pop()
    batchnorm = any(name.endswith(".running_mean") for name in shapes)
    arguments: dict[str, JsonValue] = {
        "channels": shapes[ordered[0]][1],
        "depth": len(ordered),
        "width": shapes[ordered[0]][0],
        "batchnorm": batchnorm,
        "bias": [*biases],
        "epsilon": 1e-4 if batchnorm and (container == "model" or any(biases)) else 1e-5,
        "container": container,
        "residual": True,
    }
    return arguments if fits(build_dncnn, arguments, shapes) else None
