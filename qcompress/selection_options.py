"""The options that decide which units go, as facts of what is kept for a run that goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qcompress.qubo import coefficients_of, name_of
from qcompress.targets import Smallest, words

if TYPE_CHECKING:
    from qcompress.settings import Settings

__all__ = ["selecting"]


def selecting(settings: Settings) -> dict[str, str]:
    """Each option with its value, as on the command line; those of the refinement are not among them.

    >>> from qcompress.settings import Settings
    >>> facts = selecting(Settings().resolved())
    >>> facts["target"], facts["align"], facts["keep"]
    ('--sparsity 0.5', '--align auto', '--keep none')
    """
    search = settings.search
    return {
        "target": _target(settings),
        "budget": f"--budget {settings.budget}",
        "objective": f"--objective {name_of(search.objective)}",
        "coefficients": f"--coefficient {_pairs(coefficients_of(search.objective))}",
        "relinearise": f"--relinearise {search.relinearise}",
        "backend": f"--backend {search.backend}",
        "backend options": f"--backend-option {_pairs(search.backend_options)}",
        "reads": str(search.reads),
        "selection": f"--selection {search.selection or 'none'}",
        "align": f"--align {search.align or 'auto'}",
        "ignore": f"--ignore {', '.join(search.ignore) or 'none'}",
        "floor": f"--floor {search.floor}",
        "keep": f"--keep {_pairs(search.keep)}",
        "keep at most": f"--keep-at-most {_pairs(search.keep_at_most)}",
        "multiple of": f"--multiple-of {_pairs(search.multiple_of)}",
    }


def _target(settings: Settings) -> str:
    """How far to prune. With `Smallest` the sparsity is what was found, and the limit of the drop is what was given."""
    if settings.target is None:
        return f"--sparsity {settings.sparsity}"
    if isinstance(settings.target, Smallest):
        return f"--smallest --max-drop {settings.limits.max_drop}"
    return " ".join(words(settings.target, settings.sparsity, settings.budget))


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "none"
