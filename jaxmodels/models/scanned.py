"""A decoder whose repeated blocks are one `lax.scan`: compile time and activation memory for deep training.

Decoding keeps parameters per layer, since a scan copies each layer's weights out of the stack at every token.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.layers.masks import Mask, MaskLike
from jaxmodels.layers.moe.routing import Routing
from jaxmodels.layers.spec import Param, Params, ParamTree, unflatten, walk
from jaxmodels.layers.window import Valid
from jaxmodels.models.block import SharingBlock, Stream
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.filling import MaskFilling
from jaxmodels.models.packing import unpack


@dataclass(frozen=True)
class ScannedDecoder:
    """`decoder` with its blocks as repetitions of one period, stacked and scanned.

    The period is the shortest pattern of blocks that the whole stack repeats: one block for uniform models,
    several for hybrids. Each period is rematerialised in the backward pass, so that activation memory holds
    one residual stream per period and the inside of a single one.

    Raises:
        ValueError: the blocks repeat no pattern, or share parameters.
    """

    decoder: Decoder

    def __post_init__(self) -> None:
        if any(isinstance(block, SharingBlock) for block in self.decoder.blocks):
            raise ValueError("blocks that share parameters cannot be stacked one by one and scanned")
        if self.period == len(self.decoder.blocks) > 1:
            raise ValueError(
                f"the {len(self.decoder.blocks)} blocks repeat no pattern, so there is nothing to scan"
            )

    @property
    def vocab_size(self) -> int:
        return self.decoder.vocab_size

    @property
    def mask(self) -> Mask:
        """`Decoder.mask`."""
        return self.decoder.mask

    @property
    def filling(self) -> MaskFilling | None:
        """`Decoder.filling`."""
        return self.decoder.filling

    @property
    def period(self) -> int:
        """Blocks per repetition."""
        blocks = self.decoder.blocks
        return next(
            p
            for p in range(1, len(blocks) + 1)
            if len(blocks) % p == 0 and all(b == blocks[i % p] for i, b in enumerate(blocks))
        )

    @property
    def repeats(self) -> int:
        return len(self.decoder.blocks) // self.period

    def spec(self) -> ParamTree:
        """The decoder's spec with every block parameter of a period stacked along a leading "layers" axis."""
        tree = self.decoder.spec()
        return {**tree, "blocks": {str(i): self._stacked_spec(i) for i in range(self.period)}}

    def _stacked_spec(self, index: int) -> ParamTree:
        block = self.decoder.blocks[index].spec()
        stacked = {
            path: replace(p, shape=(self.repeats, *p.shape), axes=("layers", *p.axes), init=Repeated(p))
            for path, p in walk(block)
        }
        return unflatten(stacked, block)

    def stack(self, params: Params) -> Params:
        """The decoder's parameters, block by block, as this model's."""
        blocks = params["blocks"]
        stacked = {
            str(i): jax.tree.map(
                lambda *leaves: jnp.stack(leaves),
                *(blocks[str(r * self.period + i)] for r in range(self.repeats)),
            )
            for i in range(self.period)
        }
        return {**params, "blocks": stacked}

    def unstack(self, params: Params) -> Params:
        """The inverse of `stack`: what the decoder and checkpoints take."""
        blocks = {
            str(r * self.period + i): jax.tree.map(lambda leaf, r=r: leaf[r], params["blocks"][str(i)])
            for r in range(self.repeats)
            for i in range(self.period)
        }
        return {**params, "blocks": blocks}

    def forward(self, params: Params, tokens: Int[Array, "B S"]) -> Float[Array, "B S V"]:
        """`Decoder.forward` of whole sequences."""
        return self.forward_with_routing(params, tokens)[0]

    def forward_with_routing(
        self, params: Params, tokens: Int[Array, "B S"]
    ) -> tuple[Float[Array, "B S V"], dict[str, Routing]]:
        """`Decoder.forward_with_routing`; each routing has the repeats of its block as leading axis."""
        hidden, routings = self.hidden_with_routing(params, tokens)
        return self.logits(params, hidden), routings

    def hidden_with_routing(
        self,
        params: Params,
        tokens: Int[Array, "B S"],
        *,
        positions: Int[Array, "B S"] | None = None,
        mask: MaskLike | None = None,
        valid: Valid | None = None,
    ) -> tuple[Float[Array, "B S D"], dict[str, Routing]]:
        """`Decoder.hidden_with_routing`; each routing has the repeats of its block as leading axis."""
        embedded, window = self.decoder.begin_forward(
            params, tokens, positions=positions, mask=mask, valid=valid
        )

        @jax.checkpoint
        def period(stream: Stream, blocks: Any) -> tuple[Stream, dict[str, Routing]]:
            routings = {}
            for i in range(self.period):
                asked = replace(stream, routings=())
                stream = self.decoder.blocks[i].forward(blocks[str(i)], asked, window)
                if stream.routings:
                    (routings[str(i)],) = stream.routings
            return replace(stream, routings=None), routings

        stream, routings = lax.scan(period, embedded, params["blocks"])
        hidden: Array = unpack(window, self.decoder.normalise(params, stream))
        return hidden, routings

    def logits(self, params: Params, hidden: Float[Array, "B S D"]) -> Float[Array, "B S V"]:
        """`Decoder.logits`."""
        return self.decoder.logits(params, hidden)


@dataclass(frozen=True)
class Repeated:
    """Draws each slice along the leading axis as `param` draws itself."""

    param: Param

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        keys = jax.random.split(key, shape[0])
        return jnp.stack([self.param.init(k, shape[1:], dtype) for k in keys])
