"""What the two ways of using a D-Wave annealer share: which solver, its ranges, its time, its answers as arrays."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcompress.errors import BackendError
from qcompress.solvers.chip import ChipOptions
from qcompress.solvers.precision import Ising, Ranges

if TYPE_CHECKING:
    from dimod import BinaryQuadraticModel, SampleSet

__all__ = ["estimate_s", "features", "ranges_of", "spin_model", "spins_of"]


def features(options: ChipOptions) -> dict[str, Any]:
    """What the solver has to be: its name only where the user gave one, for names change.

    >>> features(ChipOptions(topology="zephyr"))
    {'qpu': True, 'topology__type': 'zephyr', 'order_by': '-num_active_qubits'}
    """
    found: dict[str, Any] = {"qpu": True}
    if options.solver:
        found["name"] = options.solver
    if options.topology:
        found["topology__type"] = options.topology
    return {**found, "order_by": "-num_active_qubits"}


def ranges_of(properties: Mapping[str, Any]) -> Ranges:
    """The largest |h| and |J| that fit with either sign."""
    (h_low, h_high), (j_low, j_high) = properties["h_range"], properties["j_range"]
    return Ranges(float(min(-h_low, h_high)), float(min(-j_low, j_high)))


def estimate_s(solver: Any, qubits: int, reads: int, options: ChipOptions) -> float:
    """Machine time of one submission, in seconds, by the solver's own timing data. Raises BackendError where it has none."""
    timing = {"annealing_time": options.annealing_us} if options.annealing_us else {}
    try:
        return float(solver.estimate_qpu_access_time(qubits, num_reads=reads, **timing)) / 1e6
    except (KeyError, ValueError) as error:
        raise BackendError(
            f"solver {solver.name} does not say how long a problem takes: {error}", "choose another with --solver"
        ) from error


def spin_model(model: Ising, factor: float, block: int) -> BinaryQuadraticModel:
    """Times `factor`, with variables (block, 0), (block, 1), ..."""
    from dimod import SPIN, BinaryQuadraticModel

    i, j = np.nonzero(np.triu(model.J, 1))
    labels = [(block, v) for v in range(len(model.h))]
    return BinaryQuadraticModel.from_numpy_vectors(
        model.h * factor, (i, j, model.J[i, j] * factor), 0.0, SPIN, variable_order=labels
    )


def spins_of(found: SampleSet, labels: Sequence[Hashable], reads: int) -> NDArray[np.int8]:
    """(reads, len(labels)) spins, repeated as often as each occurred. Raises BackendError for an answer without samples."""
    rows = np.asarray(found.record.sample[:, [found.variables.index(label) for label in labels]], np.int8)
    rows = np.repeat(rows, found.record.num_occurrences, axis=0)
    if not len(rows) or not np.isin(rows, (-1, 1)).all():
        raise BackendError(f"the answer holds {len(rows)} samples, expected {reads} of spins -1 and 1", "run it again")
    return np.resize(rows, (reads, rows.shape[1]))
