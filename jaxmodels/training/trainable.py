"""What training asks of a model."""

from typing import Protocol

from jaxtyping import Array, Float, Int

from jaxmodels.layers.spec import Params, ParamTree


class Trainable(Protocol):
    """A causal language model: position s of the logits sees tokens 0..s. `models.decoder.Decoder` is one."""

    def spec(self) -> ParamTree:
        """The parameters."""
        ...

    def forward(self, params: Params, tokens: Int[Array, "B S"]) -> Float[Array, "B S V"]:
        """Logits of the token that follows each position; differentiable in `params`."""
        ...
