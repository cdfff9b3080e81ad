"""Trains a small ESPCN-like network that enlarges images two times, on the photographs that ship; for benchmarks/tasks.py.

    python examples/train_espcn.py espcn.pt
    qcompress prune espcn.pt --arch train_espcn:espcn        (in examples/, or with it on PYTHONPATH)

Only the calibration photographs of a run with seed 0 are seen. 2,000 steps, some two minutes on one core: enough to be above
bicubic enlargement and to compare ways of pruning, far from the state of the art. Shi et al., CVPR 2016, with a bicubic skip.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor, nn

from qcompress.data import splits
from qcompress.data.reading import Form

SCALE, WIDTH, STEPS = 2, 32, 2000


class Espcn(nn.Module):
    """(N, 3, H, W) to (N, 3, 2 H, 2 W): four convolutions and a pixel shuffle, added to the bicubic enlargement."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 3 * SCALE**2, 3, padding=1),
            nn.PixelShuffle(SCALE),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The enlarged images."""
        enlarged: Tensor = self.body(x)
        return enlarged + nn.functional.interpolate(x, scale_factor=SCALE, mode="bicubic", align_corners=False)


def espcn() -> Espcn:
    """The factory for --arch."""
    return Espcn()


def train(steps: int = STEPS) -> Espcn:
    """The network after `steps` of Adam on the absolute error of 16 crops of 24x24 each."""
    torch.manual_seed(0)
    images = splits.load(None, channels=3, stride=1, seed=0, form=Form(scale=SCALE)).calibration
    model, rng = espcn(), np.random.default_rng(0)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, steps)
    for _ in range(steps):
        crops = images.crops(24, 16, rng)
        loss = (model(crops.inputs) - crops.targets).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


if __name__ == "__main__":
    torch.save(train().state_dict(), sys.argv[1])
