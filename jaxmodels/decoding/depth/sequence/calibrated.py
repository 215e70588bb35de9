"""Gates by the heads' own scores, with thresholds found on sequences that were set aside."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxmodels.checks import is_traced, number
from jaxmodels.decoding.depth.sequence.classifier import AtExit
from jaxmodels.decoding.depth.thresholds import check_thresholds
from jaxmodels.pytrees import register_dataclass


def _score(logits: Float[Array, "B C"]) -> Float[Array, "B"]:
    """The highest probability."""
    return jax.nn.softmax(logits, axis=-1).max(-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreExit:
    """Exit k answers where its head's highest probability reaches ``thresholds[k]``: see `budgeted_exit`.

    Attributes:
        thresholds: f32[E - 1], of all exits but the last.

    Raises:
        ValueError: not such numbers, or one below 0; when traced, for another number of exits.
    """

    thresholds: jax.Array | np.ndarray

    def __post_init__(self) -> None:
        check_thresholds("ScoreExit", self.thresholds, "E - 1")

    def begin(self, batch: int) -> tuple[()]:
        return ()

    def leave(self, seen: AtExit, notes: tuple[()]) -> tuple[Bool[Array, "B"], tuple[()]]:
        _check_exits("ScoreExit", self.thresholds, seen)
        return _score(seen.logits) >= jnp.asarray(self.thresholds)[seen.number], notes


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowExit:
    """A window cascade: exit k answers where its score lies outside of ``low[k]`` to ``high[k]``.

    For selective prediction: whether a score is above the threshold at which answers are trusted is settled
    by an early exit unless it is near; see `uncertainty_window`. Source: window-based early-exit cascades
    (https://arxiv.org/abs/2303.08010), whose members are models of an ensemble; here they are exits of one.

    Attributes:
        low, high: f32[E - 1], of all exits but the last; no low above its high.

    Raises:
        ValueError: not such numbers; when traced, for another number of exits.
    """

    low: jax.Array | np.ndarray
    high: jax.Array | np.ndarray

    def __post_init__(self) -> None:
        check_thresholds("WindowExit", self.low, "E - 1")
        check_thresholds("WindowExit", self.high, "E - 1")
        if is_traced(self.low) or is_traced(self.high):
            return
        low, high = np.asarray(self.low), np.asarray(self.high)
        if low.shape != high.shape:
            raise ValueError(f"WindowExit: low {list(low.shape)} and high {list(high.shape)} must be as many")
        for k in np.flatnonzero(low > high)[:1]:
            raise ValueError(f"WindowExit: low[{k}]={low[k]} must not exceed high[{k}]={high[k]}")

    def begin(self, batch: int) -> tuple[()]:
        return ()

    def leave(self, seen: AtExit, notes: tuple[()]) -> tuple[Bool[Array, "B"], tuple[()]]:
        _check_exits("WindowExit", self.low, seen)
        score, k = _score(seen.logits), seen.number
        return (score < jnp.asarray(self.low)[k]) | (score > jnp.asarray(self.high)[k]), notes


def budgeted_exit(
    scores: Float[np.ndarray, "N E"],
    is_right: Bool[np.ndarray, "N E"],
    costs: Float[np.ndarray, "E"],
    budget: float,
    temperature: float = 0.05,
) -> ScoreExit:
    """EERO: the shares of sequences that the exits answer, and the thresholds that give them.

    The shares are exponential weights of the exits' risks, ``exp(-(risk + price * cost) / temperature)``,
    with the least price at which the mean cost is within the budget. Of the sequences that come to an exit
    the surest leave, as many as its share asks. Source: EERO (https://arxiv.org/abs/2402.03779), from its
    abstract: the price as the form of the budget's constraint is inferred.

    Args:
        scores: the highest probability behind each exit, of sequences that were set aside.
        is_right: whether each exit's answer is right.
        costs: of answering at each exit, rising, such as its blocks.
        budget: the most that the mean cost may be.
        temperature: how far shares go by small differences.

    Raises:
        ValueError: no shares meet the budget; the message names the nearest that is met.
    """
    number("temperature", temperature, low=0.0, low_included=False)
    costs = np.asarray(costs, np.float64)
    if number("budget", budget) < costs.min():
        raise ValueError(
            f"budget={budget}: no exit costs so little; the nearest that is met is {costs.min():g}"
        )
    risk = 1.0 - np.asarray(is_right, np.float64).mean(0)

    def shares(price: float) -> Float[np.ndarray, "E"]:
        weights = -(risk + price * costs) / temperature
        raised = np.exp(weights - weights.max())
        return np.asarray(raised / raised.sum())

    low, high = 0.0, 1e6
    if shares(low) @ costs <= budget:
        high = low
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if shares(middle) @ costs <= budget else (middle, high)
    wanted = np.cumsum(shares(high))
    running, thresholds = np.ones(len(scores), bool), []
    for k in range(len(costs) - 1):
        # Rounded up: the earlier of two exits is the cheaper one.
        leaving = min(int(np.ceil(wanted[k] * len(scores))) - int((~running).sum()), int(running.sum()))
        ranked = np.sort(scores[running, k])[::-1]
        thresholds.append(ranked[leaving - 1] if leaving > 0 else np.inf)
        running &= scores[:, k] < thresholds[-1]
    return ScoreExit(thresholds=np.asarray(thresholds, np.float32))


def uncertainty_window(scores: Float[np.ndarray, "N E"], threshold: float, share: float) -> WindowExit:
    """Windows around a threshold of trust that each hold a share of the scores.

    Args:
        scores: the highest probability behind each exit but the last, of sequences that were set aside.
        threshold: the score from which an answer is trusted.
        share: of the sequences that come to an exit, those that go on: as many of them below the threshold as
            above, as far as there are.

    Raises:
        ValueError: a value outside its range.
    """
    number("threshold", threshold, low=0.0, high=1.0)
    number("share", share, low=0.0, high=1.0)
    running, low, high = np.ones(len(scores), bool), [], []
    for k in range(scores.shape[1]):
        ranked = np.sort(scores[running, k])
        at, reach = np.searchsorted(ranked, threshold), share * len(ranked) / 2
        ends = np.clip([at - round(reach), at + round(reach)], 0, max(len(ranked) - 1, 0))
        low.append(min(ranked[ends[0]], threshold) if len(ranked) else threshold)
        high.append(max(ranked[ends[1]], threshold) if len(ranked) else threshold)
        running &= (scores[:, k] >= low[-1]) & (scores[:, k] <= high[-1])
    return WindowExit(low=np.asarray(low, np.float32), high=np.asarray(high, np.float32))


def _check_exits(kind: str, thresholds: jax.Array | np.ndarray, seen: AtExit) -> None:
    if thresholds.shape[0] != seen.exits - 1:
        raise ValueError(
            f"{kind}: {thresholds.shape[0]} thresholds are for {thresholds.shape[0] + 1} exits, but there "
            f"are {seen.exits}"
        )


register_dataclass(ScoreExit, ["thresholds"], [])
register_dataclass(WindowExit, ["low", "high"], [])
