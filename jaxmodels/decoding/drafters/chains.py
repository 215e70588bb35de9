"""A chain that is drafted token by token, whichever drafter chooses the tokens."""

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.decoding.drafters.drafter import Proposal, Round
from jaxmodels.decoding.samplers import Greedy


@struct.dataclass
class Chosen:
    """One drafted token of each row.

    Attributes:
        token: i32[B].
        probability: f32[B], what the drafter gives it.
        distribution: f32[B, V], what it was drawn from; None where it is certain.
    """

    token: jax.Array
    probability: jax.Array
    distribution: jax.Array | None


@struct.dataclass
class Chain:
    """What has been drafted so far.

    Attributes:
        tokens: i32[B, G].
        count: i32[B], how many of them are there.
        goes_on: bool[B], whether a row drafts another one.
        probabilities: f32[B, G], how sure the drafter was of each.
        distributions: f32[B, G, V], what tokens were drawn from; None where they are certain.
    """

    tokens: jax.Array
    count: jax.Array
    goes_on: jax.Array
    probabilities: jax.Array
    distributions: jax.Array | None


def empty_chain(around: Round, size: int) -> Chain:
    """A chain with room for `size` tokens of the model's vocabulary."""
    batch, distributions = around.token.shape[0], None
    if not isinstance(around.sampler, Greedy):
        distributions = jnp.zeros((batch, size, around.config.vocab_size), jnp.float32)
    return Chain(
        tokens=jnp.zeros((batch, size), jnp.int32),
        count=jnp.zeros((batch,), jnp.int32),
        goes_on=~around.output.done & (around.limit > 0),
        probabilities=jnp.zeros((batch, size), jnp.float32),
        distributions=distributions,
    )


def with_token(
    around: Round,
    chain: Chain,
    index: Int[Array, ""] | int,
    chosen: Chosen,
    sure: Float[Array, "B"] | None = None,
) -> Chain:
    """The chain with token number `index`. A row ends where `Round.limit` and `Round.stop` say so.

    sure: how sure the drafter is of the token, where that is something else than its probability.
    """

    def put(whole: Array, level: Array) -> Array:
        return lax.dynamic_update_slice_in_dim(whole, level[:, None].astype(whole.dtype), index, axis=1)

    sure = chosen.probability if sure is None else sure
    distributions = chain.distributions
    if distributions is not None and chosen.distribution is not None:
        distributions = put(distributions, chosen.distribution)
    count = chain.count + chain.goes_on
    return Chain(
        tokens=put(chain.tokens, chosen.token),
        count=count,
        goes_on=chain.goes_on & ~around.stop(index, sure) & (count < around.limit),
        probabilities=put(chain.probabilities, sure),
        distributions=distributions,
    )


def proposal_of(chain: Chain) -> Proposal:
    """What is proposed: probabilities stand where there are no distributions."""
    return Proposal(
        tokens=chain.tokens,
        count=chain.count,
        distributions=chain.distributions,
        probabilities=chain.probabilities if chain.distributions is None else None,
    )
