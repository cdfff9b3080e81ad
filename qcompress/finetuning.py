"""Fine-tuning as one step of a run: what it learns from, what it depends on, and where it is kept."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from qcompress import kept_scores, processor
from qcompress._version import __version__
from qcompress.data import splits
from qcompress.data.images import CalibrationImages, TrainingImages
from qcompress.data.noise import Noise, parse
from qcompress.errors import DataError, ResumeError
from qcompress.finetune import state as states
from qcompress.finetune.contract import Length, Precision, Recipe, TrainResult
from qcompress.finetune.drawing import Drawer
from qcompress.finetune.losses import Lesson
from qcompress.finetune.optimiser import matrices
from qcompress.finetune.probing import taught
from qcompress.finetune.state import State, forget
from qcompress.finetune.training import Course, begin, loaded, parameters
from qcompress.metrics import Metric
from qcompress.recover.choice import Recovered, mean_metric
from qcompress.selection_options import selecting

if TYPE_CHECKING:
    from qcompress.jobs import Job

__all__ = ["check_kept", "digest_of", "finetuned", "forget", "fresh_noise", "precision_on", "training_images"]

_BATCH, _LABELLED_BATCH = 8, 32
_CROP, _SMALL_CROP = 64, 48  # of the input; where the output is larger than that
_START, _LENGTH = "slim network", "length"  # facts of a training: what it begins with, and how long it is
_TRIED = "by trials"


def finetuned(
    job: Job,
    recovered: Recovered,
    *,
    dense: nn.Module,
    share: float = 1.0,
    folder: Path | None = None,
    number: int = 1,
    fixed: bool = False,
) -> Recovered:
    """`recovered`, trained by `dense` for `share` of the length that the settings of `job` have.

    It is never worse on the judging crops than it was. The training is kept in `folder` as that of pruning step `number`, and
    one that is there goes on. Ctrl-C ends it with the best so far. With `fixed` no refinement may have chosen `recovered`, so
    that a training of another network is another one.

    Raises ResumeError where what is there is of another training, or damaged.
    """
    course, recipe, length = _course(job, recovered.model, dense, share)
    path = None if folder is None else states.file_of(folder, number)
    facts = _facts(job, course.draw, recipe, dense) | {_START: digest_of(course.slim)}
    chooser = job.metric.chooser
    with job.watch.stage("fine-tuning", 1.0) as advance:
        latest = begin(course) if path is None else _taken_up(job, course, path, facts, fixed=fixed)

        def keep(state: State) -> None:
            nonlocal latest
            latest = state
            if path is not None:
                states.write(path, state, facts)

        def show(state: State, done: float) -> None:
            advance(done, f"{_shown(state.value, chooser)} ({_gain(state):+.3f}), step {state.step:,}")

        try:
            taught(course, latest, recipe, length, keep, show)
        except KeyboardInterrupt:
            latest = replace(latest, ended="interrupt")
        result = _result(latest, recipe, course, chooser)
        note = f"{_shown(latest.value, chooser)} on the selection images ({_gain(latest):+.3f}), {latest.step:,} steps"
        advance(1.0, note)
    if not result.complete:
        going_on = "" if path is None or not path.exists() else "; --resume goes on from here"
        job.watch.say(f"interrupted: finishing with the best network so far (Ctrl-C again to give up){going_on}")
    if not result.best_step:
        return replace(recovered, training=result)
    model = loaded(recovered.model, latest.best)
    return replace(recovered, model=model, note=note, value=result.best, training=result)


def check_kept(job: Job, folder: Path) -> None:
    """Compares the trainings in `folder` with what `job` asks for, before anything is computed that takes long.

    Raises ResumeError where one was begun with other options, images or weights, or is damaged; and where the run would train
    nothing, for what is kept goes when a run ends.
    """
    found, recover = states.files(folder), job.settings.recover
    if found and recover != "finetune":
        paths = " and ".join(map(str, found))
        raise ResumeError(
            f"{folder} has the weights of a fine-tuning that --recover {recover} does not go on with",
            f"--recover finetune does; to go on without it, remove {paths}",
        )
    if found:
        draw, recipe = _drawn(job)
        facts = _facts(job, draw, recipe, job.model)
        for path in found:
            _compare(path, states.facts_of(path), facts)


def precision_on(device: str) -> Precision:
    """What passes are computed in: bfloat16 where the device has units for it, else float32."""
    kind = torch.device(device).type
    fast = "amx_bf16" in processor.features() if kind == "cpu" else kind == "cuda" and torch.cuda.is_bf16_supported(False)
    return "bfloat16" if fast else "float32"


def training_images(job: Job) -> CalibrationImages | TrainingImages:
    """The images that may be trained on: those of the training folder, which is read once, or the calibration images.

    Raises DataError where one of them shows a picture that selects or reports.
    """
    source, data, form = job.settings.finetune.source, job.settings.data, job.frame.form
    if source is None:
        return job.splits.calibration
    if job.memo.training is not None:
        return job.memo.training
    images = splits.training(
        source,
        noise=parse(data.noise) if data.noise else None,
        channels=job.checkpoint.channels,
        stride=job.checkpoint.stride,
        seed=job.settings.seed,
        form=form,
        classes=job.frame.task == "classification",
    )
    if images.task != job.frame.task:
        raise DataError(f"{source}: for {images.task}, but the network is for {job.frame.task}")
    job.splits.check_training(images)
    job.memo.training = images
    return images


def _drawn(job: Job) -> tuple[Drawer, Recipe]:
    options, images, whole = job.settings.finetune, training_images(job), job.frame.task == "classification"
    usual = _CROP if job.frame.form.scale == 1 else _SMALL_CROP
    crop = None if whole else _side(images, options.crop or usual, job.checkpoint.stride)
    batch = options.batch or (_LABELLED_BATCH if whole else _BATCH)
    draw = Drawer(images, batch, crop, fresh_noise(job), job.settings.seed)
    return draw, Recipe(options.rate, options.teaching, batch, crop, options.optimiser)


def _course(job: Job, slim: nn.Module, dense: nn.Module, share: float) -> tuple[Course, Recipe, Length]:
    draw, recipe = _drawn(job)
    labels = job.frame.task in ("classification", "segmentation")
    chooser, crops = job.metric.chooser, job.judging()

    def measure(model: nn.Module) -> float:
        value = mean_metric(model, crops, chooser)
        return -math.inf if math.isnan(value) else value if chooser.higher_is_better else -value

    device = job.settings.device
    course = Course(slim, dense, draw, Lesson(chooser, labels), measure, device, precision_on(device), recipe.optimiser)
    return course, recipe, _length(job, draw).part(share)


def _length(job: Job, draw: Drawer) -> Length:
    options = job.settings.finetune
    if options.seconds is not None:
        return Length(seconds=options.seconds)
    if options.steps is not None:
        return Length(steps=options.steps)
    assert options.epochs is not None
    return Length(steps=max(1, round(options.epochs * draw.epoch)))


def _side(images: CalibrationImages | TrainingImages, wanted: int, stride: int) -> int:
    """A multiple of the stride that fits into every image."""
    smallest = int(min(min(pair.input.shape[1:]) for pair in images.pairs))
    return max(min(wanted, smallest) // stride, 1) * stride


def fresh_noise(job: Job) -> Noise | None:
    """The noise that clean images were given, where it can be drawn anew without touching them."""
    data, scale = job.settings.data, job.frame.form.scale
    if job.frame.source.paired or scale > 1:
        return None
    noise = splits.noise_of(data.source, parse(data.noise) if data.noise else None, scale)
    return noise if noise is not None and noise.keeps_target else None


def _taken_up(job: Job, course: Course, path: Path, facts: dict[str, str], *, fixed: bool) -> State:
    """The training that is kept in `path`, or where it begins.

    One that began from another network is of a selection that a longer refinement has left behind: it begins anew, unless the
    selection is `fixed`.
    """
    if not path.exists():
        return begin(course)
    known = states.facts_of(path)
    _compare(path, known, {name: fact for name, fact in facts.items() if fixed or name != _START})
    if known.get(_START) != facts[_START]:
        job.watch.say("fine-tuning: begins anew, from another network than the one that was kept")
        return begin(course)
    shapes = {name: tensor.shape for name, tensor in parameters(course.slim).items()}
    state = states.read(path, shapes, matrices(course.slim) if course.optimiser == "muon" else ())
    where = f"step {state.step:,}" if state.rate is not None else f"{len(state.tried)} trials"
    job.watch.say(f"fine-tuning: goes on from {where}, kept in {path}")
    return state


def _facts(job: Job, draw: Drawer, recipe: Recipe, dense: nn.Module) -> dict[str, str]:
    """All that the course of a training depends on, but for the network that it starts from; options as they are given."""
    crops, device = job.judging(), job.settings.device
    return selecting(job.settings) | {
        "metric": f"--metric {job.metric.name}",
        _LENGTH: _length_given(job),
        "steps": f"--steps {job.settings.steps}",
        "rate": f"--learning-rate {_TRIED if recipe.rate is None else recipe.rate}",
        "teaching": f"--teaching {_TRIED if recipe.teaching is None else recipe.teaching}",
        "optimiser": f"--optimizer {recipe.optimiser}",
        "seed": f"--seed {job.settings.seed}",
        "version": f"{__version__} torch {version('torch')} numpy {version('numpy')}",
        "device": f"{device} {precision_on(device)}",
        "dense network": digest_of(dense),
        "images": f"{draw.images.contents} noise {draw.noise}",
        "judging crops": " ".join(kept_scores.digest_of(part.cpu().numpy()) for part in (crops.inputs, crops.targets)),
        "recipe": repr(replace(recipe, rate=None, teaching=None, optimiser="muon")),  # these are facts of their own
    }


def _length_given(job: Job) -> str:
    options = job.settings.finetune
    if options.seconds is not None:
        return f"--minutes {options.seconds / 60:.12g}"
    return f"--finetune-steps {options.steps}" if options.steps is not None else f"--epochs {options.epochs}"


def _compare(path: Path, known: dict[str, str], facts: dict[str, str]) -> None:
    """Raises ResumeError where a training with the facts `known`, kept in `path`, is not one with these."""
    differs = [_told(name, known.get(name, ""), fact) for name, fact in facts.items() if known.get(name) != fact]
    if not differs:
        return
    given = "the plan and the options" if _START in facts else "the options"
    hint = f"give {given} that it was begun with, or another --out; to begin anew, remove {path}"
    if known.get(_LENGTH) != facts[_LENGTH]:
        hint = f"a schedule is made for its length, which cannot change on the way: {hint}"
    raise ResumeError(f"{path} is of another fine-tuning: it differs in {'; '.join(differs)}", hint)


def _told(name: str, before: str, now: str) -> str:
    """An option with both values, of other facts the name."""
    option, _, value = now.partition(" ")
    if not (option.startswith("--") and before.startswith("--")):
        return name
    return f"{before[:80]}, now {value if before.startswith(f'{option} ') else now}"


def digest_of(model: nn.Module) -> str:
    """A hash of all numbers of a network."""
    return kept_scores.key_of(
        tensors={name: kept_scores.digest_of(tensor.detach().cpu().numpy()) for name, tensor in model.state_dict().items()}
    )


def _result(state: State, recipe: Recipe, course: Course, chooser: Metric) -> TrainResult:
    """Values as the chooser has them."""
    sign = 1 if chooser.higher_is_better else -1
    rate, teaching = state.rate, state.teaching
    if rate is None and state.best_step:  # Ctrl-C came in the trials, and this is the best of them
        rate, teaching, *_ = max(state.tried, key=lambda trial: trial.value)
    return TrainResult(
        rate=rate,
        teaching=teaching,
        tried=tuple((trial.rate, trial.teaching, sign * trial.value) for trial in state.tried),
        steps=state.step,
        seconds=state.seconds,
        batch=recipe.batch,
        crop=recipe.crop,
        precision=course.precision,
        optimiser=course.optimiser,
        start=sign * state.history[0][1],
        best=sign * state.value,
        best_step=state.best_step,
        history=tuple((step, sign * value) for step, value in state.history),
        ended=state.ended or "interrupt",
    )


def _gain(state: State) -> float:
    return state.value - state.history[0][1]


def _shown(value: float, chooser: Metric) -> str:
    return f"{value if chooser.higher_is_better else -value:.3f} {chooser.unit}".rstrip()
