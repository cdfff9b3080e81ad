"""Train a small denoiser of one's own, prune it where it is, train on: all in one program, without a checkpoint.

    python examples/prune_module.py [--width 32] [--steps 300] [--evaluations 40] [--out own.slim]

The photographs that ship are the data: those for calibration train, and no stage but the last sees those of the report.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import qcompress
from qcompress import Settings
from qcompress.data import splits
from qcompress.data.images import Splits
from qcompress.settings import ExportOptions, RefineOptions, VerifyOptions


class Denoiser(nn.Module):
    """Predicts the noise; (N, 3, H, W) to the same, any H and W."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The image less what is predicted."""
        noise: Tensor = self.last(self.body(self.first(x)))
        return x - noise


def train(network: nn.Module, images: Splits, steps: int) -> float:
    """`steps` of Adam on the mean squared error of 8 crops of 48x48 each; returns the last error."""
    rng, optimiser, error = np.random.default_rng(0), torch.optim.Adam(network.parameters(), 2e-3), torch.zeros(())
    for _ in range(steps):
        crops = images.calibration.crops(48, 8, rng)
        error = (network(crops.inputs) - crops.targets).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    return float(error.detach())


def main() -> None:
    """Trains, prunes, trains on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("own.slim"))
    asked = parser.parse_args()

    torch.manual_seed(0)
    images = splits.load(None, channels=3, stride=1, seed=0)
    network = Denoiser(asked.width)
    print(f"trained to an error of {train(network, images, asked.steps):.4f}")

    settings = Settings(
        sparsity=0.5,
        refine=RefineOptions(asked.evaluations),
        export=ExportOptions(dynamic=False),  # of the example's size; without this line of any size
        verify=VerifyOptions(max_seconds=1),
    )
    result = qcompress.prune(network, torch.zeros(1, 3, 64, 64), settings, data=images, out=asked.out)
    metric, units = result.report.metric, result.report.units
    print(f"{units.pruned} of {units.total} units went: {metric.dense:.2f} dB, then {metric.artifact:.2f} dB; {result.folder}")

    slim = qcompress.load(asked.out, into=network)  # an ordinary module, in eval mode
    print(f"trained on to an error of {train(slim.train(), images, asked.steps // 3):.4f}")


if __name__ == "__main__":
    main()
