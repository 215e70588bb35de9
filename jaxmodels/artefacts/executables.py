"""One compiled program as a file, and back: what `jax.experimental.serialize_executable` makes.

A file holds machine code and is read by `pickle`: load only what you or somebody you trust has written.
"""

import hashlib
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

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


def write_executable(file: Path, compiled: jax.stages.Compiled) -> str:
    """Writes a program, and gives the digest of the file; arguments and results keep their pytrees.

    Raises:
        ArtefactError: the platform's compiler gives nothing that can be written.
    """
    try:
        program = serialize_executable.serialize(compiled)
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        raise ArtefactError(f"{file.name} cannot be written: {error}") from error
    content = pickle.dumps(program)
    file.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def read_executable(file: Path, sha256: str, devices: Sequence[jax.Device]) -> jax.stages.Compiled:
    """The program of a file of this digest, ready to run on these devices.

    Raises:
        ArtefactError: there is no such file, it holds something else, or the platform does not take it.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ArtefactError(f"{file} cannot be read ({error}); compile the programs again") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ArtefactError(f"{file} has the SHA-256 {found}, and {sha256} was written: it is damaged")
    try:
        program, arguments, results = pickle.loads(content)
        return serialize_executable.deserialize_and_load(
            program, arguments, results, backend=devices[0].client, execution_devices=devices
        )
    except Exception as error:  # the runtimes of devices raise errors of their own
        reason = str(error).partition("\n")[0]
        raise ArtefactError(f"{file} cannot be loaded here: {type(error).__name__}: {reason}") from error
