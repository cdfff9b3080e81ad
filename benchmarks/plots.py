"""Pictures of what benchmarks measured: the metric against the share removed, one line an objective.

Reads result files: each a JSON object, or a list of them, with the keys network, objective, sparsity, align, seed, dense, cut
and repaired (see `qcompress.plots.rows`); folders stand for the .json files in them. Needs the extra `plots`.

    python benchmarks/plots.py RESULT... [--out plots] [--value repaired|cut] [--to-dense] [--format svg|png]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from qcompress.errors import InputError
from qcompress.plots.requirement import require
from qcompress.plots.rows import Row, of_mapping

__all__ = ["read_rows"]


def read_rows(paths: Iterable[Path]) -> list[Row]:
    """The rows of result files and of folders of them, in the order of their names. Raises InputError for other content."""
    rows: list[Row] = []
    for path in _files(paths):
        try:
            found = json.loads(path.read_bytes())
            rows += [of_mapping(values) for values in (found if isinstance(found, list) else [found])]
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not a result: {error}") from error
    return rows


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(path.glob("*.json")) if path.is_dir() else [path]


def main() -> None:
    """Writes one picture, with a panel for every network and alignment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("plots"))
    parser.add_argument("--value", choices=("repaired", "cut"), default="repaired")
    parser.add_argument("--to-dense", action="store_true", help="draw the change from each run's own dense network")
    parser.add_argument("--format", choices=("svg", "png"), default="svg")
    options = parser.parse_args()
    require()
    from qcompress.plots.drawing import Picture, write
    from qcompress.plots.sparsity import against_sparsity

    rows = read_rows(options.results)
    if not rows:
        raise InputError(f"no results in {', '.join(map(str, options.results))}")
    drawn = against_sparsity(rows, options.value, to_dense=options.to_dense)
    for path in write([Picture("sparsity", drawn)], options.out, options.format):
        print(path)


if __name__ == "__main__":
    main()
