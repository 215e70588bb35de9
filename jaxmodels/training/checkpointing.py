"""Train states on disk (Orbax), saved and restored bit for bit, and compared with their checksums."""

import itertools
import warnings
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import jax
import orbax.checkpoint as ocp

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.manifest import open_verification, write_manifest
from jaxmodels.checks import shown
from jaxmodels.layers.spec import Params, walk
from jaxmodels.training.train import TrainState

_LONGEST_REASON = 1_000


class _OtherParameters(ValueError):
    """A checkpoint is intact and of another model."""


class TrainCheckpoints:
    """The checkpoints of one run: one Orbax step directory per saved step below `directory`.

    Saving happens in the background; `close`, or leaving the `with` block, waits for it.
    """

    def __init__(self, directory: str | Path, keep: int = 2) -> None:
        """Opens or creates `directory`, in which only the newest `keep` checkpoints are kept."""
        if keep < 1:
            raise ValueError(f"TrainCheckpoints: keep must be at least 1, got {keep}")
        self._directory = Path(directory).resolve()
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
            item_handlers=ocp.StandardCheckpointHandler(),
        )
        self._without_checksums: list[int] = []

    def save(self, state: TrainState) -> None:
        """Saves under `state.step`. The state may be donated as soon as this returns.

        Raises:
            CheckpointError: this checkpoint, or the one before, cannot be written.
        """
        self._finish()
        step = int(state.step)
        try:
            self._manager.save(step, args=ocp.args.StandardSave(state))
        except Exception as error:  # Orbax and TensorStore raise many kinds
            raise self._not_written(error) from error
        self._without_checksums.append(step)

    def latest_step(self) -> int | None:
        """The newest saved step, or None."""
        return self._manager.latest_step()

    def restore(self, abstract: TrainState) -> TrainState:
        """The newest saved state that is intact. Warns of each that is skipped.

        Args:
            abstract: shapes and dtypes, as `abstract_state` gives them. Arrays with shardings are restored
                to those, whatever mesh they were saved from; the others to this process's first device.

        Raises:
            FileNotFoundError: nothing has been saved.
            CheckpointError: nothing that has been saved can be read.
            ValueError: what was saved has other parameters; the message names the first that differs.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise FileNotFoundError(f"TrainCheckpoints: no checkpoint in {str(self._directory)!r}")
        for step in steps:
            try:
                return self._restore(step, abstract)
            except _OtherParameters:
                raise
            except Exception as error:  # whatever Orbax makes of damaged files
                reason = shown(error, _LONGEST_REASON)
                if step == steps[-1]:
                    raise CheckpointError(
                        f"no checkpoint in {str(self._directory)!r} can be read, the last of them because of "
                        f"{reason}; begin the run again in another directory"
                    ) from error
            warnings.warn(
                f"the checkpoint {str(self._directory / str(step))!r} cannot be read and is skipped for the "
                f"one before it: {reason}",
                stacklevel=2,
            )
        raise AssertionError("unreachable: the last step is restored or raises")

    def set_aside_after(self, step: int) -> None:
        """Renames the checkpoints of later steps, which `restore` skipped, so that theirs can be saved."""
        for later in self._manager.all_steps():
            if later > step and jax.process_index() == 0:
                aside = (self._directory / f"unreadable-{later}-{n}" for n in itertools.count(1))
                (self._directory / str(later)).rename(next(path for path in aside if not path.exists()))
        self._manager.reload()

    def close(self) -> None:
        """Waits for running saves.

        Raises:
            CheckpointError: one could not be written.
        """
        try:
            self._finish()
        except CheckpointError:
            with suppress(Exception):  # it says the same once more
                self._manager.close()
            raise
        self._manager.close()

    def _restore(self, step: int, abstract: TrainState) -> TrainState:
        verification = open_verification(self._directory / str(step))
        verification.check_small()
        with verification.checking_large():
            self._check_params(step, abstract.params)
            device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            placed = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or device), abstract
            )
            return self._manager.restore(step, args=ocp.args.StandardRestore(placed))

    def _check_params(self, step: int, params: Params) -> None:
        """Names what differs before Orbax reads: its own error is several screens of storage options."""
        metadata = self._manager.item_metadata(step).tree["params"]
        saved = {path: tuple(leaf.shape) for path, leaf in walk(metadata)}
        asked = {path: leaf.shape for path, leaf in walk(params)}
        for path in sorted(saved.keys() | asked.keys()):
            if saved.get(path) != asked.get(path):
                raise _OtherParameters(
                    f"TrainCheckpoints: parameter {path!r} has shape {saved.get(path)} in step {step} of "
                    f"{str(self._directory)!r}, and {asked.get(path)} in the state asked for"
                )

    def _finish(self) -> None:
        """Waits for a running save, and writes its checksums."""
        try:
            self._manager.wait_until_finished()
            while self._without_checksums:
                directory = self._directory / str(self._without_checksums.pop())
                if directory.is_dir() and jax.process_index() == 0:
                    write_manifest(directory)
        except Exception as error:  # Orbax and TensorStore raise many kinds
            raise self._not_written(error) from error

    def _not_written(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"a checkpoint in {str(self._directory)!r} cannot be written: {shown(error, _LONGEST_REASON)}"
        )

    def __enter__(self) -> "TrainCheckpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
