"""Programs that a command will need, loaded in a thread while it still imports and reads weights.

What is begun here, `executables.read_executable` waits for; what is never asked for costs a core some time.
"""

from collections.abc import Sequence
from pathlib import Path

import jax

from jaxmodels.artefacts.compilation_cache import KEPT_PROGRAMS
from jaxmodels.artefacts.errors import ArtefactError
from jaxmodels.artefacts.executables import begin_reading
from jaxmodels.artefacts.manifest import read_manifest
from jaxmodels.artefacts.runtime import describe_devices, describe_versions, digest, of_runtime

# Bytes of text that a token stands for at most, as a rule.
_BYTES_PER_TOKEN = 4
_EVERY_CALL = ("allocate", "keys")


def begin_compiled(directory: Path, programs: Sequence[str], text_bytes: int) -> None:
    """Begins to load the programs of a directory that a prompt of so many bytes is likely to need: of those
    named the shortest that may hold it. Begins nothing where they are for another device or version, which is
    told to whom they are asked for."""
    try:
        manifest = read_manifest(directory)
    except ArtefactError:
        return
    devices = jax.devices()[: manifest.device.get("count", 1)]
    here = describe_devices(devices)
    if manifest.versions != describe_versions(devices[0].platform) or any(
        manifest.device.get(name) != value for name, value in here.items()
    ):
        return
    needed = []
    for name in (*programs, *_EVERY_CALL):
        fitting = [one for one in manifest.programs if one.program == name]
        long_enough = [one for one in fitting if one.prompt * _BYTES_PER_TOKEN >= text_bytes] or fitting
        needed += sorted(long_enough, key=lambda one: (one.prompt, one.new, one.capacity))[:1]
    begin_reading([(directory / one.file, one.sha256) for one in needed], devices)


def begin_kept(directory: Path, command: str) -> None:
    """Begins to load the programs that `note_used` noted for the same command, if any."""
    device = jax.devices()[0]
    files = [directory / name for name in _read_lines(used_file(directory, device, command))]
    begin_reading([(file, contents_of(file)) for file in files if file.is_file()], [device])


def used_file(directory: Path, device: jax.Device, command: str) -> Path:
    """The file that names the programs which a command, in whatever words, used last on a device."""
    return directory / f"{digest(of_runtime(device), command)}.used"


def contents_of(program: Path) -> str:
    """The digest of what a kept program's file was written with, which its name ends with."""
    return program.name.removesuffix(KEPT_PROGRAMS.removeprefix("*")).rpartition("-")[2]


def _read_lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
