"""Options shared by several commands, declared once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qcompress.errors import UsageError

if TYPE_CHECKING:
    from qcompress.settings import Limits

__all__ = [
    "Align",
    "Arch",
    "ArchArgs",
    "AutoSize",
    "Backend",
    "BackendOption",
    "Cache",
    "Checkpoint",
    "Crops",
    "Data",
    "Device",
    "Dynamic",
    "Epochs",
    "FinetuneSteps",
    "Floor",
    "Ignore",
    "Json",
    "Keep",
    "KeepAtMost",
    "LearningRate",
    "MaxDrop",
    "MaxImages",
    "MaxQpuSeconds",
    "MaxSize",
    "Mean",
    "MetricName",
    "MinSpeedup",
    "MultipleOf",
    "Minutes",
    "Noise",
    "Opset",
    "Out",
    "Plots",
    "Quiet",
    "Ray",
    "Recover",
    "Resume",
    "Seed",
    "Size",
    "SolverName",
    "Std",
    "Optimizer",
    "OptimizerOption",
    "Teaching",
    "TrainData",
    "TrustPickle",
    "Undecided",
    "UndecidedOption",
    "Workers",
    "limits",
    "parse_align",
    "parse_arch_args",
    "parse_backend_options",
    "parse_coefficients",
    "parse_multiples",
    "parse_normalisation",
    "parse_shares",
]

NORMALISATIONS = {"imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}


class Recover(StrEnum):
    """How the slim network is repaired: without training, or by that and fine-tuning after it."""

    none = "none"
    batchnorm = "batchnorm"
    bias = "bias"
    lstsq = "lstsq"
    finetune = "finetune"


Minutes = Annotated[float | None, typer.Option(help="Minutes of fine-tuning (default: 10).")]
Epochs = Annotated[float | None, typer.Option(help="Length of the fine-tuning in passes over the training images instead.")]
FinetuneSteps = Annotated[int | None, typer.Option(help="Length of the fine-tuning in steps of the optimiser instead.")]
TrainData = Annotated[
    Path | None,
    typer.Option(
        "--train-data",
        help="Images to fine-tune on, as for --data; none of them selects or reports (default: the calibration images).",
    ),
]
LearningRate = Annotated[
    float | None, typer.Option("--learning-rate", help="Of the fine-tuning (default: the best of a few, by short trials).")
]
Teaching = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Share of the fine-tuning's loss that comes from the dense network's outputs, not from the targets (default: "
        "1, 0.5 or 0, by trial).",
    ),
]


class Optimizer(StrEnum):
    """What moves the weights in fine-tuning."""

    muon = "muon"
    adam = "adam"


OptimizerOption = Annotated[
    Optimizer,
    typer.Option("--optimizer", help="Of the fine-tuning: Muon for weights that are matrices and Adam for the rest, or Adam."),
]
Checkpoint = Annotated[
    Path,
    typer.Argument(
        help="Trained checkpoint (.safetensors, .pt, .pth), or `reference` for the one that ships.", show_default=False
    ),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Output folder (default: NAME.slim next to the checkpoint).")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Images: noisy/ and clean/, lr/ and hr/, a SIDD folder or its .mat files, clean images; a folder for each class; "
        "images/ and masks/; or an .npz file of one of these (default: the photographs that ship).",
    ),
]
Noise = Annotated[
    str | None, typer.Option(help="Noise added to clean images: gaussian:SIGMA (of 255) or camera (default: gaussian:25).")
]
MetricName = Annotated[
    str,
    typer.Option(
        "--metric",
        help="psnr, psnr-y, ssim, top1, miou, PACKAGE.MODULE:FUNCTION, or auto: psnr for restored images, top1 for classes, "
        "miou for masks.",
    ),
]
MaxImages = Annotated[
    int | None, typer.Option(help="Images of each role that are read at most (default: 64; with a class each: 1000).")
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,C", help="What is subtracted from each channel (0..1) of labelled images, or imagenet, for --std too."
    ),
]
Std = Annotated[str | None, typer.Option(metavar="A,B,C", help="What the channels of labelled images are then divided by.")]
AutoSize = Annotated[
    int | None,
    typer.Option(
        "--size",
        help="Side of the square input, in pixels, at which MACs are counted and latency is measured; images with a class "
        "are resized to it (default: 256; a classifier's: that of its images).",
    ),
]
Arch = Annotated[str | None, typer.Option(help="Architecture, when not recognised: a known name or package.module:factory.")]
ArchArgs = Annotated[str | None, typer.Option(metavar="JSON", help="Arguments of the architecture, as a JSON object.")]
TrustPickle = Annotated[
    bool,
    typer.Option("--trust-pickle", help="Unpickle a whole module. Runs code from the file: only for files you made yourself."),
]
Seed = Annotated[int, typer.Option(help="Seed of the whole run.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result, or the error, as JSON on stdout.")]
Plots = Annotated[
    bool, typer.Option("--plots", help="Draw pictures into plots/ and show them in report.md (needs the extra `plots`).")
]
Crops = Annotated[
    bool, typer.Option("--crops/--no-crops", help="Keep small windows of report images in crops.png and report.html.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Device = Annotated[str, typer.Option(help="Where torch computes: cpu, cuda, cuda:1 ...")]
Align = Annotated[
    str,
    typer.Option(
        help="Channels are kept in multiples of this: 16, 8, 4, 1, or auto: this processor's block, or a smaller one where "
        "that would take much more than asked."
    ),
]
ObjectiveName = Annotated[
    str,
    typer.Option(
        help="What is minimised: reconstruction (what is lost once the layers behind are refitted), hybrid (Taylor, Fisher and "
        "similarity), l1-qubo, interaction, taylor, fisher, magnitude, random; or auto: reconstruction where the network is "
        "repaired by least squares (hybrid where it classifies), else hybrid in 6 steps."
    ),
]
Relinearise = Annotated[
    int | None,
    typer.Option(min=1, help="Score the units anew in so many steps, each with what is gone already; not for reconstruction."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Spread scoring and refinement over N processes; the result is the same for every N from 1. With --ray: over N "
        "actors.",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Spread them over a Ray cluster instead, at HOST:PORT, or auto: the one that runs here (pip install "
        "'qcompress\\[ray]').",
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with the refinement or the fine-tuning that Ctrl-C, the clock or a crash ended in the output folder.",
    ),
]
Opset = Annotated[int, typer.Option(help="ONNX opset to write.")]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="Keep what was found in DIR: a run with unchanged inputs and options measures its speed only.",
    ),
]
Dynamic = Annotated[
    bool, typer.Option("--dynamic/--static", help="Let batch, height and width vary where the network allows it.")
]
MaxDrop = Annotated[
    str | None,
    typer.Option(
        metavar="DROP",
        help="Exit with 4 when the metric on report images drops by more than this: 0.1, or with its unit 0.1dB, or 1pt (a "
        "point of accuracy).",
    ),
]
MinSpeedup = Annotated[
    float | None,
    typer.Option(
        help="Exit with 4 when the speedup's whole confidence interval lies below this, with 6 when the interval contains it."
    ),
]
MaxSize = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Exit with 4 when the ONNX file is larger: bytes, or 900kB, 4MB, 4MiB.")
]


class Undecided(StrEnum):
    """What becomes of a limit that the measurements do not decide."""

    report = "report"
    fail = "fail"
    passes = "pass"


UndecidedOption = Annotated[
    Undecided,
    typer.Option("--undecided", help="What a speedup counts as whose interval contains its limit; report: exit with 6."),
]
Size = Annotated[
    int, typer.Option(help="Side of the square input, in pixels, at which MACs are counted and latency is measured.")
]
Ignore = Annotated[
    list[str] | None, typer.Option(metavar="PATTERN", help="Keep layers whose name matches (shell wildcards); repeatable.")
]
Floor = Annotated[int, typer.Option(help="Units that every group keeps at least.")]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN=SHARE",
        help="Groups whose name, or a layer's, matches keep at least this share of their units: 'enc.0.*=0.75'; 1 freezes "
        "them; repeatable.",
    ),
]
KeepAtMost = Annotated[
    list[str] | None, typer.Option(metavar="PATTERN=SHARE", help="They keep at most this share of their units; repeatable.")
]
MultipleOf = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN=N", help="They keep multiples of so many channels, whatever --align is; repeatable."),
]
Backend = Annotated[
    str,
    typer.Option(
        help="Solver of the QUBO: profile, neal, tabu, steepest, exact, a plugin; with a D-Wave account: qpu, clique, leap, "
        "leap-cqm."
    ),
]
BackendOption = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the backend (sweeps, reads, ...); repeatable.")
]
SolverName = Annotated[
    str | None, typer.Option("--solver", help="Name of D-Wave's solver (default: the online one of most qubits).")
]
MaxQpuSeconds = Annotated[
    float | None,
    typer.Option(help="Machine time that a D-Wave backend may use; more is refused beforehand (default: 10, Leap 60)."),
]


def limits(max_drop: str | None, min_speedup: float | None, max_size: str | None, undecided: Undecided) -> Limits:
    """The values of --max-drop, --min-speedup, --max-size and --undecided."""
    from qcompress.drops import parse_drop
    from qcompress.quantities import parse_bytes
    from qcompress.settings import Limits

    drop = None if max_drop is None else parse_drop(max_drop, "--max-drop")
    size = None if max_size is None else parse_bytes(max_size, "--max-size")
    if drop is None:
        return Limits(None, min_speedup, size, undecided.value)
    return Limits(drop.amount, min_speedup, size, undecided.value, drop.unit)


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


def parse_normalisation(mean: str | None, std: str | None) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """The values of --mean and --std.

    >>> parse_normalisation("0.5", "0.25,0.25,0.5")
    ((0.5,), (0.25, 0.25, 0.5))
    >>> parse_normalisation("imagenet", None)
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    """
    if mean in NORMALISATIONS and std is None:
        std = mean
    return _parse_numbers("--mean", mean, 0), _parse_numbers("--std", std, 1)


def _parse_numbers(option: str, text: str | None, place: int) -> tuple[float, ...] | None:
    if text is None:
        return None
    if text in NORMALISATIONS:
        return NORMALISATIONS[text][place]
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        hint = f"for example {option} 0.5,0.5,0.5, or imagenet"
        raise UsageError(f"{option} {text!r}: expected numbers with commas between", hint) from None


def parse_arch_args(text: str | None) -> Mapping[str, Any] | None:
    """The value of --arch-args as a mapping.

    >>> parse_arch_args('{"width": 32}')
    {'width': 32}
    """
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--arch-args is not JSON: {error}", """for example --arch-args '{"width": 32}'""") from None
    if not isinstance(value, dict):
        raise UsageError(f"--arch-args must be a JSON object, got {type(value).__name__}", """for example '{"width": 32}'""")
    return value


def parse_shares(option: str, pairs: Sequence[str] | None) -> dict[str, float]:
    """The values of an option PATTERN=NUMBER as a mapping.

    >>> parse_shares("--keep", ["enc.*=0.75"])
    {'enc.*': 0.75}
    """
    return _by_pattern(option, pairs, f"for example {option} 'enc.*=0.75'")


def _by_pattern(option: str, pairs: Sequence[str] | None, hint: str) -> dict[str, float]:
    found = {}
    for pair in pairs or ():
        pattern, _equals, value = pair.rpartition("=")
        try:
            found[pattern] = float(value)
        except ValueError:
            pattern = ""
        if not pattern:
            raise UsageError(f"{option} {pair!r}: expected PATTERN=NUMBER", hint)
    return found


def parse_multiples(option: str, pairs: Sequence[str] | None) -> dict[str, int]:
    """The same for whole numbers.

    >>> parse_multiples("--multiple-of", ["up.*=8"])
    {'up.*': 8}
    """
    hint = f"for example {option} 'up.*=8'"
    found = _by_pattern(option, pairs, hint)
    broken = next((pattern for pattern, value in found.items() if not value.is_integer()), None)
    if broken is not None:
        raise UsageError(f"{option} '{broken}={found[broken]:g}': expected a whole number", hint)
    return {pattern: int(value) for pattern, value in found.items()}


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


def parse_backend_options(
    pairs: Sequence[str] | None, solver: str | None = None, max_seconds: float | None = None
) -> dict[str, float | str | bool]:
    """The values of --backend-option NAME=VALUE, --solver and --max-qpu-seconds as options of the backend.

    >>> parse_backend_options(["reads=50"], max_seconds=2.0)
    {'reads': '50', 'max_seconds': 2.0}
    """
    found: dict[str, float | str | bool] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--backend-option {pair!r}: expected NAME=VALUE", "for example --backend-option reads=50")
        found[name.strip().replace("-", "_")] = value.strip()
    if solver is not None:
        found["solver"] = solver
    if max_seconds is not None:
        found["max_seconds"] = max_seconds
    return found
