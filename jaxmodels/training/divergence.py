"""Noticing that a run computes no numbers any more, before anything of it is written."""

import math

import jax

from jaxmodels.training.train import Metrics


class Diverged(ValueError):
    """A step of training gave a loss, gradient or parameter that is NaN or infinite."""


class Watch:
    """The steps since the last check. Their flags stay on the device until they are asked for."""

    def __init__(self, last_saved: int | None) -> None:
        """`last_saved` is the step of the newest checkpoint."""
        self.last_saved = last_saved
        self._unchecked: list[tuple[int, Metrics]] = []

    def add(self, step: int, metrics: Metrics) -> None:
        """Keeps what a step says of itself, without waiting for it."""
        self._unchecked.append((step, metrics))

    def check(self) -> None:
        """Waits for the steps added since the last check.

        Raises:
            Diverged: the first of them that is not finite.
        """
        told = jax.device_get(self._unchecked)
        self._unchecked.clear()
        for step, metrics in told:
            if not metrics["finite"]:
                loss, norm = float(metrics["loss"]), float(metrics["gradient_norm"])
                raise self._diverged(step, f"loss {loss:g}, gradient norm {norm:g}")

    def check_held_out(self, step: int, nats: float) -> None:
        """Raises `Diverged` if a held-out loss is not finite."""
        if not math.isfinite(nats):
            raise self._diverged(step, f"held-out loss {nats:g}")

    def _diverged(self, step: int, how: str) -> Diverged:
        kept = (
            "no checkpoint was written"
            if self.last_saved is None
            else f"the last checkpoint is of step {self.last_saved} and finite"
        )
        return Diverged(
            f"training diverged in step {step} ({how}); {kept}. Begin another run with a smaller learning "
            "rate (schedule.peak) or optimizer.clip_norm, or look at the data of that step"
        )
