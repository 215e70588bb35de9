"""Lookahead: n-grams from Jacobi iterations ahead of the text, kept in a pool and tried when they fit."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from jaxmodels.checks import whole
from jaxmodels.decoding.draft_windows import in_rows_that_run
from jaxmodels.decoding.drafters.drafter import NOTHING, Proposal, Round, Verdict
from jaxmodels.decoding.trees import fixed_tree
from jaxmodels.pytrees import register_dataclass

NO_KEY = -1  # of a slot of the pool that holds nothing


@struct.dataclass
class LookaheadState:
    """The window's tokens, and the pool.

    Attributes:
        first: i32[B, W-1], level 0 behind the newest token.
        columns: i32[B, N-2, W], the levels above.
        keys: i32[B, P], what each n-gram of the pool begins with, the latest at the end.
        grams: i32[B, P, N-1], how they go on.
        rounds: i32[], how many there have been.
    """

    first: jax.Array
    columns: jax.Array
    keys: jax.Array
    grams: jax.Array
    rounds: jax.Array


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the parts of a window stand, the newest token at 0, drafted tokens in the order of their depth.

    Attributes:
        parents: of each drafted token, as `fixed_tree` takes them.
        levels: int[N-1, W], the window index of each cell. Cell 0 of level 0 is the newest token.
        guesses: int[G, N-1], that of each token of the n-grams that are tried.
    """

    parents: tuple[int, ...]
    levels: np.ndarray
    guesses: np.ndarray


@functools.cache
def layout(window: int, levels: int, guesses: int) -> Layout:
    """The window of a lookahead step as a tree.

    Level 0 follows the newest token. A cell of a higher level follows the cell below it in its own column, so
    that it sees level 0 up to its column, and its column; cell i of level l stands i + l tokens behind the
    newest one. Each n-gram that is tried follows the newest token.
    """
    cells = [(level, i) for level in range(levels - 1) for i in range(window)]
    tried = [(guess, k) for guess in range(guesses) for k in range(levels - 1)]
    depth = {("cell", *at): sum(at) for at in cells} | {("guess", *at): at[1] + 1 for at in tried}
    order = sorted(depth, key=depth.__getitem__)  # stable: the newest token stays first
    place = {name: index for index, name in enumerate(order)}

    def parent(kind: str, first: int, second: int) -> int:
        if kind == "guess":
            return place["guess", first, second - 1] if second else 0
        return place["cell", first - 1, second] if first else place["cell", 0, second - 1]

    return Layout(
        parents=tuple(parent(*name) for name in order[1:]),
        levels=np.array([place["cell", *at] for at in cells]).reshape(levels - 1, window),
        guesses=np.array([place["guess", *at] for at in tried]).reshape(guesses, levels - 1),
    )


@dataclass(frozen=True, kw_only=True)
class Lookahead:
    """Drafts n-grams that the model itself said before, and looks ahead for more in the same pass.

    A window of ``levels - 1`` by `window` tokens runs ahead of the text, one Jacobi step per round: the
    model's choices behind the top level become the new top level, and the lowest falls away. Each column,
    with the choice on top, is an n-gram; it is kept under the token that it follows. Those kept under the
    newest token, latest first, are tried. Window and n-grams are one tree (`layout`), so every architecture
    runs it; what the window itself has guessed right is accepted too. The window is first filled with the
    prompt's tokens, and gives n-grams once they have all been replaced.

    Source: Fu et al. 2024 (https://arxiv.org/abs/2402.02057) and its code, whose pool has a list for each
    token. Here the pool is one list of the `pool` latest n-grams; a full match of an n-gram counts in full.

    Attributes:
        window: W, columns.
        levels: N, tokens of an n-gram.
        guesses: G, n-grams that are tried in a round.
        pool: P, n-grams that are kept for each row.

    Raises:
        ValueError: a number is out of range: `levels` is below 3, `pool` below `window` or `guesses`.
    """

    window: int = 15
    levels: int = 5
    guesses: int = 15
    pool: int = 1024
    obeys: ClassVar[frozenset[str]] = NOTHING

    def __post_init__(self) -> None:
        lowest = {"window": 1, "levels": 3, "guesses": 1}
        for name, low in lowest.items():
            object.__setattr__(self, name, whole(name, getattr(self, name), low=low))
        # one round's n-grams have room, and as many as are tried can be found
        most = max(self.window, self.guesses)
        object.__setattr__(self, "pool", whole("pool", self.pool, low=most))

    @property
    def size(self) -> int:
        return len(self._layout.parents)

    @property
    def taps(self) -> tuple[str, ...]:
        return ()

    @property
    def _layout(self) -> Layout:
        return layout(self.window, self.levels, self.guesses)

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> LookaheadState:
        batch, ahead = around.token.shape[0], self.levels - 2
        count = self.window - 1 + ahead * self.window
        places = jnp.arange(count) % around.request.lengths[:, None]
        tokens = jnp.take_along_axis(around.request.tokens, places, axis=1)
        return LookaheadState(
            first=tokens[:, : self.window - 1],
            columns=tokens[:, self.window - 1 :].reshape(batch, ahead, self.window),
            keys=jnp.full((batch, self.pool), NO_KEY, jnp.int32),
            grams=jnp.zeros((batch, self.pool, self.levels - 1), jnp.int32),
            rounds=jnp.zeros((), jnp.int32),
        )

    def propose(self, state: LookaheadState, around: Round) -> tuple[Proposal, LookaheadState]:
        batch, at = around.token.shape[0], self._layout
        tokens = jnp.zeros((batch, self.size + 1), jnp.int32)
        tokens = tokens.at[:, at.levels[0, 1:]].set(state.first)
        tokens = tokens.at[:, at.levels[1:]].set(state.columns)
        tokens = tokens.at[:, at.guesses].set(self._tried(state, around.token))
        proposal = Proposal(
            tokens=tokens[:, 1:],
            count=in_rows_that_run(around.output, self.size),
            tree=fixed_tree(at.parents, batch),
        )
        return proposal, state

    def settle(self, pending: LookaheadState, around: Round, verdict: Verdict) -> LookaheadState:
        behind = verdict.choices[:, self._layout.levels[-1]]
        keys = jnp.concatenate([around.token[:, None], pending.first], axis=1)
        grams = jnp.concatenate([pending.columns, behind[:, None]], axis=1).swapaxes(1, 2)
        is_model = pending.rounds >= self.levels - 2  # nothing of the first filling is left
        keys = jnp.where(is_model, keys, NO_KEY)
        pool_keys, pool_grams = jax.vmap(_latest)(pending.keys, pending.grams, keys, grams)
        return LookaheadState(
            first=pending.columns[:, 0, 1:],
            columns=jnp.concatenate([pending.columns[:, 1:], behind[:, None]], axis=1),
            keys=pool_keys,
            grams=pool_grams,
            rounds=pending.rounds + 1,
        )

    def _tried(self, state: LookaheadState, token: Int[Array, "B"]) -> Int[Array, "B G N-1"]:
        """The latest n-grams behind `token`; where there are fewer, the token itself again and again."""
        age = jnp.where(state.keys == token[:, None], jnp.arange(1, self.pool + 1), 0)
        found, slots = jax.lax.top_k(age, self.guesses)
        grams = jnp.take_along_axis(state.grams, slots[:, :, None], axis=1)
        return jnp.where(found[:, :, None] > 0, grams, token[:, None, None])


def _latest(
    keys: Int[Array, "P"], grams: Int[Array, "P M"], new_keys: Int[Array, "W"], new_grams: Int[Array, "W M"]
) -> tuple[Int[Array, "P"], Int[Array, "P M"]]:
    """The pool with the new n-grams behind the others, each n-gram once; those at the front fall out."""
    count = new_keys.shape[0]
    keys, grams = jnp.concatenate([keys, new_keys]), jnp.concatenate([grams, new_grams])
    same = (keys[:, None] == new_keys) & (grams[:, None] == new_grams).all(-1)
    is_later = jnp.arange(keys.shape[0])[:, None] < jnp.arange(count) + keys.shape[0] - count
    keys = jnp.where((same & is_later).any(1), NO_KEY, keys)
    return keys[count:], grams[count:]


register_dataclass(Lookahead, [], ["window", "levels", "guesses", "pool"])
