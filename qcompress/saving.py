"""Weights that the user has trained, put back into the slim folder that the network came from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from qcompress import plans
from qcompress.architectures.matching import compare, shapes_of
from qcompress.errors import CheckpointError, PlanError
from qcompress.files import write_aside
from qcompress.slim_folder import PLAN, WEIGHTS, data_of
from qcompress.weights import read_safetensors

__all__ = ["save"]


def save(model: nn.Module, folder: str | Path) -> None:
    """Put the weights of `model`, which `load` built and you trained, back into its slim `folder`: whole, or not at all.

    The plan stays. `model.onnx` and the report in the folder are still those of the run: `qcompress export FOLDER` writes the
    new weights, `qcompress verify` judges what it wrote. Layers may have been given a bias; they have no other shape.

    Raises:
        PlanError: the plan is corrupt, or the model is not the network of this folder.
        CheckpointError: the weights that are there cannot be read, or those of the model are not finite.
        OutputError: they cannot be written.

    """
    folder = Path(folder)
    plan = plans.read(folder / PLAN)
    known, _ = read_safetensors(folder / WEIGHTS)
    state = model.state_dict()
    added = {name for name in state.keys() - known.keys() if name.endswith(".bias")}
    mismatch = compare(shapes_of(model), shapes_of(known | {name: state[name] for name in added}))
    if mismatch:
        raise PlanError(f"{folder / WEIGHTS}: not the network of this folder: {mismatch}", "save what load(folder) built")
    broken = next((name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())), None)
    if broken is not None:
        raise CheckpointError(f"{broken} holds NaN or infinity", "the training has diverged: take weights from before")
    with write_aside(folder / WEIGHTS) as aside:
        aside.write_bytes(data_of(plan, model))
