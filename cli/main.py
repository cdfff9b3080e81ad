"""The app and its border: every error becomes one line, a hint and an exit code here, and nowhere else."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer

from qcompress._version import __version__
from qcompress.cli import config_file, render
from qcompress.cli.apply import apply
from qcompress.cli.check import check
from qcompress.cli.compare import compare
from qcompress.cli.compress import compress
from qcompress.cli.doctor import doctor
from qcompress.cli.export import export
from qcompress.cli.formulate import formulate
from qcompress.cli.init import init
from qcompress.cli.inspect import inspect
from qcompress.cli.plots import plots
from qcompress.cli.profile import profile
from qcompress.cli.prune import prune
from qcompress.cli.report import report
from qcompress.cli.solve import solve
from qcompress.cli.sweep import INSTEAD, sweep
from qcompress.cli.verify import verify
from qcompress.errors import InterruptedRunError, QCompressError

__all__ = ["app", "main"]

app = typer.Typer(
    name="qcompress",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Prune a trained PyTorch network by QUBO, repair it, and hand back a verified slim ONNX file.",
    epilog="Exit codes: 0 done, 1 an export failed, 2 wrong usage, 3 bad input, 4 a limit missed, 5 a backend, a runtime or a "
    "worker failed, 6 a limit undecided, 130 interrupted.",
)


def _interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, with Ctrl-C as an error of ours: typer would turn it into an exit code without a word."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            raise InterruptedRunError("interrupted, nothing was written") from None

    return run


for command in (
    prune,
    sweep,
    compress,
    init,
    inspect,
    apply,
    export,
    verify,
    check,
    compare,
    profile,
    formulate,
    solve,
    report,
    plots,
    doctor,
):
    app.command()(_interruptible(command))


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"qcompress {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version


def main(arguments: list[str] | None = None) -> int:
    """Run the command line on `arguments` (default: the process's own) and return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    try:
        code = app(args=arguments, prog_name="qcompress", standalone_mode=False)
    except QCompressError as error:
        render.show_error(error, as_json=as_json)
        return error.exit_code
    except typer.TyperException as error:  # an unknown option, a missing argument, a value of the wrong type
        of_the_file = config_file.of_the_file(error)
        if of_the_file is not None:
            render.show_error(of_the_file, as_json=as_json)
            return of_the_file.exit_code
        render.show_error(QCompressError(error.format_message(), _hint(error)), as_json=as_json, kind="UsageError", code=2)
        return 2
    except BrokenPipeError:  # the reader of our output went away (`| head`): not an error of ours
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - stays open until the interpreter has flushed it
        return 0
    except Exception as error:
        if os.environ.get("QCOMPRESS_DEBUG"):
            traceback.print_exc()
        unexpected = QCompressError(
            f"internal error: {type(error).__name__}: {error}".splitlines()[0],
            "this is a bug: run again with QCOMPRESS_DEBUG=1 for the traceback, and report it",
        )
        render.show_error(unexpected, as_json=as_json, kind="InternalError", code=1)
        return 1
    return int(code or 0)


def _hint(error: typer.TyperException) -> str:
    """The next step after what typer refused: help, or what a sweep has in place of an option of prune."""
    context = getattr(error, "ctx", None)
    of_sweep = context is not None and context.info_name == "sweep"
    return INSTEAD.get(getattr(error, "option_name", ""), "see `qcompress --help`") if of_sweep else "see `qcompress --help`"


if __name__ == "__main__":
    sys.exit(main())
