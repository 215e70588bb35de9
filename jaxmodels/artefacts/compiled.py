"""Compiled programs of a model as a directory: written once, for devices that need not be there, and run
without a trace.

    DIR/manifest.json        what they were compiled from, with and for, and the files' sizes and digests
    DIR/*.executable         one program each

For every length of prompt there is a prefill, a decode and a generate program, as
`jaxmodels.tpu_configs.programs` has them, and for every cache the program that allocates it. `CompiledRunner`
takes a request to the shortest that holds it and refuses what none holds.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding

from jaxmodels.artefacts.errors import ArtefactError
from jaxmodels.artefacts.executables import compiled_anew, read_executable, write_executable
from jaxmodels.artefacts.manifest import (
    MANIFEST_FILE,
    Manifest,
    ProgramFile,
    check_same,
    check_strategy,
    describe_devices,
    describe_model,
    describe_strategy,
    describe_versions,
    read_manifest,
)
from jaxmodels.checkpoints.atomic import replace_directory
from jaxmodels.decoding import driver, runners
from jaxmodels.decoding.buckets import answer_bucket, prompt_bucket
from jaxmodels.decoding.runners import Sizes
from jaxmodels.decoding.strategy import Output, Request, Strategy
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.tpu_configs.programs import PROGRAMS, ProgramName, Workload, trace_programs

SUFFIX = ".executable"
# Called with the name of each program once it is compiled and written.
Progress = Callable[[str], None]


def compile_programs(
    directory: str | os.PathLike[str],
    config: LanguageModel,
    workloads: Sequence[Workload],
    strategy: Strategy,
    *,
    programs: Sequence[ProgramName] = PROGRAMS,
    devices: Sequence[jax.Device] | None = None,
    progress: Progress = lambda name: None,
) -> Manifest:
    """Compiles a model's programs and writes them to a directory, which is replaced as a whole.

    Args:
        directory: where to.
        config: the model; its weights are not needed.
        workloads: sizes, one for each length of prompt; prompts and answers are rounded up to the buckets
            that `Model.generate` uses.
        strategy: the decoding method.
        programs: which; streams need prefill and decode, a generation as a whole needs generate.
        devices: what for, a device of a TPU topology for instance; by default the first one here.
        progress: called with the name of each program that is done.

    Raises:
        ArtefactError: no workload, or what the compiler gives cannot be written.
        CheckpointError: the directory cannot be replaced.
    """
    if not workloads:
        raise ArtefactError("workloads: got none; give at least one, such as Workload(prompt=128)")
    devices = jax.devices()[:1] if devices is None else devices
    sharding = SingleDeviceSharding(devices[0])
    bucketed = [_bucketed(workload, strategy) for workload in workloads]
    with (
        replace_directory(directory, also_replaced=(MANIFEST_FILE, f"*{SUFFIX}")) as fresh,
        compiled_anew(),
    ):
        written = {}
        for program, traced in _traces(config, bucketed, strategy, sharding, programs):
            name = f"{program.file}{SUFFIX}"
            if name not in written:
                sha256 = write_executable(fresh / name, traced().lower().compile())
                written[name] = ProgramFile(**{**vars(program), "file": name, "sha256": sha256})
                progress(program.file)
        manifest = Manifest(
            versions=describe_versions(devices[0].platform),
            device=describe_devices(devices),
            model=describe_model(config, None, jnp.dtype(workloads[0].dtype)),
            strategy=describe_strategy(strategy),
            programs=tuple(written.values()),
        )
        manifest.write(fresh)
    return manifest


def _bucketed(workload: Workload, strategy: Strategy) -> Workload:
    """The workload with the sizes that requests have which it is for."""
    prompt = prompt_bucket(workload.prompt, strategy.prefill_window)
    new = answer_bucket(workload.new_tokens)
    sized = Workload(
        batch=workload.batch, prompt=prompt, new_tokens=new, capacity=workload.capacity, dtype=workload.dtype
    )
    return Workload(**{**vars(sized), "capacity": sized.slots(strategy.lookahead)})


def _traces(
    config: LanguageModel,
    workloads: Sequence[Workload],
    strategy: Strategy,
    sharding: Sharding,
    programs: Sequence[ProgramName],
) -> Iterator[tuple[ProgramFile, Callable[[], Any]]]:
    """Every program with its trace; one that several workloads share comes several times, by one name."""
    for it in workloads:
        traced = trace_programs(config, it, strategy, sharding)
        for name in programs:
            described = ProgramFile(
                program=name, file=f"{name}-{it.batch}x{it.prompt}+{it.new_tokens}", sha256="",
                batch=it.batch, prompt=it.prompt, new=it.new_tokens, capacity=it.capacity or 0,
            )  # fmt: skip
            yield described, functools.partial(traced.__getitem__, name)
        capacity, dtype = it.capacity or 0, it.dtype
        allocate = jax.jit(
            functools.partial(driver.allocate, config=config, batch=it.batch, capacity=capacity, dtype=dtype),
            out_shardings=sharding,
        )
        yield (
            ProgramFile(
                program="allocate", file=f"allocate-{it.batch}x{capacity}", sha256="", batch=it.batch,
                capacity=capacity,
            ),
            allocate.trace,
        )  # fmt: skip
        keys = jax.jit(functools.partial(runners.row_keys, batch=it.batch), out_shardings=sharding)
        seed = jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding)
        yield (
            ProgramFile(program="keys", file=f"keys-{it.batch}", sha256="", batch=it.batch),
            functools.partial(keys.trace, seed),
        )


def load_programs(
    directory: str | os.PathLike[str], config: LanguageModel, params: Params
) -> "CompiledRunner":
    """The programs of a directory, for a model that they were compiled for: what `Model.runner` takes.

    Machine code is loaded when a program is first called, and is trusted: see `executables`.

    Raises:
        ArtefactError: no such directory, or programs for another device, version or model; the message names
            both values.
    """
    path = Path(directory)
    manifest = read_manifest(path)
    count = manifest.device.get("count", 1)
    devices = jax.devices()[:count]
    here = Manifest(
        versions=describe_versions(devices[0].platform),
        device=describe_devices(devices),
        model=describe_model(config, params),
        strategy=manifest.strategy,
        programs=manifest.programs,
    )
    check_same(path, manifest, here)
    return CompiledRunner(directory=path, manifest=manifest, devices=tuple(devices))


@dataclass(frozen=True, kw_only=True)
class CompiledRunner:
    """Runs the programs of a directory. Made by `load_programs`.

    Attributes:
        directory: where they are.
        manifest: what they are.
        devices: what they run on.
    """

    directory: Path
    manifest: Manifest
    devices: tuple[jax.Device, ...]
    _loaded: dict[str, jax.stages.Compiled] = field(default_factory=dict, repr=False)

    def sizes(
        self, batch: int, longest: int, max_new: int, strategy: Strategy, capacity: int | None
    ) -> Sizes:
        """The shortest sizes that hold the request. Raises ArtefactError where none do, or for another
        strategy."""
        check_strategy(self.directory, self.manifest.strategy, strategy)
        sized = [one for one in self.manifest.programs if one.prompt]
        fitting = [
            one
            for one in sized
            if one.batch == batch
            and one.prompt >= longest
            and one.new >= max_new
            and capacity in (None, one.capacity)
        ]
        if not fitting:
            asked = f"{batch} rows, prompts of {longest} and answers of {max_new} tokens"
            asked += "" if capacity is None else f" and a cache of {capacity} slots"
            there = sorted({(one.batch, one.prompt, one.new, one.capacity) for one in sized})
            listed = ", ".join(f"{b} x ({p} + {n} tokens, {c} slots)" for b, p, n, c in there)
            raise ArtefactError(f"the programs in {self.directory} are for {listed}; asked for are {asked}")
        best = min(fitting, key=lambda one: (one.prompt, one.new, one.capacity))
        return Sizes(prompt=best.prompt, new=best.new, capacity=best.capacity)

    def keys(self, seed: int, batch: int) -> jax.Array:
        keys: jax.Array = self._program("keys", batch=batch)(np.int32(seed))
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
        cache: Cache = self._program("allocate", batch=batch, capacity=capacity)()
        return cache

    def start(
        self,
        params: Params,
        request: Request,
        cache: Cache,
        strategy: Strategy,
        *,
        config: LanguageModel,
        max_new: int,
    ) -> Any:
        return self._of_request("prefill", request, max_new)(params, request, cache, strategy)

    def advance(
        self,
        params: Params,
        request: Request,
        carry: Any,
        strategy: Strategy,
        steps: jax.Array,
        *,
        config: LanguageModel,
    ) -> Any:
        max_new = carry.output.tokens.shape[1]
        return self._of_request("decode", request, max_new)(params, request, carry, strategy, steps)

    def generate(
        self,
        params: Params,
        request: Request,
        cache: Cache,
        strategy: Strategy,
        *,
        config: LanguageModel,
        max_new: int,
    ) -> tuple[Output, Cache]:
        program = self._of_request("generate", request, max_new)
        result: tuple[Output, Cache] = program(params, request, cache, strategy)
        return result

    def _of_request(self, name: str, request: Request, max_new: int) -> jax.stages.Compiled:
        if request.stop_table is not None:
            raise ArtefactError(
                f"the programs in {self.directory} end at stop tokens alone; leave out the stop strings, or "
                "generate without compiled programs"
            )
        batch, prompt = request.tokens.shape
        return self._program(name, batch=batch, prompt=prompt, new=max_new)

    def _program(self, name: str, **sizes: int) -> jax.stages.Compiled:
        """The program of these sizes, loaded at its first use."""
        for one in self.manifest.programs:
            if one.program == name and all(getattr(one, size) == value for size, value in sizes.items()):
                if one.file not in self._loaded:
                    file = self.directory / one.file
                    self._loaded[one.file] = read_executable(file, one.sha256, self.devices)
                return self._loaded[one.file]
        named = ", ".join(f"{size} {value}" for size, value in sizes.items())
        there = ", ".join(sorted({one.program for one in self.manifest.programs}))
        raise ArtefactError(
            f"{self.directory} holds no {name} program for {named} (it holds {there}); "
            "compile it with `jaxmodels tpu compile`"
        )
