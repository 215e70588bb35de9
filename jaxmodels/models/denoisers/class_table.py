"""A vector for each class that a denoiser is conditioned on."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmodels.checks import is_traced, shown
from jaxmodels.layers.spec import Normal, Param, Params, ParamTree


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """A row of a table for each class, and one for no class if the model was trained with it.

    Attributes:
        num_rows: rows of the table.
        d_model: width of a row.
        ends_in_none: whether the last row is known to stand for no class.
    """

    num_rows: int
    d_model: int
    ends_in_none: bool = False

    def spec(self) -> ParamTree:
        return {"weight": Param((self.num_rows, self.d_model), (None, "embed"), Normal(0.02))}

    def check(self, labels: Any, batch: int) -> None:
        """Raises ValueError unless `labels` are the classes of `batch` rows.

        What a traced program hands over has no value yet: there a class outside the table makes NaN.
        """
        none = " (no class)" if self.ends_in_none else ""
        wanted = f"the class of each row, integers [{batch}] from 0 to {self.num_rows - 1}{none}"
        shape, dtype = getattr(labels, "shape", None), getattr(labels, "dtype", np.dtype(object))
        if shape != (batch,) or not jnp.issubdtype(dtype, jnp.integer):
            got = shown(labels) if shape is None else f"{dtype}{list(shape)}"
            raise ValueError(f"condition: expected {wanted}, got {got}")
        outside = () if is_traced(labels) else [i for i in np.asarray(labels) if not 0 <= i < self.num_rows]
        if len(outside):
            raise ValueError(f"condition: expected {wanted}, got {', '.join(map(str, outside[:8]))}")

    def abstract(self, batch: int) -> jax.ShapeDtypeStruct:
        """The labels of `batch` rows, as shape and dtype."""
        return jax.ShapeDtypeStruct((batch,), jnp.int32)

    def __call__(self, params: Params, labels: Int[Array, "B"]) -> Float[Array, "B D"]:
        """The row of each label. A label outside the table gives NaN: it would otherwise be taken for the
        nearest class."""
        return jnp.take(params["weight"], labels, axis=0, mode="fill", fill_value=jnp.nan)
