"""A convolutional block that goes by a condition."""

from dataclasses import dataclass

from jaxtyping import Array, Float

from jaxmodels.layers.condition import ProjectedModulation, modulate
from jaxmodels.layers.conv2d import Conv2D
from jaxmodels.layers.image_norm import GlobalResponseNorm
from jaxmodels.layers.linear import linear
from jaxmodels.layers.mlp import activate
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.spec import ZEROS, FanIn, Param, Params, ParamTree

# How much wider the inside is than the outside.
_FACTOR = 4


@dataclass(frozen=True, kw_only=True)
class ConvNextBlock:
    """``modulate(x + out(response_norm(gelu(in(norm(depthwise(x)))))))`` of https://arxiv.org/abs/2301.00808,
    modulated behind the sum.

    Attributes:
        channels: of the image.
        norm: of each place.
        modulation: makes the scale and the shift of a condition.
        bias: whether the convolution and the two projections have biases.
    """

    channels: int
    norm: Norm
    modulation: ProjectedModulation
    bias: bool = False

    @property
    def depthwise(self) -> Conv2D:
        c = self.channels
        return Conv2D(in_channels=c, out_channels=c, groups=c, bias=self.bias)

    @property
    def response_norm(self) -> GlobalResponseNorm:
        return GlobalResponseNorm(channels=_FACTOR * self.channels)

    def spec(self) -> ParamTree:
        inside, outside = _FACTOR * self.channels, self.channels
        tree: ParamTree = {
            "depthwise": self.depthwise.spec(),
            "norm": self.norm.spec(),
            "w_in": Param((inside, outside), ("mlp", "embed"), FanIn(outside)),
            "response_norm": self.response_norm.spec(),
            "w_out": Param((outside, inside), ("embed", "mlp"), FanIn(inside)),
            "modulation": self.modulation.spec(),
        }
        if self.bias:
            tree |= {
                "b_in": Param((inside,), ("mlp",), ZEROS),
                "b_out": Param((outside,), ("embed",), ZEROS),
            }
        return tree

    def __call__(
        self, params: Params, x: Float[Array, "B H W C"], condition: Float[Array, "B cond"]
    ) -> Float[Array, "B H W C"]:
        y = self.norm(params["norm"], self.depthwise(params["depthwise"], x))
        y = activate("gelu", self._project(params, "in", y))
        y = self._project(params, "out", self.response_norm(params["response_norm"], y))
        made = self.modulation(params["modulation"], condition)
        places = (x + y).reshape(x.shape[0], -1, self.channels)
        return modulate(places, made["shift"], made["scale"]).reshape(x.shape)

    def _project(self, params: Params, name: str, x: Float[Array, "B H W C"]) -> Float[Array, "B H W F"]:
        y = linear(x, params[f"w_{name}"])
        return y + params[f"b_{name}"] if self.bias else y
