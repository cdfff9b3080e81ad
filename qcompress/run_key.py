"""A name for everything that the outcome of a run depends on: what is kept under it is the outcome of an unchanged run."""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import qcompress
from qcompress import finetuning, kept_scores
from qcompress.assembly import versions
from qcompress.latency_model import LatencyModel
from qcompress.offline import SelectionFile
from qcompress.settings import CheckpointOptions, DataOptions, ExportOptions, Limits, Settings, VerifyOptions

if TYPE_CHECKING:
    from qcompress.jobs import Job

__all__ = ["key_of"]

_FOREIGN = ("torch", "qcompress")  # packages whose version, or whose own files, are in the key


def key_of(job: Job, known: SelectionFile | None = None) -> str | None:
    """A hash of all that the choice and the weights depend on; None where that includes code that no file holds.

    The crops stand for the images, but for those that are trained on, which count whole: a training folder is read. Every
    setting counts that is not known to make no difference.
    """
    code = _code_of([*job.model.modules(), job.metric.per_image, job.metric.loss, job.settings.search.objective])
    if code is None:
        return None
    target, alignment = job.asked
    crops = (job.calibration(), job.selection(), job.judging())
    return kept_scores.key_of(
        versions=versions(),
        code=[_own_code(), *code],
        settings=repr(_telling(job.settings)),
        task=job.frame.task,
        metric=job.metric.name,
        align=alignment.align,
        table=_table_of(job),
        budget=[target.name, target.target, target.dense, kept_scores.digest_of(target.weights())],
        checkpoint=[job.checkpoint.sha256, job.checkpoint.architecture, dict(job.checkpoint.arguments)],
        groups=repr(job.groups),
        crops=[kept_scores.digest_of(part.cpu().numpy()) for role in crops for part in (role.inputs, role.targets)],
        trained=_trained_on(job) if job.settings.recover == "finetune" else None,
        selection=None if known is None else known.model_dump_json(),
    )


def _trained_on(job: Job) -> list[str]:
    """The images whose windows are drawn, and the noise that these are given anew."""
    return [finetuning.training_images(job).contents, repr(finetuning.fresh_noise(job))]


def _table_of(job: Job) -> str | None:
    """The latency table that the budget is priced by, wherever it was read from."""
    model = job.prices["latency"].cost if "latency" in job.prices else None
    return kept_scores.key_of(table=model.table.model_dump_json()) if isinstance(model, LatencyModel) else None


def _telling(settings: Settings) -> Settings:
    """The settings without those that another fact of the key stands for, or that change nothing but the report.

    Any number of workers gives the same result, but another one than this process in as many threads as torch takes.
    """
    alone = settings.workers is None and settings.ray is None
    return replace(
        settings,
        workers=None if alone else 1,
        ray=None,
        checkpoint=CheckpointOptions(),
        data=DataOptions(),
        finetune=replace(settings.finetune, source=None),
        search=replace(settings.search, selection=None, latency_table=None),
        export=ExportOptions(),
        verify=VerifyOptions(),
        limits=Limits(),
        plots=False,
        crops=True,
        cache=None,
    )


def _code_of(things: Iterable[object]) -> list[str] | None:
    """Hashes of the files that define these objects, where they are neither torch's nor ours; None where one has no file."""
    names = {_module_of(part) for thing in things for part in _parts(thing)}
    found = []
    for name in sorted(name for name in names if name.partition(".")[0] not in _FOREIGN):
        try:
            found.append(hashlib.sha256(Path(inspect.getfile(sys.modules[name])).read_bytes()).hexdigest())
        except (KeyError, TypeError, OSError):
            return None
    return found


def _parts(thing: object) -> Iterable[object]:
    """The function in a partial one, and the functions it is given: `metrics` wraps the user's own so."""
    return (thing.func, *filter(callable, thing.args)) if isinstance(thing, partial) else (thing,)


def _module_of(thing: object) -> str:
    return str(getattr(thing, "__module__", None) or type(thing).__module__)


@cache
def _own_code() -> str:
    """A hash of the files of this package: a version is not enough where it is installed from a branch."""
    return _code_in(Path(qcompress.__file__).parent)


def _code_in(root: Path) -> str:
    """A hash of the modules below `root`, behind links, too: in a checkout some of the folders are such."""
    folders = [Path(folder) for folder, _, _ in os.walk(root, followlinks=True)]
    digest = hashlib.sha256()
    for path in sorted(path for folder in folders for path in folder.glob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
