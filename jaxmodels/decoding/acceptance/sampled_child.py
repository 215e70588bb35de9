"""The model's own sample is followed through the draft for as long as the draft holds it."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.decoding.trees import Tree, chain_tree
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class SampledChild:
    """Samples from the model behind each token, and goes on while a drafted token is what was sampled.

    It is exact however tokens were drafted, since the draft's distributions are not asked: in chains and in
    every tree. It accepts less than rules that ask for them where tokens were drafted by chance; where the
    siblings are the draft's most probable tokens, as heads on a model's features propose them, there is
    nothing to ask for. Source: naive speculative sampling (NSS) in Delayed Tree Expansion
    (https://arxiv.org/abs/2602.16994); EAGLE's sampled verification is the same.
    """

    def outcomes(
        self,
        target: Float[Array, "B G+1 V"],
        draft: Float[Array, "B G V"],
        drafted: Int[Array, "B G"],
        tree: Tree | None = None,
    ) -> Float[Array, "B G+1 V"]:
        tree = chain_tree(drafted) if tree is None else tree
        is_there = jnp.take_along_axis(draft, drafted[:, :, None], axis=2)[:, :, 0] > 0
        # Of siblings that are the same token the first one is followed.
        same = (drafted[:, :, None] == drafted[:, None, :]) & (
            tree.parents[:, :, None] == tree.parents[:, None, :]
        )
        earlier = jnp.tril(jnp.ones(same.shape[1:], bool), -1)
        is_followed = is_there & ~(same & earlier & is_there[:, None, :]).any(-1)
        rows = jnp.arange(drafted.shape[0])[:, None]
        sampled = jnp.where(is_followed, target[rows, tree.parents, drafted], 0.0)
        taken = jnp.pad(sampled, ((0, 0), (1, 0)), constant_values=1.0)
        reached = jnp.where(tree.ancestors(), taken[:, None, :], 1.0).prod(-1)
        vocabulary = target.shape[-1]
        left = target.at[rows, tree.parents, jnp.where(is_there, drafted, vocabulary)].set(0.0, mode="drop")
        return reached[:, :, None] * left


register_dataclass(SampledChild, [], [])
