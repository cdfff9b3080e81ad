"""Fine-tuning: what it sees, what it makes small, that it ends no worse than it began, and goes on where it was ended."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from qcompress import checkpoints, finetuning, pipeline, surgery
from qcompress.data import splits
from qcompress.data.images import CalibrationImages, Pair, TrainingImages
from qcompress.data.noise import Gaussian
from qcompress.errors import DataError, ResumeError, UsageError
from qcompress.finetune import probing, training
from qcompress.finetune import state as states
from qcompress.finetune.contract import Length
from qcompress.finetune.drawing import Drawer
from qcompress.finetune.losses import TEMPERATURE, Lesson, divergence
from qcompress.finetuning import finetuned
from qcompress.metrics import METRICS, metric
from qcompress.pipeline import Job
from qcompress.progress import SILENT, Silent, Stopwatch
from qcompress.qubo import Taylor
from qcompress.recover.choice import Recovered, mean_metric
from qcompress.selection import Selection
from qcompress.selection_options import selecting
from qcompress.settings import DataOptions, FinetuneOptions, Limits, RefineOptions, Settings
from qcompress.targets import AtMost, Smallest

STEPS = 40


def network() -> nn.Module:
    """Answers between 0 and 1, as images are."""
    torch.manual_seed(0)
    last = nn.Conv2d(8, 3, 1)
    with torch.no_grad():
        assert last.bias is not None
        last.bias.fill_(0.5)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), last)


@pytest.fixture(scope="module")
def job() -> Job:
    """A network that is perfect on its images: what is learnt from it is learnt from the targets."""
    model, rng = network().eval(), np.random.default_rng(0)
    inputs = torch.from_numpy(rng.random((12, 3, 24, 24), np.float32))
    with torch.no_grad():
        targets = model(inputs)
    pairs = [Pair(f"{n}", f"{n}", x.numpy(), y.numpy()) for n, (x, y) in enumerate(zip(inputs, targets, strict=True))]
    images = splits.from_pairs(pairs, seed=0)
    options = FinetuneOptions(steps=STEPS, rate=3e-3, teaching=0.5, batch=4, crop=16)
    settings = Settings(recover="finetune", finetune=options, data=DataOptions(selection_crops=4, crop=16))
    return pipeline.prepare(checkpoints.of_module(model), settings, SILENT, size=24, images=images)


@pytest.fixture(scope="module")
def cut(job: Job) -> Recovered:
    model = surgery.slim(job.model, job.groups.cuts(Selection(job.groups.space, (0, 1, 9, 12))))
    return Recovered(model, "none", False, (), "", mean_metric(model, job.judging(), job.metric))


@pytest.fixture(scope="module")
def whole(job: Job, cut: Recovered) -> Recovered:
    """A training that nothing ends."""
    return finetuned(job, cut, dense=job.model)


def with_options(job: Job, **options: object) -> Job:
    return replace(job, settings=replace(job.settings, finetune=replace(job.settings.finetune, **options)))  # type: ignore[arg-type]


def equal(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_it_gains_and_says_what_it_did(job: Job, cut: Recovered, whole: Recovered) -> None:
    before, found = {name: tensor.clone() for name, tensor in cut.model.state_dict().items()}, whole.training
    assert found is not None
    assert whole.value > cut.value + 3
    assert whole.value == pytest.approx(mean_metric(whole.model, job.judging(), job.metric), abs=1e-3)
    assert found.start == pytest.approx(cut.value, abs=1e-6)
    assert found.best == whole.value
    assert (found.steps, found.ended, found.rate, found.tried) == (STEPS, "steps", 3e-3, ())
    assert max(found.history, key=lambda point: point[1]) == (found.best_step, found.best)
    assert not whole.model.training
    assert all(torch.equal(cut.model.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(not tensor.requires_grad or tensor.grad is None for tensor in job.model.parameters())


def test_it_never_ends_worse_than_it_began(job: Job, cut: Recovered) -> None:
    found = finetuned(with_options(job, rate=10.0), cut, dense=job.model)
    assert found.training is not None
    assert (found.training.best_step, found.training.ended) == (0, "patience")
    assert found.value == cut.value
    assert equal(found.model, cut.model)


def test_a_rate_is_chosen_by_trials_that_count(job: Job, cut: Recovered) -> None:
    found = finetuned(with_options(job, rate=None, teaching=None, steps=200), cut, dense=job.model).training
    assert found is not None
    assert [share for _, share, _ in found.tried][:4] == [1, 1, 1, 0.5]
    assert found.rate == found.tried[3][0] == max(found.tried[:3], key=lambda trial: trial[2])[0]
    values = {share: value for rate, share, value in found.tried if rate == found.rate}
    assert found.teaching == max(values, key=lambda share: values[share])
    assert found.steps == 200 - (len(found.tried) - 1) * round(0.03 * 200)  # the other trials led nowhere


def test_trials_that_gain_nothing_are_made_longer(job: Job, cut: Recovered, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[tuple[float, int]] = []

    def seen(course: Any, state: Any, leg: Any, *rest: Any) -> Any:
        lengths.append((leg.rate, leg.length.steps))
        return training.train(course, state, leg, *rest)

    monkeypatch.setattr(probing, "train", seen)
    monkeypatch.setattr(probing, "RATES", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6))  # all too high
    found = finetuned(with_options(job, rate=None, teaching=1.0, steps=200), cut, dense=job.model).training
    assert found is not None
    *trials, main = lengths
    counts = [steps for _, steps in trials]
    assert counts == sorted(counts)
    assert set(counts) >= {6, 12}
    best = max(found.tried[: counts.index(12)], key=lambda trial: trial[2])[0]
    again = {rate for rate, steps in trials if steps == 12}
    place = min(probing.RATES.index(best), 4)
    assert again >= set(probing.RATES[place : place + 2])
    assert main == (found.rate, 200 - sum(counts))
    assert sum(counts) <= 0.5 * 200 + max(counts)
    assert [rate for rate, _, _ in found.tried] == [rate for rate, _ in trials]


def test_trials_that_take_all_the_time_end_the_training(job: Job, cut: Recovered, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*arguments: Any) -> float:
        time.sleep(0.2)
        return mean_metric(*arguments)

    monkeypatch.setattr(finetuning, "mean_metric", slow)
    found = finetuned(with_options(job, rate=None, teaching=None, steps=None, minutes=0.3 / 60), cut, dense=job.model).training
    assert found is not None
    assert found.ended == "minutes"
    assert len(found.tried) == 2  # no further one begins when half of the time is gone


def test_a_network_without_statistics_has_none_to_estimate() -> None:
    rng = np.random.default_rng(0)
    pairs = [Pair(f"{n}", f"{n}", *rng.random((2, 3, 24, 24), np.float32)) for n in range(12)]
    with pytest.raises(UsageError, match="no BatchNorm layers"):
        pipeline.prepare(
            checkpoints.of_module(network()),
            Settings(recover="batchnorm"),
            SILENT,
            size=24,
            images=splits.from_pairs(pairs, seed=0),
        )


class Interrupt:
    """Ctrl-C after so many states were written."""

    def __init__(self, after: int) -> None:
        self.left, self.write = after, states.write

    def __call__(self, *arguments: object) -> None:
        self.write(*arguments)  # type: ignore[arg-type]
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("rate", "steps", "writes"), [(3e-3, STEPS, 1), (3e-3, STEPS, 9), (None, 60, 9)])
def test_what_was_interrupted_goes_on_to_the_same_bits(
    rate: float | None, steps: int, writes: int, job: Job, cut: Recovered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = with_options(job, rate=rate, steps=steps)
    expected = finetuned(job, cut, dense=job.model)
    with monkeypatch.context() as patch:
        patch.setattr(states, "write", Interrupt(writes))
        early = finetuned(job, cut, dense=job.model, folder=tmp_path)
    assert early.training is not None
    assert early.training.ended == "interrupt"
    assert not early.training.complete
    assert states.files(tmp_path) == [states.file_of(tmp_path, 1)]
    found = finetuned(job, cut, dense=job.model, folder=tmp_path)
    assert found.training is not None
    assert expected.training is not None
    assert replace(found.training, seconds=0.0) == replace(expected.training, seconds=0.0)
    assert equal(found.model, expected.model)


def test_trials_that_were_interrupted_go_on_and_the_best_of_them_counts(
    job: Job, cut: Recovered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = with_options(job, rate=None, teaching=None, steps=100)
    expected = finetuned(job, cut, dense=job.model)
    with monkeypatch.context() as patch:
        patch.setattr(states, "write", Interrupt(2))
        early = finetuned(job, cut, dense=job.model, folder=tmp_path)
    assert early.training is not None
    assert expected.training is not None
    assert early.training.tried == expected.training.tried[:2]
    assert early.training.ended == "interrupt"
    assert early.training.best == max(value for _, _, value in early.training.tried) > early.training.start
    assert (early.training.rate, 1.0, early.training.best) in early.training.tried
    assert early.value == pytest.approx(mean_metric(early.model, job.judging(), job.metric), abs=1e-3)
    begun: list[int] = []

    def seen(course: Any, state: Any, leg: Any, *rest: Any) -> Any:
        begun.append(leg.points)
        return training.train(course, state, leg, *rest)

    monkeypatch.setattr(probing, "train", seen)
    found = finetuned(job, cut, dense=job.model, folder=tmp_path)
    assert found.training is not None
    assert begun == [1] * (len(expected.training.tried) - 2) + [24]
    assert replace(found.training, seconds=0.0) == replace(expected.training, seconds=0.0)
    assert equal(found.model, expected.model)


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_it_says_that_it_can_go_on_where_there_is_something_to_go_on_from(
    job: Job, cut: Recovered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    job = replace(with_options(job, rate=None, steps=100), watch=Stopwatch(heard))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(probing, "train", interrupted)
        nothing = finetuned(job, cut, dense=job.model, folder=tmp_path)
    assert nothing.training is not None
    assert (nothing.training.rate, nothing.training.best_step) == (None, 0)
    assert equal(nothing.model, cut.model)
    monkeypatch.setattr(states, "write", Interrupt(1))
    finetuned(job, cut, dense=job.model, folder=tmp_path)
    first, second = heard.lines
    assert "interrupted" in first
    assert "--resume" not in first
    assert second == f"{first}; --resume goes on from here"


def test_a_training_that_is_done_is_not_done_again(job: Job, cut: Recovered, tmp_path: Path) -> None:
    first = finetuned(job, cut, dense=job.model, folder=tmp_path)
    written = states.file_of(tmp_path, 1).read_bytes()
    again = finetuned(job, cut, dense=job.model, folder=tmp_path)
    assert again.training == first.training
    assert equal(again.model, first.model)
    assert states.file_of(tmp_path, 1).read_bytes() == written


def nudged(job: Job) -> Job:
    """Trained on images that differ in what 8 bits do not show."""
    first, *others = job.splits.calibration.pairs
    other = replace(first, target=np.nextafter(first.target, np.float32(2)))
    assert other.sha256 == first.sha256
    return replace(job, splits=replace(job.splits, calibration=CalibrationImages((other, *others))))


def without(data: bytes, name: str) -> bytes:
    """A safetensors file but for one tensor."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    tensors = safetensors.torch.load(data)
    assert tensors.pop(name).numel()
    return safetensors.torch.save(tensors, header["__metadata__"])


def test_a_training_of_other_facts_or_a_damaged_file_is_refused(
    job: Job, cut: Recovered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(states, "write", Interrupt(3))
        finetuned(job, cut, dense=job.model, folder=tmp_path)
    with pytest.raises(ResumeError, match=r"differs in --finetune-steps 40, now 50; --teaching 0\.5, now by trials$") as caught:
        finetuned(with_options(job, steps=50, teaching=None), cut, dense=job.model, folder=tmp_path)
    assert "made for its length" in str(caught.value.hint)
    with monkeypatch.context() as patch, pytest.raises(ResumeError, match=r"differs in --seed 0, now 1; judging crops$"):
        patch.setattr(pipeline, "decided", None)  # what takes long is not begun
        pipeline.carry_out(replace(job, settings=replace(job.settings, seed=1)), tmp_path, resume=True)
    with pytest.raises(ResumeError, match=r"differs in images$"):
        finetuned(nudged(job), cut, dense=job.model, folder=tmp_path)
    path = states.file_of(tmp_path, 1)
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(ResumeError, match="damaged"):
        finetuned(job, cut, dense=job.model, folder=tmp_path)
    path.write_bytes(data.replace(b"qcompress finetune 3", b"qcompress finetune 2"))
    with pytest.raises(ResumeError, match="another version"):
        finetuned(job, cut, dense=job.model, folder=tmp_path)
    path.write_bytes(without(data, "second/0.bias"))
    with pytest.raises(ResumeError, match="moments are not of the same"):
        finetuned(job, cut, dense=job.model, folder=tmp_path)
    path.write_bytes(data)
    other = surgery.slim(job.model, job.groups.cuts(Selection(job.groups.space, (2, 3, 9, 12))))
    with pytest.raises(ResumeError, match=r"differs in slim network$") as caught:  # another plan
        finetuned(job, replace(cut, model=other), dense=job.model, folder=tmp_path, fixed=True)
    assert "give the plan" in str(caught.value.hint)
    assert path.read_bytes() == data
    found = finetuned(job, replace(cut, model=other), dense=job.model, folder=tmp_path).training  # a refinement went further
    assert found is not None
    assert found.complete
    assert len(found.history) == 25


SELECTING: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"sparsity": 0.6}, {}, "--sparsity 0.5, now 0.6"),
    ({"budget": "macs"}, {}, "--budget filters, now macs"),
    ({"budget": "macs", "target": AtMost(300)}, {}, "--sparsity 0.5, now --target-macs 300; --budget filters, now macs"),
    ({"target": Smallest(), "limits": Limits(0.1)}, {}, "--sparsity 0.5, now --smallest --max-drop 0.1"),
    (
        {},
        {"objective": Taylor(), "relinearise": 3},
        "--objective reconstruction, now taylor; --coefficient calibrated=1.0, now none; --relinearise 1, now 3",
    ),
    ({}, {"backend": "neal"}, "--backend profile, now neal"),
    ({}, {"align": 4}, "--align auto, now 4"),
    ({}, {"ignore": ("0", "2")}, "--ignore none, now 0, 2"),
    ({}, {"floor": 2}, "--floor 1, now 2"),
    ({}, {"keep": {"0": 0.75}}, "--keep none, now 0=0.75"),
    ({}, {"keep_at_most": {"0": 0.5}}, "--keep-at-most none, now 0=0.5"),
    ({}, {"multiple_of": {"0": 4}}, "--multiple-of none, now 0=4"),
]


def test_a_training_of_another_selection_is_refused_and_not_of_another_refinement(
    job: Job, cut: Recovered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the search found is gone with other options; a refinement may go further, and its training begins anew."""
    with monkeypatch.context() as patch:
        patch.setattr(states, "write", Interrupt(1))
        finetuned(job, cut, dense=job.model, folder=tmp_path)
    for options, search, said in SELECTING:
        settings = replace(job.settings, **options, search=replace(job.settings.search, **search))
        with pytest.raises(ResumeError) as caught:
            finetuning.check_kept(replace(job, settings=settings), tmp_path)
        assert caught.value.message.endswith(f"it differs in {said}")
    untrained = replace(job.settings, recover="lstsq", finetune=FinetuneOptions())
    with monkeypatch.context() as patch, pytest.raises(ResumeError, match="--recover lstsq does not go on with") as caught:
        patch.setattr(pipeline, "decided", None)
        pipeline.carry_out(replace(job, settings=untrained), tmp_path, resume=True)
    assert str(states.file_of(tmp_path, 1)) in str(caught.value.hint)
    assert states.files(tmp_path)
    for refine in (RefineOptions(0), RefineOptions(900, minutes=2.0)):
        finetuning.check_kept(replace(job, settings=replace(job.settings, refine=refine)), tmp_path)
    sized = replace(job.settings, target=Smallest(), limits=Limits(0.1))  # the share that is found changes nothing
    assert selecting(sized) == selecting(replace(sized, sparsity=0.3))


class Clock:
    """A second for every look at it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.mark.parametrize(("rate", "writes", "least"), [(3e-3, 10, 15), (None, 3, 6)])
def test_minutes_go_on_where_they_were(
    rate: float | None, writes: int, least: int, job: Job, cut: Recovered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, clock = with_options(job, steps=None, minutes=1.0, rate=rate), Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    with monkeypatch.context() as patch:
        patch.setattr(states, "write", Interrupt(writes))
        early = finetuned(job, cut, dense=job.model, folder=tmp_path).training
    assert early is not None
    assert least < early.seconds < 40
    clock.now = 0.0
    found = finetuned(job, cut, dense=job.model, folder=tmp_path).training
    assert found is not None
    assert found.ended == "minutes"
    assert 60 <= found.seconds < 66
    assert clock.now < 70 - early.seconds  # it took no more than what was left
    assert found.tried[: len(early.tried)] == early.tried
    if rate is not None:
        assert found.history[: len(early.history)] == early.history


def test_other_networks_are_judged_by_their_own_metric() -> None:
    """Classes: cross entropy, lower is better; whole images, mirrored and moved."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4)
    ).eval()
    inputs = torch.from_numpy(np.random.default_rng(0).random((60, 1, 8, 8), np.float32))
    with torch.no_grad():
        labels = model(inputs).argmax(1)
    pairs = [Pair(f"{n}", f"{n}", x.numpy(), np.asarray(int(y))) for n, (x, y) in enumerate(zip(inputs, labels, strict=True))]
    settings = Settings(recover="finetune", finetune=FinetuneOptions(epochs=3, rate=3e-3, teaching=0.5, batch=10))
    job = pipeline.prepare(checkpoints.of_module(model), settings, SILENT, size=8, images=splits.from_pairs(pairs, seed=0))
    slim = surgery.slim(job.model, job.groups.cuts(Selection(job.groups.space, (0, 3, 9))))
    found = finetuned(job, Recovered(slim, "none", False, (), ""), dense=job.model).training
    assert found is not None
    assert found.steps == 9  # three times 30 images
    assert found.crop is None
    assert found.best < found.start


def pairs(count: int = 3, side: int = 20) -> tuple[Pair, ...]:
    """Images of which every pixel is another number; the target is twice the input."""
    numbers = np.arange(count * 3 * side**2, dtype=np.float32).reshape(count, 3, side, side)
    return tuple(Pair(f"{n}", f"{n}", image, 2 * image) for n, image in enumerate(numbers))


def test_crops_are_windows_turned_and_mirrored() -> None:
    draw = Drawer(CalibrationImages(pairs()), 16, 8, None, seed=3)
    crops, seen = draw(5), set()
    assert torch.equal(crops.targets, 2 * crops.inputs)
    assert torch.equal(draw(5).inputs, crops.inputs)
    assert not torch.equal(draw(6).inputs, crops.inputs)
    for crop in crops.inputs.numpy():
        for turn in range(8):
            back = np.rot90(crop[..., ::-1] if turn >= 4 else crop, turn % 4, (-2, -1))
            place = int(back[0, 0, 0])
            image, rest = divmod(place, 3 * 400)
            top, left = divmod(rest, 20)
            window = pairs()[image].input[:, top : top + 8, left : left + 8] if top <= 12 and left <= 12 else None
            if window is not None and np.array_equal(window, back):
                seen.add(turn)
                break
        else:
            pytest.fail("no window of an image")
    assert len(seen) >= 6
    assert draw.epoch == pytest.approx(3 * 400 / (16 * 64))


def test_noise_is_drawn_anew_for_the_same_target() -> None:
    flat = tuple(
        Pair(f"{n}", f"{n}", np.full((1, 16, 16), 9, np.float32), np.full((1, 16, 16), 0.5, np.float32)) for n in (1, 2)
    )
    crops = Drawer(CalibrationImages(flat), 32, 16, Gaussian(25), seed=0)(0)
    noise = crops.inputs - crops.targets
    assert bool((crops.targets == 0.5).all())
    assert float(noise.std()) == pytest.approx(25 / 255, rel=0.05)
    assert not torch.equal(noise[0], noise[1])


def test_the_mixed_target_is_the_mixed_loss() -> None:
    """For a squared error: equal gradients in direction, and the ends of the scale look at one of the two alone."""
    output, target, taught = (torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(3))
    output.requires_grad_(True)
    (mixed,) = torch.autograd.grad(Lesson(metric("psnr"), False)(output, target, taught, 0.3), output)
    errors = 0.3 * (output - taught).square().sum((1, 2, 3)) + 0.7 * (output - target).square().sum((1, 2, 3))
    (plain,) = torch.autograd.grad(errors.sum(), output)
    assert float(functional.cosine_similarity(mixed.flatten(1), plain.flatten(1)).min()) == pytest.approx(1, abs=1e-5)
    nothing = torch.full_like(target, torch.nan)
    assert bool(torch.isfinite(Lesson(metric("psnr"), False)(output, nothing, taught, 1.0)))
    assert bool(torch.isfinite(Lesson(metric("psnr"), False)(output, target, None, 0.0)))


def test_divergence_is_that_of_the_softened_classes() -> None:
    ours, theirs = (torch.randn(5, 4, generator=torch.Generator().manual_seed(n)) for n in range(2))
    p, q = ((logits / TEMPERATURE).double().softmax(1) for logits in (theirs, ours))
    expected = TEMPERATURE**2 * (p * (p / q).log()).sum(1).mean()
    assert float(divergence(ours, theirs)) == pytest.approx(float(expected), abs=1e-6)
    assert float(divergence(ours, ours)) == pytest.approx(0, abs=1e-6)
    lesson = Lesson(METRICS["top1"](1).chooser, True)
    labels = torch.tensor([0, 1, 2, 3, 0])
    mixed = 0.75 * functional.cross_entropy(ours, labels) + 0.25 * expected.float()
    assert float(lesson(ours, labels, theirs, 0.25)) == pytest.approx(float(mixed), abs=1e-5)


def test_a_gradient_that_is_not_finite_moves_nothing(job: Job, cut: Recovered) -> None:
    course, recipe, _ = finetuning._course(job, cut.model, job.model, 1.0)
    course = replace(course, lesson=lambda output, *_: output.sum() * torch.nan)  # type: ignore[arg-type]
    state, leg = training.begin(course), training.Leg(1e-3, 0.0, Length(steps=2))
    after = training.train(course, state, leg, lambda _: None, lambda _: None)
    assert (after.step, recipe.batch) == (2, 4)
    assert all(torch.equal(after.weights[name], tensor) for name, tensor in state.weights.items())


def test_a_training_folder_shows_nothing_that_selects_or_reports(job: Job) -> None:
    job.splits.check_training(TrainingImages(job.splits.calibration.pairs))
    for role in (job.splits.selection, job.splits.report):
        with pytest.raises(DataError, match="same picture"):
            job.splits.check_training(TrainingImages((*job.splits.calibration.pairs, role.pairs[0])))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"finetune": FinetuneOptions(minutes=1)}, "--recover finetune"),
        ({"recover": "retrain"}, "none, batchnorm, bias, lstsq, finetune"),
        ({"steps": 0}, "at least 1"),
    ],
)
def test_settings_that_make_no_sense(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Settings(**options)  # type: ignore[arg-type]
    assert said in f"{caught.value} {caught.value.hint}"


def test_lengths_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="minutes and steps"):
        FinetuneOptions(minutes=1, steps=5)
    with pytest.raises(UsageError, match="above 0"):
        FinetuneOptions(minutes=float("nan"))
    assert FinetuneOptions().seconds == 600
    assert FinetuneOptions(steps=5).seconds is None


@pytest.fixture(autouse=True)
def _one_precision(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same numbers on every processor."""
    monkeypatch.setattr(finetuning, "precision_on", lambda _: "float32")
    yield
