"""The heads by which a denoiser is left early, in a file beside the other components of its model."""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.checkpoints.components import Component, Reading, Writing
from jaxmodels.checkpoints.safetensors_io import TensorToWrite, open_tensors, write_tensors
from jaxmodels.decoding.diffusion.caches.exit_heads import exits_spec
from jaxmodels.layers.spec import Params, check_params, unflatten, walk
from jaxmodels.models.denoisers.denoiser import Denoiser

_STEM = "exit_heads"
FILE = f"{_STEM}.safetensors"
# So large that there is never a second one.
_ONE_FILE = 2**62


def heads_of(arrays: Mapping[str, jax.Array], denoiser: Denoiser) -> Params:
    """The heads of a denoiser that a file holds.

    Raises:
        ValueError: they are not those of this denoiser.
    """
    spec = exits_spec(denoiser)
    if set(arrays) != {path for path, _ in walk(spec)}:
        raise ValueError(
            f"{FILE}: its {len(arrays)} tensors are not those of the {denoiser.num_blocks - 1} heads of a "
            f"denoiser of {denoiser.num_blocks} blocks"
        )
    heads = unflatten(dict(arrays), spec)
    check_params(spec, heads)
    return heads


def _read(file: Path, reading: Reading) -> dict[str, jax.Array]:
    tensors = open_tensors(file.parent, FILE, f"{FILE}.index.json")
    return {
        name.replace(".", "/"): jnp.array(tensors.read(name), dtype=reading.dtype) for name in tensors.infos
    }


def _write(arrays: Mapping[str, jax.Array], file: Path, writing: Writing) -> None:
    def tensor(name: str, array: jax.Array) -> TensorToWrite:
        return TensorToWrite(
            name=name.replace("/", "."),
            shape=array.shape,
            dtype=array.dtype,
            read=lambda: np.asarray(array),
        )

    tensors = [tensor(name, array) for name, array in arrays.items()]
    write_tensors(file.parent, tensors, _ONE_FILE, stem=_STEM)


# The arrays by their paths in the parameters, in the dtype that the others are read in.
EXIT_HEADS = Component(
    read=_read,
    outline=lambda file: {},
    write=_write,
    name=lambda heads: ("jaxmodels", "ExitHeads"),
)
