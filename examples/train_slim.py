"""Train a slim network in a loop of your own, put its weights back, and write the new ONNX file.

    qcompress prune reference --out reference.slim
    python examples/train_slim.py reference.slim --steps 200

The slim network is an ordinary module. Here it learns from the photographs that ship, with white noise of sigma 25; put
your own data, loss and optimiser in their place.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import qcompress
from qcompress.conversion import export
from qcompress.settings import CheckpointOptions, ExportOptions

PHOTOGRAPHS = Path(qcompress.__file__).parent / "reference" / "photographs"
SIGMA, CROP, BATCH = 25 / 255, 64, 8


def batches(folder: Path, steps: int, seed: int) -> list[Tensor]:
    """`steps` batches of random crops, (BATCH, 3, CROP, CROP) in 0..1."""
    rng = np.random.default_rng(seed)
    images = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))]
    found = []
    for _ in range(steps):
        crops = []
        for place in rng.integers(len(images), size=BATCH):
            height, width, _ = images[place].shape
            top, left = rng.integers(height - CROP + 1), rng.integers(width - CROP + 1)
            crops.append(images[place][top : top + CROP, left : left + CROP])
        found.append(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255)
    return found


def main() -> None:
    """Load, train, save, export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a slim folder that `qcompress prune` wrote")
    parser.add_argument("--photographs", type=Path, default=PHOTOGRAPHS)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    model = qcompress.load(options.folder)  # in evaluation mode: BatchNorm statistics stay as they were re-estimated
    optimiser = torch.optim.Adam(model.parameters(), lr=options.rate)
    for step, clean in enumerate(batches(options.photographs, options.steps, options.seed), start=1):
        loss = (model(clean + SIGMA * torch.randn_like(clean)) - clean).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 20 == 0 or step == options.steps:
            print(f"step {step} of {options.steps}, L1 {loss.item():.4f}", flush=True)

    qcompress.save(model, options.folder)
    onnx = options.folder / "model.onnx"
    export(options.folder, onnx, to="onnx", options=CheckpointOptions(), export=ExportOptions(), size=256)
    print(f"trained weights in {options.folder}, {onnx.name} written anew; the report is still that of the pruning")


if __name__ == "__main__":
    main()
