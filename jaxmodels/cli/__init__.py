"""The command line: `jaxmodels generate | fill-mask | convert | inspect | bench | train | cache |
tpu`.

Commands import JAX inside their bodies, so that help and usage errors come at once.
"""

import gc
import importlib.metadata
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from jaxmodels.artefacts import compilation_cache
from jaxmodels.cli import (
    bench,
    bench_decoding,
    bench_depth,
    bench_parallel,
    cache,
    convert,
    fill_mask,
    generate,
    inspect,
    tpu,
    tpu_compile,
    tpu_launch,
    train,
)
from jaxmodels.cli.subcommands import BenchCommands

LONGEST_SENTENCE = 2000
# The variables by which a process is told that it is one of several, see `jaxmodels.tpu_configs.hosts`.
OF_SEVERAL = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAXMODELS_HOSTS")
_OBJECTS_BETWEEN_COLLECTIONS = 500_000


class _Commands(TyperGroup):
    """Tells bad input in one line instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        if not ctx.params["debug"]:
            # Orbax logs what it raises, traceback and all. Of several writes that fail it raises the first;
            # asyncio logs those of the others that have failed by then.
            for name in ("absl", "asyncio"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            return super().invoke(ctx)
        except Exception as error:
            # What typer raises it shows itself, and a reader that went away is no error.
            is_typers = type(error).__module__.split(".")[0] in ("typer", "click")
            if ctx.params["debug"] or is_typers or isinstance(error, BrokenPipeError):
                raise
            _tell_error(_sentence(error))
            raise typer.Exit(2) from error


def _sentence(error: Exception) -> str:
    """What is told of an error, in one line."""
    text = " ".join(str(error).split())
    if len(text) > LONGEST_SENTENCE:  # a name or a value of thousands of characters
        text = f"{text[: LONGEST_SENTENCE // 2]} ... {text[-LONGEST_SENTENCE // 2 :]}"
    if isinstance(error, ValueError | OSError):  # CheckpointError and ConfigError are ValueErrors
        return text
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return (
            f"out of memory: {text or 'the system gave no more'}; try fewer rows, tokens or a smaller model"
        )
    return f"unexpected {type(error).__name__}: {text}; --debug shows where"


def _tell_unraisable(event: Any) -> None:
    """Shows what no one could be told of, as Python does, but for one thing: once a write to a full disk has
    failed, threads of tensorstore still report to an event loop that Orbax has closed by then."""
    error = event.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        sys.__unraisablehook__(event)


def _tell_error(message: str) -> None:
    # What came from the command line may hold bytes that are no characters.
    printable = f"jaxmodels: error: {message}".encode("utf-8", "backslashreplace").decode()
    print(printable, file=sys.stderr)


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


for command in (
    generate.generate,
    fill_mask.fill_mask,
    convert.convert,
    inspect.inspect,
    train.train,
    cache.cache,
):
    app.command(help=_help(command))(command)

benches = typer.Typer(
    cls=BenchCommands,
    help="Measure a model: `bench MODEL` how fast it is, `bench decoding` what strategies gain, "
    "`bench depth` what leaving and skipping blocks gains, `bench parallel` what masked generation costs in "
    "right answers.",
)
for name, measurement in (
    (BenchCommands.default, bench.bench),
    ("decoding", bench_decoding.decoding),
    ("depth", bench_depth.depth),
    ("parallel", bench_parallel.parallel),
):
    benches.command(name, help=_help(measurement))(measurement)
app.add_typer(benches, name="bench")

tpus = typer.Typer(
    no_args_is_help=True,
    help="Cloud TPU: plan a model on slices before one is rented, compile its programs, start it there.",
)
for name, action in (
    ("plan", tpu.plan),
    ("compile", tpu_compile.compile_programs),
    ("launch", tpu_launch.launch),
):
    tpus.command(name, help=_help(action))(action)
app.add_typer(tpus, name="tpu")


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


@contextmanager
def _among_processes() -> Iterator[None]:
    """Within it, this process is one of several where its environment says so. The first alone prints
    results.

    Raises:
        SystemExit: the environment is not understood.
    """
    if not any(os.environ.get(name) for name in OF_SEVERAL):
        yield
        return
    from jaxmodels.tpu_configs.hosts import connected

    with ExitStack() as stack:
        try:
            stack.enter_context(connected())
        except ValueError as error:
            _tell_error(str(error))
            raise SystemExit(2) from None
        import jax

        if jax.process_index() > 0:
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield


def main() -> None:
    """The `jaxmodels` command."""
    compilation_cache.turn_on()
    # Imports make hundreds of thousands of objects that stay: looking through them for garbage, again and
    # again and once more at the end, takes a third of a start.
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    sys.unraisablehook = _tell_unraisable
    try:
        try:
            with _among_processes():
                app(prog_name="jaxmodels")
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # what is still held back, while its failure can be told
            gc.freeze()
    except OSError as error:
        # The interpreter would try once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            _tell_error(f"standard output cannot be written: {error}")
        raise SystemExit(2) from None
