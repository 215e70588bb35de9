"""Train states on disk (Orbax), saved and restored bit for bit."""

from pathlib import Path
from types import TracebackType

import jax
import orbax.checkpoint as ocp

from jaxmodels.layers.spec import Params, walk
from jaxmodels.training.train import TrainState


class TrainCheckpoints:
    """The checkpoints of one run: one Orbax step directory per saved step below `directory`.

    Saving happens in the background; `close`, or leaving the `with` block, waits for it.
    """

    def __init__(self, directory: str | Path, keep: int = 2) -> None:
        """Opens or creates `directory`, in which only the newest `keep` checkpoints are kept."""
        if keep < 1:
            raise ValueError(f"TrainCheckpoints: keep must be at least 1, got {keep}")
        self._manager = ocp.CheckpointManager(
            Path(directory).resolve(),
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
            item_handlers=ocp.StandardCheckpointHandler(),
        )

    def save(self, state: TrainState) -> None:
        """Saves under `state.step`. The state may be donated as soon as this returns."""
        self._manager.save(int(state.step), args=ocp.args.StandardSave(state))

    def latest_step(self) -> int | None:
        """The newest saved step, or None."""
        return self._manager.latest_step()

    def restore(self, abstract: TrainState) -> TrainState:
        """The newest saved state.

        Args:
            abstract: shapes and dtypes, as `abstract_state` gives them.

        Raises:
            FileNotFoundError: nothing has been saved.
            ValueError: what was saved has other parameters; the message names the first that differs.
        """
        step = self.latest_step()
        if step is None:
            raise FileNotFoundError(f"TrainCheckpoints: no checkpoint in {str(self._manager.directory)!r}")
        self._check_params(step, abstract.params)
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract)
        return self._manager.restore(step, args=ocp.args.StandardRestore(placed))

    def _check_params(self, step: int, params: Params) -> None:
        """Names what differs before Orbax reads: its own error is several screens of storage options."""
        metadata = self._manager.item_metadata(step).tree["params"]
        saved = {path: tuple(leaf.shape) for path, leaf in walk(metadata)}
        asked = {path: leaf.shape for path, leaf in walk(params)}
        for path in sorted(saved.keys() | asked.keys()):
            if saved.get(path) != asked.get(path):
                raise ValueError(
                    f"TrainCheckpoints: parameter {path!r} has shape {saved.get(path)} in step {step} of "
                    f"{str(self._manager.directory)!r}, and {asked.get(path)} in the state asked for"
                )

    def close(self) -> None:
        """Waits for running saves."""
        self._manager.close()

    def __enter__(self) -> "TrainCheckpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
