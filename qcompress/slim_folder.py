"""A slim network on disk: `model.safetensors` and `plan.json`, from which it is rebuilt without pickle."""

from __future__ import annotations

import re
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from qcompress import factories, plans, surgery
from qcompress.architectures import ARCHITECTURES, construct
from qcompress.architectures.matching import compare, shapes_of
from qcompress.checkpoints import Checkpoint
from qcompress.errors import PlanError
from qcompress.files import write_aside
from qcompress.plans import Plan, Source
from qcompress.weights import read_safetensors

__all__ = ["apply", "load", "save", "source_of"]

_WEIGHTS, _PLAN = "model.safetensors", "plan.json"


def source_of(checkpoint: Checkpoint) -> Source:
    """What a plan records of its checkpoint."""
    return Source(
        file=re.sub(r"[/\\\x00-\x1f\x7f]", "_", checkpoint.path.name)[:255],
        sha256=checkpoint.sha256,
        architecture=checkpoint.architecture,
        arguments=checkpoint.arguments,
    )


def save(folder: str | Path, plan: Plan, model: nn.Module) -> None:
    """Write the slim `model` and its `plan` into `folder`: both or neither.

    Raises:
        OutputError: no permission, no space, or something else in the way.

    """
    folder = Path(folder)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    data = safetensors.torch.save(tensors, {"plan_sha256": plan.sha256})
    with write_aside(folder / _WEIGHTS) as weights_aside, write_aside(folder / _PLAN) as plan_aside:
        weights_aside.write_bytes(data)
        plan_aside.write_text(plan.to_json(), encoding="utf-8")


def load(folder: str | Path, *, arch: str | None = None) -> nn.Module:
    """Rebuild the slim network in `folder`: in eval mode, on the CPU.

    `arch` is needed where the plan names the user's own factory: a plan from elsewhere must not decide which code is run, so
    ``package.module:factory`` is imported only if the caller names it, too.

    Raises:
        PlanError: the plan is corrupt, is not the one that these weights were written with, does not fit, or names a factory.
        CheckpointError: the weights cannot be read.
        ArchitectureError: the network cannot be built.

    """
    folder = Path(folder)
    plan = plans.read(folder / _PLAN)
    state, metadata = read_safetensors(folder / _WEIGHTS)
    if metadata.get("plan_sha256") != plan.sha256:
        raise PlanError(f"{folder / _PLAN}: not the plan that {_WEIGHTS} was written with", "make the folder again")
    model = surgery.slim(_dense(plan.checkpoint, arch), plan.layer_cuts)
    _add_biases(model, state)
    mismatch = compare(shapes_of(model), shapes_of(state))
    if mismatch:
        raise PlanError(f"{folder / _WEIGHTS}: does not fit its plan: {mismatch}", "make the folder again")
    model.load_state_dict(state, strict=True)
    return model.eval()


def apply(plan: Plan, checkpoint: Checkpoint) -> nn.Module:
    """The network of `checkpoint` with the channels of `plan` removed, not repaired; the checkpoint's own stays as it is.

    Raises:
        PlanError: the plan was made for another file, or names what the network does not have.

    """
    if plan.checkpoint.sha256 != checkpoint.sha256:
        raise PlanError(
            f"the plan is for {plan.checkpoint.file} ({plan.checkpoint.sha256[:12]}...), "
            f"got {checkpoint.path.name} ({checkpoint.sha256[:12]}...)",
            "give the checkpoint that it was made from, or prune this one",
        )
    return surgery.slim(checkpoint.model, plan.layer_cuts)


def _dense(source: Source, arch: str | None) -> nn.Module:
    """The dense network of a plan, its weights still to be filled in."""
    if source.architecture in ARCHITECTURES:
        if arch not in (None, source.architecture):
            raise PlanError(f"the plan is for the architecture {source.architecture}, got {arch}", "leave out arch")
        return construct(source.architecture, source.arguments).to_empty(device="cpu")
    if arch is None:
        name = source.architecture if factories.is_factory(source.architecture) else "package.module:factory"
        message = f"the plan needs code that is not part of qcompress ({source.architecture}), which is not run unasked"
        raise PlanError(message, f"if you trust it: load(folder, arch={name!r})")
    if not factories.is_factory(arch):
        raise PlanError(f"arch {arch!r} does not name a factory, expected package.module:factory")
    return factories.make(arch, source.arguments)


def _add_biases(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give a bias to the layers for which `state` has one: repair puts what removed channels contributed there."""
    for name, module in model.named_modules():
        bias = state.get(f"{name}.bias")
        if bias is not None and getattr(module, "bias", bias) is None:
            module.bias = nn.Parameter(torch.zeros_like(bias))
