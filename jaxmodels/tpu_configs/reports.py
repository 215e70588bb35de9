"""What the TPU compiler says of one program: memory, operations, bytes."""

import re
import time
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxmodels.tpu_configs.compiler import AotError
from jaxmodels.tpu_configs.denoisers import DenoiserProgram, DenoiserWorkload
from jaxmodels.tpu_configs.programs import ProgramName, Workload, host_transfers


@dataclass(frozen=True, kw_only=True)
class ProgramReport:
    """What the TPU compiler made of one program on one device.

    Sizes are bytes in the device's memory, tile padding included. argument_bytes: parameters, request and
    cache; denoisers have no cache. alias_bytes: outputs that live in donated arguments' memory;
    aliased_buffers counts them. temp_bytes: working memory beyond arguments and outputs. param_bytes and
    cache_bytes are without padding. flops and bytes_accessed: the compiler's estimate for one pass through
    every loop; copies into the on-chip memory count as accesses. host_transfers: see
    `programs.host_transfers`. seconds: of compiling.
    """

    program: ProgramName | DenoiserProgram
    topology: str
    workload: Workload | DenoiserWorkload
    argument_bytes: int
    output_bytes: int
    temp_bytes: int
    alias_bytes: int
    aliased_buffers: int
    param_bytes: int
    cache_bytes: int
    cache_buffers: int
    flops: float
    bytes_accessed: float
    generated_code_bytes: int
    host_transfers: tuple[str, ...] = field(default=())
    seconds: float = 0.0

    @property
    def has_host_callback(self) -> bool:
        """Whether the program would talk to the host while it runs."""
        return bool(self.host_transfers)

    @property
    def device_bytes(self) -> int:
        """Peak memory on the device: arguments, outputs of their own, working memory and code."""
        own_outputs = self.output_bytes - self.alias_bytes
        return self.argument_bytes + own_outputs + self.temp_bytes + self.generated_code_bytes


def report_of(
    traced: jax.stages.Traced,
    program: ProgramName | DenoiserProgram,
    topology: str,
    workload: Workload | DenoiserWorkload,
    params: Any,
    cache: Any,
) -> ProgramReport:
    """Compiles one program, for the devices that its arguments are placed on, and reports on it.

    Raises:
        AotError: the compiler refuses it, most often because it needs more memory than a device has.
    """
    began = time.perf_counter()
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise AotError(f"{program} does not compile for {topology!r}: {reason}") from error
    return ProgramReport(
        program=program,
        topology=topology,
        workload=workload,
        param_bytes=nbytes(params),
        cache_bytes=nbytes(cache),
        cache_buffers=len(jax.tree.leaves(cache)),
        seconds=time.perf_counter() - began,
        **measured(compiled),
    )


def measured(compiled: jax.stages.Compiled) -> dict[str, Any]:
    """What the compiler says of a program: the fields of `ProgramReport` that come from it."""
    memory, text = compiled.memory_analysis(), compiled.as_text() or ""
    cost: Any = compiled.cost_analysis()
    if memory is None or cost is None:
        raise AotError(
            "this libtpu gives no memory or cost analysis; install the version that jax[tpu] asks for"
        )
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "generated_code_bytes": memory.generated_code_size_in_bytes,
        "aliased_buffers": len(re.findall(r"(?:may|must)-alias", text.split("\n", 1)[0])),
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "host_transfers": host_transfers(text),
    }


def nbytes(tree: Any) -> int:
    """Bytes of all arrays of a tree, tile padding not counted."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
