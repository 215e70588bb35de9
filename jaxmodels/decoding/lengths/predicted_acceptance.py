"""A draft length that ends where a trained head expects a rejection among the tokens drafted so far."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced, number, whole
from jaxmodels.decoding.drafters.drafter import HIDDEN, LIMIT, STOP
from jaxmodels.layers.spec import Params, check_params
from jaxmodels.models.draft_heads.acceptance import AcceptanceHead
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True, eq=False)
class PredictedAcceptance:
    """A `DraftLength`: drafting ends once ``1 - prod P(accepted)`` exceeds `threshold`.

    The product is over the drafted tokens that the draft has read; P is what `head` makes of the draft's
    hidden state at each. The token that ends a draft has not been read: it is chosen in the same step, and
    verified, so that sampling stays exact. Source: SpecDec++ (https://arxiv.org/abs/2405.19715) and its
    published code, whose bounds are the defaults, with the threshold of its example.

    Attributes:
        head: of the draft that it was trained for.
        params: the head's. Data, as all below.
        threshold: 0 for the shortest drafts, 1 for the longest.
        least, most: tokens that are drafted at least, and at most; that of the drafter's `size`, where that
            is less.

    Raises:
        ValueError: a number outside its range, `least` exceeds `most`, or parameters that are not the head's;
            when run, a draft of another width.
    """

    head: AcceptanceHead
    params: Params = field(repr=False)
    threshold: Array | float = 0.7
    least: Array | int = 2
    most: Array | int = 20

    def __post_init__(self) -> None:
        if not is_traced(self.threshold):
            checked = number("threshold", self.threshold, low=0.0, high=1.0)
            object.__setattr__(self, "threshold", checked)
        for name in ("least", "most"):
            if not is_traced(getattr(self, name)):
                object.__setattr__(self, name, whole(name, getattr(self, name), low=1))
        if not (is_traced(self.least) or is_traced(self.most)) and self.least > self.most:
            raise ValueError(f"least={self.least} must not exceed most={self.most}")
        if not is_traced(self.params) and not any(map(is_traced, jax.tree.leaves(self.params))):
            check_params(self.head.spec(), self.params)

    @property
    def varies(self) -> bool:
        return True

    @property
    def needs(self) -> frozenset[str]:
        return LIMIT | STOP | HIDDEN

    def begin(self, batch: int) -> Int[Array, "B 0"]:
        """There is no state but the number of rows."""
        return jnp.zeros((batch, 0), jnp.int32)

    def limit(self, state: Int[Array, "B 0"], size: int) -> Int[Array, "B"]:
        return jnp.full(state.shape[:1], jnp.minimum(self.most, size), jnp.int32)

    def judge(
        self, before: Float[Array, "B"], index: Int[Array, ""], hidden: Float[Array, "B D"]
    ) -> Float[Array, "B"]:
        self.head.check_draft(hidden.shape[-1])
        accepted = jax.nn.softmax(self.head(self.params, hidden), axis=-1)[:, 1]
        # The newest token is not drafted.
        return jnp.where(index == 0, before, before * accepted)

    def stop(
        self, state: Int[Array, "B 0"], index: Int[Array, ""] | int, probability: Float[Array, "B"]
    ) -> Bool[Array, "B"]:
        """probability: what `judge` says of the tokens in front of token number `index`."""
        return (1.0 - probability > self.threshold) & (index + 1 >= self.least)

    def update(
        self, state: Int[Array, "B 0"], count: Int[Array, "B"], accepted: Int[Array, "B"]
    ) -> Int[Array, "B 0"]:
        return state


register_dataclass(PredictedAcceptance, ["params", "threshold", "least", "most"], ["head"])
