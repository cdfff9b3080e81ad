from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_networks import chain, residual

from qcompress.groups import Layer
from qcompress.joint import FileFacts, MeasuredFile, Sizes, fitted
from qcompress.widths import BITS, WIDTHS

NO_FACTS = FileFacts(per_output={})
NETWORKS = (chain((5, 8, 3)), residual(2, 4))


def by_hand(layer: Layer, inputs: int, outputs: int, width: str, biased: bool) -> int:
    """Bytes of a layer's numbers."""
    weights = layer.params(inputs, outputs) - outputs * layer.bias
    return -(-weights * BITS[width] // 8) + 4 * outputs * biased


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(range(len(NETWORKS))), st.integers(0, 2**32 - 1))
def test_bytes_are_those_of_the_numbers_that_layers_keep(network: int, seed: int) -> None:
    groups, rng = NETWORKS[network], np.random.default_rng(seed)
    space, sizes = groups.space, Sizes(groups, NO_FACTS)
    counts = {name: int(rng.integers(size)) for name, size in zip(space.groups, space.sizes, strict=True)}
    widths = {name: str(rng.choice(WIDTHS)) for name in sizes.quantisable}
    expected = 0
    for layer in groups.layers:
        if layer.kind != "batchnorm":
            inputs, outputs = groups.kept_channels(layer, "in", counts), groups.kept_channels(layer, "out", counts)
            expected += by_hand(layer, inputs, outputs, widths[layer.name], layer.bias or layer.name == "first")
    assert sizes.bytes(counts, widths) == expected


def test_a_layer_alone_is_its_part_of_the_whole() -> None:
    groups = residual(2, 4)
    sizes = Sizes(groups, FileFacts(7.0, {"int8": 100.5}, {"int8": 9.0}, {("head", "int8"): 3.0}))
    counts = np.array([[1, 2, 0, 3]])
    for width in range(len(WIDTHS)):
        every = sizes.layer_totals(counts, np.full((1, len(sizes.layers)), width))[0]
        for place, layer in enumerate(sizes.layers):
            named = dict(zip(groups.space.groups, counts[0].tolist(), strict=True))
            inputs, outputs = groups.kept_channels(layer, "in", named), groups.kept_channels(layer, "out", named)
            assert sizes.of_layer(place, inputs, outputs, width) == every[place]


def test_facts_come_on_top_of_the_numbers() -> None:
    groups = chain((4, 6))
    facts = FileFacts(1000.0, {"int8": 50.0}, {"int8": 13.0, "int4": 4.0}, {("conv1", "int8"): 7.0})
    plain, sizes = Sizes(groups, NO_FACTS), Sizes(groups, facts)
    widths = {"conv0": "int4", "conv1": "int8"}
    assert sizes.bytes() == plain.bytes() + 1000
    assert sizes.bytes({"conv1": 2}, widths) == plain.bytes({"conv1": 2}, widths) + 1000 + 4 * 4 + (50 + 7 + 4 * 13)


def test_norms_that_stay_hold_four_numbers_per_channel() -> None:
    groups = residual(1, 4)
    folded, kept = Sizes(groups, NO_FACTS), Sizes(groups, NO_FACTS, folded={})
    assert kept.bytes() - folded.bytes() == 4 * 4 * 4 - 4 * 4  # of four channels; the first layer has no bias then
    assert "norm" in [layer.name for layer in kept.layers]


def test_only_layers_with_weights_have_a_width() -> None:
    with pytest.raises(ValueError, match="norm"):
        Sizes(residual(1, 4)).bytes(None, {"norm": "int8"})
    with pytest.raises(ValueError, match="int3"):
        Sizes(residual(1, 4)).bytes({"first": 1}, {"head": "int3"})


def test_the_fit_finds_what_an_exporter_adds() -> None:
    groups = residual(2, 6)
    truth = Sizes(groups, FileFacts(1234.0, {"int8": 321.0, "float16": 40.0}, {"int8": 17.0, "float16": -2.0}))
    rng, files = np.random.default_rng(0), [MeasuredFile(truth.bytes())]
    for _ in range(12):
        counts = {name: int(rng.integers(4)) for name in groups.space.groups}
        widths = {name: str(rng.choice(["float32", "float16", "int8"])) for name in truth.quantisable}
        files.append(MeasuredFile(truth.bytes(counts, widths), counts, widths))
    found = fitted(Sizes(groups), files)
    for file in files:
        assert 0 <= found.bytes(file.counts, file.widths) - file.bytes <= 12
    other = dict.fromkeys(truth.quantisable, "int8")
    assert abs(found.bytes({"first": 2}, other) - truth.bytes({"first": 2}, other)) <= 40


def test_one_file_moves_the_fixed_bytes_alone() -> None:
    sizes = Sizes(chain((4,)))
    found = fitted(sizes, [MeasuredFile(sizes.bytes() + 777)])
    assert found.bytes() == sizes.bytes() + 777
    assert found.facts.per_output == sizes.facts.per_output
    with pytest.raises(ValueError, match="at least one"):
        fitted(sizes, [])
