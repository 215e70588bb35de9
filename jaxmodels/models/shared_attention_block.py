"""A block whose mixer looks at the stream through a transformer layer that several blocks share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.linear import linear
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.rope import Rotary
from jaxmodels.layers.spec import Params, ParamTree, matrix
from jaxmodels.layers.window import Mixer, Window, peek, ropes_of
from jaxmodels.models.block import Stream, layer_specs

ADAPTER = "adapter"


@dataclass(frozen=True, kw_only=True)
class SharedAttentionBlock:
    """``x + mixer(mixer_norm(x + w_out t))``, ``t = ffn(ffn_norm(attention(attention_norm([x, e]))))``.

    e are the token embeddings (Zamba2, https://arxiv.org/abs/2411.15242, figure 2). The layers of t are found
    in the decoder's shared parameters number `shared`, but for their adapters, which are the block's own.

    The mixer's history depends on t: a window that the block is skipped for is written with all of its work.
    Its states are those of attention and mixer.

    Raises:
        ValueError: attention or its norm does not read twice the width of the stream.
    """

    mixer_norm: Norm
    mixer: Mixer
    attention_norm: Norm
    attention: Attention
    ffn_norm: Norm
    ffn: GatedMLP
    shared: int

    def __post_init__(self) -> None:
        if self.attention.d_in != 2 * self.attention.d_model:
            raise ValueError(
                f"attention: input_dim={self.attention.d_in} must be twice d_model={self.attention.d_model}: "
                "it reads the stream and the embeddings"
            )

    def spec(self) -> ParamTree:
        d = self.attention.d_model
        adapters = {
            name: {ADAPTER: tree[ADAPTER]}
            for name, tree in self._transformer_spec().items()
            if ADAPTER in tree
        }
        return {
            **adapters,
            "w_out": matrix((d, d), (None, "embed")),
            **layer_specs(mixer_norm=self.mixer_norm, mixer=self.mixer),
        }

    @property
    def ropes(self) -> tuple[Rotary, ...]:
        return ropes_of(self.attention, self.mixer)

    def shared_spec(self) -> ParamTree:
        return {
            name: {key: leaf for key, leaf in tree.items() if key != ADAPTER}
            for name, tree in self._transformer_spec().items()
        }

    def state_spec(self, batch: int, capacity: int) -> tuple[Any, Any]:
        layers = (self.attention, self.mixer)
        return tuple(layer.state_spec(batch, capacity) for layer in layers)  # type: ignore[return-value]

    def parts(self, state: tuple[Any, Any]) -> tuple[tuple[Mixer, Any], ...]:
        return (self.attention, state[0]), (self.mixer, state[1])

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token that sees `context` tokens, itself included; 0 counts the weights alone."""
        layers = (self.attention, self.ffn, self.mixer)
        return 2 * self.attention.d_model**2 + sum(layer.flops_per_token(context) for layer in layers)

    def forward(self, params: Params, stream: Stream, window: Window) -> Stream:
        return stream.add(
            self.mixer.forward(params["mixer"], self.mixer_input(params, stream, window), window)
        )

    def mixer_input(self, params: Params, stream: Stream, window: Window) -> Float[Array, "B S D"]:
        """What the mixer reads of a whole sequence."""
        attended = self.attention.forward(
            self._of(params, "attention"), self._attention_input(params, stream), window
        )
        return self._mixer_input(params, stream, attended)

    def write(
        self, params: Params, stream: Stream, state: tuple[Any, Any], window: Window
    ) -> tuple[Any, tuple[Any, Any]]:
        x = self._attention_input(params, stream)
        attended, seen = peek(self.attention, self._of(params, "attention"), x, state[0], window)
        x = self._mixer_input(params, stream, attended)
        held, pending = self.mixer.write(params["mixer"], x, state[1], window)
        return held, (seen, pending)

    def read(
        self, params: Params, stream: Stream, held: Any, pending: tuple[Any, Any], window: Window
    ) -> Stream:
        return stream.add(self.mixer.read(params["mixer"], held, pending[1], window))

    def commit(
        self, pending: tuple[Any, Any], n: Array | None = None, path: Array | None = None
    ) -> tuple[Any, Any]:
        return self.attention.commit(pending[0], n, path), self.mixer.commit(pending[1], n, path)

    def _transformer_spec(self) -> dict[str, ParamTree]:
        return layer_specs(
            attention_norm=self.attention_norm,
            attention=self.attention,
            ffn_norm=self.ffn_norm,
            ffn=self.ffn,
        )  # type: ignore[return-value]

    def _of(self, params: Params, name: str) -> Params:
        """The parameters of a layer of the transformer, the block's own adapters among them."""
        own: Mapping[str, Any] = params.get(name, {})
        return {**params["shared"][name], **own}

    def _attention_input(self, params: Params, stream: Stream) -> Float[Array, "B S 2*D"]:
        both = jnp.concatenate([stream.narrow(), stream.embedded], axis=-1)
        return self.attention_norm(self._of(params, "attention_norm"), both)

    def _mixer_input(
        self, params: Params, stream: Stream, attended: Float[Array, "B S D"]
    ) -> Float[Array, "B S D"]:
        normed = self.ffn_norm(self._of(params, "ffn_norm"), attended)
        attended = linear(self.ffn(self._of(params, "ffn"), normed), params["w_out"])
        return self.mixer_norm(params["mixer_norm"], stream.narrow() + attended)
