"""A gated feed-forward over images that also looks at neighbouring places."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.layers.conv2d import Conv2D
from jaxmodels.layers.mlp import activate
from jaxmodels.layers.spec import Params, ParamTree


@dataclass(frozen=True, kw_only=True)
class GatedConv:
    """``point(y * silu(gate))`` with ``[y | gate] = depthwise(silu(expand(x)))``: the feed-forward of Sana
    (https://arxiv.org/abs/2410.10629) and of EfficientViT.

    `expand` and `point` are convolutions of single places, `depthwise` one of 3 x 3 places for each channel.

    Attributes:
        channels: of the image, before and behind it.
        hidden: of each half inside.
    """

    channels: int
    hidden: int

    @property
    def _layers(self) -> dict[str, Conv2D]:
        return {
            "expand": Conv2D(
                in_channels=self.channels, out_channels=2 * self.hidden, kernel=1, padding=(0, 0)
            ),
            "depthwise": Conv2D(
                in_channels=2 * self.hidden, out_channels=2 * self.hidden, groups=2 * self.hidden
            ),
            "point": Conv2D(
                in_channels=self.hidden, out_channels=self.channels, kernel=1, padding=(0, 0), bias=False
            ),
        }

    def spec(self) -> ParamTree:
        return {name: layer.spec() for name, layer in self._layers.items()}

    def flops(self, height: int, width: int) -> int:
        """FLOPs for an image of `height` x `width`."""
        return sum(layer.flops(height, width) for layer in self._layers.values())

    def __call__(self, params: Params, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        layers = self._layers
        y = activate("silu", layers["expand"](params["expand"], x))
        y, gate = jnp.split(layers["depthwise"](params["depthwise"], y), 2, axis=-1)
        return layers["point"](params["point"], y * activate("silu", gate))
