"""The ways to leave or skip blocks that a model can be decoded by, each at some values of its knob."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

from jaxmodels.decoding.adaptive_depth import AdaptiveDepth
from jaxmodels.decoding.autoregressive import Autoregressive
from jaxmodels.decoding.depth import (
    Budget,
    Certainty,
    Confidence,
    LoRADrop,
    MaxProbability,
    Patience,
    ProbabilityGap,
    Similarity,
    UntilConfident,
    layers_for_speed_up,
    linear_budget,
)
from jaxmodels.decoding.depth.layer_skipping import most_speed_up
from jaxmodels.decoding.parallel_filling import ParallelFilling
from jaxmodels.decoding.strategy import Strategy
from jaxmodels.models.decoder import Decoder

PLAIN = "all blocks"
# Between the thirds of a model there are two exits, which cost a test each.
PARTS = 3
# Trained classifiers are tried at these thresholds beside their own.
THRESHOLDS = (0.5, 0.7, 0.9)
Tried = Iterator[tuple[float, Strategy]]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A way to decode.

    Attributes:
        kind: of the policy, as in `KINDS`, or the name of a trained one.
        value: of its knob; None where it has none.
        strategy: how it decodes; an `AdaptiveDepth`, unless the way is no policy of depth.
    """

    kind: str
    value: float | None
    strategy: Strategy

    @property
    def name(self) -> str:
        return self.kind if self.value is None else f"{self.kind}, {self.value:g}"


def exits_of(model: Decoder) -> tuple[int, ...]:
    """The last block of each part but the last, where a model is cut into `PARTS`."""
    blocks = len(model.blocks)
    return tuple(sorted({blocks * part // PARTS - 1 for part in range(1, PARTS)} - {-1, blocks - 1}))


def leaving(confidence: Confidence, *thresholds: float) -> Callable[[Decoder], Tried]:
    """Exits where a confidence reaches a threshold."""

    def tried(model: Decoder) -> Tried:
        for threshold in thresholds:
            policy = UntilConfident(
                confidence=confidence,
                threshold=jnp.float32(threshold),
                min_layers=exits_of(model)[0] + 1,
                asked=exits_of(model),
            )
            yield threshold, AdaptiveDepth(depth=policy)

    return tried


def filled_later(model: Decoder) -> Tried:
    """One exit, behind which the other blocks read several tokens at once."""
    for threshold in THRESHOLDS:
        yield threshold, ParallelFilling(layers=exits_of(model)[0] + 1, threshold=jnp.float32(threshold))


def by_position(model: Decoder) -> Tried:
    """Budgets that fall from all blocks to a share of them in 256 positions, and then stay."""
    for share in (0.75, 0.5):
        least = max(1, round(share * len(model.blocks)))
        yield share, AdaptiveDepth(depth=Budget(blocks=linear_budget(len(model.blocks), least, 256)))


def left_out(model: Decoder) -> Tried:
    """The same blocks left out of every step, for a promised speed-up."""
    most = most_speed_up(model)
    for speed_up in (1.25, 1.5, 2.0):
        if speed_up <= most:
            yield speed_up, AdaptiveDepth(depth=layers_for_speed_up(model, speed_up))


def reused(model: Decoder) -> Tried:
    """What the blocks of the second half, but for the last, added at every few tokens, without adapters."""
    blocks = len(model.blocks)
    dropped = tuple(range(blocks // 2, blocks - 1))
    if not dropped:
        return
    zeros = jnp.zeros((len(dropped), 1, model.d_model))
    for period in (2, 4, 8):
        policy = LoRADrop(
            down=zeros, up=zeros.swapaxes(1, 2), dropped=dropped, period=period, reused="update",
            unread="propagate",
        )  # fmt: skip
        yield period, AdaptiveDepth(depth=policy)


# Policies that need no training, by name: one line adds one.
KINDS: Mapping[str, Callable[[Decoder], Tried]] = {
    "max probability": leaving(MaxProbability(), 0.5, 0.7, 0.9),
    "probability gap": leaving(ProbabilityGap(), 0.4, 0.6, 0.8),
    "certainty": leaving(Certainty(), 0.7, 0.8, 0.9),
    "patience": leaving(Patience(blocks=1), 1.0),
    "similarity": leaving(Similarity(), 0.9, 0.95, 0.98),
    "parallel filling": filled_later,
    "SkipDecode": by_position,
    "layer skipping": left_out,
    "reused updates": reused,
}


def contestants(
    model: Decoder, trained: Mapping[str, Any] | None = None, kinds: Sequence[str] = tuple(KINDS)
) -> tuple[Contestant, ...]:
    """Decoding with all blocks, then the policies of `KINDS` and trained ones.

    Args:
        trained: policies of depth for this model, by name.
        kinds: which of `KINDS`.

    Raises:
        ValueError: a model that fills in masks, or one of fewer than two blocks; an unknown kind.
    """
    if model.filling is not None:
        raise ValueError("this model fills in masks; policies of depth are measured on the next token")
    if len(model.blocks) < 2:
        raise ValueError("this model has one block, of which nothing can be left or skipped")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no kind of policy; there are {', '.join(KINDS)}")
    found = [Contestant(kind=PLAIN, value=None, strategy=Autoregressive())]
    for kind in kinds:
        found += [Contestant(kind=kind, value=value, strategy=how) for value, how in KINDS[kind](model)]
    for name, policy in (trained or {}).items():
        found += _trained(name, policy)
    return tuple(found)


def _trained(name: str, policy: Any) -> Iterator[Contestant]:
    """A trained policy as it is, and exits at some thresholds."""
    thresholds = THRESHOLDS if isinstance(policy, UntilConfident) else ()
    yield Contestant(kind=name, value=None, strategy=AdaptiveDepth(depth=policy))
    for threshold in thresholds:
        other = AdaptiveDepth(depth=replace(policy, threshold=jnp.float32(threshold)))
        yield Contestant(kind=name, value=threshold, strategy=other)
