"""How many of other people's architectures can be pruned, and whether slim is masked there: timm's and spandrel's, untrained.

    pip install 'qcompress[timm,restoration]'
    python benchmarks/architectures.py timm --out timm.md
    python benchmarks/architectures.py spandrel --seconds 300

One network of each of timm's modules (the smallest by its name), one of each of spandrel's architectures that builds without
arguments. Each is traced, loses a random half of the units of every group, and is compared with the masked network, with random
weights. Prints one row each: parameters, groups, units, share of the parameters gone, seconds of tracing, relative difference;
or why nothing can be pruned. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import Tensor, nn

from qcompress.errors import QCompressError
from qcompress.selection import Selection
from qcompress.surgery import check, slim
from qcompress.tracing import trace
from qcompress.tracing_trial import randomised

SMALL = ("test_", "atto", "femto", "pico", "nano", "xxs", "_xs", "_s0", "_050", "tiny", "_b0", "small", "18", "_26", "_s")
SIZES = ((3, 64, 64), (1, 64, 64), (4, 64, 64), (3, 128, 128), (3, 256, 256))


@dataclass(frozen=True)
class Candidate:
    """A network to be built, and the shapes of one image to try, the first that it takes is used."""

    name: str
    build: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]


def timm_candidates() -> Iterator[Candidate]:
    """One of each module of timm."""
    import timm

    for module in timm.list_modules():
        names = timm.list_models(module=module)
        name = next((n for word in SMALL for n in names if word in n), names[0])
        settings = timm.get_pretrained_cfg(name)
        shape = tuple(settings.input_size) if settings else (3, 224, 224)
        yield Candidate(name, lambda name=name: timm.create_model(name, pretrained=False), (shape,))  # type: ignore[misc]


def spandrel_candidates() -> Iterator[Candidate]:
    """Every class of spandrel's architectures that builds without arguments."""
    import spandrel.architectures

    for found in pkgutil.iter_modules(spandrel.architectures.__path__):
        if found.name.startswith("_"):
            continue
        module = importlib.import_module(f"spandrel.architectures.{found.name}")
        for name, kind in vars(module).items():
            if inspect.isclass(kind) and issubclass(kind, nn.Module):
                yield Candidate(f"{found.name}.{name}", kind, SIZES)


def _input(model: nn.Module, shapes: tuple[tuple[int, ...], ...]) -> Tensor | None:
    for shape in shapes:
        x = torch.rand(1, *shape)
        try:
            with torch.no_grad():
                model(x.clone())
        except TimeoutError:
            raise
        except Exception:  # another shape may do
            continue
        return x
    return None


def _half(model: nn.Module, x: Tensor) -> str:
    """The row of a network that can be pruned."""
    start = time.perf_counter()
    groups = trace(model, x)
    seconds = time.perf_counter() - start
    probe = randomised(model)
    rng = np.random.default_rng(0)
    gone = np.zeros(len(groups.space), bool)
    for span in groups.space.spans:
        size = span.stop - span.start
        gone[span.start + rng.permutation(size)[: size // 2]] = True
    selection = Selection.of(groups.space, gone)
    slimmed = slim(probe, groups.cuts(selection))
    difference = check(probe, groups, selection, slimmed, x, 1e-4)
    left = sum(parameter.numel() for parameter in slimmed.parameters())
    if left != groups.params(selection.counts):
        raise AssertionError(f"{left} parameters, promised {groups.params(selection.counts)}")
    share = 100 * (1 - left / groups.params())
    size = f"{groups.params() / 1e6:.1f} | {len(groups.groups)} | {len(groups.space)}"
    return f"{size} | {share:.0f} % | {seconds:.1f} | {difference:.0e}"


def row(candidate: Candidate, seconds: int) -> tuple[str, str]:
    """(outcome, row of the table)."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        model = candidate.build().eval()
        x = _input(model, candidate.shapes)
        if x is None:
            return "not run", "takes none of the inputs tried | | | | |"
        return "pruned", _half(model, x)
    except TimeoutError:
        return "late", f"not within {seconds} s | | | | |"
    except QCompressError as error:
        outcome = "refused" if "no channels" in error.message else "failed"
        return outcome, f"{error.message[:160].replace('|', '/')} | | | | |"
    except TypeError as error:  # builds with arguments only
        return "not built", f"{str(error)[:80]} | | | | |"
    except Exception as error:
        return "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:120]} | | | | |"
    finally:
        signal.alarm(0)


def main() -> int:
    """Print the table and how many of each outcome there were; 1 if any network failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("source", choices=("timm", "spandrel"))
    parser.add_argument("--seconds", type=int, default=150, help="at most so many for a network")
    parser.add_argument("--out", type=Path, help="write the table there, too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    candidates = timm_candidates() if given.source == "timm" else spandrel_candidates()
    lines = ["| network | parameters, M | groups | units | gone | s | difference |", "|---|---|---|---|---|---|---|"]
    counts: dict[str, int] = {}
    print("\n".join(lines))
    for candidate in candidates:
        outcome, text = row(candidate, given.seconds)
        counts[outcome] = counts.get(outcome, 0) + 1
        lines.append(f"| {candidate.name} | {text} |")
        print(lines[-1], flush=True)
    lines.append("\n" + ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items())))
    print(lines[-1])
    if given.out:
        given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int("failed" in counts)


if __name__ == "__main__":
    sys.exit(main())
