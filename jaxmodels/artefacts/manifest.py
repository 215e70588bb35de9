"""What stands beside serialised programs: what they were compiled from, with and for.

An executable is machine code for one kind of device, by one version of the compiler, with the layers of one
model. Nothing in it says so, and what happens to be loaded elsewhere may crash or compute something else: the
manifest is compared, value by value, before a program is loaded.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax

from jaxmodels.artefacts.errors import ArtefactError
from jaxmodels.artefacts.runtime import describe_devices

MANIFEST_FILE = "manifest.json"
FORMAT = 3
_AGAIN = "compile them again with `jaxmodels tpu compile`"


@dataclass(frozen=True, kw_only=True)
class ProgramFile:
    """One serialised program.

    Attributes:
        program: "prefill", "decode", "generate", "allocate" or "keys".
        file: its name in the directory.
        sha256: of what the file holds.
        batch, prompt, new, capacity: the sizes that it is for, 0 where a program has no such size.
    """

    program: str
    file: str
    sha256: str
    batch: int
    prompt: int = 0
    new: int = 0
    capacity: int = 0


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What programs were compiled from, with and for.

    Attributes:
        versions: of jaxmodels, jax, jaxlib and the platform's compiler.
        device: "platform", "kind" and "count", of processors what they can execute too; "mesh" and
            "rules" of a model that is spread over several.
        model: what it is in words, "model", a "digest" of its whole configuration, and the "parameters",
            a digest of their names, shapes and dtypes.
        experts: where programs have experts, and how they come from there, as --experts takes it.
        strategy: the same of the decoding method, "strategy" and "digest"; the numbers in it that programs
            are given when they run may differ.
        programs: the files.
    """

    versions: Mapping[str, str]
    device: Mapping[str, Any]
    model: Mapping[str, str]
    experts: str
    strategy: Mapping[str, str]
    programs: tuple[ProgramFile, ...]

    def write(self, directory: Path) -> None:
        """Writes the manifest of a directory."""
        values = {"format": FORMAT, **asdict(self)}
        (directory / MANIFEST_FILE).write_text(json.dumps(values, indent=2) + "\n")


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a directory.

    Raises:
        ArtefactError: there is none, or it is of another form.
    """
    file = directory / MANIFEST_FILE
    try:
        values = json.loads(file.read_text())
        if values.pop("format") != FORMAT:
            raise ArtefactError(f"{file} is of another format than {FORMAT}; compile the programs again")
        programs = tuple(ProgramFile(**one) for one in values.pop("programs"))
        return Manifest(programs=programs, **values)
    except FileNotFoundError as error:
        raise ArtefactError(
            f"{directory} holds no {MANIFEST_FILE}: it is no directory of compiled programs, "
            "as `jaxmodels tpu compile` writes one"
        ) from error
    except (OSError, TypeError, AttributeError, KeyError, ValueError) as error:
        if isinstance(error, ArtefactError):
            raise
        raise ArtefactError(f"{file} is no manifest of compiled programs: {error}") from error


def check_same(directory: Path, there: Manifest, here: Manifest) -> None:
    """Raises ArtefactError, naming both values, where what programs were compiled from, with or for is not
    what is here."""
    _check_equal(directory, there.device, here.device)
    _check_equal(directory, there.versions, here.versions)
    if there.experts != here.experts:
        raise ArtefactError(
            f"the programs in {directory} are for --experts {there.experts}, and the model here is loaded "
            f"with --experts {here.experts}; load it as the programs are, or {_AGAIN}"
        )
    for name, was, now in _differences(there.model, here.model):
        told = "" if name == "model" else f" (their {name} {was} against {now})"
        raise ArtefactError(
            f"the programs in {directory} are for {there.model['model']}, and the model here is "
            f"{here.model['model']}{told}; {_AGAIN}"
        )


def check_kind(directory: Path, there: Manifest) -> None:
    """Raises ArtefactError where programs are for another kind of device than there is here, whatever their
    number."""
    here = describe_devices(jax.devices()[:1])
    kind = ("platform", "kind")
    _check_equal(
        directory, {name: there.device.get(name) for name in kind}, {name: here[name] for name in kind}
    )


def _check_equal(directory: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    for name, was, now in _differences(there, here):
        raise ArtefactError(
            f"the programs in {directory} were compiled for {name} {was}, and here it is {now}; {_AGAIN}"
        )


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name in {**there, **here}:
        if there.get(name) != here.get(name):
            yield name, str(there.get(name)), str(here.get(name))
