"""Each row of a batch has a processor of its own, as where requests of several users run together."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced, shown
from jaxmodels.decoding.processors.chain import Context, Processor
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class PerRow:
    """Applies ``rows[b]`` to row b of the batch. Their numbers are data: other ones compile nothing.

    Attributes:
        rows: a processor for each row, all of one kind.

    Raises:
        ValueError: none, or of several kinds; when run, a batch of another number of rows, or token lists of
            lengths so different that they do not fill arrays of one size.
    """

    rows: tuple[Processor, ...]

    def __post_init__(self) -> None:
        if is_traced(self.rows):
            return
        if not isinstance(self.rows, list | tuple) or not self.rows:
            raise ValueError(f"rows must be a sequence with a processor for each row, got {shown(self.rows)}")
        kinds = {type(row) for row in self.rows if not is_traced(row)}
        if len(kinds) > 1 or any(
            isinstance(row, type) or not hasattr(row, "positional") for row in self.rows
        ):
            raise ValueError(f"rows must be processors of one kind, got {shown(self.rows)}")
        object.__setattr__(self, "rows", tuple(self.rows))

    @property
    def positional(self) -> bool:
        """That of the processors."""
        return self.rows[0].positional

    def __call__(self, logits: Float[Array, "V"], context: Context) -> Float[Array, "V"]:
        if len(self.rows) != context.rows:
            raise ValueError(f"PerRow has {len(self.rows)} processors for a batch of {context.rows} rows")
        shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(row)] for row in self.rows]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(
                f"the processors of {type(self.rows[0]).__name__} in PerRow hold arrays of different sizes, "
                f"{shapes}; give lists of similar lengths"
            )
        own = jax.tree.map(lambda *leaves: jnp.stack(leaves)[context.row], *self.rows)
        return own(logits, context)


register_dataclass(PerRow, ["rows"], [])
