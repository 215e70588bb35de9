"""One step of an autoregressive flow: a causal transformer that scales and shifts each token."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.layers.linear import linear
from jaxmodels.layers.spec import ZEROS, FanIn, Normal, Param, Params, ParamTree
from jaxmodels.models.trunk import Trunk


@dataclass(frozen=True, kw_only=True)
class FlowBlock:
    """``z_i = (x_i - shift_i) * exp(-log_scale_i)``, both of which are read of the tokens before i.

    The first token stays as it is. Running backwards, ``x_i = z_i * exp(log_scale_i) + shift_i`` is known
    once the tokens before it are. See `TarFlow`.

    Attributes:
        places: tokens of an image.
        channels: numbers of a token.
        num_classes: classes are numbered from 0, and -1 stands for none; 0 for a model without classes.
        trunk: causal blocks.
        is_flipped: whether it takes the tokens from the last to the first.
        scales: whether it scales tokens, and does not only shift them.
    """

    places: int
    channels: int
    num_classes: int
    trunk: Trunk
    is_flipped: bool
    scales: bool = True

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters: at first the block changes nothing."""
        d, outputs = self.trunk.d_model, self.channels * (2 if self.scales else 1)
        tree: ParamTree = {
            "in": {
                "w": Param((d, self.channels), ("embed", None), FanIn(self.channels)),
                "b": Param((d,), ("embed",), ZEROS),
            },
            "positions": {"weight": Param((self.places, d), (None, "embed"), Normal(0.01))},
            "blocks": self.trunk.spec(),
            "out": {
                "w": Param((outputs, d), (None, "embed"), ZEROS),
                "b": Param((outputs,), (None,), ZEROS),
            },
        }
        if self.num_classes:
            tree["classes"] = {"weight": Param((self.num_classes, d), (None, "embed"), Normal(0.01))}
        return tree

    def ordered(self, x: Float[Array, "B S C"]) -> Float[Array, "B S C"]:
        """The tokens in the order in which the block takes them, and back."""
        return jnp.flip(x, axis=1) if self.is_flipped else x

    def embed(
        self,
        params: Params,
        x: Float[Array, "B S C"],
        first: Int[Array, ""] | int,
        classes: Int[Array, "B"] | None,
    ) -> Float[Array, "B S D"]:
        """What the trunk is shown of consecutive tokens, the first of which has the number `first` in the
        block's order. classes: -1, or None for all, for no class, which is the mean of all of them."""
        rows = params["positions"]["weight"]
        rows = jnp.flip(rows, axis=0) if self.is_flipped else rows
        made = linear(x.astype(rows.dtype), params["in"]["w"]) + params["in"]["b"]
        made = made + lax.dynamic_slice_in_dim(rows, first, x.shape[1])
        if not self.num_classes:
            return made
        table = params["classes"]["weight"]
        none = table.mean(0)
        if classes is None:
            return made + none
        return made + jnp.where(classes[:, None] < 0, none, table[classes])[:, None]

    def steps(
        self, params: Params, hidden: Float[Array, "B S D"]
    ) -> tuple[Float[Array, "B S C"], Float[Array, "B S C"]]:
        """The log scale and the shift of the token behind each, f32."""
        made = linear(hidden, params["out"]["w"], jnp.float32) + params["out"]["b"].astype(jnp.float32)
        if not self.scales:
            return jnp.zeros_like(made), made
        log_scale, shift = jnp.split(made, 2, axis=-1)
        return log_scale, shift

    def forward(
        self, params: Params, x: Float[Array, "B S C"], classes: Int[Array, "B"] | None
    ) -> tuple[Float[Array, "B S C"], Float[Array, "B"]]:
        """The tokens one step closer to noise, f32, and the mean over their numbers of the logarithm that
        they were scaled by. Differentiable."""
        x = self.ordered(x)
        hidden = self.trunk.forward(params["blocks"], self.embed(params, x, 0, classes))
        log_scale, shift = map(behind, self.steps(params, hidden))
        z = (x.astype(jnp.float32) - shift) * jnp.exp(-log_scale)
        return self.ordered(z), -log_scale.mean((1, 2))


def behind(of_next: Float[Array, "B S C"]) -> Float[Array, "B S C"]:
    """What each token says of the one behind it, at the place of that one; zeros for the first."""
    return jnp.pad(of_next[:, :-1], ((0, 0), (1, 0), (0, 0)))
