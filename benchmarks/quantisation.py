"""What widths cost trained networks: all layers at int8 or int4, step by step, on report images that no stage has seen.

Every step is fitted to the calibration crops; `prepare` judges by the selection crops. Networks are simulated in float32
(`quantise.simulated`). With --additivity, instead: losses of single layers, added up, against the loss of mixes of widths, on
the selection crops.

    python benchmarks/quantisation.py --folder DIR [--networks reference dncnn25-gray resnet20-cifar10] [--seeds 1]
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from selection_bench import Bench, Options, open_bench
from selection_networks import NETWORKS
from torch import nn

from qcompress import seeds
from qcompress.quantise import fold, noise, prepare, simulated
from qcompress.quantise.equalisation import equalise
from qcompress.quantise.layers import own_layers
from qcompress.quantise.ranges import Ranges, least_error, observe
from qcompress.quantise.sequence import OnGrids, Way, put_on_grids, rounded_to_nearest
from qcompress.quantise.variants import Key, Variant, predict
from qcompress.reconstruction.calibration import measured_crops
from qcompress.recover.choice import mean_metric
from qcompress.recover.moments import affine

WIDTHS = ("int8", "int4")
MIXES = 16


def main() -> None:
    """Prints Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=["reference"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--crops", type=int, default=None, help="calibration crops; the tool's own number if not given")
    parser.add_argument("--reports", type=int, default=None, help="report images; all if not given")
    parser.add_argument("--additivity", action="store_true")
    options = parser.parse_args()
    chosen = Options(options.folder, calibration_crops=options.crops, report_images=options.reports)
    for name in options.networks:
        benches = [open_bench(name, chosen, seed) for seed in range(options.seeds)]
        if options.additivity:
            additivity(name, benches)
        else:
            steps(name, benches)


def steps(name: str, benches: Sequence[Bench]) -> None:
    """One table: a row per step, the loss of each width against the network as it came."""
    rows: dict[str, dict[str, list[float]]] = {}
    for bench in benches:
        for width in WIDTHS:
            for step, value in _values(bench, width):
                rows.setdefault(step, {}).setdefault(width, []).append(value - bench.dense)
    dense, unit = np.median([bench.dense for bench in benches]), benches[0].metric.difference_unit
    print(f"\n{name}: dense {dense:.2f} {benches[0].metric.unit}, {len(benches)} seeds; difference in {unit}\n")
    print("| step | " + " | ".join(WIDTHS) + " |\n|---|" + "---|" * len(WIDTHS))
    for step, found in rows.items():
        print(f"| {step} | " + " | ".join(_spread(found.get(width, [])) for width in WIDTHS) + " |", flush=True)


def _values(bench: Bench, width: str) -> Iterator[tuple[str, float]]:
    """The metric on the report images after each step."""
    whole = fold(bench.job.model, bench.calibration.inputs[:1])
    ranges = observe(whole, own_layers(whole), bench.calibration)
    widths = dict.fromkeys(ranges, width)
    equal = equalise(whole, bench.groups, list(ranges), bench.calibration).model
    fine = least_error(whole, ranges, bench.calibration)
    put = partial(put_on_grids, widths=widths, crops=bench.calibration)

    def reported(found: OnGrids, seen: Ranges) -> float:
        return bench.reported(simulated(found.model, widths, seen, scales=found.scales))

    yield "to nearest", reported(rounded_to_nearest(whole, widths), ranges)
    yield "equalised, to nearest", reported(rounded_to_nearest(equal, widths), observe(equal, ranges, bench.calibration))
    if width == "int8":
        yield "ranges of least error, to nearest", reported(rounded_to_nearest(whole, widths), fine)
    for step, way in WAYS.items():
        yield step, reported(put(whole, ranges=ranges, way=way), ranges)
    if width == "int8":
        yield f"{step}, ranges of least error", reported(put(whole, ranges=fine, way=way), fine)
        ranges = least_error(equal, observe(equal, ranges, bench.calibration), bench.calibration)
    else:
        ranges = observe(equal, ranges, bench.calibration)
    yield "the same from equalised channels", reported(put(equal, ranges=ranges, way=way), ranges)
    began = time.process_time()
    example = bench.calibration.inputs[:1]
    found = prepare(bench.job.model, widths, example, bench.calibration, bench.metric, bench.selection, groups=bench.groups)
    network = simulated(found.model, widths, found.ranges, scales=found.scales)
    print(f"prepare, {width}: {time.process_time() - began:.0f} s; {'; '.join(found.notes)}", flush=True)
    yield "`prepare`: what the selection crops prefer", bench.reported(network)


WAYS: Mapping[str, Way] = {
    "compensating": Way(learning=False, correcting=False),
    "compensating, biases corrected": Way(learning=False),
    "compensating, biases corrected, learning": Way(),
}


def additivity(name: str, benches: Sequence[Bench]) -> None:
    """Correlation of the sum of the losses of single layers with the loss of mixes, and the ratio of the totals."""
    for seed, bench in enumerate(benches):
        model, some = bench.job.model, measured_crops(bench.calibration)
        ranges = observe(model, own_layers(model), some)
        layers = list(ranges)
        variants = {(name, width): Variant.of(model, name, width, ranges) for name in layers for width in WIDTHS}
        predict(model, layers, some, variants)  # which sets the biases
        began = time.process_time()
        losses = noise.measure(model, layers, ("float32", *WIDTHS), bench.calibration, bench.metric)
        seconds = time.process_time() - began
        true, added, dense = [], [], _chosen(bench, model)
        for widths in _mixes(layers, seed):
            true.append(dense - _chosen(bench, _mixed(model, widths, variants)))
            added.append(sum(losses[layer][width] for layer, width in widths.items()))
        line = f"correlation {np.corrcoef(true, added)[0, 1]:.3f}, true over added {sum(true) / sum(added):.2f}"
        print(
            f"{name}, seed {seed}: {len(true)} mixes, {line}; all at int8: {true[0]:.3f}, added {added[0]:.3f}; {seconds:.0f} s"
        )


def _mixes(layers: Sequence[str], seed: int) -> Iterator[dict[str, str]]:
    """All layers at int8, then random widths for ever more of them."""
    yield dict.fromkeys(layers, "int8")
    rng = seeds.stream(seed, "mixes of widths")
    for number in range(MIXES):
        chosen = rng.random(len(layers)) < (number + 1) / MIXES
        drawn = rng.choice(["int8", "int8", "int4"], len(layers)).tolist()
        yield {layer: width for layer, width, taken in zip(layers, drawn, chosen, strict=True) if taken}


def _mixed(model: nn.Module, widths: Mapping[str, str], variants: Mapping[Key, Variant]) -> nn.Module:
    """A copy of `model` with these variants of its layers."""
    mixed = copy.deepcopy(model)
    for key in widths.items():
        module, exchange = affine(mixed, key[0]), variants[key].exchange
        module.weight, module.bias = exchange.weight, exchange.bias
        if exchange.levels:
            module.register_forward_pre_hook(exchange.levels)
    return mixed


def _chosen(bench: Bench, model: nn.Module) -> float:
    chooser = bench.metric.chooser
    return mean_metric(model, bench.selection, chooser) * (1 if chooser.higher_is_better else -1)


def _spread(values: Sequence[float]) -> str:
    """Median, and the range in brackets where there are several."""
    if not values:
        return ""
    median = f"{np.median(values):+.3f}"
    return median if len(values) == 1 else f"{median} [{min(values):+.3f}, {max(values):+.3f}]"


if __name__ == "__main__":
    main()
