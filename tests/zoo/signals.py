"""Sound and video: one axis, or three; gates and recurrent layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.base import Network

__all__ = ["NETWORKS"]


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(inputs, outputs, 4, 2, 1), nn.ReLU(), nn.Conv1d(outputs, 2 * outputs, 1), nn.GLU(dim=1))


def _up(inputs: int, outputs: int, last: bool) -> nn.Sequential:
    gate = nn.Conv1d(inputs, 2 * inputs, 3, padding=1), nn.GLU(dim=1)
    return nn.Sequential(*gate, nn.ConvTranspose1d(inputs, outputs, 4, 2, 1), *([] if last else [nn.ReLU()]))


class _Demucs(nn.Module):
    """A U-Net of gated convolutions on a waveform, its skips added; with an LSTM at the bottom, or without."""

    def __init__(self, recurrent: bool) -> None:
        super().__init__()
        self.encoder = nn.ModuleList([_down(2, 6), _down(6, 8)])
        self.decoder = nn.ModuleList([_up(8, 6, last=False), _up(6, 2, last=True)])
        self.lstm = nn.LSTM(8, 5, bidirectional=True) if recurrent else None
        self.linear = nn.Linear(10, 8) if recurrent else None

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for encode in self.encoder:
            x = encode(x)
            skips.append(x)
        if self.lstm is not None and self.linear is not None:
            x = self.linear(self.lstm(x.permute(2, 0, 1))[0]).permute(1, 2, 0)
        for decode in self.decoder:
            x = decode(x + skips.pop())
        return x


class _WaveNetLayer(nn.Module):
    """A filter times a gate, a residual and a skip."""

    def __init__(self, width: int, inner: int, skip: int, dilation: int) -> None:
        super().__init__()
        self.filter, self.gate = (nn.Conv1d(width, inner, 3, padding=dilation, dilation=dilation) for _ in range(2))
        self.residual, self.skip = nn.Conv1d(inner, width, 1), nn.Conv1d(inner, skip, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(self.filter(x)) * torch.sigmoid(self.gate(x))
        return self.residual(y) + x, self.skip(y)


class _WaveNet(nn.Module):
    """Dilated gated layers; the sum of their skips is the output. The last residual is computed for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Conv1d(1, 8, 1)
        self.layers = nn.ModuleList(_WaveNetLayer(8, 6, 10, 2**number) for number in range(3))
        self.end1, self.end2 = nn.Conv1d(10, 9, 1), nn.Conv1d(9, 1, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.start(x)
        total: Any = 0
        for layer in self.layers:
            x, skip = layer(x)
            total = total + skip
        return self.end2(functional.relu(self.end1(functional.relu(total))))


class _Video(nn.Module):
    """Convolutions over space and over time apart, pooling over both, and a transposed convolution back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv3d(3, 6, 3, padding=1), nn.BatchNorm3d(6)
        self.space, self.norm1 = nn.Conv3d(6, 8, (1, 3, 3), padding=(0, 1, 1), bias=False), nn.BatchNorm3d(8)
        self.time, self.norm2 = nn.Conv3d(8, 6, (3, 1, 1), padding=(1, 0, 0), bias=False), nn.BatchNorm3d(6)
        self.pool, self.up, self.out = nn.MaxPool3d(2), nn.ConvTranspose3d(6, 5, 2, 2), nn.Conv3d(5, 3, 1)

    def forward(self, x: Tensor) -> Any:
        y = functional.relu(self.norm0(self.stem(x)))
        y = functional.relu(self.norm2(self.time(functional.relu(self.norm1(self.space(y))))) + y)
        return self.out(functional.elu(self.up(self.pool(y)))) + x


class _Keywords(nn.Module):
    """Convolutions over a spectrum, an LSTM over time, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(4, 9, 5, padding=2), nn.BatchNorm1d(9)
        self.conv2 = nn.Conv1d(9, 6, 3, padding=1)
        self.lstm, self.fc1, self.fc2 = nn.LSTM(6, 7, batch_first=True), nn.Linear(7, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        x = functional.relu(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        hidden = self.lstm(x.transpose(1, 2))[0][:, -1]
        return self.fc2(functional.relu(self.fc1(hidden)))


NETWORKS = {
    "demucs": Network(lambda: _Demucs(recurrent=False), groups=6, units=42, shapes=((2, 32),)),
    "demucs-lstm": Network(lambda: _Demucs(recurrent=True), groups=5, units=34, shapes=((2, 32),), kept={"lstm": "LSTM"}),
    "wavenet": Network(_WaveNet, groups=6, units=45, shapes=((1, 24),)),
    "video": Network(_Video, groups=3, units=19, shapes=((3, 4, 8, 8),)),
    "keywords": Network(_Keywords, groups=2, units=17, shapes=((4, 16),), kept={"lstm": "LSTM"}),
}
