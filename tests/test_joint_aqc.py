from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from joint_networks import chain, residual
from numpy.typing import NDArray

from qcompress import solvers
from qcompress.alignment import Alignment
from qcompress.errors import BackendError, UsageError
from qcompress.groups import Groups
from qcompress.joint import Aqc, AqcModel, Demand, Sizes, aqc_model, choose_aqc
from qcompress.joint.aqc_repair import AqcFiles
from qcompress.settings import SearchOptions
from qcompress.solvers import SOLVERS
from qcompress.widths import BITS

NETWORKS = (chain((3, 3)), residual(1, 2))


def magnitudes(groups: Groups, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    return {name: rng.lognormal(-3, 0.7, layer_outputs(groups, name)) for name in Sizes(groups).quantisable}


def layer_outputs(groups: Groups, name: str) -> int:
    return next(layer.outputs for layer in groups.layers if layer.name == name)


def model_of(groups: Groups, settings: Aqc | None = None) -> AqcModel:
    return aqc_model(groups, magnitudes(groups), settings)


def written_out(model: AqcModel, p: NDArray[Any], q: NDArray[Any], gamma: float) -> float:
    """H by the formulas, filter by filter."""
    groups, settings, means = model.groups, model.settings, magnitudes(model.groups)
    owner = {
        (member.layer, channel): span.start + unit
        for group, span in zip(groups.groups, groups.space.spans, strict=True)
        for member in group.side("out")
        for unit, channels in enumerate(member.channels)
        for channel in channels
    }
    pruning = quantisation = kept = total = 0.0
    for number, name in enumerate(model.layers):
        layer = next(layer for layer in groups.layers if layer.name == name)
        gone = [float(p[owner[name, i]]) if (name, i) in owner else 0.0 for i in range(layer.outputs)]
        pruning += sum(a * x for a, x in zip(means[name], gone, strict=True)) ** 2
        removed = sum(2**k * float(q[number, j]) for j, k in enumerate(settings.exponents))
        quantisation += (settings.layer or {}).get(name, (means[name].sum() / settings.b_max) ** 2) * removed**2
        weights = layer.kernel * (1 if layer.kind == "depthwise" else layer.inputs)
        kept += sum(weights * (1 - x) * (settings.b_max - removed) for x in gone)
        total += weights * layer.outputs
    return float(pruning + settings.beta * quantisation - gamma * (1 - kept / (settings.b_max * total)))


@pytest.mark.parametrize("network", range(2))
@pytest.mark.parametrize("settings", [Aqc(), Aqc(0.3, 8, (0, 1), {"conv0": 0.5, "first": 0.25})])
def test_the_model_is_the_formula(network: int, settings: Aqc) -> None:
    model, rng = model_of(NETWORKS[network], settings), np.random.default_rng(1)
    units, shape = len(model.groups.space), (len(model.layers), len(settings.exponents))
    for gamma in (0.0, 0.7):
        bqm = model.bqm(gamma)
        assert list(bqm.variables) == list(model.variables)
        for _ in range(8):
            x = rng.integers(2, size=len(model.variables))
            q = x[units:].reshape(shape)
            energy = float(bqm.energies((x[None], list(model.variables)))[0])
            assert energy == pytest.approx(written_out(model, x[:units], q, gamma), rel=1e-9, abs=1e-12)
            removed = model.removed(q)
            assert energy == pytest.approx(float(model.loss(x[:units], removed) - gamma * model.reduction(x[:units], removed)))


def test_backends_find_the_least_of_all_states() -> None:
    model = aqc_model(chain((3, 2)), magnitudes(chain((3, 2))), Aqc(1.0, 32, (3, 4)))
    bqm = model.bqm(0.05)
    states = np.array(list(itertools.product([0, 1], repeat=len(model.variables))))
    best = float(bqm.energies((states, list(model.variables))).min())
    for name in ("exact", "tabu", "neal"):
        found = SOLVERS[name](bqm, reads=8, seed=0)
        assert float(found.record.energy.min()) == pytest.approx(best)


def test_everything_gone_is_a_reduction_of_what_units_and_bits_make() -> None:
    model = model_of(chain((3, 3)))
    units, bits = len(model.groups.space), np.full(len(model.layers), model.powers.sum())
    assert float(model.reduction(np.zeros(units), np.zeros(len(model.layers)))) == 0.0
    last = 3 * 9 * 3 / (3 * 3 * 9 * 3)  # the last layer has no units
    assert float(model.reduction(np.ones(units), bits)) == pytest.approx(1 - last * (32 - bits[0]) / 32)


@pytest.mark.parametrize("network", range(2))
@pytest.mark.parametrize("backend", SOLVERS)
def test_the_size_is_met_by_every_backend(network: int, backend: str) -> None:
    groups = NETWORKS[network]
    model, sizes = model_of(groups), Sizes(groups)
    options = SearchOptions(backend=backend, reads=8)
    for share in (0.2, 0.5):
        most = int(share * sizes.bytes())
        result = choose_aqc(model, sizes, Demand(most), options=options)
        assert result.bytes == sizes.bytes(result.selection.counts, result.widths) <= most
        removed = np.array([32 - BITS[result.widths[layer]] for layer in model.layers])
        assert result.pruning == pytest.approx(float(model.pruning(result.selection.x)))
        assert result.quantisation == pytest.approx(float(model.quantisation(removed)))
        assert result.found.search.energy == pytest.approx(result.energy)
        gammas = [probe.gamma for probe in result.found.search.trace]
        assert len(gammas) == 8
        assert all(gamma > 0 for gamma in gammas)


def test_its_answer_is_near_the_best_of_its_own_losses() -> None:
    groups = chain((3, 3))
    model, sizes = model_of(groups), Sizes(groups)
    rows = np.array(list(itertools.product([False, True], repeat=6)))
    rows = rows[groups.space.counts(rows).max(1) < 3]
    widths = list(itertools.product(BITS, repeat=3))
    for share in (0.2, 0.4):
        most, best = int(share * sizes.bytes()), np.inf
        for chosen in widths:
            named = dict(zip(model.layers, chosen, strict=True))
            removed = np.array([32 - BITS[width] for width in chosen])
            for row in rows:
                counts = dict(zip(groups.space.groups, groups.space.counts(row).tolist(), strict=True))
                if sizes.bytes(counts, named) <= most:
                    best = min(best, float(model.loss(row, removed)))
        result = choose_aqc(model, sizes, Demand(most), options=SearchOptions(backend="exact", reads=16))
        assert best - 1e-12 <= result.energy <= 1.25 * best  # R does not count the inputs that are lost


def test_bits_are_rounded_up_to_widths_that_a_file_has() -> None:
    groups = chain((3, 3))
    model, sizes = model_of(groups, Aqc(exponents=(0, 1, 2, 3, 4))), Sizes(groups)
    files = AqcFiles(model, sizes, ("float32", "int8", "int4"), Alignment(groups.space), sizes.bytes())
    mapped = files.mapped(np.array([16.0, 24.0, 31.0]))
    assert [*files.named(mapped).values()] == ["float32", "int8", "int4"]
    assert [*files.named(files.mapped(np.array([23.0, 25.0, 0.0]))).values()] == ["float32", "int8", "float32"]


def test_counts_are_kept_in_blocks_where_that_is_asked_for() -> None:
    groups = chain((16, 16))
    result = choose_aqc(
        model_of(groups), Sizes(groups), Demand(Sizes(groups).bytes() // 4), options=SearchOptions(backend="steepest", align=4)
    )
    assert all(count % 4 == 0 for count in result.selection.counts.values())


def test_what_it_refuses() -> None:
    groups = chain((3, 3))
    model, sizes = model_of(groups), Sizes(groups)
    with pytest.raises(UsageError, match="leave at least 1"):
        Aqc(b_max=8, exponents=(2, 3))
    with pytest.raises(UsageError, match="no weight of a loss"):
        Aqc(beta=-1.0)
    with pytest.raises(UsageError, match="other"):
        aqc_model(groups, {"other": [1.0]})
    with pytest.raises(UsageError, match="conv0 needs 3"):
        aqc_model(groups, {"conv0": [1.0]})
    with pytest.raises(UsageError, match="for a size"):
        choose_aqc(model, sizes, Demand(1000, 0.5))
    with pytest.raises(UsageError, match="cannot be reached"):
        choose_aqc(model, sizes, Demand(5))
    with pytest.raises(BackendError, match="connected part"):
        choose_aqc(model_of(chain((32, 3))), Sizes(chain((32, 3))), Demand(2000), options=SearchOptions(backend="exact"))


def test_a_backend_with_constraints_only_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Constrained:
        def at_capacity(self) -> None:
            """Not a sampler of models."""

    monkeypatch.setattr(solvers, "SOLVERS", {"constrained": Constrained()})
    with pytest.raises(UsageError, match="does not take"):
        groups = chain((3, 3))
        choose_aqc(model_of(groups), Sizes(groups), Demand(300), options=SearchOptions(backend="constrained"))
