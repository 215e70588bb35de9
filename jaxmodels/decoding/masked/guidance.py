"""Guidance: logits pushed away from those of a canvas that lacks the prompt."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decoding.samplers import check_number
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class ClassifierFree:
    """``u + (weight + 1) * (c - u)``, where c are the logits and u those of a canvas in which every token of
    the prompt is the mask token.

    Source: Nie et al. 2025 (LLaDA), ``cfg_scale``.

    Attributes:
        weight: 0 gives the logits as they are.

    Raises:
        ValueError: a weight below 0; when run, a model without a mask token.
    """

    weight: float

    def __post_init__(self) -> None:
        check_number("weight", self.weight, low=0.0)

    def unconditional(
        self, tokens: Int[Array, "B N"], is_prompt: Bool[Array, "B N"], mask_token: int | None
    ) -> Int[Array, "B N"]:
        """The tokens of the other canvas."""
        if mask_token is None:
            raise ValueError(
                f"guidance={self}: the model has no mask token that could stand in the place of the prompt"
            )
        return jnp.where(is_prompt, mask_token, tokens)

    def combine(
        self, conditional: Float[Array, "*N V"], unconditional: Float[Array, "*N V"]
    ) -> Float[Array, "*N V"]:
        """The guided logits."""
        return unconditional + (self.weight + 1) * (conditional - unconditional)


register_dataclass(ClassifierFree, ["weight"], [])
