"""What `qcompress init` writes: every option of `prune`, commented out, with what it does and a value that loads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from qcompress.cli.config_file import OWN
from qcompress.cli.option_table import Option

__all__ = ["template"]

_EXAMPLES: Mapping[str, object] = {  # of options without a default, by key
    "sparsity": 0.5,
    "budget": "macs",
    "target-params": "100k",
    "target-macs": "300M",
    "target-size": "250kB",
    "target-latency": "8ms",
    "speedup": 2.0,
    "latency-table": "latency.json",
    "relinearise": 6,
    "selection": "selection.json",
    "solver": "Advantage2_system1",
    "max-qpu-seconds": 10.0,
    "data": "photos",
    "noise": "gaussian:25",
    "max-images": 64,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "refine-evals": 200,
    "refine-minutes": 5.0,
    "minutes": 10.0,
    "epochs": 20.0,
    "finetune-steps": 1000,
    "train-data": "photos-to-train-on",
    "learning-rate": 0.001,
    "teaching": 1.0,
    "max-drop": "0.1dB",
    "min-speedup": 1.5,
    "max-size": "900kB",
    "size": 256,
    "arch": "my_package.networks:make",
    "cache": "cache",
    "workers": 2,
    "ray": "auto",
    "out": "model.slim",
}
_INLINE: Mapping[str, str] = {"arch-args": "{ width = 32 }"}  # tables


def template(options: Sequence[Option]) -> str:
    """A file with every option at its default, or with an example where it has none, and what it does above it."""
    parts = ["# Options of `qcompress prune`, for --config. What the command line says comes first.\n"]
    for option in options:
        if option.key in OWN:
            continue
        lines = _wrapped(option.help.replace("`", "").replace("\\[", "["))  # the terminal's markup needs the backslash
        if option.choices:
            lines.append(f"One of {', '.join(option.choices)}.")
        parts.append("\n".join([*(f"# {line}" for line in lines), f"# {option.key} = {_value(option)}"]) + "\n")
    return "\n".join(parts)


def _value(option: Option) -> str:
    """The default in TOML; where there is none, an example."""
    if option.multiple:
        return "{}" if option.pairs else "[]"
    if option.default is None:
        return f"{_INLINE.get(option.key) or json.dumps(_EXAMPLES[option.key])}  # an example, no default"
    return json.dumps(option.default, ensure_ascii=False)


def _wrapped(text: str, width: int = 96) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{word}"
    return lines
