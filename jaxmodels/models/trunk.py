"""Blocks over vectors, with neither tokens in front nor a vocabulary behind, in the decoder's two verbs.

A model whose steps are vectors (a scale of an image, a patch of numbers) puts them in front of a trunk itself
and reads what comes out behind it. Histories are those of the same layers in a `Decoder`.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxmodels.layers.masks import CAUSAL, Mask
from jaxmodels.layers.spec import Params, ParamTree, buffer, filled
from jaxmodels.layers.window import Window, fresh_window, next_window, ropes_of
from jaxmodels.models.block import DecoderBlock, Stream, block_flops, peek
from jaxmodels.models.cache import Cache, Pending, committed
from jaxmodels.models.inputs import check_condition, check_inputs
from jaxmodels.models.slots import fitted, token_limit


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """Blocks one behind the other.

    Attributes:
        d_model: width of the stream.
        blocks: in order.
        mask: who sees whom.

    Raises:
        ValueError: there is no block.
    """

    d_model: int
    blocks: tuple[DecoderBlock, ...]
    mask: Mask = CAUSAL

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ValueError("Trunk: blocks must hold at least one block, got none")

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters, by the number of the block."""
        return {str(i): block.spec() for i, block in enumerate(self.blocks)}

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token that sees `context` tokens, itself included; 0 counts the weights alone."""
        return sum(block_flops(block, context) for block in self.blocks)

    def cache_spec(self, batch: int, capacity: int) -> Cache:
        """What `init_cache` makes, with a `Buffer` in the place of each array."""
        if batch < 1 or capacity < 1:
            raise ValueError(f"init_cache: batch={batch} and capacity={capacity} must be at least 1")
        return Cache(
            length=buffer((batch,), ("batch",), "int32"),
            layers=tuple(block.state_spec(batch, capacity) for block in self.blocks),
        )

    def init_cache(self, batch: int, capacity: int, dtype: DTypeLike = jnp.float32) -> Cache:
        """Empty histories with room for `capacity` tokens each, pending windows included."""
        made: Cache = filled(self.cache_spec(batch, capacity), dtype)
        return made

    def forward(
        self, params: Params, x: Float[Array, "B S D"], condition: Array | None = None
    ) -> Float[Array, "B S D"]:
        """The stream behind the last block, of whole sequences without a cache. Differentiable.

        Raises:
            ValueError: `x` is of another width, or a condition is missing, not read, or of another width.
        """
        self._check(x, condition)
        window = fresh_window(x, mask=self.mask, ropes=ropes_of(*self.blocks))
        stream = Stream(hidden=x, embedded=x, condition=condition)
        for i, block in enumerate(self.blocks):
            stream = block.forward(params[str(i)], stream, window)
        return stream.narrow()

    def peek(
        self, params: Params, x: Float[Array, "B S D"], cache: Cache, condition: Array | None = None
    ) -> tuple[Float[Array, "B S D"], Pending]:
        """The stream behind the last block, of a window that follows the history in `cache`; the cache is
        spent.

        Raises:
            ValueError: as `forward`.
        """
        self._check(x, condition)
        window = next_window(x, cache.length, mask=self.mask)
        window = fitted(window, token_limit(self.blocks, cache.layers))
        window = window.with_rotations(ropes_of(*self.blocks))
        stream, layers = Stream(hidden=x, embedded=x, condition=condition), []
        for i, (block, state) in enumerate(zip(self.blocks, cache.layers, strict=True)):
            stream, pending = peek(block, params[str(i)], stream, state, window)
            layers.append(pending)
        return stream.narrow(), self._pending(window, tuple(layers))

    def commit(self, pending: Pending, n: Int[Array, "B"] | None = None) -> Cache:
        """The cache once the first n tokens of the window, by default all, are history."""
        return committed(self.blocks, pending, n, None)

    def _pending(self, window: Window, layers: tuple[object, ...]) -> Pending:
        depth = jnp.full(window.positions.shape, len(self.blocks), jnp.int32)
        return Pending(start=window.start, valid=window.valid, layers=layers, depth=depth)

    def _check(self, x: Float[Array, "B S D"], condition: Array | None) -> None:
        check_inputs(x, self.d_model)
        check_condition(condition, self.blocks, *x.shape[:2], has_default=False)
