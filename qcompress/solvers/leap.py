"""Leap's hybrid solver of binary quadratic models: one problem per gamma, whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qcompress.errors import BackendError, UsageError
from qcompress.solvers.account import Account, ProbeAccount
from qcompress.solvers.annealing import Annealing
from qcompress.solvers.cloud import patient, translated

if TYPE_CHECKING:
    from dimod import BinaryQuadraticModel, SampleSet

__all__ = ["Leap", "LeapSession", "affordable", "resolved", "seconds_of"]


@dataclass(frozen=True)
class Leap:
    """`rounds` gammas, each a problem of `time_limit` seconds (0: the least that the solver accepts for its size).

    A run takes at most `max_seconds` of the solver's time: more is refused before anything is submitted. `solver`: its name;
    empty for the account's default.
    """

    solver: str = ""
    rounds: int = 5
    time_limit: float = 0.0
    max_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UsageError(f"rounds is {self.rounds}, expected at least 1", "--backend-option rounds=1")

    @contextmanager
    def open(self, say: Callable[[str], None]) -> Iterator[LeapSession]:
        """Connects, by the usual configuration of D-Wave's client. Raises BackendError."""
        with translated("leap"):
            from dwave.system import LeapHybridSampler  # type: ignore[import-untyped]

            sampler = LeapHybridSampler(**({"solver": self.solver} if self.solver else {}))
        with closing(sampler):
            yield LeapSession(sampler, self, say)


class LeapSession:
    """Solves models on `sampler`, a LeapHybridSampler. The same seed does not give the same samples."""

    def __init__(self, sampler: Any, options: Leap, say: Callable[[str], None]) -> None:
        self._sampler, self._options, self._say = sampler, options, say
        self.account = Account("leap", str(sampler.solver.name))

    @property
    def rounds(self) -> int:
        """Gammas that a search should try with this session."""
        return self._options.rounds

    def __call__(self, bqm: BinaryQuadraticModel, *, reads: int, seed: int) -> SampleSet:
        """The solver's answer: one sample as a rule, whatever `reads` asks for."""
        import dimod

        if not bqm.num_variables:
            return dimod.SampleSet.from_samples_bqm(([[]] * reads, []), bqm)  # type: ignore[no-untyped-call, no-any-return]
        with translated("leap"):
            least = float(self._sampler.min_time_limit(bqm))
            seconds = self._options.time_limit or least
            if not self.account.probes:
                self.account = affordable(self.account, self._options.rounds * seconds, self._options.max_seconds, self._say)
            found: SampleSet = patient(lambda: resolved(self._sampler.sample(bqm, time_limit=seconds, label="qcompress")))
            if not len(found):
                raise BackendError("backend leap: the answer holds no sample", "run the same command again")
        used, qpu = seconds_of(found.info, seconds)
        classical = Annealing()(bqm, reads=max(reads, 1), seed=seed).record.energy.min()
        best = float(found.record.energy.min())
        probe = ProbeAccount(best, best, best, float(classical), None, qpu)
        self.account = replace(
            self.account,
            submissions=self.account.submissions + 1,
            reads=len(found),
            access_s=self.account.access_s + used,
            probes=(*self.account.probes, probe),
        )
        return found


def resolved(found: SampleSet) -> SampleSet:
    """`found`, waited for: what went wrong is raised here."""
    found.resolve()  # type: ignore[no-untyped-call]
    return found


def affordable(account: Account, seconds: float, most: float, say: Callable[[str], None]) -> Account:
    """The account with its estimate, which `say` is told. Raises BackendError above `most` seconds."""
    if not seconds <= most:
        raise BackendError(
            f"backend {account.backend}: {seconds:.1f} s of solver time are needed, at most {most:g} s are allowed",
            "raise --max-qpu-seconds",
        )
    say(f"{account.solver}: about {seconds:.1f} s of solver time, at most {most:g} s allowed")
    return replace(account, estimated_s=seconds)


def seconds_of(info: Any, asked: float) -> tuple[float, float]:
    """(charged, on the QPU) seconds of an answer; what was asked for, where the answer does not say."""
    charged = info.get("charge_time")
    return (asked if charged is None else float(charged) / 1e6), float(info.get("qpu_access_time", 0)) / 1e6
