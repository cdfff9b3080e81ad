"""How long it takes to find every unit of a network, beside Torch-Pruning's own enumeration on the same network and input.

CPU seconds of one run each, on one thread. "trace" is `qcompress.tracing.trace`: costs at the input's size, units, a trial
removal of every group. "all groups" is Torch-Pruning's graph and one group per layer (`get_all_groups`), which does not say
which channels go together; that is asked channel by channel: "per channel" is the time of a sample, scaled to all units. Its
groups on the whole are counted, or the error that it ends with; no answer within the limit is shown as such.

    OMP_NUM_THREADS=1 python benchmarks/tracing.py [--limit SECONDS] [--sample CHANNELS] [NETWORK ...]
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn import functional

from qcompress.groups import Groups
from qcompress.tracing import trace

Build = Callable[[], tuple[nn.Module, tuple[int, ...]]]


class Bottleneck(nn.Module):
    """The block of ResNet-50."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, 4 * inner, 1, bias=False), nn.BatchNorm2d(4 * inner)
        self.down: nn.Module = nn.Identity()
        if stride > 1 or inputs != 4 * inner:
            self.down = nn.Sequential(nn.Conv2d(inputs, 4 * inner, 1, stride, bias=False), nn.BatchNorm2d(4 * inner))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x))))))
        return functional.relu(self.bn3(self.conv3(y)) + self.down(x))


def resnet(depths: tuple[int, ...]) -> nn.Module:
    """ResNet-50 for depths (3, 4, 6, 3), ResNet-152 for (3, 8, 36, 3)."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for stage, depth in enumerate(depths):
        for number in range(depth):
            layers.append(Bottleneck(inputs, 64 * 2**stage, 2 if stage and not number else 1))
            inputs = 256 * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


def vgg() -> nn.Module:
    """VGG-16."""
    layers: list[nn.Module] = []
    inputs = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2)]
        inputs = width or inputs
    head = nn.Linear(25088, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)
    return nn.Sequential(*layers, nn.Flatten(), *head)


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions with BatchNorm."""
    first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    return nn.Sequential(*first, nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(nn.Module):
    """The classic U-Net of five scales, transposed convolutions up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.down = nn.ModuleList(double(*pair) for pair in zip([3, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, 2, 2) for c in reversed(widths[:-1]))
        self.join = nn.ModuleList(double(2 * c, c) for c in reversed(widths[:-1]))
        self.out = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Any:
        skips: list[Tensor] = []
        for level in self.down:
            x = level(functional.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, reversed(skips[:-1]), strict=True):
            x = join(torch.cat([skip, up(x)], 1))
        return self.out(x)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of every place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width, 1, 1)), nn.Parameter(torch.zeros(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6) * self.weight + self.bias


class NAFBlock(nn.Module):
    """Gates by halves, simplified channel attention."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(c), ChannelNorm(c)
        self.conv1, self.conv2 = nn.Conv2d(c, 2 * c, 1), nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c)
        self.sca, self.conv3 = nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 1)
        self.conv4, self.conv5 = nn.Conv2d(c, 2 * c, 1), nn.Conv2d(c, c, 1)
        self.beta, self.gamma = (nn.Parameter(torch.ones(1, c, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        a, b = self.conv2(self.conv1(self.norm1(x))).chunk(2, 1)
        y = a * b
        x = x + self.conv3(y * self.sca(functional.adaptive_avg_pool2d(y, 1))) * self.beta
        a, b = self.conv4(self.norm2(x)).chunk(2, 1)
        return x + self.conv5(a * b) * self.gamma


class NAFNet(nn.Module):
    """2, 2, 4, 8 blocks down, 12 in the middle, 2 at every scale up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.intro, self.ending = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.encoders = nn.ModuleList(
            nn.Sequential(*(NAFBlock(c) for _ in range(depth))) for c, depth in zip(widths, (2, 2, 4, 8), strict=False)
        )
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, 2) for c in widths[:-1])
        self.middle = nn.Sequential(*(NAFBlock(widths[-1]) for _ in range(12)))
        ups = (nn.Sequential(nn.Conv2d(2 * c, 4 * c, 1, bias=False), nn.PixelShuffle(2)) for c in reversed(widths[:-1]))
        self.ups = nn.ModuleList(ups)
        self.decoders = nn.ModuleList(nn.Sequential(NAFBlock(c), NAFBlock(c)) for c in reversed(widths[:-1]))

    def forward(self, x: Tensor) -> Any:
        y = self.intro(x)
        skips: list[Tensor] = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skips.append(encoder(y))
            y = down(skips[-1])
        y = self.middle(y)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            y = decoder(up(y) + skips.pop())
        return self.ending(y) + x


class ViTBlock(nn.Module):
    """Attention by heads and a perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Any:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """ViT-B/16."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places = nn.Conv2d(3, 768, 16, 16), nn.Parameter(torch.zeros(1, 196, 768))
        self.blocks = nn.Sequential(*(ViTBlock(768, 12) for _ in range(12)))
        self.norm, self.head = nn.LayerNorm(768), nn.Linear(768, 1000)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.norm(self.blocks(self.embed(x).flatten(2).transpose(1, 2) + self.places)).mean(1))


def _zoo(name: str) -> Build:
    def build() -> tuple[nn.Module, tuple[int, ...]]:
        sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
        from zoo import architecture

        model, (x,) = architecture(name)
        return model.float(), tuple(x[:1].shape)

    return build


NETWORKS: dict[str, Build] = {
    "zoo: srresnet": _zoo("srresnet"),
    "zoo: yolo-c2f": _zoo("yolo-c2f"),
    "ResNet-50": lambda: (resnet((3, 4, 6, 3)), (1, 3, 224, 224)),
    "NAFNet-w32": lambda: (NAFNet(32), (1, 3, 256, 256)),
    "U-Net, 80 wide": lambda: (UNet(80), (1, 3, 256, 256)),
    "ResNet-152": lambda: (resnet((3, 8, 36, 3)), (1, 3, 224, 224)),
    "ViT-B/16": lambda: (ViT(), (1, 3, 224, 224)),
    "NAFNet-w64": lambda: (NAFNet(64), (1, 3, 256, 256)),
    "VGG-16": lambda: (vgg(), (1, 3, 224, 224)),
}


class OutOfTimeError(Exception):
    """The limit has passed."""


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Raises OutOfTimeError inside the context after `seconds`."""

    def stop(*_: object) -> None:
        raise OutOfTimeError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of one call, and what it returned."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def upstream(model: nn.Module, x: Tensor) -> tuple[Any, int]:
    """Torch-Pruning's graph, and how many groups it enumerates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=(x,), verbose=False)
        return graph, sum(1 for _ in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.ConvTranspose2d, nn.Linear]))


def channel_by_channel(graph: Any, model: nn.Module, groups: Groups, sample: int) -> None:
    """What upstream says goes with the first channel of each unit of a sample, evenly over all units."""
    units = groups.space.units
    owners = {group.name: group.side("out")[0] for group in groups.groups}
    for place in range(sample):
        group, number = units[place * len(units) // sample]
        layer = model.get_submodule(owners[group].layer)
        prune = graph.get_pruner_of_module(layer).prune_out_channels
        graph.get_pruning_group(layer, prune, idxs=list(owners[group].channels[number]))


def row(name: str, options: argparse.Namespace) -> str:
    """One row of the table."""
    model, shape = NETWORKS[name]()
    x = torch.zeros(shape)
    model.eval()
    with torch.no_grad():
        forward, _ = seconds(lambda: model(x))
    ours, groups = seconds(lambda: trace(model, x))
    theirs, closure, found = "", "-", "-"
    start = time.monotonic()
    try:
        with limit(options.limit):
            taken, (graph, number) = seconds(lambda: upstream(model, x))
        theirs, found = f"{taken:.2f}", str(number)
        sample = min(options.sample, len(groups.space))
        start = time.monotonic()
        with limit(options.limit):
            taken, _ = seconds(lambda: channel_by_channel(graph, model, groups, sample))
        closure = f"{taken / sample * len(groups.space):.1f}"
    except Exception as error:  # whatever it raises is its answer, unless that is what it made of the limit
        told = "no answer" if time.monotonic() - start > options.limit - 0.5 else type(error).__name__
        closure, theirs = (told, theirs) if theirs else ("-", told)
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    counts = f"{size:.3g} M | {len(groups.groups)} | {len(groups.space)} | {len(groups.kept_whole)}"
    return f"| {name} | {counts} | {forward:.2f} | **{ours:.2f}** | {theirs} | {found} | {closure} |"


def main() -> None:
    """Prints one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), help="some of " + ", ".join(NETWORKS))
    parser.add_argument("--limit", type=int, default=60, help="seconds that each of upstream's two enumerations may take")
    parser.add_argument("--sample", type=int, default=1000, help="how many units are asked for channel by channel")
    options = parser.parse_args()
    torch.set_num_threads(1)
    trace(*_warm())
    print("| network | parameters | groups | units | kept | forward | trace | all groups | of them | per channel |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in options.networks:
        print(row(name, options), flush=True)


def _warm() -> tuple[nn.Module, Tensor]:
    """A tiny network, so that what is loaded once counts for no row."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3)), torch.zeros(1, 3, 8, 8)


if __name__ == "__main__":
    main()
