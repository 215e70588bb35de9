"""Time, or two times, and a class as the condition of a denoiser's blocks."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float, Num

from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.timestep import TimestepEmbedding
from jaxmodels.models.denoisers.class_table import ClassTable


@dataclass(frozen=True, kw_only=True)
class ClassConditioner:
    """``time(t) + classes[label]``; label `num_classes` stands for no class, for guidance without classifier.

    Models of few steps, such as shortcut models (https://arxiv.org/abs/2410.12557) and MeanFlow
    (https://arxiv.org/abs/2505.13447), go by two times, of which each has an embedding.

    Attributes:
        time: the embedding of times.
        second: that of the other time, which says how far a step leads: its length, or where it ends.
        num_classes: classes beside that of no class, whose row of the table is the last.
    """

    time: TimestepEmbedding
    second: TimestepEmbedding | None = None
    num_classes: int

    @property
    def classes(self) -> ClassTable:
        """The table of classes."""
        return ClassTable(num_rows=self.num_classes + 1, d_model=self.time.d_model, ends_in_none=True)

    def spec(self) -> ParamTree:
        made: ParamTree = {"time": self.time.spec(), "classes": self.classes.spec()}
        return made if self.second is None else {**made, "second": self.second.spec()}

    def flops(self) -> int:
        """FLOPs for one row."""
        return self.time.flops() + (0 if self.second is None else self.second.flops())

    def check_times(self, t: Any, batch: int, tokens: int) -> None:
        """Raises ValueError unless `t` is the time of each of `batch` rows or of each of their `tokens`, or
        both times of each row."""
        allowed = [(batch,), (batch, tokens)] if self.second is None else [(batch, 2)]
        if t.shape not in allowed:
            expected = " or ".join(str(list(shape)) for shape in allowed)
            both = "" if self.second is None else ", both times of each row"
            raise ValueError(f"t: expected {expected}{both}, got {list(t.shape)}")

    def __call__(
        self, params: Params, t: Num[Array, "B ..."], classes: Float[Array, "B D"]
    ) -> Float[Array, "B D"] | Float[Array, "B S D"]:
        """The condition of each row, or of each token where each has a time of its own. Models of two times
        take both, [B, 2]. classes: their rows of the table."""
        times = self.times(params, t)
        return times + (classes if times.ndim == 2 else classes[:, None])

    def times(self, params: Params, t: Num[Array, "B ..."]) -> Float[Array, "B D"] | Float[Array, "B S D"]:
        """What of the condition does not depend on the class."""
        if self.second is None:
            return self.time(params["time"], t)
        return self.time(params["time"], t[:, 0]) + self.second(params["second"], t[:, 1])
