"""Portable programs: a model's programs lowered for CUDA, TPU and CPU on any machine, in one file.

A program is a `jax.export.Exported`: StableHLO with its calling convention, compiled where it is called. It
runs without jaxmodels: arguments and results are nested dicts of arrays (see `plain.pack`), in which a
quantised weight is a dict of its "numbers" and "scales".

    begin(tokens, lengths, max_new, stop_tokens, pad_token, seed) -> {"request": ..., "cache": ...}
    prefill(params, request, cache) -> carry        carry["output"], carry["cache"], ...
    decode(params, request, carry, steps) -> carry  at most `steps` further steps
    generate(params, request, cache) -> {"output": ..., "cache": ...}

The file is a zip archive with a member for each program and ``manifest.json``, which tells their arguments:

    archive = zipfile.ZipFile("programs.zip")
    generate = jax.export.deserialize(bytearray(archive.read("generate")))
    jax.jit(generate.call, donate_argnums=2)(params, request, cache)

Branches that depend on the platform are resolved when a program is called, not when it is made. Writing needs
the extra ``jaxmodels[export]``, and so does reading.
"""

import importlib.util
import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, Int

from jaxmodels.artefacts.errors import ArtefactError
from jaxmodels.artefacts.manifest import MANIFEST_FILE
from jaxmodels.artefacts.plain import pack, unpack
from jaxmodels.artefacts.runtime import describe_versions
from jaxmodels.artefacts.subjects import describe_model, describe_strategy
from jaxmodels.checkpoints.atomic import replace_file
from jaxmodels.decoding import driver
from jaxmodels.decoding.default import default_strategy
from jaxmodels.decoding.runners import row_keys
from jaxmodels.decoding.strategy import Request, Strategy
from jaxmodels.layers.quantized.quantization import Quantization, find_quantization
from jaxmodels.layers.spec import walk
from jaxmodels.models.language_model import LanguageModel
from jaxmodels.tpu_configs.programs import Arguments, Workload, abstract_arguments

PLATFORMS = ("cpu", "cuda", "tpu")
PortableName = Literal["begin", "prefill", "decode", "generate"]
PORTABLE: tuple[PortableName, ...] = ("begin", "prefill", "decode", "generate")
FORMAT = 1
# The arguments of each program by name, and which of them may be donated.
_ARGUMENTS: dict[PortableName, tuple[str, ...]] = {
    "begin": ("tokens", "lengths", "max_new", "stop_tokens", "pad_token", "seed"),
    "prefill": ("params", "request", "cache"),
    "decode": ("params", "request", "carry", "steps"),
    "generate": ("params", "request", "cache"),
}
_DONATED = {"begin": None, "prefill": 2, "decode": 2, "generate": 2}


def export_programs(
    config: LanguageModel,
    workload: Workload,
    *,
    strategy: Strategy | None = None,
    quantize: str | Quantization | None = None,
    platforms: Sequence[str] = PLATFORMS,
    programs: Sequence[PortableName] = PORTABLE,
) -> dict[PortableName, export.Exported]:
    """The programs of a model, each for all of `platforms` at once.

    The cache and the carry are donated if the caller donates them:
    ``jax.jit(exported.call, donate_argnums=2)``. The strategy's numbers are constants of the programs.
    `quantize` says how the weights are held, as `jaxmodels.load` takes it: the programs then take
    ``pack(model.params)`` of a model that is quantised in this way.

    Raises:
        ValueError: an unknown platform, program or quantisation, no platform, or a weight that the
            quantisation cannot hold.
    """
    if unlisted := set(programs) - set(PORTABLE):
        raise ValueError(f"programs: got {sorted(unlisted)}; known are {', '.join(PORTABLE)}")
    if not platforms or (unknown := set(platforms) - {*PLATFORMS, "rocm"}):
        got = sorted(unknown) if platforms else list(platforms)
        raise ValueError(f"platforms: got {got}; known are {', '.join(PLATFORMS)} and rocm")
    if strategy is None:
        strategy = default_strategy(config, workload.new_tokens)
    given = abstract_arguments(config, workload, strategy, quantization=find_quantization(quantize))
    functions = _plain_programs(config, workload, strategy, given)
    params, request, cache = pack(given.params), pack(given.request), pack(given.cache)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    arguments: dict[PortableName, tuple[Any, ...]] = {
        "begin": (*(request[name] for name in _ARGUMENTS["begin"][:-1]), number),
        "prefill": (params, request, cache),
        "decode": (params, request, pack(given.carry), given.steps),
        "generate": (params, request, cache),
    }
    return {
        name: export.export(
            jax.jit(functions[name], donate_argnums=_DONATED[name]), platforms=list(platforms)
        )(*arguments[name])
        for name in programs
    }


def write_portable(
    path: str | os.PathLike[str],
    config: LanguageModel,
    workload: Workload,
    *,
    strategy: Strategy | None = None,
    quantize: str | Quantization | None = None,
    platforms: Sequence[str] = PLATFORMS,
    programs: Sequence[PortableName] = PORTABLE,
) -> None:
    """`export_programs` into one file, which this module's docstring describes.

    Raises:
        ValueError: as `export_programs`.
        ArtefactError: the extra ``jaxmodels[export]`` is missing.
        OSError: the file cannot be written.
    """
    _check_serialises()
    if strategy is None:
        strategy = default_strategy(config, workload.new_tokens)
    quantization = find_quantization(quantize)
    exported = export_programs(
        config, workload, strategy=strategy, quantize=quantization, platforms=platforms, programs=programs
    )
    given = abstract_arguments(config, workload, strategy, quantization=quantization)
    manifest = {
        "format": FORMAT,
        "versions": describe_versions("cpu"),
        "calling_convention": max(one.calling_convention_version for one in exported.values()),
        "platforms": list(platforms),
        "model": describe_model(config, None, jnp.dtype(workload.dtype)),
        "strategy": describe_strategy(strategy),
        "workload": {**asdict(workload), "capacity": workload.slots(strategy.lookahead)},
        "programs": {name: _ARGUMENTS[name] for name in exported},
        "params": {name: [str(leaf.dtype), *leaf.shape] for name, leaf in walk(pack(given.params))},
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST_FILE, json.dumps(manifest, indent=2) + "\n")
        for name, one in exported.items():
            archive.writestr(name, bytes(one.serialize()))
    replace_file(Path(path), content.getvalue())


def read_portable(
    path: str | os.PathLike[str], config: LanguageModel | None = None
) -> dict[str, export.Exported]:
    """The programs of a file, by name; with `config` only those of this model.

    Raises:
        ArtefactError: no such file or one of another kind, programs that are not for the platform here, of
            another model, or of a form that this jax does not read; the message names both. Or the extra
            ``jaxmodels[export]`` is missing.
    """
    _check_serialises()
    file = Path(path)
    try:
        with zipfile.ZipFile(file) as archive:
            manifest = json.loads(archive.read(MANIFEST_FILE))
            _check_usable(file, manifest, config)
            return {
                name: _deserialised(file, manifest, name, archive.read(name)) for name in manifest["programs"]
            }
    except ArtefactError:
        raise
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ArtefactError(f"{file} is no file of portable programs: {error}") from error


def _check_serialises() -> None:
    if importlib.util.find_spec("flatbuffers") is None:
        raise ArtefactError("flatbuffers is not installed: install it with: pip install 'jaxmodels[export]'")


def _check_usable(file: Path, manifest: Mapping[str, Any], config: LanguageModel | None) -> None:
    if manifest["format"] != FORMAT:
        raise ArtefactError(f"{file} is of format {manifest['format']}, and {FORMAT} is read here")
    here = jax.default_backend()
    if here not in [{"cuda": "gpu", "rocm": "gpu"}.get(name, name) for name in manifest["platforms"]]:
        raise ArtefactError(f"{file} is for {', '.join(manifest['platforms'])}, and here is {here}")
    if config is None:
        return
    there, given = manifest["model"], describe_model(config, None, jnp.dtype(manifest["workload"]["dtype"]))
    if there != given:
        raise ArtefactError(
            f"{file} is for {there['model']} (digest {there['digest']}), and the model here is "
            f"{given['model']} (digest {given['digest']})"
        )


def _deserialised(file: Path, manifest: Mapping[str, Any], name: str, content: bytes) -> export.Exported:
    try:
        return export.deserialize(bytearray(content))
    except ValueError as error:
        raise ArtefactError(
            f"{file}: {name} was written by jax {manifest['versions'].get('jax')} with calling convention "
            f"{manifest['calling_convention']}, and jax {jax.__version__} reads conventions "
            f"{export.minimum_supported_calling_convention_version} to "
            f"{export.maximum_supported_calling_convention_version}: {error}"
        ) from error


def _plain_programs(
    config: LanguageModel, workload: Workload, strategy: Strategy, like: Arguments
) -> dict[PortableName, Callable[..., Any]]:
    """The driver's programs between nested dicts."""
    max_new, capacity = workload.new_tokens, workload.slots(strategy.lookahead)

    def begin(
        tokens: Int[Array, "B S"],
        lengths: Int[Array, "B"],
        max_new: Int[Array, ""],
        stop_tokens: Int[Array, "N"],
        pad_token: Int[Array, ""],
        seed: Int[Array, ""],
    ) -> Any:
        keys = row_keys(seed, batch=workload.batch)
        request = Request(
            tokens=tokens, lengths=lengths, max_new=max_new, stop_tokens=stop_tokens, pad_token=pad_token,
            keys=keys,
        )  # fmt: skip
        cache = driver.allocate(config=config, batch=workload.batch, capacity=capacity, dtype=workload.dtype)
        return {"request": pack(request), "cache": pack(cache)}

    def prefill(params: Any, request: Any, cache: Any) -> Any:
        params, request = unpack(like.params, params), unpack(like.request, request)
        cache = unpack(like.cache, cache)
        return pack(driver.start(params, request, cache, strategy, config=config, max_new=max_new))

    def decode(params: Any, request: Any, carry: Any, steps: Any) -> Any:
        params, request = unpack(like.params, params), unpack(like.request, request)
        carry = unpack(like.carry, carry)
        return pack(driver.advance(params, request, carry, strategy, steps, config=config))

    def generate(params: Any, request: Any, cache: Any) -> Any:
        params, request = unpack(like.params, params), unpack(like.request, request)
        cache = unpack(like.cache, cache)
        output, cache = driver.generate(params, request, cache, strategy, config=config, max_new=max_new)
        return {"output": pack(output), "cache": pack(cache)}

    return {"begin": begin, "prefill": prefill, "decode": decode, "generate": generate}
