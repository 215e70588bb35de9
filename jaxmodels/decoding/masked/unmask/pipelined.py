"""Unmasking in several blocks at once: a block begins before the one in front of it is full."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxmodels.checks import whole
from jaxmodels.decoding.masked.seen import Seen
from jaxmodels.decoding.masked.unmask.confidence import Confidence, Probability, check_confidence
from jaxmodels.decoding.masked.unmask.ranking import best, entropy
from jaxmodels.decoding.samplers import check_number
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class Pipelined:
    """An `Unmask` for windows of several blocks of `inner` places: in every block that has begun, the places
    whose probability exceeds `threshold`.

    A block begins when a share `begin` of the one in front of it is filled in. When a share `force` is, it
    goes on in every step: if no place exceeds the threshold, the most confident one is filled in. Source:
    Wang et al. 2025 (D2F, https://arxiv.org/abs/2508.09192), ``eval_llada.py``, whose models are read by
    `StreamingDiffusion` with `InBlocks`.

    Attributes:
        inner: places of a block.
        threshold: exceeded by what is filled in anywhere.
        begin: 0 < begin <= 1; 0.1, and 0.9 for code.
        force: 0 <= force <= 1.
        by: which place is the most confident one.

    Raises:
        ValueError: a value outside its range; when traced, a window that `inner` does not divide.
    """

    inner: int = 32
    threshold: float = 0.9
    begin: float = 0.1
    force: float = 0.95
    by: Confidence = Probability()

    def __post_init__(self) -> None:
        _check(self)
        check_confidence(self.by)

    def __call__(self, seen: Seen) -> Bool[Array, "B L"]:
        masked, is_forced = _begun(seen, self.inner, self.begin, self.force)
        above = masked & (seen.probability > self.threshold)
        idle = is_forced & ~_blocks(above, self.inner).any(2)
        return above | _best_of_blocks(self.by(seen), masked, idle)


@dataclass(frozen=True, kw_only=True)
class PipelinedEntropy:
    """An `Unmask` for windows of several blocks of `inner` places: in all blocks that have begun, the places
    whose entropy is at most `threshold`, and always the one of lowest entropy.

    Blocks begin as in `Pipelined`, and the first one that is not full goes on in every step if it is forced.
    Source: d3LLM (Qian et al. 2026, https://arxiv.org/abs/2601.07568), ``generate_multi_block``.

    Attributes:
        inner: places of a block.
        threshold: nats.
        begin: 0 < begin <= 1.
        force: 0 <= force <= 1.

    Raises:
        ValueError: a value outside its range; when traced, a window that `inner` does not divide.
    """

    inner: int = 32
    threshold: float = 0.5
    begin: float = 0.5
    force: float = 0.5

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, seen: Seen) -> Bool[Array, "B L"]:
        masked, is_forced = _begun(seen, self.inner, self.begin, self.force)
        uncertainty = entropy(seen.logits)
        chosen = masked & (uncertainty <= self.threshold) | best(-uncertainty, masked)
        is_forced = is_forced & _blocks(masked, self.inner).any(2)
        first = is_forced & (jnp.cumsum(is_forced, axis=1) == 1)
        idle = first & ~_blocks(chosen, self.inner).any(2)
        return chosen | _best_of_blocks(-uncertainty, masked, idle)


def _begun(
    seen: Seen, inner: int, begin: Array | float, force: Array | float
) -> tuple[Bool[Array, "B L"], Bool[Array, "B K"]]:
    """The unknown places of blocks that have begun, and which blocks go on in every step."""
    length = seen.masked.shape[1]
    if length % inner:
        raise ValueError(f"inner={inner} must divide the window of {length} places")
    unknown = _blocks(seen.still_unknown, inner).sum(2)
    places = _blocks(seen.still_unknown | seen.editable, inner).sum(2)
    filled = 1 - unknown / jnp.maximum(places, 1)
    before = jnp.pad(filled, ((0, 0), (1, 0)), constant_values=1.0)[:, :-1]
    has_begun = jnp.cumprod(before >= begin, axis=1) > 0
    return seen.masked & jnp.repeat(has_begun, inner, axis=1), has_begun & (before >= force)


def _blocks(places: Bool[Array, "B L"], inner: int) -> Bool[Array, "B K I"]:
    return places.reshape(places.shape[0], -1, inner)


def _best_of_blocks(
    confidence: Array, masked: Bool[Array, "B L"], blocks: Bool[Array, "B K"]
) -> Bool[Array, "B L"]:
    """The most confident place of each of these blocks."""
    inner = masked.shape[1] // blocks.shape[1]
    each = best(confidence.reshape(-1, inner), masked.reshape(-1, inner)).reshape(masked.shape)
    return each & jnp.repeat(blocks, inner, axis=1)


def _check(rule: Pipelined | PipelinedEntropy) -> None:
    object.__setattr__(rule, "inner", whole("inner", rule.inner, low=1))
    check_number("threshold", rule.threshold, low=0.0)
    check_number("begin", rule.begin, low=0.0, low_included=False, high=1.0)
    check_number("force", rule.force, low=0.0, high=1.0)


register_dataclass(Pipelined, ["threshold", "begin", "force", "by"], ["inner"])
register_dataclass(PipelinedEntropy, ["threshold", "begin", "force"], ["inner"])
