"""A time and a class as the condition of a denoiser's blocks."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from jaxmodels.checks import shown
from jaxmodels.layers.spec import Normal, Param, Params, ParamTree
from jaxmodels.layers.timestep import TimestepEmbedding


@dataclass(frozen=True, kw_only=True)
class ClassConditioner:
    """``time(t) + classes[label]``; label `num_classes` stands for no class, for guidance without classifier.

    Attributes:
        time: the embedding of times.
        num_classes: classes beside that of no class, whose row of the table is the last.
    """

    time: TimestepEmbedding
    num_classes: int

    def spec(self) -> ParamTree:
        shape = (self.num_classes + 1, self.time.d_model)
        return {"time": self.time.spec(), "classes": {"weight": Param(shape, (None, "embed"), Normal(0.02))}}

    def check(self, labels: Any, batch: int) -> None:
        """Raises ValueError unless `labels` are integers, one for each of `batch` rows."""
        shape, dtype = getattr(labels, "shape", None), getattr(labels, "dtype", np.dtype(object))
        if shape != (batch,) or not jnp.issubdtype(dtype, jnp.integer):
            got = shown(labels) if shape is None else f"{dtype}{list(shape)}"
            raise ValueError(
                f"condition: expected the class of each row, integers [{batch}] from 0 to "
                f"{self.num_classes} (no class), got {got}"
            )

    def read(self, params: Params, labels: Int[Array, "B"]) -> Float[Array, "B D"]:
        """The row of each label in the table of classes.

        A label outside the table gives NaN: it would otherwise be taken for the nearest class.
        """
        return jnp.take(params["classes"]["weight"], labels, axis=0, mode="fill", fill_value=jnp.nan)

    def __call__(
        self, params: Params, t: Num[Array, "B"] | Num[Array, "B S"], classes: Float[Array, "B D"]
    ) -> Float[Array, "B D"] | Float[Array, "B S D"]:
        """The condition of each row, or of each token where each has a time of its own. classes: what `read`
        gave."""
        times = self.time(params["time"], t)
        return times + (classes if t.ndim == 1 else classes[:, None])
