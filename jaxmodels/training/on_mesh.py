"""Training on a mesh of devices, of one process or of several that all call the same functions."""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from jaxmodels.layers.spec import walk
from jaxmodels.tpu_configs.shardings import Placement
from jaxmodels.training.train import TrainState, abstract_state
from jaxmodels.training.trainable import Trainable


@dataclass(frozen=True, kw_only=True)
class Devices:
    """Where a run trains: on the default device, or where `placement` says.

    Attributes:
        placement: a mesh, and the rules by which parameters and batches lie on it; None for one device.
    """

    placement: Placement | None = None

    def in_use(self) -> AbstractContextManager[Any]:
        """Within it, programs are traced for the mesh."""
        return contextlib.nullcontext() if self.placement is None else jax.set_mesh(self.placement.mesh)

    def state(self, model: Trainable, optimizer: optax.GradientTransformation) -> TrainState | None:
        """The sharding of each array of a train state; None on one device.

        What the optimizer keeps of a parameter, which has its path and shape, lies where the parameter does.
        All else is the same on all devices.

        Raises:
            ValueError: the mesh does not divide the model; see `param_shardings`.
        """
        if self.placement is None:
            return None
        params = self.placement.params(model)
        alike: Any = NamedSharding(self.placement.mesh, PartitionSpec())
        shapes, places = dict(walk(abstract_state(model, optimizer).params)), dict(walk(params))

        def place(keys: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> NamedSharding:
            names = [str(getattr(key, "key", "")) for key in keys]
            paths = ("/".join(names[start:]) for start in range(len(names)))
            path = next((path for path in paths if path in shapes), None)
            return alike if path is None or shapes[path].shape != leaf.shape else places[path]

        opt_state = jax.tree_util.tree_map_with_path(place, abstract_state(model, optimizer).opt_state)
        return TrainState(step=alike, params=params, opt_state=opt_state)

    def abstract_state(self, model: Trainable, optimizer: optax.GradientTransformation) -> TrainState:
        """Shapes, dtypes and shardings of a train state, for `TrainCheckpoints.restore`."""
        abstract, places = abstract_state(model, optimizer), self.state(model, optimizer)
        if places is None:
            return abstract
        placed: TrainState = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), abstract, places
        )
        return placed

    def placed(self, state: TrainState, places: TrainState | None) -> TrainState:
        """A state that every process has whole, on the devices that share it; `places` as `state` gives."""
        if places is None:
            return state

        def place(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
            return jax.make_array_from_callback(leaf.shape, sharding, np.asarray(leaf).__getitem__)

        placed: TrainState = jax.tree.map(place, state, places)
        return placed

    def rows(self, batch: np.ndarray | None) -> Any:
        """A batch that every process has, of which each device is given its rows."""
        if batch is None or self.placement is None:
            return batch
        return jax.make_array_from_callback(batch.shape, self.placement.rows(len(batch)), batch.__getitem__)


ONE_DEVICE = Devices()


def is_first() -> bool:
    """Whether this is the process that writes what is written once."""
    return jax.process_index() == 0


@contextlib.contextmanager
def first_process_first(what: str) -> Iterator[None]:
    """Process 0 is within before the others are: they find what it has written."""
    several = jax.process_count() > 1
    if several and not is_first():
        multihost_utils.sync_global_devices(what)
    yield
    if several and is_first():
        multihost_utils.sync_global_devices(what)


def on_host(array: jax.Array) -> np.ndarray:
    """What an array holds on the devices of all processes."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
