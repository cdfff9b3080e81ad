"""Label metrics against torchmetrics, the luma PSNR against scikit-image, and metrics by name."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

from qcompress.errors import DataError, UsageError
from qcompress.metrics import Metric, companions, metric, projected
from qcompress.metrics_images import psnr_y
from qcompress.metrics_labels import IGNORED, cross_entropy, image_iou, mean_iou, overlaps, top1


def masks(ignored: bool = True) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(4, 5, 9, 7, generator=generator)
    mask = torch.randint(0, 4, (4, 9, 7), generator=generator)  # the last class is in outputs only
    if ignored:
        mask[torch.rand(mask.shape, generator=generator) < 0.2] = IGNORED
    return output, mask


def test_top1_is_accuracy() -> None:
    generator = torch.Generator().manual_seed(0)
    output, label = torch.randn(50, 6, generator=generator), torch.randint(0, 6, (50,), generator=generator)
    values = top1(output, label)
    assert set(values.tolist()) == {0.0, 100.0}
    assert values.mean().item() == pytest.approx(100 * multiclass_accuracy(output, label, 6, average="micro").item(), abs=1e-4)
    named = metric("auto", "classification")
    assert named.overall(named.evidence_of(output, label)) == pytest.approx(values.mean().item())


@pytest.mark.parametrize("ignored", [False, True])
def test_miou_is_of_all_images_together(ignored: bool) -> None:
    output, mask = masks(ignored)
    wanted = 100 * multiclass_jaccard_index(output, mask, 5, average="macro", ignore_index=IGNORED).item()
    assert mean_iou(overlaps(output, mask).numpy()) == pytest.approx(wanted, abs=1e-4)
    named = metric("miou", "segmentation")
    parts = np.concatenate([named.evidence_of(output[i : i + 1], mask[i : i + 1]) for i in range(4)])
    assert named.overall(parts) == pytest.approx(wanted, abs=1e-4)
    assert image_iou(output, mask).mean().item() != pytest.approx(wanted, abs=1e-2)


def test_nothing_to_count() -> None:
    output, mask = masks()
    mask[:] = IGNORED
    assert image_iou(output, mask).tolist() == [100.0] * 4
    assert np.isnan(mean_iou(overlaps(output, mask).numpy()))
    assert cross_entropy(output, mask).tolist() == [0.0] * 4


def test_cross_entropy_is_the_mean_over_counted_pixels() -> None:
    output, mask = masks()
    for got, one, target in zip(cross_entropy(output, mask), output, mask, strict=True):
        log = one.log_softmax(0)
        counted = [float(-log[int(c), y, x]) for (y, x), c in np.ndenumerate(target.numpy()) if c != IGNORED]
        assert got.item() == pytest.approx(np.mean(counted), rel=1e-5)


def test_labels_that_the_network_does_not_know() -> None:
    with pytest.raises(DataError, match="labels from 1 to 7, but the network knows 3 classes"):
        top1(torch.zeros(2, 3), torch.tensor([1, 7]))
    with pytest.raises(DataError, match="labels from -1"):
        cross_entropy(torch.zeros(1, 3), torch.tensor([-1]))
    with pytest.raises(DataError, match="a value for each class"):
        overlaps(torch.zeros(1, 3, 4, 4), torch.zeros(1, 8, 8, dtype=torch.int64))


@pytest.mark.parametrize("border", [0, 3])
def test_luma_psnr_is_that_of_scikit_image(border: int) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(2, 3, 20, 24, generator=generator)
    output = clean + 0.1 * torch.randn(clean.shape, generator=generator)
    for got, one, other in zip(psnr_y(border)(output, clean), output.clamp(0, 1), clean, strict=True):
        luma = [
            rgb2ycbcr(x.double().numpy(), channel_axis=0)[0, border : 20 - border, border : 24 - border] for x in (other, one)
        ]
        assert got.item() == pytest.approx(peak_signal_noise_ratio(*luma, data_range=255), abs=1e-6)  # type: ignore[no-untyped-call]
    with pytest.raises(DataError, match="nothing is left"):
        psnr_y(10)(output, clean)


def test_squared_gradients_of_projections_are_gauss_newton() -> None:
    """For a linear network the diagonal is known; many outputs stand in for many draws."""
    matrix = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = []
    for _ in range(1):
        x = torch.ones(64, 3, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(projected(x @ matrix.T, torch.zeros(64)).sum(), x)
        rows.append(gradient.square().mean(0))
    torch.testing.assert_close(rows[0], matrix.square().mean(0), rtol=0.6, atol=0)


def test_names_tasks_and_companions() -> None:
    assert metric("auto").name == "psnr"
    assert metric("auto", "segmentation").name == "miou"
    assert [m.name for m in companions(metric("ssim"), "denoising")] == ["ssim", "psnr"]
    assert [m.name for m in companions(metric("top1", "classification"), "classification")] == ["top1"]
    with pytest.raises(UsageError, match="metric miou is for segmentation, this is denoising") as caught:
        metric("miou")
    assert "psnr" in (caught.value.hint or "")


def test_what_is_too_coarse_to_choose_by_has_a_finer_measure() -> None:
    chooser = metric("top1", "classification").chooser
    assert (chooser.name, chooser.unit, chooser.higher_is_better) == ("cross entropy", "nats", False)
    assert metric("psnr").chooser.name == "psnr"
    sure, surer = torch.tensor([[2.0, 0.0]]), torch.tensor([[4.0, 0.0]])
    label = torch.tensor([0])
    assert top1(sure, label) == top1(surer, label)
    assert chooser.per_image(surer, label) < chooser.per_image(sure, label)


def test_a_classifier_that_is_always_right_still_gives_its_units_scores() -> None:
    """Cross entropy has no gradient there, so units would be told apart by the few images with errors."""
    output, label = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True), torch.tensor([0])
    (silent,) = torch.autograd.grad(cross_entropy(output, label).sum(), output)
    (told,) = torch.autograd.grad(metric("top1", "classification").loss(output, label).sum(), output)
    assert silent.abs().max() == 0
    assert told.abs().min() > 0.1


def test_own_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "def off_by(o, t):\n    return (o - t).flatten(1).mean(1)\noff_by.unit = '{}'\noff_by.higher_is_better = False\n"
    (tmp_path / "ownmetric.py").write_text(text.format("mm") + "text = 3\nbad = lambda o, t: 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "ownmetric", raising=False)
    found: Metric = metric("ownmetric:off_by", "classification")
    assert (found.name, found.unit, found.higher_is_better) == ("off-by", "mm", False)
    assert found.note is not None
    assert found.drop(1.0, 3.0) == 2.0
    assert found.per_image(torch.ones(2, 3), torch.zeros(2, 3)).tolist() == [1.0, 1.0]
    for name, says in (("ownmetric:text", "is no function"), ("ownmetric:none", "imported"), ("nomodule:x", "imported")):
        with pytest.raises(UsageError, match=says):
            metric(name)
    with pytest.raises(UsageError, match="raised ZeroDivisionError"):
        metric("ownmetric:bad").per_image(torch.ones(1, 3), torch.ones(1, 3))
    (tmp_path / "markup.py").write_text(text.format("<b>"))
    with pytest.raises(UsageError, match="its unit is"):
        metric("markup:off_by")
