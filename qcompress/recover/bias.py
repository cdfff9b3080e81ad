"""Bias repair: what removed channels typically gave their consumers goes into the consumers' biases."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from qcompress.groups import Cut
from qcompress.recover.design import Affine, divisions, set_matrix, weight_matrix

__all__ = ["fold_means"]


def fold_means(dense: nn.Module, slim: nn.Module, cuts: Mapping[str, Cut], means: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Change the biases of `slim` in place and return the names of the layers concerned; a layer without a bias gets one.

    `means[layer]` is (input channels,), the typical mean input of `dense` there (`scoring.mean_inputs`). Exact for channels
    that are constant, where nothing is padded; at a zero-padded border the kernel sees less of the mean than is folded, and a
    transposed convolution whose stride does not divide its kernel gets the average over its phases.
    """
    touched = []
    for name, cut in cuts.items():
        if cut.kept_in is None:
            continue
        layer = dense.get_submodule(name)
        if not isinstance(layer, Affine):
            continue
        removed = torch.ones_like(means[name], dtype=torch.bool)
        removed[list(cut.kept_in)] = False
        shift = _response(layer, torch.where(removed, means[name], 0.0))
        if cut.kept_out is not None:
            shift = shift[list(cut.kept_out)]
        thin = slim.get_submodule(name)
        assert isinstance(thin, Affine)
        matrix = weight_matrix(thin)
        matrix[:, -1] += shift.reshape(len(matrix), -1)
        set_matrix(thin, matrix)
        touched.append(name)
    return tuple(touched)


def _response(layer: Affine, values: Tensor) -> Tensor:
    """(outputs,): what `layer`, less its bias, answers to an input that is `values` (input channels,) everywhere."""
    g = divisions(layer)
    matrix = weight_matrix(layer)[:, :-1]
    kernel = matrix.reshape(g, len(values) // g, -1, matrix.shape[2]).sum(2)  # (g, inputs / g, outputs / g)
    answer = torch.einsum("gi,gio->go", values.double().reshape(g, -1), kernel).flatten()
    if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        for stride in layer.stride:  # an output place meets one tap in `stride` along each axis
            answer = answer / stride
    return answer
