"""The TPU compiler of the `libtpu` wheel, on machines without a TPU: found, checked, and given a topology.

Where libtpu is installed, jax looks for a TPU when it starts. A process that only compiles calls
`without_tpu` before it uses jax, or is started with the variables of `ENVIRONMENT`.
"""

import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies
from packaging.requirements import Requirement

from jaxmodels.tpu_configs.slices import Slice

# What keeps libtpu from asking a metadata server for the machine's TPU, and from locking it for one process.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# One device per chip where a chip's two TensorCores can be one; the generations that have a choice.
_ONE_DEVICE_PER_CHIP = ("v4", "v5p")


class AotError(RuntimeError):
    """Ahead-of-time compilation is not possible here; the message says what to change."""


def without_tpu() -> None:
    """Keeps jax in this process from looking for a TPU; variables that are set already stay as they are."""
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])


def check_compiler() -> None:
    """Raises AotError where libtpu is not installed, or is not of the version that jax is made for."""
    if importlib.util.find_spec("libtpu") is None:
        raise AotError(
            "the TPU compiler is missing: libtpu is not installed; "
            "install it with: pip install 'jaxmodels[aot]'"
        )
    wanted = wanted_libtpu()
    installed = importlib.metadata.version("libtpu")
    if wanted is not None and not wanted.specifier.contains(installed, prereleases=True):
        jax_version = importlib.metadata.version("jax")
        raise AotError(
            f"libtpu {installed} is installed, and jax {jax_version} is made for {wanted.name}"
            f"{wanted.specifier}: they may not understand each other; "
            f"install the right one with: pip install 'jax[tpu]=={jax_version}'"
        )


def wanted_libtpu() -> Requirement | None:
    """What the installed jax asks of libtpu, None if nothing."""
    for text in importlib.metadata.requires("jax") or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if requirement.name == "libtpu" and (marker is None or marker.evaluate({"extra": "tpu"})):
            return requirement
    return None


def topology_device(topology: str) -> jax.Device:
    """The first device of a TPU topology such as "v5e:2x2", "v6e:2x2", "v5p:2x2x1" or "tpu7x:2x2x1".

    Raises:
        AotError: libtpu is not installed, is of another version than jax is made for, or does not know the
            topology.
    """
    return _devices(topology)[0]


def slice_devices(of: Slice) -> Sequence[jax.Device]:
    """The devices of a slice, as `jax.devices()` lists them there.

    Raises:
        AotError: as `topology_device`.
    """
    return _devices(f"{of.chip.generation}:{of.topology}", chips_per_host_bounds=of.host_bounds)


def _devices(topology: str, **options: Any) -> Sequence[jax.Device]:
    check_compiler()
    if topology.partition(":")[0] in _ONE_DEVICE_PER_CHIP:
        options["chip_config_name"] = "megacore"
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise AotError(
            f"topology {topology!r} is not one that libtpu can compile for ({reason}); "
            "expected <generation>:<shape> such as 'v5e:2x2' or 'v5p:2x2x1'"
        ) from error
