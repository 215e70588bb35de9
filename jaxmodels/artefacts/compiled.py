"""Compiled programs of a model as a directory: written once, for devices that need not be there, and run
without a trace.

    DIR/manifest.json        what they were compiled from, with and for, and the files' sizes and digests
    DIR/*.executable         one program each

For every length of prompt there is a prefill, a decode and a generate program, as
`jaxmodels.tpu_configs.programs` has them, and for every cache the program that allocates it. `CompiledRunner`
takes a request to the shortest that holds it and refuses what none holds.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmodels.artefacts.errors import ArtefactError
from jaxmodels.artefacts.executables import Executable, compiled_anew, read_executable, write_executable
from jaxmodels.artefacts.manifest import (
    MANIFEST_FILE,
    Manifest,
    ProgramFile,
    check_kind,
    check_same,
    read_manifest,
)
from jaxmodels.artefacts.placed import on_device, on_mesh, placed_params, program_traces
from jaxmodels.artefacts.runtime import describe_devices, describe_versions
from jaxmodels.artefacts.subjects import check_strategy, describe_model, describe_strategy
from jaxmodels.checkpoints.atomic import replace_directory
from jaxmodels.decoding import driver
from jaxmodels.decoding.buckets import answer_bucket, prompt_bucket
from jaxmodels.decoding.runners import Sizes
from jaxmodels.decoding.strategy import Output, Request, Strategy
from jaxmodels.expert_memory import ExpertMemory, check_expert_memory, fetching, told
from jaxmodels.holding import Holding
from jaxmodels.layers.memory_order import ordered_params
from jaxmodels.layers.moe.kept_experts import HostExperts
from jaxmodels.layers.quantized.quantization import Quantization, find_quantization
from jaxmodels.layers.spec import Params
from jaxmodels.model import Model
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.tpu_configs.mesh import make_mesh
from jaxmodels.tpu_configs.programs import PROGRAMS, ProgramName, Workload, abstract_arguments
from jaxmodels.tpu_configs.rules import Rules
from jaxmodels.tpu_configs.shardings import Placement

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
    quantize: str | Quantization | None = None,
    experts: ExpertMemory | HostExperts = "device",
    placement: Placement | None = None,
    device: jax.Device | None = None,
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
        quantize, experts: how the weights are held and in which memory those of experts are, as
            `jaxmodels.load` takes them.
        placement: a mesh to spread the model over, of the devices of a TPU topology for instance, and the
            rules for it. None for one device.
        device: which that is; by default the first one here.
        progress: called with the name of each program that is done.

    Raises:
        ArtefactError: no workload, or what the compiler gives cannot be written.
        ValueError: the mesh does not divide the model, `quantize` cannot hold its weights, or its experts
            cannot be in host memory.
        CheckpointError: the directory cannot be replaced.
    """
    if not workloads:
        raise ArtefactError("workloads: got none; give at least one, such as Workload(prompt=128)")
    devices, quantization = _devices(placement, device), find_quantization(quantize)
    if placement is not None:
        config = placement.fitted(config)
    hosted = _hosted(config, placement, quantization, experts)
    config = fetching(config, experts)
    with (
        replace_directory(directory, also_replaced=(MANIFEST_FILE, f"*{SUFFIX}")) as fresh,
        compiled_anew(),
    ):
        written: dict[str, ProgramFile] = {}
        for workload in workloads:
            it = _bucketed(workload, strategy)
            capacity = it.capacity or 0
            places = on_device(devices[0])
            if placement is not None:
                places = on_mesh(placement, config, it, capacity)
            places = replace(places, hosted=hosted)
            traces = program_traces(config, it, strategy, places, quantization)
            for name, sizes in _needed(programs, it):
                file = "-".join([name, *(f"{size}{value}" for size, value in sizes.items())]) + SUFFIX
                if file in written:
                    continue
                sha256 = write_executable(fresh / file, traces[name]().lower().compile())
                written[file] = ProgramFile(program=name, file=file, sha256=sha256, **sizes)
                progress(file.removesuffix(SUFFIX))
        given = abstract_arguments(config, workloads[0], strategy, quantization=quantization)
        params = placed_params(config.spec(), given.params, places)
        manifest = Manifest(
            versions=describe_versions(devices[0].platform),
            device=describe_devices(devices, placement),
            model=describe_model(config, params),
            experts=told(config, params),
            strategy=describe_strategy(strategy),
            programs=tuple(written.values()),
        )
        manifest.write(fresh)
    return manifest


def _devices(placement: Placement | None, device: jax.Device | None) -> list[jax.Device]:
    if placement is None:
        return [jax.devices()[0] if device is None else device]
    if device is not None:
        raise ArtefactError("device: give a placement or a device, not both")
    return list(placement.mesh.devices.flat)


def _hosted(
    config: LanguageModel,
    placement: Placement | None,
    quantization: Quantization | None,
    experts: ExpertMemory | HostExperts,
) -> frozenset[str]:
    """The parameters in host memory, by path. Raises ValueError where they cannot be there."""
    memory = check_expert_memory(experts, None if placement is None else placement.mesh)
    holding = Holding(placement=placement, quantization=quantization, experts=memory)
    holding.made_of(config)  # refuses formats that the devices cannot share
    return holding.hosted(config)


def _bucketed(workload: Workload, strategy: Strategy) -> Workload:
    """The workload with the sizes of the requests that it is for."""
    sized = replace(
        workload,
        prompt=prompt_bucket(workload.prompt, strategy.prefill_window),
        new_tokens=answer_bucket(workload.new_tokens),
    )
    return replace(sized, capacity=sized.slots(strategy.lookahead))


def _needed(programs: Sequence[ProgramName], it: Workload) -> Iterator[tuple[str, dict[str, int]]]:
    """The programs of a workload, each with the sizes that it depends on."""
    for name in programs:
        sizes = {"batch": it.batch, "prompt": it.prompt, "new": it.new_tokens, "capacity": it.capacity or 0}
        yield name, sizes
    yield "allocate", {"batch": it.batch, "capacity": it.capacity or 0}
    yield "keys", {"batch": it.batch}


def spread_of(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """The arguments of `jaxmodels.load` that spread a model as the programs of a directory ask for: none, or
    `mesh` and `rules`.

    Raises:
        ArtefactError: no such directory, or programs for another kind of device.
        ValueError: there are too few devices.
    """
    path = Path(directory)
    manifest = read_manifest(path)
    check_kind(path, manifest)
    if "mesh" not in manifest.device:
        return {}
    rules = {
        axis: tuple(rule) if isinstance(rule, list) else rule
        for axis, rule in manifest.device["rules"].items()
    }
    return {"mesh": make_mesh(**manifest.device["mesh"]), "rules": Rules(**rules)}


def with_programs(model: Model, directory: str | os.PathLike[str]) -> Model:
    """The model with the programs of a directory in place of those that it would trace and compile.

    Machine code is loaded when a program is first called, and is trusted: see `executables`.

    Raises:
        ArtefactError: no such directory, or programs for another device, mesh, version or model; the message
            names both values.
    """
    path = Path(directory)
    manifest = read_manifest(path)
    devices = _devices(model.placement, None)
    here = replace(
        manifest,
        versions=describe_versions(devices[0].platform),
        device=describe_devices(devices, model.placement),
        model=describe_model(model.config, model.params),
        experts=told(model.config, model.params),
    )
    check_same(path, manifest, here)
    runner = CompiledRunner(directory=path, manifest=manifest, devices=tuple(devices))
    return replace(model, params=ordered_params(model.config.spec(), model.params), runner=runner)


@dataclass(frozen=True, kw_only=True)
class CompiledRunner:
    """Runs the programs of a directory. Made by `with_programs`.

    Attributes:
        directory: where they are.
        manifest: what they are.
        devices: what they run on.
    """

    directory: Path
    manifest: Manifest
    devices: tuple[jax.Device, ...]
    _loaded: dict[str, Executable] = field(default_factory=dict, repr=False)

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

    def _of_request(self, name: str, request: Request, max_new: int) -> Executable:
        if request.stop_table is not None:
            raise ArtefactError(
                f"the programs in {self.directory} end at stop tokens alone; leave out the stop strings, or "
                "generate without compiled programs"
            )
        batch, prompt = request.tokens.shape
        return self._program(name, batch=batch, prompt=prompt, new=max_new)

    def _program(self, name: str, **sizes: int) -> Executable:
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
