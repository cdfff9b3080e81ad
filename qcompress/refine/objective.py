"""The true metric of candidates: what the refinement climbs on, measured fast enough to ask thousands of times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qcompress.data.images import SelectionCrops
from qcompress.frozen import answer
from qcompress.groups import Groups
from qcompress.masks import consumer_masks
from qcompress.metrics import Metric
from qcompress.selection import Selection
from qcompress.surgery import SlicedShell

__all__ = ["MaskedMetric", "SlicedMetric"]


class SlicedMetric:
    """Measures each candidate on a network that really has only the candidate's channels.

    One shell is re-sliced from the dense weights for every candidate: no copy of the model, no dependency graph. At half of the
    units gone a candidate costs about a quarter of a dense pass; benchmarks/evaluation.py has the figures against
    `MaskedMetric` and against copying and pruning anew.
    """

    def __init__(self, model: nn.Module, groups: Groups, crops: SelectionCrops, metric: Metric, batch: int = 16) -> None:
        self._shell = SlicedShell(model)
        self._groups, self._metric, self._batch = groups, metric, batch
        self._inputs = crops.inputs.contiguous(memory_format=torch.channels_last)
        self._targets = crops.targets

    @property
    def images(self) -> int:
        """Number of images a full evaluation sees."""
        return len(self._inputs)

    def __call__(self, selections: Sequence[Selection], images: range) -> NDArray[np.float64]:
        """(K, len(images)) metric of each candidate on each image, higher is better."""
        return np.stack([self._measure(selection, images) for selection in selections])

    def _measure(self, selection: Selection, images: range) -> NDArray[np.float64]:
        slim = self._shell.cut(self._groups.cuts(selection))
        values = []
        with torch.inference_mode():
            for start in range(images.start, images.stop, self._batch):
                chosen = slice(start, min(start + self._batch, images.stop))
                values.append(self._metric.per_image(answer(slim, self._inputs[chosen]), self._targets[chosen]))
        return _signed(torch.cat(values), self._metric)


class MaskedMetric:
    """Measures several candidates in one batch of the dense network, each image with its candidate's mask.

    `fill` (consumer layer -> mean input per channel) replaces removed channels by their mean instead of zero.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Groups,
        crops: SelectionCrops,
        metric: Metric,
        batch: int = 16,
        fill: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._model, self._groups, self._metric, self._batch, self._fill = model, groups, metric, batch, fill
        self._inputs = crops.inputs.contiguous(memory_format=torch.channels_last)
        self._targets = crops.targets

    @property
    def images(self) -> int:
        """Number of images a full evaluation sees."""
        return len(self._inputs)

    def __call__(self, selections: Sequence[Selection], images: range) -> NDArray[np.float64]:
        """(K, len(images)) metric of each candidate on each image, higher is better."""
        keep = torch.from_numpy(np.stack([~selection.x for selection in selections])).to(self._inputs)
        rows = [(candidate, image) for candidate in range(len(selections)) for image in images]
        values = []
        with torch.inference_mode():
            for start in range(0, len(rows), self._batch):
                candidates, chosen = (list(part) for part in zip(*rows[start : start + self._batch], strict=True))
                with consumer_masks(self._model, self._groups, keep[candidates], self._fill):
                    values.append(self._metric.per_image(answer(self._model, self._inputs[chosen]), self._targets[chosen]))
        return _signed(torch.cat(values), self._metric).reshape(len(selections), len(images))


def _signed(values: Tensor, metric: Metric) -> NDArray[np.float64]:
    """As numpy, turned so that higher is better."""
    array: NDArray[np.float64] = values.double().cpu().numpy()
    return array if metric.higher_is_better else -array
