"""The parts of report.json that say how units were chosen, and how the network was repaired."""

from __future__ import annotations

from typing import Literal

from qcompress.report_values import Facts, Number, Scalar, Text

__all__ = [
    "ProbeFacts",
    "QpuFacts",
    "RecoverFacts",
    "RefineFacts",
    "SearchFacts",
    "SmallestFacts",
    "SplitBlockFacts",
    "StepFacts",
    "TrainingFacts",
    "TrialFacts",
]


class SplitBlockFacts(Facts):
    """A group that was too large to go to the chip whole: `on_chip` of its `units`, the others fixed beforehand."""

    block: Text
    units: int
    on_chip: int


class ProbeFacts(Facts):
    """Energies of one model that a machine solved: see `qcompress.solvers.account.ProbeAccount`."""

    start: Number
    raw: Number
    polished: Number
    classical: Number
    chain_break_fraction: Number = None
    access_s: Number


class QpuFacts(Facts):
    """What a backend elsewhere did and what it cost: see `qcompress.solvers.account.Account`.

    `classical_energy` is what the default backend reaches here, at the same capacity of the same problem.
    """

    backend: str
    solver: Text
    topology: Text | None = None
    graph_id: Text | None = None
    blocks: int
    split: tuple[SplitBlockFacts, ...] = ()
    largest_on_chip: int | None = None
    submissions: int
    reads: int
    qubits: int | None = None
    longest_chain: int | None = None
    chain_break_fraction: Number = None
    estimated_s: Number
    access_s: Number
    spin_reversals: int = 0
    bits: int | None = None
    coefficient_error: Number = None
    precision_loss: Number = None
    probes: tuple[ProbeFacts, ...] = ()
    classical_energy: Number = None


class SearchFacts(Facts):
    """How the units were chosen; `trace` is one record per step.

    `asked` is the capacity that the budget wants, `capacity` what the search's selection frees; kept counts are multiples of
    `align`. No such selection has an energy below `lower_bound`; `relative_gap` is 0 where the search's is proven the best, 1
    where nothing is proven (see `qcompress.search_certificate.Certificate`); `exact_groups` were enumerated.
    """

    backend: str
    objective: str
    budget: str | None = None
    asked: int | None = None
    capacity: int | None = None
    align: int | None = None
    energy: Number
    greedy_energy: Number = None
    lower_bound: Number = None
    relative_gap: Number = None
    exact_groups: int | None = None
    trace: tuple[dict[str, Scalar], ...] = ()
    qpu: QpuFacts | None = None


class TrialFacts(Facts):
    """A network at a share of the budget: see `qcompress.bisection.Trial`."""

    share: Number
    capacity: int
    params: int
    macs: int
    drop: Number
    margin: Number
    within: bool


class SmallestFacts(Facts):
    """How the smallest network within a drop was looked for, on `crops` crops of the selection images.

    A trial is within the limit where its drop and its margin together are; `share` is the largest of these, 0 without any.
    `confirmed` says whether the drop on the report images is within the limit, too.
    """

    limit: Number
    confidence: Number
    crops: int
    share: Number
    confirmed: bool
    trials: tuple[TrialFacts, ...]


class RefineFacts(Facts):
    """What measuring candidates gained; `history` holds (evaluations spent, best so far, higher is better).

    `gain` is the improvement on the selection images in `metric`, which is in `unit`. `gain_db` is the same where that is dB;
    in reports written before there was a `gain` it is the gain in the metric of the report. `ended` says what ended it: its
    evaluations, its minutes, that nothing new was found any more, or Ctrl-C.

    `measured` holds (energy by the surrogate, value) of the candidates that were measured on every image, the start first;
    `steps` of every candidate the same less those of the best before it (see `qcompress.refine.contract.RefineResult`). The
    correlations are Spearman's, of predicted and true loss, over the one and the other (see `qcompress.rank_correlation`): only
    candidates that seem better are measured on every image, so the first says how the climb went, the second what energies
    are worth. Where `higher_is_better` is False all values are the metric negated; None where an older report does not say.
    """

    evaluations: Number
    accepted: int
    gain_db: Number = None
    gain: Number = None
    metric: str | None = None
    unit: str = ""
    higher_is_better: bool | None = None
    ended: Literal["evaluations", "minutes", "exhausted", "interrupt"] | None = None
    history: tuple[tuple[Number, Number], ...] = ()
    measured: tuple[tuple[Number, Number], ...] = ()
    steps: tuple[tuple[Number, Number], ...] = ()
    rank_correlation: Number = None
    step_correlation: Number = None


class StepFacts(Facts):
    """One step of several before the last: units gone by then, the network repaired, and trained, as `RecoverFacts` measure."""

    pruned: int
    repaired: Number
    trained: Number = None


class TrainingFacts(Facts):
    """The fields of `qcompress.finetune.contract.TrainResult`; the images are those of calibration where `source` is None."""

    rate: Number
    teaching: Number
    tried: tuple[tuple[Number, Number, Number], ...] = ()
    steps: int
    seconds: Number
    batch: int
    crop: int | None = None
    precision: Literal["float32", "bfloat16"]
    optimiser: Literal["muon", "adam"] = "adam"
    source: Text | None = None
    start: Number
    best: Number
    best_step: int
    history: tuple[tuple[int, Number], ...] = ()
    ended: Literal["steps", "minutes", "patience", "interrupt"]
    seed: int


class RecoverFacts(Facts):
    """How the cut network was repaired: the `level` that was kept, and the fine-tuning after it, where there was one.

    Values are in `metric`, which is in `unit`, on crops of the selection images: `value` of the network that was kept. `steps`
    are those before the last, of a network that was pruned in several.
    """

    level: Literal["none", "batchnorm", "bias", "lstsq"]
    batchnorm_reestimated: bool = False
    metric: str
    unit: str = ""
    value: Number = None
    training: TrainingFacts | None = None
    steps: tuple[StepFacts, ...] = ()
