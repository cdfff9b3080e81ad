"""Small networks for tests, in float64 with random statistics, so that a mistake of 1e-12 would show.

`ARCHITECTURES` holds published architectures, wired as they are and a few channels wide: the contract of tracing. `PRUNABLE`
and `ODD` hold single patterns: the first must be traced exactly, the second may be refused, in part or altogether, but never
traced wrong.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qcompress.tracing_trial import randomised
from zoo import attention, classic, detection, mobile, norms, residual, restoration, signals, super_resolution, unets
from zoo.base import Flow, Network, block, conv
from zoo.patterns import IMAGE, ODD, PRUNABLE
from zoo.random_networks import RandomNetwork

__all__ = ["ARCHITECTURES", "ODD", "PRUNABLE", "Flow", "Network", "architecture", "block", "conv", "network", "random_network"]

_FAMILIES = (
    classic.NETWORKS,
    residual.NETWORKS,
    mobile.NETWORKS,
    unets.NETWORKS,
    restoration.NETWORKS,
    super_resolution.NETWORKS,
    norms.NETWORKS,
    attention.NETWORKS,
    detection.NETWORKS,
    signals.NETWORKS,
)
ARCHITECTURES: dict[str, Network] = {name: network for family in _FAMILIES for name, network in family.items()}


def network(name: str) -> tuple[nn.Module, Tensor]:
    """The pattern called `name`, in training mode, and two images for it: float64, the same every time."""
    build, shape = PRUNABLE[name] if name in PRUNABLE else (ODD[name], IMAGE)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = randomised(build().double()).requires_grad_(True).train()
        return model, torch.rand(shape, dtype=torch.float64)


def architecture(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network of `ARCHITECTURES` called `name`, in evaluation mode, and a batch of two for each of its inputs: float64."""
    entry = ARCHITECTURES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _lively(entry.build())
        return model, tuple(torch.rand((2, *shape), dtype=torch.float64) for shape in entry.shapes)


def random_network(seed: int) -> tuple[nn.Module, Tensor]:
    """`RandomNetwork(seed)`, in evaluation mode, and two images for it: float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _lively(RandomNetwork(seed)), torch.rand((2, 3, 8, 8), dtype=torch.float64)


def _lively(model: nn.Module) -> nn.Module:
    """A copy in float64, in evaluation mode, with random weights and statistics: those of InstanceNorm, too."""
    copied = randomised(model.double())
    for module in copied.modules():
        if isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats:
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return copied.requires_grad_(True).eval()
