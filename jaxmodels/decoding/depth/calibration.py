"""Thresholds of exits, found on text: those that meet a budget of blocks, or an agreement with the model.

The text is read in full, and behind each exit it is noted how sure the model would be there and what it would
say. In decoding the histories of left blocks hold what the exits propagate, so that a budget or an agreement
is met nearly, not exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import number, shown
from jaxmodels.decoding.depth.confidence import Following, Recalling
from jaxmodels.decoding.depth.thresholds import PerBlock
from jaxmodels.decoding.depth.until_confident import UntilConfident
from jaxmodels.layers.spec import Params, filled
from jaxmodels.models.depth import kept_by
from jaxmodels.models.language_model import BlockByBlock


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """What would be said behind each exit of a text that is read in full.

    Attributes:
        exits: the blocks behind which tokens may leave.
        blocks: of the model.
        confidence: f32[N, E], of N tokens behind each exit.
        agrees: bool[N, E], whether the exit's best next token is that behind the last block.
    """

    exits: tuple[int, ...]
    blocks: int
    confidence: Float[np.ndarray, "N E"]
    agrees: Bool[np.ndarray, "N E"]

    def depths(self, thresholds: Float[np.ndarray, "E"]) -> Int[np.ndarray, "N"]:
        """The blocks that each token is read in, with a threshold behind each exit."""
        return np.asarray([*(i + 1 for i in self.exits), self.blocks])[self._left(thresholds)]

    def agreement(self, thresholds: Float[np.ndarray, "E"]) -> float:
        """The share of tokens whose exit says what the last block would."""
        agrees = np.pad(self.agrees, ((0, 0), (0, 1)), constant_values=True)
        return float(np.take_along_axis(agrees, self._left(thresholds)[:, None], axis=1).mean())

    def _left(self, thresholds: Float[np.ndarray, "E"]) -> Int[np.ndarray, "N"]:
        """Which exit each token takes; the number of exits where it takes none."""
        leaves = np.pad(self.confidence >= thresholds, ((0, 0), (0, 1)), constant_values=True)
        return leaves.argmax(1)


def trace_exits(
    config: BlockByBlock, params: Params, windows: Sequence[Int[np.ndarray, "B S"]], policy: UntilConfident
) -> Trace:
    """Reads batches of text in full, and asks the policy's confidence at each of its exits.

    Raises:
        ValueError: there is no text, or the policy does not fit the model.
    """
    if not len(windows):
        raise ValueError("trace_exits: windows holds no batch of text")
    exits = policy.exits(len(config.blocks))
    found = [_asked(config, policy, params, jnp.asarray(batch)) for batch in windows]
    confidence, said = (
        np.concatenate([np.asarray(one[i]).reshape(-1, np.shape(one[i])[-1]) for one in found])
        for i in (0, 1)
    )
    return Trace(
        exits=exits,
        blocks=len(config.blocks),
        confidence=confidence,
        agrees=said[:, :-1] == said[:, -1:],
    )


@struct.dataclass
class Readings:
    """A text that is read in full, as it is at E exits.

    Attributes:
        tokens: i32[B, S], the text.
        before, after: [B, S, E, D], the stream on either side of the block of each exit.
        said: i32[B, S, E + 1], the best next token behind each exit and behind the last block.
    """

    tokens: Any
    before: Any
    after: Any
    said: Any


def read_in_full(
    config: BlockByBlock, exits: tuple[int, ...], params: Params, tokens: Int[Array, "B S"]
) -> Readings:
    """Whole sequences in all blocks, noted at the blocks `exits`."""
    stream, window = config.begin_forward(params, tokens)
    head = config.begin_walk(params, window, None).head
    before, after, said = [], [], []
    for i, block in enumerate(config.blocks):
        entering, stream = stream, block.forward(config.block_params(params, i), stream, window)
        if i in exits:
            before.append(entering.hidden)
            after.append(stream.hidden)
            said.append(jnp.argmax(head(stream), axis=-1))
    said.append(jnp.argmax(head(stream), axis=-1))
    return Readings(
        tokens=tokens,
        before=jnp.stack(before, axis=2),
        after=jnp.stack(after, axis=2),
        said=jnp.stack(said, axis=-1),
    )


def confidence_at(
    config: BlockByBlock, policy: UntilConfident, params: Params, readings: Readings
) -> Float[Array, "B S E"]:
    """The policy's confidence at each exit of texts of which no token leaves. Differentiable in the
    confidence's parameters.

    Args:
        readings: at the exits of `policy`.

    Raises ValueError where the policy does not fit the model.
    """
    stream, window = config.begin_forward(params, readings.tokens)
    memory = filled(kept_by(policy, len(readings.tokens), config.d_model), config.dtype_of(params))
    walk = policy.begin(config.begin_walk(params, window, memory))
    confidence: Any = policy.confidence
    found, sure = walk.notes.found, []
    for k, i in enumerate(policy.exits(len(config.blocks))):
        before, after = (
            replace(stream, hidden=hidden[:, :, k]) for hidden in (readings.before, readings.after)
        )
        passed = policy.passed(i, before, after, walk)
        if isinstance(confidence, Recalling):
            one, walk = confidence.recall(passed, walk)
        elif isinstance(confidence, Following):
            one, found = confidence.follow(passed, found)
        else:
            one = confidence(passed)
        sure.append(one)
    return jnp.stack(sure, axis=-1)


@partial(jax.jit, static_argnums=0)
def _asked(
    config: BlockByBlock, policy: UntilConfident, params: Params, tokens: Int[Array, "B S"]
) -> tuple[Float[Array, "B S E"], Int[Array, "B S F"]]:
    """The confidence at each exit, and the best next token there and behind the last block."""
    readings = read_in_full(config, policy.exits(len(config.blocks)), params, tokens)
    return confidence_at(config, policy, params, readings), readings.said


def thresholds_for_budget(trace: Trace, budget: float) -> PerBlock:
    """Thresholds with which a token is read in as many blocks as a budget allows, and no more, in the mean.

    Of the tokens that come to an exit such a share leaves that the shares of all tokens at exit k are as
    ``r ** k``; one r, found by bisection, meets the budget. Source: DeeR-VLA
    (https://arxiv.org/abs/2411.02359), which solves for thresholds so on a dataset, of the exits' own cost;
    here all blocks cost the same.

    Args:
        trace: of text like that to be decoded.
        budget: blocks per token.

    Raises:
        ValueError: no thresholds meet the budget; the message names the nearest that is met.
    """
    number("budget", budget)
    least = trace.exits[0] + 1
    if budget < least:
        raise ValueError(
            f"budget={budget} blocks per token: no thresholds meet it, since all tokens are read in {least}, "
            f"as far as the first exit, of the model's {trace.blocks}; the nearest that is met is {least}"
        )
    low, high = -30.0, 30.0  # of log r: nearly all at the first exit, nearly all behind the last block
    best = _with_shares(trace, low)
    for _ in range(40):
        middle = (low + high) / 2
        found = _with_shares(trace, middle)
        if trace.depths(found).mean() <= budget:
            low, best = middle, found
        else:
            high = middle
    return _per_block(trace, best)


def threshold_for_agreement(trace: Trace, agreement: float, error: float = 0.05) -> PerBlock:
    """The lowest threshold, one for all exits, with which exits say what the model would often enough.

    Thresholds are tried from the highest on, and the first is the last that may fail: the exact binomial test
    at level `error` of the hypothesis that fewer tokens than `agreement` would agree. So with tokens like
    those of the trace, drawn independently, the threshold is wrong with a probability of at most `error`.
    Source: learn then test, as CALM (https://arxiv.org/abs/2207.07061) calibrates with it.

    Raises:
        ValueError: a value outside its range, or text too short to tell; the message names what it can tell.
    """
    number("agreement", agreement, low=0.0, high=1.0)
    number("error", error, low=0.0, high=1.0, low_included=False)
    ranked = np.unique(np.quantile(trace.confidence, np.linspace(0, 1, 200)))[::-1]
    chosen = None
    for threshold in ranked:
        thresholds = np.full(len(trace.exits), threshold)
        count = len(trace.confidence)
        wrong = round((1 - trace.agreement(thresholds)) * count)
        if _binomial_tail(wrong, count, 1 - agreement) > error:
            break
        chosen = thresholds
    if chosen is None:
        raise ValueError(
            f"agreement={agreement}: {len(trace.confidence)} tokens cannot show it at error={shown(error)} "
            f"with any threshold; the highest, {ranked[0]:.4g}, agrees in "
            f"{trace.agreement(np.full(len(trace.exits), ranked[0])):.4f}"
        )
    return _per_block(trace, chosen)


def _binomial_tail(wrong: int, count: int, rate: float) -> float:
    """The probability of at most so many wrong of `count`, if each is with probability `rate`."""
    if wrong >= count:
        return 1.0
    return float(jax.scipy.special.betainc(float(count - wrong), wrong + 1.0, 1.0 - rate))


def _with_shares(trace: Trace, log_ratio: float) -> Float[np.ndarray, "E"]:
    """Thresholds with which the shares at the exits, and behind the last block, are as powers of a ratio."""
    powers = log_ratio * np.arange(len(trace.exits) + 1)
    shares = np.exp(powers - powers.max())
    wanted = np.round(np.cumsum(shares / shares.sum()) * len(trace.confidence)).astype(int)
    running, thresholds = np.ones(len(trace.confidence), bool), []
    for k in range(len(trace.exits)):
        sure = np.sort(trace.confidence[running, k])[::-1]
        leaving = min(wanted[k] - int((~running).sum()), sure.size)
        thresholds.append(sure[leaving - 1] if leaving > 0 else np.inf)
        running &= trace.confidence[:, k] < thresholds[-1]
    return np.asarray(thresholds)


def _per_block(trace: Trace, thresholds: Float[np.ndarray, "E"]) -> PerBlock:
    """Those of the exits, and none that is ever reached behind the other blocks."""
    values = np.full(trace.blocks, np.inf, np.float32)
    values[list(trace.exits)] = thresholds
    return PerBlock(values)
