"""What each block of a model contributes to a text, and which blocks could be skipped.

Source: Csordas et al. 2025 (Do Language Models Use Their Depth Efficiently?, https://arxiv.org/abs/2505.13898),
which shows norms, cosines and the effect of skipping one block. The proposal of several blocks is ours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from jaxmodels.checks import number
from jaxmodels.decoding.depth import Plan, RowPlans, speed_up_of
from jaxmodels.decoding.depth.layer_skipping import most_speed_up
from jaxmodels.layers.spec import Params
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.depth_forward import forward_by_depth


@struct.dataclass
class Effect:
    """What skipping blocks does to the predictions of a text, means over its tokens.

    Attributes:
        agreement: share of tokens behind which the same next token stays the most probable.
        divergence: from the distribution of the next token with all blocks to that without, KL in nats.
        nats: by how much the cross-entropy of the text rises; below 0 where it falls.
    """

    agreement: Any
    divergence: Any
    nats: Any


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What one block adds to the stream.

    Attributes:
        norm_ratio: the norm of what it adds over that of the stream in front of it, mean over the tokens.
        cosine: between the two. Below 0 it takes away from what is there.
        skipped: the effect of leaving it out.
    """

    norm_ratio: float
    cosine: float
    skipped: Effect


def contributions(model: Decoder, params: Params, tokens: Int[np.ndarray, "B S"]) -> tuple[Contribution, ...]:
    """Of each block, on texts.

    Raises:
        ValueError: texts of fewer than two tokens.
    """
    _check_texts(tokens)
    ratios, cosines = (np.asarray(found) for found in _updates(params, jnp.asarray(tokens), model=model))
    effects = [_effect_of(model, params, tokens, {i}) for i in range(len(model.blocks))]
    return tuple(
        Contribution(norm_ratio=float(ratio), cosine=float(cosine), skipped=effect)
        for ratio, cosine, effect in zip(ratios, cosines, effects, strict=True)
    )


def blocks_to_skip(
    model: Decoder, params: Params, tokens: Int[np.ndarray, "B S"], speed_up: float
) -> tuple[Plan, Effect]:
    """A `Plan` that promises a speed-up at a small effect on texts, and that effect.

    Block after block is left out, each time the one without which the distributions of the next token diverge
    least from those of all blocks. The first and the last block stay, as in `layers_for_speed_up`.

    Args:
        speed_up: of a step, at least 1, by `speed_up_of`.

    Raises:
        ValueError: texts of fewer than two tokens, or a speed-up that is out of reach; the message names the
            most.
    """
    _check_texts(tokens)
    number("speed_up", speed_up, low=1.0)
    most = most_speed_up(model)
    if speed_up > most:
        raise ValueError(
            f"speed_up={speed_up:g} is more than this model of {len(model.blocks)} blocks can give: with the "
            f"first and the last block alone it is {most:.2f}"
        )
    *_, (plan, effect) = _shrinking(model, params, tokens, speed_up)
    return plan, effect


def _shrinking(
    model: Decoder, params: Params, tokens: Int[np.ndarray, "B S"], speed_up: float
) -> Iterator[tuple[Plan, Effect]]:
    """Plans of ever fewer blocks, up to the first that is as fast as is wanted."""
    skipped: frozenset[int] = frozenset()
    yield _plan(model, skipped), _effect_of(model, params, tokens, skipped)
    while speed_up_of(model, _plan(model, skipped)) < speed_up:
        tried = {
            skipped | {i}: _effect_of(model, params, tokens, skipped | {i})
            for i in range(1, len(model.blocks) - 1)
            if i not in skipped
        }
        skipped = min(tried, key=lambda some: tried[some].divergence)
        yield _plan(model, skipped), tried[skipped]


def _plan(model: Decoder, skipped: frozenset[int] | set[int]) -> Plan:
    return Plan(tuple(int(i not in skipped) for i in range(len(model.blocks))))


def _effect_of(
    model: Decoder, params: Params, tokens: Int[np.ndarray, "B S"], skipped: frozenset[int] | set[int]
) -> Effect:
    passes = jnp.asarray(_plan(model, skipped).passes, jnp.int32)
    found = jax.device_get(_effect(params, passes, jnp.asarray(tokens), model=model))
    return jax.tree.map(float, found)


@partial(jax.jit, static_argnames="model")
def _updates(
    params: Params, tokens: Int[Array, "B S"], *, model: Decoder
) -> tuple[Float[Array, "L"], Float[Array, "L"]]:
    """Norm ratios and cosines."""
    names = ["embeddings", *(f"blocks/{i}" for i in range(len(model.blocks)))]
    scored = model.forward_scored(params, tokens, taps=names)
    streams = jnp.stack([scored.taps[name].astype(jnp.float32) for name in names])
    before, added = streams[:-1], streams[1:] - streams[:-1]
    norms = [jnp.maximum(jnp.linalg.norm(some, axis=-1), 1e-12) for some in (before, added)]
    cosine = (before * added).sum(-1) / (norms[0] * norms[1])
    return (norms[1] / norms[0]).mean((1, 2)), cosine.mean((1, 2))


@partial(jax.jit, static_argnames="model")
def _effect(params: Params, passes: Int[Array, "L"], tokens: Int[Array, "B S"], *, model: Decoder) -> Effect:
    """The plan is data: one compilation serves all of them."""
    full = jax.nn.log_softmax(model.forward(params, tokens))
    without, _ = forward_by_depth(model, params, tokens, RowPlans(passes, most=1))
    without = jax.nn.log_softmax(without)
    following = tokens[:, 1:, None]

    def nats(log_p: Array) -> Array:
        return -jnp.take_along_axis(log_p[:, :-1], following, axis=-1).mean()

    return Effect(
        agreement=(full.argmax(-1) == without.argmax(-1)).mean(),
        divergence=(jnp.exp(full) * (full - without)).sum(-1).mean(),
        nats=nats(without) - nats(full),
    )


def _check_texts(tokens: Int[np.ndarray, "B S"]) -> None:
    if tokens.shape[1] < 2:
        raise ValueError(f"a text of {tokens.shape[1]} token has no next token to predict; give a longer one")
