"""One compiled program as a file, and back: what `jax.experimental.serialize_executable` makes.

A file holds machine code and is read by `pickle`: load only what you or somebody you trust has written. Its
program is one of flat lists of arrays, so that it can be loaded before the classes of their pytrees are
imported (`begin_reading`).
"""

import hashlib
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from jaxmodels.artefacts.errors import ArtefactError


@contextmanager
def compiled_anew() -> Iterator[None]:
    """Without JAX's compilation cache: what comes out of it on a CPU has no code left to be written."""
    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # which is asked once whether it is on
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


@dataclass(frozen=True)
class Executable:
    """A compiled program of arguments and results with these structures."""

    flat: jax.stages.Compiled
    arguments: jax.tree_util.PyTreeDef
    results: jax.tree_util.PyTreeDef

    def __call__(self, *arguments: Any) -> Any:
        """What the program makes of its arguments; raises TypeError for others than it was compiled for."""
        leaves, structure = jax.tree.flatten((arguments, {}))
        if structure != self.arguments:
            raise TypeError(f"the program takes {self.arguments}, and was given {structure}")
        return jax.tree.unflatten(self.results, self.flat(*leaves))


# What `begin_reading` began to read and nobody has asked for yet, by file and digest.
_begun: dict[tuple[Path, str], "Future[tuple[jax.stages.Compiled, bytes]]"] = {}


def write_executable(file: Path, compiled: jax.stages.Compiled) -> str:
    """Writes a program, and gives the digest of the file; arguments and results keep their pytrees.

    Raises:
        ArtefactError: the platform's compiler gives nothing that can be written.
    """
    try:
        program, arguments, results = serialize_executable.serialize(compiled)
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        raise ArtefactError(f"{file.name} cannot be written: {error}") from error
    structures = pickle.dumps((arguments, results))
    content = pickle.dumps((program, arguments.num_leaves, results.num_leaves, structures))
    file.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def begin_reading(files: Sequence[tuple[Path, str]], devices: Sequence[jax.Device]) -> None:
    """Begins to load programs in a thread, for `read_executable` to wait for: a processor that has more than
    one core meanwhile imports what else a start needs and reads weights. Files come with their digests."""
    pool = ThreadPoolExecutor(max_workers=1)
    for file, sha256 in files:
        _begun[file, sha256] = pool.submit(_read_flat, file, sha256, devices)
    pool.shutdown(wait=False)


def read_executable(file: Path, sha256: str, devices: Sequence[jax.Device]) -> Executable:
    """The program of a file of this digest, ready to run on these devices.

    Raises:
        ArtefactError: there is no such file, it holds something else, or the platform does not take it.
    """
    begun = _begun.pop((file, sha256), None)
    flat, structures = _read_flat(file, sha256, devices) if begun is None else begun.result()
    arguments, results = pickle.loads(structures)
    return Executable(flat, arguments, results)


def _read_flat(file: Path, sha256: str, devices: Sequence[jax.Device]) -> tuple[jax.stages.Compiled, bytes]:
    """The program of a file between flat lists, and the pickled structures of its arguments and results."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ArtefactError(f"{file} cannot be read ({error}); compile the programs again") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ArtefactError(f"{file} has the SHA-256 {found}, and {sha256} was written: it is damaged")
    try:
        program, given, made, structures = pickle.loads(content)
        flat = serialize_executable.deserialize_and_load(
            program,
            jax.tree.structure(((0,) * given, {})),
            jax.tree.structure([0] * made),
            backend=devices[0].client,
            execution_devices=devices,
        )
        return flat, structures
    except Exception as error:  # the runtimes of devices raise errors of their own
        reason = str(error).partition("\n")[0]
        raise ArtefactError(f"{file} cannot be loaded here: {type(error).__name__}: {reason}") from error
