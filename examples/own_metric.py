"""A metric of one's own: how well edges are kept.

    qcompress prune CHECKPOINT --metric own_metric:edges               (in examples/, or with it on PYTHONPATH)
    python examples/ci_gate.py CHECKPOINT --metric own_metric:edges

It is named by its module, so that worker processes find it, too; in a program by `Settings(metric="own_metric:edges")`.
"""

from __future__ import annotations

from torch import Tensor


class Edges:
    """PSNR of the lengths of an image's gradients, in dB, higher is better."""

    unit = "dB"

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """(N,) one value for each of (N, C, H, W) images in 0..1."""
        return -self.loss(output, target)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(N,) the same, differentiable, lower is better: what units are scored by."""
        error = (_gradients(output) - _gradients(target)).square().mean(dim=(1, 2, 3))
        return 10 * error.clamp_min(1e-10).log10()


def _gradients(images: Tensor) -> Tensor:
    """(N, C, H - 1, W - 1) lengths of the differences to the right and below."""
    right = images[:, :, :-1, 1:] - images[:, :, :-1, :-1]
    below = images[:, :, 1:, :-1] - images[:, :, :-1, :-1]
    return (right**2 + below**2 + 1e-12).sqrt()


edges = Edges()
