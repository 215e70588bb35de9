"""Masked diffusion: some tokens are masked at random, and the model fills them in."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import number, whole
from jaxmodels.models.filling import MaskFilling, filling_of
from jaxmodels.training.loss import token_nats
from jaxmodels.training.objectives.masking import behind_prefix, choose, spread
from jaxmodels.training.objectives.objective import Score, Windows

MASKINGS = ("independent", "counted")


@struct.dataclass
class MaskedWindows:
    """Windows and what is hidden of them.

    Attributes:
        tokens: i32[B, S].
        masked: bool[B, S], what the first view hides.
        rest: bool[B, S], what the second view hides; None where there is no second one.
        weight: f32[B, S], of what each hidden token costs.
        count: f32[B], tokens that might have been hidden.
        valid: i32[B], as in `Windows`.
    """

    tokens: jax.Array
    masked: jax.Array
    rest: jax.Array | None
    weight: jax.Array
    count: jax.Array
    valid: jax.Array | None = None

    def views(self, filling: MaskFilling | None) -> list[Int[Array, "B S"]]:
        """The windows with what is hidden of them masked."""
        assert filling is not None and filling.mask_token is not None
        hidden = [self.masked] if self.rest is None else [self.masked, self.rest]
        return [jnp.where(these, filling.mask_token, self.tokens) for these in hidden]

    def from_view_that_hides(self, states: Float[Array, "R S D"]) -> Float[Array, "B S D"]:
        """Of states of all views one below the other, at each position that of the view which hides it."""
        if self.rest is None:
            return states
        first, second = jnp.split(states, 2)
        return jnp.where(self.masked[..., None], first, second)


@dataclass(frozen=True, kw_only=True)
class MaskedDiffusion:
    """The bound on the likelihood that masked diffusion models are trained by (LLaDA,
    https://arxiv.org/abs/2502.09992, equation 3).

    A window's tokens are masked in a ratio t, drawn uniformly, and what the masked ones cost is weighted by
    1/t. The ratios are spread evenly over a batch. With `estimator`, of windows of L tokens, l are masked, l
    uniform in 1..L, and weighted by L/l: the same in expectation, with less variance (appendix B.5 there).

    Attributes:
        masking: "independent": each token by itself, with probability ``least_ratio + (1 - least_ratio) t``;
            "counted": as many as a whole number that is drawn uniformly.
        least_ratio: see `masking`; it keeps the weights of "independent" masking finite.
        complementary: each window is seen twice, and what is masked in one view is known in the other
            (https://arxiv.org/abs/2509.26328): every token is predicted once.
        prefix_share: share of the windows that begin with a prefix which is never masked, as a prompt is.
        weight_floor: ratios below this are weighted as this one. It bounds the variance, and takes weight
            from nearly complete windows.
        draws: what evaluation averages for each window, at least 2, as one has no standard error.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    masking: str = "independent"
    least_ratio: float = 1e-3
    complementary: bool = False
    prefix_share: float = 0.0
    weight_floor: float = 0.0
    draws: int = 2

    def __post_init__(self) -> None:
        if self.masking not in MASKINGS:
            raise ValueError(
                f"MaskedDiffusion: masking must be one of {', '.join(MASKINGS)}, got {self.masking!r}"
            )
        number("MaskedDiffusion: least_ratio", self.least_ratio, low=0, high=0.5)
        for name in ("prefix_share", "weight_floor"):
            number(f"MaskedDiffusion: {name}", getattr(self, name), low=0, high=1)
        whole("MaskedDiffusion: draws", self.draws, low=2)

    @property
    def estimator(self) -> "MaskedDiffusion":
        """The same bound, unbiased, with as little variance as there is for two views of a window."""
        return replace(self, masking="counted", complementary=True, prefix_share=0.0, weight_floor=0.0)

    def check(self, model: Any) -> None:
        check_fills("masked_diffusion", model)

    def prepare(self, windows: Windows, key: jax.Array) -> MaskedWindows:
        for_prefix, for_ratio, for_tokens = jax.random.split(key, 3)
        hidden = behind_prefix(for_prefix, windows.predicted, self.prefix_share)
        draw = self._counted if self.masking == "counted" else self._independent
        masked, ratio, rest_ratio = draw(for_tokens, hidden, spread(for_ratio, len(hidden)))
        weight = jnp.where(masked, self._weight(ratio), 0.0)
        rest = None
        if self.complementary:
            rest = hidden & ~masked
            weight = (weight + jnp.where(rest, self._weight(rest_ratio), 0.0)) / 2
        count = hidden.sum(-1).astype(jnp.float32)
        return MaskedWindows(
            tokens=windows.tokens,
            masked=masked,
            rest=rest,
            weight=weight,
            count=count,
            valid=windows.valid,
        )

    def loss(self, score: Score, example: MaskedWindows) -> tuple[Float[Array, ""], Float[Array, ""]]:
        count = example.count.sum()
        return self.nats(score, example).sum() / jnp.maximum(count, 1.0), count

    def nats(self, score: Score, example: MaskedWindows) -> Float[Array, "B S"]:
        return example.weight * token_nats(filled_in(score, example), example.tokens)

    def _weight(self, ratio: Float[Array, " B"]) -> Float[Array, "B 1"]:
        return (1 / jnp.maximum(ratio, max(self.weight_floor, 1e-9)))[:, None]

    def _independent(
        self, key: jax.Array, hidden: Bool[Array, "B S"], level: Float[Array, " B"]
    ) -> tuple[Bool[Array, "B S"], Float[Array, " B"], Float[Array, " B"]]:
        low = self.least_ratio
        ratio = low + (1 - (2 if self.complementary else 1) * low) * level
        masked = hidden & (jax.random.uniform(key, hidden.shape) < ratio[:, None])
        return masked, ratio, 1 - ratio

    def _counted(
        self, key: jax.Array, hidden: Bool[Array, "B S"], level: Float[Array, " B"]
    ) -> tuple[Bool[Array, "B S"], Float[Array, " B"], Float[Array, " B"]]:
        count = hidden.sum(-1)
        if not self.complementary:
            masked = 1 + jnp.floor(level * count).astype(jnp.int32)
            return choose(key, hidden, masked), masked / count, 1 - masked / count
        # 0..L masks are drawn, so that the rest is as many with the same probability; no mask costs nothing
        masked = jnp.floor(level * (count + 1)).astype(jnp.int32)
        return choose(key, hidden, masked), masked / (count + 1), (count - masked) / (count + 1)


def filled_in(score: Score, example: MaskedWindows) -> Float[Array, "B S V"]:
    """The logits that speak of each position, from the view that hides it; of no meaning where none does."""
    filling, views = score.filling, example.views(score.filling)
    assert filling is not None
    valid = None if example.valid is None else jnp.tile(example.valid, len(views))
    return score(
        jnp.concatenate(views),
        valid=valid,
        pick=lambda states: example.from_view_that_hides(jnp.roll(states, filling.offset, axis=1)),
    )


def check_fills(objective: str, model: Any) -> None:
    """Raises ValueError where `model` has no mask token."""
    filling = filling_of(model)
    if filling is None or filling.mask_token is None:
        raise ValueError(
            f"objective: {objective} trains models that fill in a mask token, and this one has none; choose "
            "next_token, or a model family of masked diffusion"
        )
