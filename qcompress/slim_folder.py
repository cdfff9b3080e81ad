"""A slim network on disk: `model.safetensors` and `plan.json`, from which it is rebuilt without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from qcompress import factories, loading, plans, restoration, surgery, timm_models
from qcompress.architectures import ARCHITECTURES, construct
from qcompress.architectures.matching import compare, shapes_of
from qcompress.checkpoints import LIVE, Checkpoint
from qcompress.errors import PlanError
from qcompress.files import write_aside
from qcompress.groups import Cut
from qcompress.plans import Plan, Source
from qcompress.weights import read_safetensors

__all__ = ["PLAN", "WEIGHTS", "apply", "data_of", "load", "restored", "save", "source_of"]

WEIGHTS, PLAN = "model.safetensors", "plan.json"


def source_of(checkpoint: Checkpoint) -> Source:
    """What a plan records of its checkpoint."""
    return Source(
        file="".join(char if char.isprintable() and char not in "/\\" else "_" for char in checkpoint.path.name)[:255],
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
    with write_aside(folder / WEIGHTS) as weights_aside, write_aside(folder / PLAN) as plan_aside:
        weights_aside.write_bytes(data_of(plan, model))
        plan_aside.write_text(plan.to_json(), encoding="utf-8")


def data_of(plan: Plan, model: nn.Module) -> bytes:
    """The weights as they are written; they name their plan."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    return safetensors.torch.save(tensors, {"plan_sha256": plan.sha256})


def load(folder: str | Path, *, arch: str | None = None, into: nn.Module | None = None) -> nn.Module:
    """Rebuild the slim network in `folder`: in eval mode, on the CPU.

    `arch` is needed where the plan names the user's own factory: a plan from elsewhere must not decide which code is run, so
    ``package.module:factory`` is imported only if the caller names it, too. For a network that came from an ONNX file, `arch`
    is the path of that file. `into` is the dense network, of any weights, where it came from a live module (or instead of
    `arch`); it is not changed.

    Raises:
        PlanError: the plan is corrupt, is not the one that these weights were written with, does not fit, or names a factory.
        CheckpointError: the weights cannot be read.
        ArchitectureError: the network cannot be built.

    """
    folder = Path(folder)
    plan = plans.read(folder / PLAN)
    state, metadata = read_safetensors(folder / WEIGHTS)
    if metadata.get("plan_sha256") != plan.sha256:
        raise PlanError(f"{folder / PLAN}: not the plan that {WEIGHTS} was written with", "make the folder again")
    held = sum(tensor.numel() for tensor in state.values())
    dense = _dense(plan.checkpoint, arch, held) if into is None else into
    return restored(dense, plan.layer_cuts, state, str(folder / WEIGHTS))


def restored(dense: nn.Module, cuts: Mapping[str, Cut], state: dict[str, Tensor], name: str) -> nn.Module:
    """The network that `cuts` leave of `dense`, with the weights of `state`: in eval mode, on the CPU. `dense` is not changed.

    Raises PlanError where the weights, of the file called `name`, are not those of such a network.
    """
    model = surgery.slim(dense, cuts)
    _add_biases(model, state)
    mismatch = compare(shapes_of(model), shapes_of(state))
    if mismatch:
        raise PlanError(f"{name}: does not fit its plan: {mismatch}", "make the folder again")
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        model.to_empty(device="cpu")  # only now: a plan may claim a huge network, but its weights are there
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


def _dense(source: Source, arch: str | None, held: int) -> nn.Module:
    """The dense network of a plan, its weights still to be filled in; one of ours is on the meta device and takes no memory.

    One of another package is made, but not where it is far larger than the `held` numbers of the slim one explain.
    """
    if source.architecture in ARCHITECTURES:
        if arch not in (None, source.architecture):
            raise PlanError(f"the plan is for the architecture {source.architecture}, got {arch}", "leave out arch")
        return construct(source.architecture, source.arguments)
    if source.architecture.startswith(restoration.PREFIX):
        return restoration.build(source.architecture, source.arguments, held=held)
    if source.architecture.startswith(timm_models.PREFIX):
        return timm_models.build(source.architecture, source.arguments, held=held)
    if source.architecture == loading.ONNX:
        return _from_onnx(source, arch)
    if source.architecture == LIVE and arch is None:
        message = "the plan is for a module that was given as an object, which no file can build again"
        raise PlanError(message, "load(folder, into=module), with the dense module of any weights")
    if arch is None:
        name = source.architecture if factories.is_factory(source.architecture) else "package.module:factory"
        message = f"the plan needs code that is not part of qcompress ({source.architecture}), which is not run unasked"
        raise PlanError(message, f"if you trust it: load(folder, arch={name!r})")
    if not factories.is_factory(arch):
        raise PlanError(f"arch {arch!r} does not name a factory, expected package.module:factory")
    return factories.make(arch, source.arguments)


def _from_onnx(source: Source, arch: str | None) -> nn.Module:
    if arch is None:
        message = f"the plan is for the ONNX file {source.file}, whose graph is needed to build the network again"
        raise PlanError(message, f"load(folder, arch={source.file!r}), or use the model.onnx in the folder")
    found = loading.load(arch)
    if found.sha256 != source.sha256:
        raise PlanError(f"the plan is for {source.file} ({source.sha256[:12]}...), got {arch} ({found.sha256[:12]}...)")
    return found.model


def _add_biases(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give a bias to the layers for which `state` has one: repair puts what removed channels contributed there."""
    for name, module in model.named_modules():
        bias = state.get(f"{name}.bias")
        if bias is not None and getattr(module, "bias", bias) is None:
            module.bias = nn.Parameter(torch.zeros_like(bias))
