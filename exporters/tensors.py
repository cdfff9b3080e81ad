"""safetensors: the weights alone, under the names of the network's own state dict, for code that builds the network itself."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from qcompress.exporters.base import Array, Artifact, Opened, Prepared, Weights
from qcompress.exporters.checked import Draft, on_cpu, publish
from qcompress.weights import read_safetensors

__all__ = ["export_tensors"]

_LEAST_NUMBERS = 128  # of a tensor that is worth rounding: biases and statistics stay as they are
_NOTE = "weights only: the network is built by code (for a slim network: qcompress.slim_folder.load, or --to pt2)"


def export_tensors(
    model: nn.Module,
    example: Tensor,
    path: Path,
    *,
    opset: int = 18,
    dynamic: bool = True,
    metadata: Mapping[str, str],
    weights: Weights = "float32",
) -> Artifact:
    """As `Exporter`; `opset` and `dynamic` mean nothing here."""
    del opset, dynamic
    network = on_cpu(model)
    state = {name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}
    if weights == "float16":
        state = {name: tensor.half() if _is_large(tensor) else tensor for name, tensor in state.items()}

    def open_again(path: Path, threads: int = 1, *, exact: bool = False) -> Opened:
        """The file's weights in a copy of the network."""
        del threads, exact
        again = on_cpu(network)
        again.load_state_dict(read_safetensors(path)[0])

        def prepare(images: Array) -> Prepared:
            with torch.inference_mode():
                output = again(torch.from_numpy(images)).numpy()
            return Prepared(lambda: None, lambda: output)

        return Opened(path.name, tuple(example.shape), metadata, prepare)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        file.write_bytes(safetensors.torch.save(state, dict(metadata)))
        draft = Draft((file,), (tuple(example.shape),), True, (_NOTE,))
        return publish(draft, network, path, format="safetensors", open=open_again, weights=weights)


def _is_large(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.numel() >= _LEAST_NUMBERS
