"""The exit of models whose places are all unknown until the end: nothing changes, and little is open."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import whole
from jaxmodels.decoding.masked.seen import Seen
from jaxmodels.decoding.masked.unmask.ranking import entropy
from jaxmodels.decoding.samplers import check_number
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class StableAndConfident:
    """A `Stop`: a block is finished when its most probable tokens are those of the steps before, and the mean
    entropy of its places is below a threshold.

    Source: `StableAndConfidentStoppingCriteria` of transformers (DiffusionGemma), whose defaults these are.

    Attributes:
        steps: how many steps before must have preferred the same tokens: a shape. 0: none.
        entropy: nats, above 0.

    Raises:
        ValueError: a value outside its range.
    """

    steps: int = 1
    entropy: float = 0.005

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole("steps", self.steps))
        check_number("entropy", self.entropy, low=0.0, low_included=False)

    def begin(self, batch: int, length: int, vocab: int) -> Int[Array, "B K+1 L"]:
        """The most probable tokens of the last `steps` steps and of this one, latest first; -1 before there
        were any."""
        return jnp.full((batch, self.steps + 1, length), -1, jnp.int32)

    def fuse(self, seen: Seen) -> tuple[Float[Array, "B L V"], Int[Array, "B K+1 L"]]:
        likeliest = jnp.argmax(seen.logits, axis=-1).astype(jnp.int32)
        return seen.logits, jnp.concatenate([likeliest[:, None], seen.memory[:, :-1]], axis=1)

    def __call__(self, seen: Seen, tokens: Int[Array, "B L"]) -> Bool[Array, "B"]:
        same = (seen.memory == seen.memory[:, :1]) | ~seen.masked[:, None]
        places = jnp.maximum(seen.masked.sum(1), 1)
        mean = jnp.where(seen.masked, entropy(seen.logits), 0.0).sum(1) / places
        return seen.masked.any(1) & same.all((1, 2)) & (mean < self.entropy)


register_dataclass(StableAndConfident, ["entropy"], ["steps"])
