"""Train the Half-UNet that ships with qcompress: RGB denoising at sigma 25, from a folder of photographs.

    python examples/train_reference.py PHOTOS --out half_unet48_sigma25.safetensors

Network    HalfUNet(channels=3, width=48, levels=5, ghost=False): 230,691 parameters, plain 3x3 convolutions.
Data       every image in PHOTOS, reduced to half, or to 1,280 pixels a side if that is less (JPEG artefacts go);
           random 64x64 crops, half of them from a copy at half the size, flips and quarter turns.
Noise      white Gaussian, standard deviation 25/255, not clipped.
Training   L1 loss on batches of 8, Adam with a one-cycle schedule up to 1.5e-3, bfloat16 autocast for the first 80 % of the
           steps and float32 after, an exponential moving average of the weights (0.999), then BatchNorm statistics
           re-estimated over 300 clean batches, because such statistics lag behind the weights.

The run is seeded and resumable: it writes STEPS-so-far to OUT.partial every 2,000 steps and continues from there.
What was reached, and on which photographs, is written down in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from qcompress.architectures.half_unet import HalfUNet

SIGMA = 25 / 255
CROP, BATCH = 64, 8


def read_photos(folder: Path, longest: int = 1280) -> list[np.ndarray]:
    """Every image below `folder`, in name order, as uint8 (H, W, 3); each also at half the size."""
    photos = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"}:
            continue
        image = Image.open(path).convert("RGB")
        scale = min(0.5, longest / max(image.size))
        for factor in (scale, scale / 2):
            size = (round(image.width * factor), round(image.height * factor))
            if min(size) >= CROP:
                photos.append(np.asarray(image.resize(size, Image.Resampling.LANCZOS)))
    if not photos:
        raise SystemExit(f"no image of at least {CROP}x{CROP} pixels in {folder}")
    return photos


def clean_batch(photos: list[np.ndarray], rng: np.random.Generator) -> Tensor:
    """A batch of random crops, (BATCH, 3, CROP, CROP) in 0..1; a photograph is drawn with the weight of its area."""
    areas = np.array([photo.shape[0] * photo.shape[1] for photo in photos], float)
    crops = []
    for index in rng.choice(len(photos), BATCH, p=areas / areas.sum()):
        photo = photos[index]
        top, left = rng.integers(photo.shape[0] - CROP + 1), rng.integers(photo.shape[1] - CROP + 1)
        crop = np.rot90(photo[top : top + CROP, left : left + CROP], int(rng.integers(4)))
        crops.append(crop[:, ::-1] if rng.integers(2) else crop)
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float().div_(255).contiguous(memory_format=torch.channels_last)


def noisy_of(clean: Tensor, rng: np.random.Generator) -> Tensor:
    """`clean` with white Gaussian noise."""
    noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32) * np.float32(SIGMA))
    return (clean + noise).contiguous(memory_format=torch.channels_last)


def reestimate_batchnorm(model: nn.Module, photos: list[np.ndarray], rng: np.random.Generator, batches: int = 300) -> None:
    """Replace BatchNorm running statistics by the plain average over `batches` batches."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    model.train()
    with torch.no_grad():
        for _ in range(batches):
            model(noisy_of(clean_batch(photos, rng), rng))
    model.eval()


def save_aside(state: object, path: Path) -> None:
    """Write a training state next to `path`, then rename, so that an interruption leaves the last one whole."""
    aside = path.with_suffix(path.suffix + ".tmp")
    torch.save(state, aside)
    aside.replace(path)


def train(photos: list[np.ndarray], out: Path, steps: int, seed: int) -> nn.Module:
    """Train for `steps` steps, resuming from OUT.partial where it exists; returns the averaged model in eval mode."""
    torch.manual_seed(seed)
    model = HalfUNet(channels=3, width=48, levels=5, ghost=False)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = torch.optim.swa_utils.AveragedModel(
        model,
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999),  # type: ignore[no-untyped-call]
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=1.5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.5e-3, total_steps=steps, pct_start=0.1)
    partial, first = out.with_suffix(".partial"), 0
    if partial.exists():
        state = torch.load(partial, weights_only=True)
        first = state["step"]
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        print(f"resuming at step {first}", flush=True)
    started, shown = time.monotonic(), 0.0
    for step in range(first, steps):
        rng = np.random.default_rng([seed, step])  # one stream per step: resuming draws what an uninterrupted run draws
        clean = clean_batch(photos, rng)
        with torch.autocast("cpu", torch.bfloat16, enabled=step < 0.8 * steps):
            loss = (model(noisy_of(clean, rng)) - clean).abs().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        average.update_parameters(model)
        shown = 0.99 * shown + 0.01 * loss.item() if step > first else loss.item()
        if (step + 1) % 2000 == 0:
            rate = (step + 1 - first) / (time.monotonic() - started)
            print(f"step {step + 1} of {steps}, L1 {shown:.5f}, {rate:.1f} steps/s", flush=True)
            state = {"model": model.state_dict(), "average": average.state_dict()}
            state |= {"optimiser": optimiser.state_dict(), "schedule": schedule.state_dict(), "step": step + 1}
            save_aside(state, partial)
    trained: nn.Module = average.module
    reestimate_batchnorm(trained, photos, np.random.default_rng([seed, steps]))
    return trained


def main() -> None:
    """Read the command line, train, write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--out", type=Path, default=Path("half_unet48_sigma25.safetensors"))
    parser.add_argument("--steps", type=int, default=80_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    photos = read_photos(options.photos)
    print(f"{len(photos)} images, {sum(p.shape[0] * p.shape[1] for p in photos) / 1e6:.1f} megapixels", flush=True)
    model = train(photos, options.out, options.steps, options.seed)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, options.out, metadata={"architecture": "half-unet", "noise": "gaussian:25", "steps": str(options.steps)})


if __name__ == "__main__":
    main()
