"""A confidence that asks how much a block still changes the stream."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.decoding.depth.confidence.confidence import Passed
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class Similarity:
    """The cosine between the streams before and behind the block (CALM's hidden-state saturation). Needs no
    head."""

    def __call__(self, passed: Passed) -> Float[Array, "B S"]:
        before, after = (stream.hidden.astype(jnp.float32) for stream in (passed.before, passed.after))
        lengths = jnp.linalg.norm(before, axis=-1) * jnp.linalg.norm(after, axis=-1)
        return (before * after).sum(-1) / jnp.maximum(lengths, jnp.finfo(jnp.float32).tiny)


register_dataclass(Similarity, [], [])
