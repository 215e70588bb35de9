"""SpecDec++'s head on a draft model: how probable it is that the target accepts the token that it has read.

    x = x + silu(W x + b), several times with the same W and b;  logits = V x + c

x is the draft's hidden state behind its final norm, at a token that it has drafted. The first of the two
logits is for a rejection, the second for an acceptance. Source: https://arxiv.org/abs/2405.19715 and its
published code, in which the residual layers are one layer by inheritance of a Python list.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import whole
from jaxmodels.layers.linear import linear
from jaxmodels.layers.spec import ZEROS, FanIn, Param, Params, ParamTree
from jaxmodels.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class AcceptanceHead:
    """The head. Static and hashable; its parameters are `spec`.

    Attributes:
        d_model: width of the draft's hidden state.
        layers: how often the residual layer is gone through.

    Raises:
        ValueError: a width below 1, or layers below 0.
    """

    d_model: int
    layers: int = 3

    # What a `Table` of weights asks for.
    blocks = ()

    def __post_init__(self) -> None:
        whole("AcceptanceHead: d_model", self.d_model, low=1)
        whole("AcceptanceHead: layers", self.layers)

    @property
    def taps(self) -> tuple[str, ...]:
        """It reads nothing of the target."""
        return ()

    def spec(self) -> ParamTree:
        width = self.d_model
        output: ParamTree = {
            "weight": Param((2, width), (None, "embed"), FanIn(width)),
            "bias": Param((2,), (None,), ZEROS),
        }
        if not self.layers:
            return {"output": output}
        layer: ParamTree = {
            "weight": Param((width, width), ("mlp", "embed"), FanIn(width)),
            "bias": Param((width,), ("mlp",), ZEROS),
        }
        return {"layer": layer, "output": output}

    def check_target(self, target: LanguageModel) -> None:
        """Any target will do, since the head is given the draft's hidden states alone."""

    def check_draft(self, width: int) -> None:
        """Raises ValueError unless the draft's hidden states have this width."""
        if width != self.d_model:
            raise ValueError(
                f"acceptance head: it reads hidden states of width {self.d_model}, and those of the draft "
                f"have {width}"
            )

    def __call__(self, params: Params, hidden: Float[Array, "... D"]) -> Float[Array, "... 2"]:
        """The float32 logits of rejection and acceptance."""
        x = hidden.astype(params["output"]["weight"].dtype)
        for _ in range(self.layers):
            x = x + jax.nn.silu(linear(x, params["layer"]["weight"]) + params["layer"]["bias"])
        return linear(x, params["output"]["weight"], jnp.float32) + params["output"]["bias"]
