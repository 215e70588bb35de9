"""Pyramidal flow matching: stages of growing resolution, and the jumps between them."""

import math
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmodels.checks import number, whole
from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers.first_order import FirstOrder, Level
from jaxmodels.decoding.diffusion.samplers.flow_schedule import FixedShift
from jaxmodels.decoding.diffusion.samplers.sampler import Plan


@dataclass(frozen=True, kw_only=True)
class PyramidSchedule:
    """The stages of Pyramidal Flow (Jin et al. 2024), as its `PyramidFlowMatchEulerDiscreteScheduler` has
    them.

    Attributes:
        count: training steps, T.
        shift: what noise levels are bent with.
        cuts: where stages begin and end in the training steps, rising from 0 to 1.
        spread: how much the numbers of a block of 2 x 2 vary against each other in the noise of a jump, above
            0 and at most 1 / 3, where they add up to 0.

    Raises:
        ValueError: a number outside its range, or cuts that do not rise from 0 to 1.
    """

    count: int = 1000
    shift: FixedShift = field(default_factory=FixedShift)
    cuts: tuple[float, ...] = (0.0, 1 / 3, 2 / 3, 1.0)
    spread: float = 1 / 3

    def __post_init__(self) -> None:
        whole("count", self.count, low=1)
        number("spread", self.spread, low=0.0, low_included=False, high=1 / 3)
        if len(self.cuts) < 2 or self.cuts[0] != 0 or self.cuts[-1] != 1 or any(np.diff(self.cuts) <= 0):
            raise ValueError(f"cuts must rise from 0 to 1, got {self.cuts}")

    @property
    def stages(self) -> int:
        """How many resolutions there are."""
        return len(self.cuts) - 1

    def jump_factors(self, stage: int) -> tuple[float, float]:
        """What the enlarged canvas and the noise of blocks are multiplied by where a stage begins.

        The noise of an enlarged canvas is the same within a block. With these factors it becomes independent
        noise of the level that the stage begins at.
        """
        whole("stage", stage, low=1, high=self.stages - 1)
        clean = 1 - self._level(stage)
        canvas = 1 / (math.sqrt(1 + 1 / self.spread) * (1 - clean) + clean)
        return canvas, canvas * (1 - clean) / math.sqrt(self.spread)

    def times(self, stage: int) -> tuple[float, float]:
        """The first and the last time that a model is shown in a stage.

        The stages share the training steps by how far sigma falls in each.
        """
        whole("stage", stage, low=0, high=self.stages - 1)
        falls = []
        for each in range(self.stages):
            start = self._level(each)
            if each > 0:
                start = 1 - self.jump_factors(each)[0] * (1 - start)
            falls.append(start - self._level(each + 1))
        shares = np.cumsum([0.0, *falls]) / sum(falls)
        shares[-1] = 1.0
        first = self._time(int(shares[stage] * self.count))
        last = self._time(min(int(shares[stage + 1] * self.count), self.count - 1))
        return first, first + (last - first) * (1 - 1 / self.count)

    def jump(
        self, x: Float[Array, "B H W C"], stage: int, noise: Float[Array, "B 2*H 2*W C"]
    ) -> Float[Array, "B 2*H 2*W C"]:
        """The canvas that a stage begins with.

        Args:
            x: what the stage before ended with.
            stage: the stage, from 1.
            noise: unit noise in the new shape.

        Raises:
            ValueError: there is no such stage, or `noise` has another shape.
        """
        batch, height, width, channels = x.shape
        if noise.shape != (batch, 2 * height, 2 * width, channels):
            raise ValueError(
                f"noise of stage {stage} must have twice the height and width of {list(x.shape)}, got "
                f"{list(noise.shape)}"
            )
        canvas, blocks = self.jump_factors(stage)
        large = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        return canvas * large + blocks * block_noise(noise, self.spread)

    def _level(self, stage: int) -> float:
        """Sigma where a stage begins, before it is corrected for the jump; 0 behind the last."""
        step = int(self.cuts[stage] * self.count)
        return self._time(step) / self.count if step < self.count else 0.0

    def _time(self, step: int) -> float:
        sigma = self.shift(np.array(1 - step / self.count), 0)
        return float(sigma) * self.count


def block_noise(noise: Float[Array, "B H W C"], spread: float) -> Float[Array, "B H W C"]:
    """Unit noise as noise whose covariance within blocks of 2 x 2 is ``(1 + spread) I - spread``."""
    batch, height, width, channels = noise.shape
    blocks = noise.reshape(batch, height // 2, 2, width // 2, 2, channels)
    mean = blocks.mean((2, 4), keepdims=True)
    # Of the four directions of a block, the one in which all agree has another variance than the others.
    made = math.sqrt(1 + spread) * (blocks - mean) + math.sqrt(max(1 - 3 * spread, 0.0)) * mean
    return made.reshape(noise.shape)


@dataclass(frozen=True, kw_only=True)
class PyramidStage(FirstOrder):
    """Euler's steps along the straight path of one stage, from its beginning to its end.

    Noise levels are relative to the stage: 1 where it begins, 0 where it ends. What stands there for clean
    data is the canvas of the stage's end, and for noise that of its beginning.

    Attributes:
        schedule: all stages.
        stage: which one.

    Raises:
        ValueError: there is no such stage.
    """

    schedule: PyramidSchedule = field(default_factory=PyramidSchedule)
    stage: int = 0

    def __post_init__(self) -> None:
        whole("stage", self.stage, low=0, high=self.schedule.stages - 1)

    @property
    def prediction(self) -> Prediction:
        """The velocity of the stage's path."""
        return Prediction.FLOW

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        steps = whole("steps", steps, low=1, high=self.schedule.count)
        first, last = self.schedule.times(self.stage)
        sigmas = np.linspace(1.0, 1 / self.schedule.count, steps)
        ends = np.append(sigmas[1:], 0.0)
        return Plan(
            times=np.linspace(first, last, steps),
            input_scale=np.ones(steps),
            alpha=1 - sigmas,
            sigma=sigmas,
            rows=Level(alpha=1 - ends, sigma=ends, fresh=np.zeros(steps)),
            start=np.ones(()),
        )
