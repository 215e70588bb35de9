"""Convolutions inside a block of drafted tokens, whose kernels depend on the tokens (DFlash2)."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import whole
from jaxmodels.layers.linear import linear
from jaxmodels.layers.spec import ZEROS, Constant, Param, Params, ParamTree


@dataclass(frozen=True, kw_only=True)
class BlockConv:
    """Two causal convolutions, in front of a layer and behind it, with kernels that follow from its input.

    ``y_t[c] = sum_o (base[o, c] + dynamic_t[o, c // group]) * x_{t-o}[c]`` with offsets o below `width`; what
    lies in front of the block is 0. One linear map of the input gives the dynamic part of both kernels. At
    first both leave everything as it is. Source: DFlash2 of the dflash package (0.1.0).

    Attributes:
        d_model: channels.
        width: taps, the token's own included.
        group: channels that share a dynamic kernel.

    Raises:
        ValueError: a size below 1, or `group` does not divide `d_model`.
    """

    d_model: int
    width: int = 2
    group: int = 16

    def __post_init__(self) -> None:
        for name in ("d_model", "width", "group"):
            whole(f"BlockConv: {name}", getattr(self, name), low=1)
        if self.d_model % self.group:
            raise ValueError(f"BlockConv: group={self.group} must divide d_model={self.d_model}")

    def spec(self) -> ParamTree:
        outputs = 2 * self.width * (self.d_model // self.group)
        return {
            "base": Param((2, self.width, self.d_model), (None, None, "embed"), FIRST_TAP),
            "w_dynamic": Param((outputs, self.d_model), (None, "embed"), ZEROS),
        }

    def before(
        self, params: Params, x: Float[Array, "B S D"]
    ) -> tuple[Float[Array, "B S D"], Float[Array, "B S W G"]]:
        """What the layer reads, and the dynamic kernel for `after`."""
        kernels = linear(x, params["w_dynamic"]).reshape(*x.shape[:-1], 2, self.width, -1)
        return self._convolved(params["base"][0], kernels[..., 0, :, :], x), kernels[..., 1, :, :]

    def after(
        self, params: Params, y: Float[Array, "B S D"], kernel: Float[Array, "B S W G"]
    ) -> Float[Array, "B S D"]:
        """What the layer gave, convolved."""
        return self._convolved(params["base"][1], kernel, y)

    def _convolved(
        self, base: Float[Array, "W D"], dynamic: Float[Array, "B S W G"], x: Float[Array, "B S D"]
    ) -> Float[Array, "B S D"]:
        kernel = base + jnp.repeat(dynamic, self.group, axis=-1)
        size = x.shape[1]
        shifted = [jnp.pad(x, ((0, 0), (offset, 0), (0, 0)))[:, :size] for offset in range(self.width)]
        return sum((kernel[:, :, o] * shifted[o] for o in range(1, self.width)), kernel[:, :, 0] * shifted[0])


@dataclass(frozen=True)
class _FirstTap:
    """Kernels that pass on the token itself."""

    def __call__(self, key, shape, dtype):  # type: ignore[no-untyped-def]
        return Constant(0.0)(key, shape, dtype).at[:, 0].set(1.0)


FIRST_TAP = _FirstTap()
