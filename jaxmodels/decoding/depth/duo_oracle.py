"""Duo-LLM's oracle: by search, the feed-forwards that serve a token best within a budget."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmodels.checks import number
from jaxmodels.decoding.depth.duo import BIG, NONE, SMALL, ChosenFeedForwards, SmallFeedForwards
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import BlockByBlock


def best_feed_forwards(
    model: BlockByBlock,
    params: Params,
    small: SmallFeedForwards,
    tokens: Int[Array, "B S"],
    *,
    budget: float,
    small_cost: float,
) -> tuple[Int[np.ndarray, "B L"], Float[np.ndarray, "B"]]:
    """For the last but one token of each row, the feed-forwards with which it foretells the last one best.

    All tokens before it are read in full. From the block's own feed-forward everywhere, the one exchange for
    a smaller one that costs fewest nats is made, again and again, and of all that is within the budget on the
    way down to no feed-forward at all the best is kept. The paper looks at every pattern where there are few
    blocks; this finds patterns that may be worse, never better.

    Args:
        budget: the mean cost of a block's feed-forward, where the block's own costs 1, none 0 and the small
            one `small_cost`.

    Returns:
        (choices as `ChosenFeedForwards` takes them, nats of the last token).

    Raises:
        ValueError: a cost out of range, fewer than 3 tokens, or small feed-forwards of another model.
    """
    number("budget", budget, low=0, high=1)
    number("small_cost", small_cost, low=0, high=1)
    if tokens.shape[1] < 3:
        raise ValueError(
            f"tokens: a text, a token and its successor are needed, got {tokens.shape[1]} tokens"
        )
    rows, blocks = tokens.shape[0], len(model.blocks)
    cost_of = np.asarray([0.0, small_cost, 1.0])
    score = partial(_nats, params, small, tokens, _history(params, tokens, model=model), model=model)
    choices = np.full((rows, blocks), BIG, np.int32)
    kept, best = choices.copy(), np.full(rows, np.inf)
    while True:
        nats = np.asarray(score(jnp.asarray(choices)))
        better = (cost_of[choices].mean(1) <= budget + 1e-9) & (nats < best)
        kept[better], best[better] = choices[better], nats[better]
        if (choices == NONE).all():
            return kept, best
        choices = _exchanged(choices, score)


def _exchanged(choices: Int[np.ndarray, "B L"], score: Any) -> Int[np.ndarray, "B L"]:
    """Each row with the one smaller choice that costs fewest nats."""
    rows = np.arange(len(choices))
    tried = []
    for block in range(choices.shape[1]):
        for smaller in (NONE, SMALL):
            changed = choices.copy()
            changed[:, block] = smaller
            nats = np.asarray(score(jnp.asarray(changed)))
            tried.append(np.where(choices[:, block] > smaller, nats, np.inf))
    block, smaller = np.divmod(np.argmin(np.stack(tried), axis=0), 2)
    exchanged = choices.copy()
    changes = (choices > NONE).any(1)
    exchanged[rows[changes], block[changes]] = smaller[changes]
    return exchanged


@partial(jax.jit, static_argnames="model")
def _history(params: Params, tokens: Int[Array, "B S"], *, model: BlockByBlock) -> Any:
    batch, size = tokens.shape
    cache = model.init_cache(batch, size, model.dtype_of(params))
    _, pending = model.peek(params, tokens[:, :-2], cache)
    return model.commit(pending)


@partial(jax.jit, static_argnames="model")
def _nats(
    params: Params,
    small: SmallFeedForwards,
    tokens: Int[Array, "B S"],
    cache: Any,
    choices: Int[Array, "B L"],
    *,
    model: BlockByBlock,
) -> Float[Array, "B"]:
    policy = ChosenFeedForwards(small=small, choices=choices)
    scored, _ = model.peek(params, tokens[:, -2:-1], cache, depth=policy)
    log_p = jax.nn.log_softmax(scored.logits[:, 0])
    return -jnp.take_along_axis(log_p, tokens[:, -1:], axis=1)[:, 0]
