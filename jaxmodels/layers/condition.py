"""Adaptive layers: what a condition, one vector per row or per token, makes of a normalised stream.

A condition is [B, cond] where it holds for whole rows, such as the time of a denoising step, or [B, S, cond]
where every token has its own. `per_token` is the one place where the two become alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from jaxtyping import Array, Float

from jaxmodels.layers.linear import linear
from jaxmodels.layers.mlp import activate, check_activation
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.spec import ZEROS, FanIn, Param, Params, ParamTree, matrix

# A condition of each row, or of each token.
Condition: TypeAlias = Float[Array, "B cond"] | Float[Array, "B S cond"]
# What a condition makes, by name: [B, 1, D] for whole rows, [B, S, D] for tokens.
Modulations: TypeAlias = Mapping[str, Float[Array, "B _ D"]]

# The six of a block with adaptive norms in front of, and gates behind, its mixer and its feed-forward, in the
# order of DiT's code (https://arxiv.org/abs/2212.09748); and those of a norm alone, in the order of its last
# layer. `diffusers` stores the last layers of SD3 and Flux the other way round.
BLOCK_PARTS = ("mixer_shift", "mixer_scale", "mixer_gate", "ffn_shift", "ffn_scale", "ffn_gate")
NORM_PARTS = ("shift", "scale")


def per_token(condition: Condition) -> Float[Array, "B _ cond"]:
    """The condition with an axis of tokens: of length 1, which broadcasts, where it holds for whole rows."""
    return condition[:, None] if condition.ndim == 2 else condition


def modulate(
    x: Float[Array, "B S D"], shift: Float[Array, "B _ D"], scale: Float[Array, "B _ D"]
) -> Float[Array, "B S D"]:
    """``x * (1 + scale) + shift``."""
    return x * (1 + scale) + shift


class Modulation(Protocol):
    """Makes modulations of a condition. Implementations are hashable frozen dataclasses."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the modulations it makes."""

    @property
    def d_condition(self) -> int:
        """Width of the condition that it reads."""

    def spec(self) -> ParamTree: ...

    def flops(self) -> int:
        """FLOPs for one condition."""

    def __call__(self, params: Params, condition: Condition) -> Modulations: ...


@dataclass(frozen=True, kw_only=True)
class ProjectedModulation:
    """``activation(c) @ w + b``, one stretch of outputs per part: adaLN of https://arxiv.org/abs/2212.09748.

    All start at 0, so that a block whose parts include its gates starts as the identity (adaLN-Zero).

    Attributes:
        d_model: width of each modulation.
        d_condition: width of the condition.
        parts: what is made, in the order in which checkpoints store it.
        activation: applied to the condition first; None for nothing, as in DDT.
        bias: whether `b` is added.

    Raises:
        ValueError: a part is named twice, or there is none, or `activation` is not in `ACTIVATIONS`.
    """

    d_model: int
    d_condition: int
    parts: tuple[str, ...] = BLOCK_PARTS
    activation: str | None = "silu"
    bias: bool = True

    def __post_init__(self) -> None:
        _check_parts(self.parts)
        if self.activation is not None:
            check_activation(self.activation)

    def spec(self) -> ParamTree:
        count = len(self.parts)
        shape = (count, self.d_model, self.d_condition)
        tree: ParamTree = {"w": Param(shape, (None, "embed", None), ZEROS, contracted=(-1,))}
        if self.bias:
            tree["b"] = Param((count, self.d_model), (None, "embed"), ZEROS)
        return tree

    def flops(self) -> int:
        """FLOPs for one condition."""
        return 2 * len(self.parts) * self.d_model * self.d_condition

    def __call__(self, params: Params, condition: Condition) -> Modulations:
        made = self.project(params, per_token(condition))
        return {part: made[..., i, :] for i, part in enumerate(self.parts)}

    def project(self, params: Params, condition: Float[Array, "*T cond"]) -> Float[Array, "*T P D"]:
        """The parts of each condition, one after the other."""
        if self.activation is not None:
            condition = activate(self.activation, condition)
        made = linear(condition, params["w"])
        return made + params["b"] if self.bias else made


@dataclass(frozen=True, kw_only=True)
class TableModulation:
    """``table + c``: adaLN-single of https://arxiv.org/abs/2310.00426, whose projection all blocks share.

    Attributes:
        d_model: width of each modulation.
        d_condition: width of the condition: ``len(parts) * d_model`` where the projection has made one
            stretch for each part, or `d_model` where all parts are given the same.
        parts: what is made, in the order in which checkpoints store it.

    Raises:
        ValueError: a part is named twice, or there is none, or `d_condition` is neither width.
    """

    d_model: int
    d_condition: int
    parts: tuple[str, ...] = BLOCK_PARTS

    def __post_init__(self) -> None:
        _check_parts(self.parts)
        widths = (self.d_model, len(self.parts) * self.d_model)
        if self.d_condition not in widths:
            raise ValueError(
                f"TableModulation: d_condition must be d_model={widths[0]}, the same for all parts, or "
                f"{widths[1]}, one stretch for each of {len(self.parts)} parts; got {self.d_condition}"
            )

    def spec(self) -> ParamTree:
        return {"table": Param((len(self.parts), self.d_model), (None, "embed"), FanIn(self.d_model))}

    def flops(self) -> int:
        """FLOPs for one condition: additions alone, which are not counted."""
        return 0

    def __call__(self, params: Params, condition: Condition) -> Modulations:
        c = per_token(condition)
        made = params["table"] + c.reshape(*c.shape[:-1], -1, self.d_model)
        return {part: made[..., i, :] for i, part in enumerate(self.parts)}


@dataclass(frozen=True, kw_only=True)
class AdaptiveNorm:
    """``modulate(norm(x), shift, scale)``: the norm in front of a denoiser's last projection, for example.

    Raises:
        ValueError: `modulation` makes anything but a shift and a scale, or a scale alone.
    """

    norm: Norm
    modulation: Modulation

    def __post_init__(self) -> None:
        if set(self.modulation.parts) not in (set(NORM_PARTS), {"scale"}):
            raise ValueError(
                f"AdaptiveNorm: modulation must make {NORM_PARTS}, or a scale alone, got "
                f"{self.modulation.parts}"
            )

    def spec(self) -> ParamTree:
        return {"norm": self.norm.spec(), "modulation": self.modulation.spec()}

    def __call__(
        self, params: Params, x: Float[Array, "B S D"], condition: Condition
    ) -> Float[Array, "B S D"]:
        made = self.modulation(params["modulation"], condition)
        normed = self.norm(params["norm"], x)
        if "shift" not in made:
            return normed * (1 + made["scale"])
        return modulate(normed, made["shift"], made["scale"])


def _check_parts(parts: tuple[str, ...]) -> None:
    if not parts or len(set(parts)) != len(parts):
        raise ValueError(f"parts must have different names, and be at least one, got {parts}")


def embed_mlp_spec(d_model: int, d_in: int, *, hidden: int | None = None, bias: bool = True) -> ParamTree:
    """The parameters of `embed_mlp`, with biases or without. hidden: the width between its projections, by
    default `d_model`."""
    inside = d_model if hidden is None else hidden
    weights: ParamTree = {
        "w_in": matrix((inside, d_in), ("embed", None)),
        "w_out": matrix((d_model, inside), (None, "embed")),
    }
    biases: ParamTree = {
        "b_in": Param((inside,), ("embed",), ZEROS),
        "b_out": Param((d_model,), (None,), ZEROS),
    }
    return weights | biases if bias else weights


def embed_mlp(params: Params, x: Float[Array, "... C"], activation: str = "silu") -> Float[Array, "... D"]:
    """``out(activation(in(x)))``: how times, sizes and texts become a condition of the model's width."""

    def project(name: str, x: Array) -> Array:
        y = linear(x, params[f"w_{name}"])
        return y + params[f"b_{name}"] if f"b_{name}" in params else y

    return project("out", activate(activation, project("in", x)))
