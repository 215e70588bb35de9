"""A small network that denoises single tokens, each under what a transformer says of its place."""

from dataclasses import dataclass

from jaxtyping import Array, Float, Num

from jaxmodels.layers.condition import NORM_PARTS, AdaptiveNorm, ProjectedModulation, modulate
from jaxmodels.layers.linear import linear
from jaxmodels.layers.mlp import activate
from jaxmodels.layers.norm import LayerNorm
from jaxmodels.layers.spec import ZEROS, FanIn, Param, Params, ParamTree
from jaxmodels.layers.timestep import TimestepEmbedding

_EPS = 1e-6
_PARTS = ("shift", "scale", "gate")


@dataclass(frozen=True, kw_only=True)
class DiffusionHead:
    """Residual layers with adaptive norms over one token, ``x + gate * mlp(modulate(norm(x)))``.

    Source: Li et al. 2024 (MAR, https://arxiv.org/abs/2406.11838), ``SimpleMLPAdaLN``.

    Attributes:
        channels: of a token. It predicts twice as many: the noise, and where its variance lies between the
            least and the greatest that the process allows.
        width: of the layers.
        depth: how many there are.
        d_condition: width of what is said of each place.
    """

    channels: int
    width: int
    depth: int
    d_condition: int

    @property
    def time(self) -> TimestepEmbedding:
        return TimestepEmbedding(d_model=self.width)

    @property
    def norm(self) -> LayerNorm:
        """In front of each layer."""
        return LayerNorm(dim=self.width, eps=_EPS)

    @property
    def modulation(self) -> ProjectedModulation:
        """Of each layer."""
        return ProjectedModulation(d_model=self.width, d_condition=self.width, parts=_PARTS)

    @property
    def final_norm(self) -> AdaptiveNorm:
        """In front of the last projection."""
        return AdaptiveNorm(
            norm=LayerNorm(dim=self.width, eps=_EPS, scale=False, bias=False),
            modulation=ProjectedModulation(d_model=self.width, d_condition=self.width, parts=NORM_PARTS),
        )

    def spec(self) -> ParamTree:
        layer: ParamTree = {
            "norm": self.norm.spec(),
            "modulation": self.modulation.spec(),
            "in": _projection(self.width, self.width),
            "out": _projection(self.width, self.width),
        }
        return {
            "in": _projection(self.width, self.channels),
            "time": self.time.spec(),
            "condition": _projection(self.width, self.d_condition),
            "layers": {str(i): layer for i in range(self.depth)},
            "final_norm": self.final_norm.spec(),
            "out": {
                "w": Param((2 * self.channels, self.width), (None, "embed"), ZEROS),
                "b": Param((2 * self.channels,), (None,), ZEROS),
            },
        }

    def __call__(
        self,
        params: Params,
        x: Float[Array, "B S C"],
        t: Num[Array, "B S"],
        z: Float[Array, "B S D"],
    ) -> Float[Array, "B S E"]:
        """What it predicts of noisy tokens at times `t`, 0 to 999, under what `z` says of their places."""
        condition = self.time(params["time"], t) + _project(params["condition"], z)
        x = _project(params["in"], x)
        for i in range(self.depth):
            layer = params["layers"][str(i)]
            made = self.modulation(layer["modulation"], condition)
            inside = modulate(self.norm(layer["norm"], x), made["shift"], made["scale"])
            inside = _project(layer["out"], activate("silu", _project(layer["in"], inside)))
            x = x + made["gate"] * inside
        return _project(params["out"], self.final_norm(params["final_norm"], x, condition))


def _projection(width: int, d_in: int) -> ParamTree:
    return {
        "w": Param((width, d_in), ("embed", None), FanIn(d_in)),
        "b": Param((width,), ("embed",), ZEROS),
    }


def _project(params: Params, x: Float[Array, "B S C"]) -> Float[Array, "B S D"]:
    return linear(x, params["w"]) + params["b"]
