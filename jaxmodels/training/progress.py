"""How a run is going: a live bar on a terminal, one line per report elsewhere."""

import time
from collections.abc import Mapping
from types import TracebackType

import jax
import numpy as np
from jaxtyping import Array, Float
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from jaxmodels.training.recipe import Recipe


class TrainProgress:
    """Averages loss and speed between reports. Compiling and evaluating do not count into the speed."""

    def __init__(self, console: Console, recipe: Recipe, first_step: int) -> None:
        self._console = console
        self._total_steps = recipe.steps
        self._tokens_per_step = recipe.batch_size * recipe.sequence_length
        self._losses: list[Float[Array, ""]] = []
        self._step = self._marked_step = first_step
        self._marked_time: float | None = None
        self._rate = 0.0
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[rate]:,.0f} tokens/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(
            "train", total=recipe.steps, completed=first_step, loss=float("nan"), rate=0.0
        )

    def advance(self, step: int, loss: Float[Array, ""]) -> None:
        """`step` steps have been started. Waits for the one before, so that one is always under way."""
        if self._losses:
            self._losses[-1].block_until_ready()
        self._losses.append(loss)
        self._step = step
        if self._marked_time is None:
            loss.block_until_ready()
            self._mark()
        self._bar.update(self._task, completed=step)

    def interval(self) -> dict[str, float]:
        """Mean `loss` and `tokens_per_second` of the steps since the last call."""
        losses = jax.device_get(self._losses)
        self._losses.clear()
        if self._marked_time is not None and self._step > self._marked_step:
            tokens = (self._step - self._marked_step) * self._tokens_per_step
            self._rate = tokens / (time.perf_counter() - self._marked_time)
        self._mark()
        return {"loss": float(np.mean(losses)), "tokens_per_second": self._rate}

    def report(self, record: Mapping[str, float]) -> None:
        """Shows a record of the metrics log."""
        self._mark()
        parts = [f"step {self._step}/{self._total_steps}"]
        if "loss" in record:
            self._bar.update(self._task, loss=record["loss"], rate=self._rate)
            parts.append(f"loss {record['loss']:.4f}")
        if self._rate:
            left = (self._total_steps - self._step) * self._tokens_per_step / self._rate
            parts.append(f"{self._rate:,.0f} tokens/s, {left / 60:.1f} min left")
        if "held_out_loss" in record:
            parts.append(
                f"held out {record['held_out_loss']:.4f} nats/token, "
                f"{record['held_out_bits_per_byte']:.4f} bits/byte"
            )
        elif self._console.is_terminal:
            return  # the bar shows the rest
        self._console.print("  ".join(parts), highlight=False, soft_wrap=True)

    def _mark(self) -> None:
        self._marked_step, self._marked_time = self._step, time.perf_counter()

    def __enter__(self) -> "TrainProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
