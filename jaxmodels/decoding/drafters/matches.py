"""Where the newest tokens of a text stood before, kept up token by token.

For each place of a text, `lengths` says how many tokens in front of it equal the newest ones. One more token
lengthens the matches that it goes on with and ends all others: one comparison with the whole text, where a
search from nothing would make one for every length.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Int

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.drafters.drafter import Round, Verdict
from jaxmodels.decoding.processors.chain import contexts

NO_TOKEN = -1


@struct.dataclass
class Matches:
    """Texts in which the newest tokens are searched.

    Attributes:
        text: i32[B, T], `NO_TOKEN` where there is none, as behind its end.
        lengths: i32[B, T], how many tokens in front of each place equal the newest ones, at most as many as
            are compared; 0 behind the end.
    """

    text: jax.Array
    lengths: jax.Array


def least_match(least: Array | int, most: int) -> Array | int:
    """How many of `most` tokens must agree, checked where it has a value.

    Raises ValueError unless it is a whole number from 1 to `most`.
    """
    if is_traced(least):
        return least
    least = whole("least", least, low=1)
    if least > most:
        raise ValueError(f"least={least} must not exceed most={most}")
    return least


def matches_of(text: Int[Array, "B T"], length: Int[Array, "B"], most: int) -> Matches:
    """The matches of each row's first ``length[b]`` tokens, its own, of `most` tokens at most."""
    there = jnp.arange(text.shape[1]) < length[:, None]
    own = searched(jnp.where(there, text, NO_TOKEN), text, length, most)
    # A text's end matches itself.
    return replace(own, lengths=jnp.where(there, own.lengths, 0))


def searched(
    text: Int[Array, "B T"], newest: Int[Array, "B N"], length: Int[Array, "B"], most: int
) -> Matches:
    """The matches in `text` of what another one ends with: the tokens of `newest` before ``length[b]``."""

    def compare(i: Array, matches: Matches) -> Matches:
        at = length - most + i
        token = jnp.take_along_axis(newest, jnp.maximum(at, 0)[:, None], axis=1)[:, 0]
        return compared(matches, token, at >= 0, most)

    return lax.fori_loop(0, most, compare, Matches(text=text, lengths=jnp.zeros_like(text)))


def compared(matches: Matches, token: Int[Array, "B"], rows: Bool[Array, "B"], most: int) -> Matches:
    """The matches once `token` is the newest, in some rows."""
    before = jnp.pad(matches.text, ((0, 0), (1, 0)), constant_values=NO_TOKEN)[:, :-1]
    longer = jnp.pad(matches.lengths, ((0, 0), (1, 0)))[:, :-1] + 1
    lengths = jnp.where(before == token[:, None], jnp.minimum(longer, most), 0)
    return replace(matches, lengths=jnp.where(rows[:, None], lengths, matches.lengths))


def text_so_far(around: Round) -> tuple[Int[Array, "B T"], Int[Array, "B"]]:
    """Each row's prompt and answer, and how long they are."""
    context = contexts(around.request, around.output)
    return context.tokens, context.length


def followed(matches: Matches, verdict: Verdict, most: int) -> Matches:
    """The matches in a text that stays as it is, once the tokens of a verdict are the newest of another."""

    def follow(i: Array, matches: Matches) -> Matches:
        return compared(matches, verdict.tokens[:, i], i < verdict.count, most)

    return lax.fori_loop(0, verdict.count.max(), follow, matches)


def grown(matches: Matches, around: Round, verdict: Verdict, most: int) -> Matches:
    """The matches in a text that the tokens of a verdict lengthen; `around` is the round of the verdict."""
    end = around.request.lengths + around.output.lengths
    rows = jnp.arange(end.shape[0])

    def follow(i: Array, matches: Matches) -> Matches:
        token, there = verdict.tokens[:, i], i < verdict.count
        matches = compared(matches, token, there, most)
        slot = jnp.where(there, end + i, matches.text.shape[1])
        return replace(matches, text=matches.text.at[rows, slot].set(token, mode="drop"))

    return lax.fori_loop(0, verdict.count.max(), follow, matches)
