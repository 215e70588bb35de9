"""`GSJacobi`: many tokens of a flow found at once, by passes over all of them until nothing moves."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.checks import number, shown, whole
from jaxmodels.decoding.flows.inversion import SEQUENTIAL
from jaxmodels.decoding.flows.reading import Histories, Reader


class Guess(StrEnum):
    """What tokens are taken for before the first pass."""

    NOISE = "noise"
    ZERO = "zero"


@dataclass(frozen=True, kw_only=True)
class GSJacobi:
    """Fixed-point passes over segments of the tokens, one segment after the other.

    A pass reads all tokens of a segment as they are held to be, which gives each of them anew. A token is
    exact once those before it are, so that a segment of n tokens is found after n passes at the latest; it is
    left as soon as a pass changes it by no more than `tolerance`. What was found of a segment stays as
    history of the next. Source: Liu et al. 2025 (https://arxiv.org/abs/2505.12849) and its code, which cuts
    tokens at 3, whether or not images have such, measures the change over all images together, and lists
    steps in the order in which they run backwards.

    Attributes:
        segments: of each step of the flow, the first next to the images, in how many equal parts its tokens
            are found; 1 for all at once, 0 for one token after the other. One number stands for all steps.
        guesses: of each step, what tokens are taken for at first; one stands for all steps.
        passes: most passes for a segment; None for as many as make it exact.
        tolerance: of the length of what a pass changes in an image, for each number of a token.
        bound: tokens are cut to this distance from 0, so that a wrong guess does not overflow.

    Raises:
        ValueError: a value out of its range.
    """

    segments: int | tuple[int, ...] = 1
    guesses: Guess | tuple[Guess, ...] = Guess.NOISE
    passes: int | None = None
    tolerance: float = 1e-6
    bound: float = 30.0

    def __post_init__(self) -> None:
        for count in _each(self.segments):
            whole("GSJacobi: segments", count)
        for guess in _each(self.guesses):
            if guess not in tuple(Guess):
                known = " or ".join(repr(str(one)) for one in Guess)
                raise ValueError(f"GSJacobi: guesses must be {known}, got {shown(guess)}")
        if self.passes is not None:
            whole("GSJacobi: passes", self.passes, low=1)
        number("GSJacobi: tolerance", self.tolerance, low=0.0)
        number("GSJacobi: bound", self.bound, low=0.0, low_included=False)

    def check(self, steps: int, places: int) -> None:
        """Raises ValueError where it does not fit a flow of so many steps and tokens."""
        for name, given in (("segments", self.segments), ("guesses", self.guesses)):
            if isinstance(given, tuple) and len(given) != steps:
                raise ValueError(f"GSJacobi: {name} has {len(given)} entries, but the flow has {steps} steps")
        for count in _each(self.segments):
            if count and places % count:
                raise ValueError(
                    f"GSJacobi: segments={count} must divide the {places} tokens of an image into equal parts"
                )

    def invert(
        self, reader: Reader, z: Float[Array, "B S C"], number: int
    ) -> tuple[Float[Array, "B S C"], Int[Array, ""]]:
        """See `Inversion`. A pass over a segment counts as one, however many tokens it has."""
        count = self.segments[number] if isinstance(self.segments, tuple) else self.segments
        if count == 0:
            return SEQUENTIAL.invert(reader, z, number)
        guess = self.guesses[number] if isinstance(self.guesses, tuple) else self.guesses
        x = z if guess == Guess.NOISE else z.at[:, 1:].set(0.0)
        # A place behind the last token, which is found of it as those are and then dropped, makes all
        # segments alike.
        x, z = (jnp.pad(a, ((0, 0), (0, 1), (0, 0))) for a in (x, z))
        size = (z.shape[1] - 1) // count

        def find(i: Array, carry: tuple[Array, Histories, Array]) -> tuple[Array, Histories, Array]:
            x, histories, passes = carry
            x, histories, taken = self._find(reader, x, z, histories, i * size, size)
            return x, histories, passes + taken

        begun = x, reader.begin(z.shape[0]), jnp.zeros((), jnp.int32)
        x, _, passes = lax.fori_loop(0, count, find, begun)
        return x[:, :-1], passes

    def _find(
        self, reader: Reader, x: Array, z: Array, histories: Histories, first: Array, size: int
    ) -> tuple[Array, Histories, Int[Array, ""]]:
        """The `size` tokens behind the one numbered `first`, by reading those from that one on."""
        most = size if self.passes is None else min(self.passes, size)
        known = lax.dynamic_slice_in_dim(x, first, 1, axis=1)
        guess, noise = (lax.dynamic_slice_in_dim(a, first + 1, size, axis=1) for a in (x, z))
        counts = (first + 1 + jnp.arange(size) < z.shape[1] - 1)[:, None]

        def goes_on(carry: Any) -> Array:
            _, _, taken, is_found = carry
            return ~is_found & (taken < most)

        def once_more(carry: Any) -> Any:
            found, histories, taken, _ = carry
            shown = jnp.concatenate([known, found[:, :-1]], axis=1)
            log_scale, shift, window = reader.read(shown, first, histories)
            again = jnp.clip(noise * jnp.exp(log_scale) + shift, -self.bound, self.bound)
            moved = jnp.linalg.norm((again - found) * counts, axis=(1, 2)) / z.shape[2]
            is_found = (moved <= self.tolerance).all()
            is_last = is_found | (taken + 1 >= most)
            return again, reader.settle(window, jnp.where(is_last, size, 0)), taken + 1, is_found

        begun = guess, histories, jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        found, histories, taken, _ = lax.while_loop(goes_on, once_more, begun)
        return lax.dynamic_update_slice_in_dim(x, found, first + 1, axis=1), histories, taken


def _each(given: Any) -> tuple[Any, ...]:
    return given if isinstance(given, tuple) else (given,)


jax.tree_util.register_static(GSJacobi)
