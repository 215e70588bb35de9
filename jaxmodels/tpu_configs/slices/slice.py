"""What a TPU slice is: chips of one generation, wired to each other and spread over hosts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One chip, by its maker's figures. JAX sees one device for it, or one for each of its TensorCores.

    Attributes:
        generation: as the compiler calls it, "v5e" say.
        devices: what JAX sees of one chip; memory and peaks are shared between them.
        hbm_bytes: memory of the chip.
        usable_bytes: what the compiler lets the programs of one device have of it.
        bandwidth: bytes per second between the chip and its memory.
        interconnect: bytes per second between the chip and its neighbours, all links and both directions.
        peak_flops: floating point operations per second, by the dtype that is multiplied.
        source: where these figures are published. `usable_bytes` is what libtpu names when it refuses a
            program.
    """

    generation: str
    devices: int
    hbm_bytes: int
    usable_bytes: int
    bandwidth: float
    interconnect: float
    peak_flops: Mapping[str, float] = field(hash=False)
    source: str

    def peak(self, dtype: str) -> float:
        """Operations per second of one chip on products of `dtype`.

        float32 is rounded to bfloat16 unless a program asks for more; dtypes without a unit of their own are
        widened to bfloat16 as well.
        """
        return self.peak_flops.get(dtype, self.peak_flops["bfloat16"])


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Chips that are rented together.

    Attributes:
        name: as Google Cloud counts: by chips for v5e and v6e, by TensorCores (two per chip) for the others.
        chip: what it is made of.
        topology: chips along each axis, "2x4" say.
        hosts: machines that the chips are attached to, each running one process.
        accelerator: what the Cloud TPU API calls it; None where only Kubernetes offers it.
        machine: the machine type of its hosts on Google Kubernetes Engine.
        runtime: the software version of its TPU VMs; None as for `accelerator`.
    """

    name: str
    chip: Chip
    topology: str
    hosts: int
    accelerator: str | None
    machine: str
    runtime: str | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Chips along each axis."""
        return tuple(int(size) for size in self.topology.split("x"))

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        """What `jax.devices()` lists over all hosts."""
        return self.chips * self.chip.devices

    @property
    def host_bounds(self) -> tuple[int, int, int]:
        """Chips along each axis that one host has, as libtpu asks for it."""
        along = [*self.shape, 1, 1][:3]
        if self.hosts == 1:
            return (along[0], along[1], along[2])
        return (2, 2, 1)

    @property
    def mesh(self) -> dict[str, int]:
        """The mesh that a dense model is decoded on soonest: every layer's heads and features over all
        devices."""
        return {"tensor": self.devices}

    @property
    def xla_flags(self) -> tuple[str, ...]:
        """Compiler flags that are worth setting in ``LIBTPU_INIT_ARGS``: between chips, collectives run
        beside arithmetic. One chip needs none."""
        return OVERLAPPED_COLLECTIVES if self.chips > 1 else ()


# What MaxText and Google's published recipes set for models that are spread over chips; libtpu takes each of
# them for every generation.
OVERLAPPED_COLLECTIVES = (
    "--xla_tpu_enable_async_collective_fusion=true",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",
    "--xla_tpu_overlap_compute_collective_tc=true",
    "--xla_enable_async_all_gather=true",
)
