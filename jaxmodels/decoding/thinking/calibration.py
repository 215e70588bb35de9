"""Thresholds of exits of thinking that keep a promise: split conformal prediction, on texts set aside."""

import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import number, shown
from jaxmodels.decoding.thinking.delimiters import Delimiters, Place
from jaxmodels.decoding.thinking.policy import ThinkingPolicy, watch
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import LanguageModel


def conformal_threshold(scores: Float[np.ndarray, "N"], risk: float) -> float:
    """The threshold that the score of one more text exceeds with a probability of at most `risk`.

    It is the k-th smallest of N scores, ``k = ceil((N + 1) (1 - risk))``. The promise holds for any N if the
    texts, the new one included, are exchangeable, such as drawn independently; the probability is over all of
    them. So each text has one score alone, that of `premature_scores`: with the threshold thinking is left at
    a moment at which it must go on with a probability of at most `risk`.

    Source: LYNX (https://arxiv.org/abs/2512.05325) calibrates so, its scores being those of single moments
    with a wrong answer; where they are too few to tell its code takes the highest, which promises less.

    Raises:
        ValueError: scores that are no numbers, a value outside its range, or scores too few for the risk.
    """
    number("risk", risk, low=0.0, high=1.0, low_included=False)
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or np.isnan(values).any():
        raise ValueError(f"scores must be numbers [N], one of each text, none NaN, got {shown(scores)}")
    share = Fraction(str(float(risk)))  # the decimal that was written, so that 0.29 of 100 are 29
    exceeding = min(int(share * (len(values) + 1)), len(values))
    if not exceeding:
        needed = max(int(-(-1 // share)) - 1, 1)
        raise ValueError(f"risk={risk}: {len(values)} scores cannot show it with any threshold; {needed} can")
    return float(np.sort(values)[len(values) - exceeding])


def premature_scores(
    scores: Float[np.ndarray, "N S"], is_premature: Bool[np.ndarray, "N S"]
) -> Float[np.ndarray, "N"]:
    """The highest score of each text at a moment at which it must not be left; 0 where there is none, which
    no score is below.

    Args:
        scores: behind each token, as `trace_thinking` gives them.
        is_premature: whether thinking must go on there. For `Probe`, where the answer would be wrong that
            follows if the text is closed there; for `PathDeviation`, throughout texts whose answer is right.
    """
    return np.where(is_premature, scores, 0.0).max(1, initial=0.0)


def trace_thinking(
    config: LanguageModel,
    params: Params,
    policy: ThinkingPolicy,
    delimiters: Delimiters,
    texts: Sequence[Sequence[int]],
) -> Float[np.ndarray, "N S"]:
    """A policy's score behind each token of whole texts, as in decoding; minus infinity where it may not
    leave, and outside of thinking.

    Args:
        texts: prompts and answers in one. Of a segment that begins in a prompt decoding asks only behind the
            answer's tokens, but here all are scored.

    Raises:
        ValueError: there is no text, or the policy does not fit the model.
    """
    tokens, lengths = padded_texts("trace_thinking", texts)
    return np.asarray(_trace(config, params, policy, delimiters, tokens, lengths))


def padded_texts(caller: str, texts: Sequence[Sequence[int]]) -> tuple[Int[Array, "N S"], Int[Array, "N"]]:
    """Texts padded on the right, and their lengths. Raises ValueError where there is none."""
    if not len(texts):
        raise ValueError(f"{caller}: texts holds no text")
    lengths = np.asarray([len(text) for text in texts], np.int32)
    tokens = np.zeros((len(texts), lengths.max()), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    return jnp.asarray(tokens), jnp.asarray(lengths)


@functools.partial(jax.jit, static_argnums=0)
def _trace(
    config: LanguageModel,
    params: Params,
    policy: ThinkingPolicy,
    delimiters: Delimiters,
    tokens: Int[Array, "B S"],
    lengths: Int[Array, "B"],
) -> Float[Array, "B S"]:
    batch, size = tokens.shape
    cache = config.init_cache(batch, size, config.dtype_of(params))
    scored, _ = config.peek(params, tokens, cache, valid=lengths, taps=policy.taps)

    def step(notes: Any, seen: tuple[Array, Place, Array, dict[str, Array]]) -> tuple[Any, Array]:
        token, place, logits, streams = seen
        score, notes = watch(policy, place, token, logits, streams, notes)
        return notes, score

    _, places = delimiters.behind(tokens, lengths)
    by_token = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), (tokens, scored.logits, scored.taps))
    _, scores = lax.scan(step, policy.begin(batch), (by_token[0], places, *by_token[1:]))
    return jnp.where(jnp.arange(size) < lengths[:, None], scores.T, -jnp.inf)
