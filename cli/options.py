"""Options shared by several commands, declared once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from qcompress.errors import UsageError

__all__ = [
    "Align",
    "Arch",
    "ArchArgs",
    "Budget",
    "Checkpoint",
    "Data",
    "Device",
    "Dynamic",
    "Floor",
    "Ignore",
    "Json",
    "MaxDrop",
    "MinSpeedup",
    "Noise",
    "Opset",
    "Out",
    "Quiet",
    "Recover",
    "Seed",
    "Size",
    "TrustPickle",
    "parse_align",
    "parse_arch_args",
    "parse_coefficients",
]


class Budget(StrEnum):
    """What is counted against the sparsity."""

    filters = "filters"
    params = "params"
    macs = "macs"


class Recover(StrEnum):
    """How the slim network is repaired, without training."""

    none = "none"
    bias = "bias"
    lstsq = "lstsq"


Checkpoint = Annotated[
    Path,
    typer.Argument(
        help="Trained checkpoint (.safetensors, .pt, .pth), or `reference` for the one that ships.", show_default=False
    ),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Output folder [default: NAME.slim next to the checkpoint].")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Images: a SIDD folder, SIDD .mat pairs, noisy/ and clean/, or clean images with --noise "
        "[default: the photographs that ship].",
    ),
]
Noise = Annotated[
    str | None, typer.Option(help="Noise added to clean images: gaussian:SIGMA (of 255) or camera [default: gaussian:25].")
]
Arch = Annotated[str | None, typer.Option(help="Architecture, when not recognised: a known name or package.module:factory.")]
ArchArgs = Annotated[str | None, typer.Option(metavar="JSON", help="Arguments of the architecture, as a JSON object.")]
TrustPickle = Annotated[
    bool,
    typer.Option("--trust-pickle", help="Unpickle a whole module. Runs code from the file: only for files you made yourself."),
]
Seed = Annotated[int, typer.Option(help="Seed of the whole run.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result, or the error, as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Device = Annotated[str, typer.Option(help="Where torch computes: cpu, cuda, cuda:1 ...")]
Align = Annotated[
    str,
    typer.Option(
        help="Channels are kept in multiples of this: 16, 8, 4, 1, or auto: the largest of them that meets the budget exactly."
    ),
]
Opset = Annotated[int, typer.Option(help="ONNX opset to write.")]
Dynamic = Annotated[
    bool, typer.Option("--dynamic/--static", help="Let batch, height and width vary where the network allows it.")
]
MaxDrop = Annotated[
    float | None, typer.Option(help="Exit with 4 when the metric on report images drops by more than this (dB for psnr).")
]
MinSpeedup = Annotated[float | None, typer.Option(help="Exit with 4 unless the speedup's confidence interval lies above this.")]
Size = Annotated[
    int, typer.Option(help="Side of the square input, in pixels, at which MACs are counted and latency is measured.")
]
Ignore = Annotated[
    list[str] | None, typer.Option(metavar="PATTERN", help="Keep layers whose name matches (shell wildcards); repeatable.")
]
Floor = Annotated[int, typer.Option(help="Units that every group keeps at least.")]


def parse_align(text: str) -> int | None:
    """The value of --align: a number, or None for "auto".

    >>> parse_align("auto"), parse_align("8")
    (None, 8)
    """
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--align {text!r}: expected a number or auto", "for example --align 16") from None


def parse_arch_args(text: str | None) -> Mapping[str, Any] | None:
    """The value of --arch-args as a mapping.

    >>> parse_arch_args('{"width": 32}')
    {'width': 32}
    """
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--arch-args is not JSON: {error}", """for example --arch-args '{"width": 32}'""") from None
    if not isinstance(value, dict):
        raise UsageError(f"--arch-args must be a JSON object, got {type(value).__name__}", """for example '{"width": 32}'""")
    return value


def parse_coefficients(pairs: Sequence[str]) -> dict[str, float]:
    """The values of --coefficient NAME=VALUE as a mapping.

    >>> parse_coefficients(["alpha=2", "similarity=0.5"])
    {'alpha': 2.0, 'similarity': 0.5}
    """
    found = {}
    for pair in pairs:
        name, _equals, value = pair.partition("=")
        try:
            found[name.strip().replace("-", "_")] = float(value)
        except ValueError:
            raise UsageError(
                f"--coefficient {pair!r}: expected NAME=NUMBER", "for example --coefficient similarity=0.5"
            ) from None
    return found
