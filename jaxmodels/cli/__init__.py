"""The command line: `jaxmodels generate | convert | inspect | bench | train`.

Commands import JAX inside their bodies, so that help and usage errors come at once.
"""

import importlib.metadata
import logging
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from jaxmodels.cli import bench, convert, generate, inspect, train


class _Commands(TyperGroup):
    """Tells bad input in one line instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        if not ctx.params["debug"]:
            logging.getLogger("absl").setLevel(
                logging.CRITICAL
            )  # Orbax logs, traceback and all, what it raises
        try:
            return super().invoke(ctx)
        except (ValueError, OSError) as error:  # CheckpointError and ConfigError are ValueErrors
            if ctx.params["debug"] or isinstance(error, BrokenPipeError):  # typer ends quietly on the latter
                raise
            print(f"jaxmodels: error: {' '.join(str(error).split())}", file=sys.stderr)
            raise typer.Exit(2) from error


app = typer.Typer(
    name="jaxmodels",
    cls=_Commands,
    help="Run, convert, measure and train language models on JAX.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _help(command: Callable[..., None]) -> str:
    """The docstring with each paragraph on one line: the terminal wraps it."""
    return "\n\n".join(" ".join(part.split()) for part in (command.__doc__ or "").split("\n\n"))


for command in (generate.generate, convert.convert, inspect.inspect, bench.bench, train.train):
    app.command(help=_help(command))(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"jaxmodels {importlib.metadata.version('jaxmodels')}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="JAXMODELS_DEBUG", help="Show the traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The `jaxmodels` command."""
    app(prog_name="jaxmodels")
