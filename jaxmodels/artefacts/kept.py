"""Programs of generations that the command line keeps from call to call, so that a later one neither traces
nor compiles.

JAX's compilation cache saves the compiling, and a program is known by what it was traced to: half of a start
that finds everything in it goes into tracing. Here programs are known by what they would be traced from: the
source of this package, the model's configuration, the decoding method, the sizes and types of all arguments,
the versions of the compilers, the device, and the variables by which JAX and XLA are told of their settings.

    PLACE/SOMEWHAT.executable   one program each, named by a digest of all that and one of its contents
    PLACE/SOMEWHAT.used         the programs that the same command used last, which the next one begins to
                                read while it still imports and reads weights

Files hold machine code and are read by `pickle`, as `jaxmodels.artefacts.executables` says.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmodels.artefacts.ahead import contents_of, used_file
from jaxmodels.artefacts.compilation_cache import KEPT_PROGRAMS, bound
from jaxmodels.artefacts.errors import ArtefactError
from jaxmodels.artefacts.executables import Executable, compiled_anew, read_executable, write_executable
from jaxmodels.artefacts.runtime import digest, of_runtime
from jaxmodels.checkpoints.atomic import replace_file
from jaxmodels.decoding import driver
from jaxmodels.decoding.programs import BoundedJit
from jaxmodels.decoding.runners import Sizes, Traced, row_keys
from jaxmodels.decoding.strategy import Output, Request, Strategy
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel

_PACKAGE = Path(__file__).parent.parent
_PROGRAM = KEPT_PROGRAMS.removeprefix("*")


@dataclass(frozen=True, kw_only=True)
class KeptRunner:
    """A `Runner` whose programs stay in a directory. Made by `kept_runner`.

    Attributes:
        directory: where to.
        surroundings: in what they were compiled, and in what they may run, as one digest.
        device: that they run on.
    """

    directory: Path
    surroundings: str
    device: jax.Device
    _used: dict[str, Callable[..., Any]] = field(default_factory=dict, repr=False)

    def sizes(
        self, batch: int, longest: int, max_new: int, strategy: Strategy, capacity: int | None
    ) -> Sizes:
        return Traced().sizes(batch, longest, max_new, strategy, capacity)

    def keys(self, seed: int, batch: int) -> jax.Array:
        keys: jax.Array = self._run(row_keys, np.int32(seed), batch=batch)
        return keys

    def allocate(
        self,
        *,
        config: LanguageModel,
        batch: int,
        capacity: int,
        dtype: str,
        placement: driver.PlacesCaches | None,
    ) -> Cache:
        cache: Cache = self._run(
            driver.allocate, config=config, batch=batch, capacity=capacity, dtype=dtype, placement=placement
        )
        return cache

    def start(
        self, params: Params, request: Request, cache: Cache, strategy: Strategy, *, config: LanguageModel,
        max_new: int,
    ) -> Any:  # fmt: skip
        return self._run(driver.start, params, request, cache, strategy, config=config, max_new=max_new)

    def advance(
        self, params: Params, request: Request, carry: Any, strategy: Strategy, steps: jax.Array, *,
        config: LanguageModel,
    ) -> Any:  # fmt: skip
        return self._run(driver.advance, params, request, carry, strategy, steps, config=config)

    def generate(
        self, params: Params, request: Request, cache: Cache, strategy: Strategy, *, config: LanguageModel,
        max_new: int,
    ) -> tuple[Output, Cache]:  # fmt: skip
        made: tuple[Output, Cache] = self._run(
            driver.generate, params, request, cache, strategy, config=config, max_new=max_new
        )
        return made

    def note(self, command: str) -> None:
        """Notes what was used, for `ahead.begin_kept` with the same command."""
        names = sorted(name for name in self._used if name.endswith(_PROGRAM))
        file = used_file(self.directory, self.device, command)
        written = "\n".join(names)
        if not file.is_file() or file.read_text() != written:
            replace_file(file, written)

    def _run(self, function: BoundedJit, *arguments: Any, **static: Any) -> Any:
        """The function's program called: from the directory, or compiled and written to it.

        What cannot be told by its text, such as a function among the static arguments, is not kept, nor is
        what the platform's compiler does not give away.
        """
        leaves, structure = jax.tree.flatten(arguments)
        kinds = [_kind(leaf) for leaf in leaves]
        told = f"{function.name} {sorted(static.items())} {structure} {kinds}"
        if " at 0x" in told:
            return function(*arguments, **static)
        key = digest(self.surroundings, told)
        program = next((self._used[name] for name in self._used if name.startswith(key)), None)
        if program is None:
            name, program = self._found(key) or self._compiled(key, function, arguments, static)
            self._used[name] = program
        return program(*arguments)

    def _found(self, key: str) -> tuple[str, Executable] | None:
        for file in self.directory.glob(f"{key}-*{_PROGRAM}"):
            try:
                program = read_executable(file, contents_of(file), [self.device])
                os.utime(file)  # the longest unused go first
            except (ArtefactError, OSError):  # damaged, or removed by another process
                file.unlink(missing_ok=True)
                continue
            return file.name, program
        return None

    def _compiled(
        self, key: str, function: BoundedJit, arguments: tuple[Any, ...], static: Mapping[str, Any]
    ) -> tuple[str, Callable[..., Any]]:
        with compiled_anew():
            compiled = function.lower(*arguments, **static).compile()
        unfinished = self.directory / f"{key}.{os.getpid()}"
        try:
            file = self.directory / f"{key}-{write_executable(unfinished, compiled)}{_PROGRAM}"
            unfinished.replace(file)
        except (ArtefactError, OSError):  # a full disk, say: what is compiled serves this call all the same
            unfinished.unlink(missing_ok=True)
            return key, compiled
        _drop_unused(self.directory, bound())
        return file.name, compiled


def kept_runner(directory: Path) -> KeptRunner:
    """Programs that are kept in a directory, for the first device here.

    Raises:
        OSError: the directory cannot be made.
    """
    directory.mkdir(parents=True, exist_ok=True)
    device = jax.devices()[0]
    surroundings = digest(of_runtime(device), *_sources())
    return KeptRunner(directory=directory, surroundings=surroundings, device=device)


def _drop_unused(directory: Path, most: int) -> None:
    """Removes programs, the longest unused first, until they have `most` bytes; -1 for no bound."""
    found = sorted(
        (file.stat().st_mtime, file.stat().st_size, file) for file in directory.glob(KEPT_PROGRAMS)
    )
    held = sum(size for _, size, _ in found)
    for _, size, file in found:
        if most < 0 or held <= most:
            return
        file.unlink(missing_ok=True)
        held -= size


def _kind(leaf: Any) -> str:
    aval = jax.typeof(leaf)
    return f"{aval.str_short()} {getattr(aval, 'weak_type', False)} {getattr(leaf, 'sharding', None)}"


def _sources(directory: Path = _PACKAGE) -> Iterator[str]:
    """Names, times and sizes of the package's modules: what was traced from others may be another program."""
    for entry in sorted(os.scandir(directory), key=lambda one: one.name):
        if entry.is_dir():
            yield from _sources(Path(entry.path))
        elif entry.name.endswith(".py"):
            status = entry.stat()
            yield f"{entry.path} {status.st_mtime_ns} {status.st_size}"
