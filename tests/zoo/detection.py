"""Several inputs, several outputs, shared layers, lists of chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.base import Network, block, conv, point

__all__ = ["NETWORKS"]


class _Bottleneck(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = block(width, width, nn.SiLU()), block(width, width, nn.SiLU())

    def forward(self, x: Tensor) -> Any:
        return x + self.cv2(self.cv1(x))


class _C2f(nn.Module):
    """A list that starts with two chunks and grows by a bottleneck at a time, joined at the end.

    With `fixed`, the two are split at sizes that the module remembers, which no slim network would have.
    """

    def __init__(self, inputs: int, outputs: int, width: int, fixed: bool) -> None:
        super().__init__()
        self.c, self.fixed = width, fixed
        self.cv1, self.cv2 = block(inputs, 2 * width, nn.SiLU()), block(4 * width, outputs, nn.SiLU())
        self.m = nn.ModuleList(_Bottleneck(width) for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        y = self.cv1(x)
        parts = list(y.split((self.c, self.c), 1) if self.fixed else y.chunk(2, 1))
        parts.extend(m(parts[-1]) for m in self.m)
        return self.cv2(torch.cat(parts, 1))


class _Pyramid(nn.Module):
    """YOLO's SPPF: one pooling applied again and again."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = block(width, inner, nn.SiLU()), block(4 * inner, width, nn.SiLU())
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Any:
        y = [self.cv1(x)]
        y.extend(self.m(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class _Yolo(nn.Module):
    """Stem, C2f, SPPF, and a detector: boxes and classes, flattened and joined."""

    def __init__(self, fixed: bool = False) -> None:
        super().__init__()
        self.stem, self.c2f, self.sppf = block(3, 8, nn.SiLU(), stride=2), _C2f(8, 10, 6, fixed), _Pyramid(10, 5)
        self.box = nn.Sequential(block(10, 7, nn.SiLU()), point(7, 4))
        self.cls = nn.Sequential(block(10, 9, nn.SiLU()), point(9, 2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.sppf(self.c2f(self.stem(x)))
        return torch.cat((self.box(y), self.cls(y).sigmoid()), 1).flatten(2)


class _FeaturePyramid(nn.Module):
    """Two scales added top down, and one head shared by both; a list of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = block(3, 7, stride=2), block(7, 9, stride=2)
        self.lateral1, self.lateral2, self.smooth = point(7, 6), point(9, 6), conv(6, 6)
        self.tower, self.score = conv(6, 6), conv(6, 2)

    def _head(self, x: Tensor) -> Any:
        return self.score(functional.relu(self.tower(x)))

    def forward(self, x: Tensor) -> list[Tensor]:
        c1 = self.c1(x)
        c2 = self.c2(c1)
        p2 = self.lateral2(c2)
        p1 = self.smooth(self.lateral1(c1) + functional.interpolate(p2, scale_factor=2, mode="nearest"))
        return [self._head(p1), self._head(p2)]


class _Siamese(nn.Module):
    """One encoder for two images; what differs is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(block(3, 6), nn.MaxPool2d(2), block(6, 8))
        self.decide = nn.Sequential(conv(16, 7), nn.ReLU(), point(7, 1))

    def forward(self, before: Tensor, after: Tensor) -> Any:
        a, b = self.encoder(before), self.encoder(after)
        return self.decide(torch.cat([(a - b).abs(), torch.maximum(a, b)], 1))


class _Fusion(nn.Module):
    """An image, a depth map and a vector that scales and shifts what was made of them; a map and a class."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.depth, self.joined = conv(3, 6), conv(1, 5), block(11, 7)
        self.film = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 14))
        self.map, self.classes = conv(7, 2), nn.Linear(7, 3)

    def forward(self, image: Tensor, depth: Tensor, vector: Tensor) -> dict[str, Any]:
        y = self.joined(torch.cat([functional.relu(self.image(image)), functional.relu(self.depth(depth))], 1))
        scale, shift = self.film(vector)[:, :, None, None].chunk(2, 1)
        y = functional.relu(y * (1 + scale) + shift)
        return {"map": self.map(y), "classes": (self.classes(y.mean((2, 3))),)}


class _Recurrent(nn.Module):
    """DRCN's way: one convolution applied three times."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.shared, self.rebuild = conv(3, 7), conv(7, 7), conv(7, 3)

    def forward(self, x: Tensor) -> Any:
        y = functional.relu(self.embed(x))
        seen: Sequence[Tensor] = []
        for _ in range(3):
            y = functional.relu(self.shared(y))
            seen = [*seen, y]
        return self.rebuild(torch.stack(list(seen)).mean(0)) + x


NETWORKS = {
    "yolo-c2f": Network(_Yolo, groups=9, units=67),
    "yolo-fixed-split": Network(lambda: _Yolo(fixed=True), groups=8, units=61, kept={"c2f.cv1.0": "fails"}),
    "feature-pyramid": Network(_FeaturePyramid, groups=4, units=28),
    "siamese": Network(_Siamese, groups=3, units=21, shapes=((3, 16, 16), (3, 16, 16))),
    "several-inputs": Network(_Fusion, groups=4, units=27, shapes=((3, 16, 16), (1, 16, 16), (4,))),
    "recurrent": Network(_Recurrent, groups=1, units=7),
}
