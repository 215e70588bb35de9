"""What a sampler proposes for every place of a block."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.decoding.samplers import Greedy, Sampler


def propose(
    sampler: Sampler, logits: Float[Array, "B L V"], keys: Array
) -> tuple[Int[Array, "B L"], Float[Array, "B L"], Float[Array, "B L V"]]:
    """A token for every place, its probability under the logits' softmax, and what it was chosen from.

    The last is that softmax too where the sampler is greedy.
    """
    batch, size, vocab = logits.shape
    each = jax.vmap(lambda key: jax.random.split(key, size))(keys).reshape(-1)
    proposed = sampler(logits.reshape(-1, vocab), each).reshape(batch, size)
    softmax = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    probability = jnp.take_along_axis(softmax, proposed[:, :, None], axis=2)[:, :, 0]
    distribution = softmax if isinstance(sampler, Greedy) else sampler.probabilities(logits)
    return proposed, probability, distribution
