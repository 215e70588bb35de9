"""A time and a class as the condition of a denoiser's blocks."""

from dataclasses import dataclass

from jaxtyping import Array, Float, Num

from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.timestep import TimestepEmbedding
from jaxmodels.models.denoisers.class_table import ClassTable


@dataclass(frozen=True, kw_only=True)
class ClassConditioner:
    """``time(t) + classes[label]``; label `num_classes` stands for no class, for guidance without classifier.

    Attributes:
        time: the embedding of times.
        num_classes: classes beside that of no class, whose row of the table is the last.
    """

    time: TimestepEmbedding
    num_classes: int

    @property
    def classes(self) -> ClassTable:
        """The table of classes."""
        return ClassTable(num_rows=self.num_classes + 1, d_model=self.time.d_model, ends_in_none=True)

    def spec(self) -> ParamTree:
        return {"time": self.time.spec(), "classes": self.classes.spec()}

    def __call__(
        self, params: Params, t: Num[Array, "B"] | Num[Array, "B S"], classes: Float[Array, "B D"]
    ) -> Float[Array, "B D"] | Float[Array, "B S D"]:
        """The condition of each row, or of each token where each has a time of its own. classes: their rows
        of the table."""
        times = self.time(params["time"], t)
        return times + (classes if t.ndim == 1 else classes[:, None])
