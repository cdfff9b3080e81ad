"""The true metric of candidates: what the refinement climbs on, measured fast enough to ask thousands of times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qcompress.data.images import CalibrationCrops, SelectionCrops
from qcompress.frozen import answer
from qcompress.groups import Groups
from qcompress.masks import consumer_masks
from qcompress.metrics import Metric
from qcompress.reuse import LIMIT, Reuse
from qcompress.selection import Selection
from qcompress.surgery import SlicedShell, Weights, outputs_of

__all__ = ["MaskedMetric", "SlicedMetric"]

_USED = 3  # the pass that first finds what is kept: it is kept when it is computed for the second time


class SlicedMetric:
    """Measures each candidate on a network that really has only the candidate's channels.

    One shell is re-sliced from the dense weights for every candidate: no copy of the model, no dependency graph. Operations
    whose inputs and weights are those of earlier candidates are not done again (`reuse.Reuse`, which keeps at most `limit`
    bytes; 0: all are done). The values are those of the plain network, to the last bit. A network that cannot be followed is
    measured without; the first chunk that comes for the third time is measured both ways, to see whether it can.

    The refinement's crops are the selection's; the calibration of an objective (`reconstruction.calibration`) has its own.

    Images are measured in chunks of `batch`, counted from the start of the range that is asked for, whatever else is asked in
    the same call, was asked before or is reused: an image's value depends on the candidate and the range alone.

    `weights` may give layers other weights than the sliced ones (`surgery.SlicedShell`). `precision` is what convolutions and
    linear layers compute in (`torch.autocast`: bfloat16 where the processor has units for it); None is that of the weights.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Groups,
        crops: SelectionCrops | CalibrationCrops,
        metric: Metric,
        batch: int = 8,
        *,
        weights: Weights | None = None,
        limit: int = LIMIT,
        precision: torch.dtype | None = None,
    ) -> None:
        self._shell = SlicedShell(model, weights)
        self._groups, self._metric, self._batch, self._precision = groups, metric, batch, precision
        self._inputs = crops.inputs.contiguous(memory_format=torch.channels_last)
        self._targets = crops.targets
        self._reuse = Reuse(self._shell.cut({}), limit) if limit else None
        self._seen: Counter[tuple[int, int]] = Counter()  # how often chunks were measured, until reuse is checked
        self._checked = False

    @property
    def images(self) -> int:
        """Number of images a full evaluation sees."""
        return len(self._inputs)

    @property
    def reuses(self) -> bool:
        """Whether earlier results are used; not for a network whose operations cannot be followed."""
        return self._reuse is not None

    def __call__(self, selections: Sequence[Selection], images: range) -> NDArray[np.float64]:
        """(K, len(images)) metric of each candidate on each image, higher is better.

        Candidates that agree in the first layers are measured one after the other.
        """
        masks = [selection.x.tobytes() for selection in selections]
        values = np.empty((len(selections), len(images)))
        for place in sorted(range(len(selections)), key=masks.__getitem__):
            values[place] = self._measure(selections[place], images)
        return values

    def _measure(self, selection: Selection, images: range) -> NDArray[np.float64]:
        slim = self._shell.cut(self._groups.cuts(selection))
        values = []
        with torch.no_grad(), self._computing():
            for start in range(images.start, images.stop, self._batch):
                chunk = slice(start, min(start + self._batch, images.stop))
                output = self._output(slim, chunk)
                values.append(
                    self._metric.per_image(output if self._precision is None else output.float(), self._targets[chunk])
                )
        return _signed(torch.cat(values), self._metric)

    def _computing(self) -> AbstractContextManager[object]:
        if self._precision is None:
            return nullcontext()
        return torch.autocast(self._inputs.device.type, self._precision)

    def _output(self, slim: nn.Module, chunk: slice) -> Any:
        """What `slim` returns for a chunk of the images."""
        if self._reuse is None:
            return self._plain(slim, chunk)
        span = chunk.start, chunk.stop
        try:
            output = self._reuse([(self._inputs[chunk], span)], self._shell.labels)
        except Exception:  # what a foreign forward does when it is watched; where it fails unwatched, too, that is raised
            self._reuse = None
            return self._plain(slim, chunk)
        self._seen[span] += not self._checked
        if self._seen[span] < _USED or self._checked:
            return output
        self._checked, plain = True, self._plain(slim, chunk)
        if not _same(output, plain):  # it computes with more than the dispatcher sees
            self._reuse = None
        return plain

    def _plain(self, slim: nn.Module, chunk: slice) -> Any:
        return answer(slim, self._inputs[chunk])


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


def _same(output: object, other: object) -> bool:
    """Whether all tensors of what a network returned are equal to the last bit."""
    ours, theirs = outputs_of(output), outputs_of(other)
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def _signed(values: Tensor, metric: Metric) -> NDArray[np.float64]:
    """As numpy, turned so that higher is better."""
    array: NDArray[np.float64] = values.double().cpu().numpy()
    return array if metric.higher_is_better else -array
