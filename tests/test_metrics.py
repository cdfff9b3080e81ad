"""Metrics against torchmetrics, scikit-image and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio as torchmetrics_psnr
from torchmetrics.functional.image import structural_similarity_index_measure

from qcompress.errors import DataError, UsageError
from qcompress.metrics import metric, psnr, psnr_loss, ssim, ssim_loss


def images(channels: int, sigma: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(3, channels, 24, 31, generator=generator)
    return clean + sigma * torch.randn(clean.shape, generator=generator), clean


@pytest.mark.parametrize("channels", [1, 3])
def test_psnr_is_that_of_two_libraries(channels: int) -> None:
    output, clean = images(channels)
    values = psnr(output, clean)
    assert values.shape == (3,)
    assert values.dtype == torch.float64
    for value, one, other in zip(values.tolist(), output.clamp(0, 1), clean, strict=True):
        reference = peak_signal_noise_ratio(other.numpy(), one.numpy(), data_range=1)  # type: ignore[no-untyped-call]
        assert value == pytest.approx(reference, abs=1e-5)
        assert value == pytest.approx(float(torchmetrics_psnr(one, other, data_range=1.0)), abs=1e-4)


def test_psnr_of_a_known_error_of_clamped_outputs_and_of_equal_images() -> None:
    clean = torch.full((1, 3, 8, 8), 0.5)
    assert psnr(clean + 0.1, clean).item() == pytest.approx(20, abs=1e-5)
    white = torch.ones(1, 3, 8, 8)
    assert psnr(white + 7, white).item() == float("inf")  # clamped to equality
    assert psnr_loss(white + 0.1, white).item() == pytest.approx(-20, abs=1e-4)  # not clamped


def test_psnr_is_accurate_where_float32_sums_are_not() -> None:
    clean = torch.full((1, 1, 2048, 2048), 0.5)
    output = clean + 2**-12  # exact in float32
    assert psnr(output, clean).item() == pytest.approx(20 * 12 * np.log10(2), abs=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_that_of_two_libraries(channels: int) -> None:
    output, clean = images(channels)
    values = ssim(output, clean)
    assert values.shape == (3,)
    for value, one, other in zip(values.tolist(), output.clamp(0, 1).double().numpy(), clean.double().numpy(), strict=True):
        reference = structural_similarity(  # type: ignore[no-untyped-call]
            other, one, data_range=1, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert value == pytest.approx(reference, abs=1e-7)
    _, padded = structural_similarity_index_measure(
        output.clamp(0, 1).double(), clean.double(), data_range=1.0, reduction="none", return_full_image=True
    )
    inside = padded[..., 5:-5, 5:-5]  # torchmetrics also counts windows that lean over the border, onto mirrored pixels
    torch.testing.assert_close(values, inside.mean(dim=(1, 2, 3)), rtol=0, atol=1e-7)
    assert ssim(clean, clean).tolist() == pytest.approx([1, 1, 1])


def test_ssim_refuses_images_below_its_window() -> None:
    small = torch.zeros(1, 3, 10, 40)
    with pytest.raises(DataError, match="at least 11x11"):
        ssim(small, small)


@pytest.mark.parametrize("name", ["psnr", "psnr-y", "ssim"])
def test_losses_are_the_metric_negated_per_image_and_differentiable(name: str) -> None:
    output, clean = (image.double() for image in images(3, sigma=0.01))
    output = output.clamp(0, 1)
    chosen = metric(name)
    assert chosen.name == name
    torch.testing.assert_close(chosen.loss(output, clean), -chosen.per_image(output, clean))
    small, target = output[:2, :, :12, :12].clone().requires_grad_(), clean[:2, :, :12, :12]
    (gradient,) = torch.autograd.grad(chosen.loss(small, target).sum(), small)
    step = 1e-6 * torch.randn(small.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        change = chosen.loss(small + step, target) - chosen.loss(small - step, target)
    torch.testing.assert_close((gradient * step).sum((1, 2, 3)) * 2, change, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("name", ["psnr", "psnr-y", "ssim"])
def test_images_do_not_touch_one_another(name: str) -> None:
    output, clean = images(3)
    together = metric(name).per_image(output, clean)
    alone = torch.cat([metric(name).per_image(output[i : i + 1], clean[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)


def test_psnr_loss_is_finite_and_flat_at_equality() -> None:
    clean = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    output = clean.clone().requires_grad_()
    loss = psnr_loss(output, clean)
    (gradient,) = torch.autograd.grad(loss.sum(), output)
    assert loss.item() == pytest.approx(-100)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_wrong_names_and_shapes() -> None:
    with pytest.raises(UsageError, match="lpips") as caught:
        metric("lpips")
    assert "psnr" in (caught.value.hint or "")
    for function in (psnr, psnr_loss, ssim, ssim_loss):
        with pytest.raises(ValueError, match="expected two equal"):
            function(torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16))
