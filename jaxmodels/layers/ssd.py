"""State space duality (Mamba-2): the chunked form, the one-step form, and the dense matrix they both equal.

The recurrence, per head n of group g with a scalar decay:

    state_t = exp(dt_t * A) * state_{t-1} + (dt_t * x_t) (outer) B_t        state: [R, P]
    y_t     = C_t . state_t

Every function takes the decay as ``log_decay = dt * A`` (never positive) and the input as ``u = dt * x``;
a token with ``log_decay = 0`` and ``u = 0`` leaves the state as it was, which is how padding and rejected
tokens are expressed. Source: Dao and Gu 2024, "Transformers are SSMs", sections 5-7.

States are laid out ``[B, N, R, P]``: the recurrence and its read-out then run along the contiguous P axis.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from einops import rearrange, repeat
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.backends import ByBackend
from jaxmodels.layers.mapped import scan
from jaxmodels.layers.sequence_parts import parts_of, recurrence_in_parts
from jaxmodels.layers.state.history import History

State = Float[Array, "B N R P"]


class Tokens(NamedTuple):
    """What a layer makes of a window's tokens.

    Attributes:
        x: values, in the dtype of activations; the recurrence's input is ``u = dt * x``.
        dt: step sizes, float32; 0 for padding.
        log_decay: ``dt * A``, float32.
        b, c: what the input is written with, and the state is read with, in the dtype of activations.
    """

    x: Float[Array, "B S N P"]
    dt: Float[Array, "B S N"]
    log_decay: Float[Array, "B S N"]
    b: Float[Array, "B S G R"]
    c: Float[Array, "B S G R"]

    def added(self) -> tuple[Float[Array, "B S N P"], Float[Array, "B S N"], Float[Array, "B S G R"]]:
        """What they add to a state: u, the log decay and B, in float32."""
        return self.x.astype(jnp.float32) * self.dt[..., None], self.log_decay, self.b.astype(jnp.float32)


# The longest chunks by backend: CPUs want the Q x Q blocks to stay in their inner caches, accelerators want
# tiles as wide as their vector units, and no more decays between tokens than that.
CPU_CHUNK = 32
ACCELERATOR_CHUNK = 128
# So many chunks at once: handing states from each to all that follow takes little beside the rest.
CHUNKS_AT_ONCE = 32


def ssd_step(
    u: Float[Array, "B N P"],
    log_decay: Float[Array, "B N"],
    b: Float[Array, "B G R"],
    c: Float[Array, "B G R"],
    state: State,
) -> tuple[Float[Array, "B N P"], State]:
    """One token of the recurrence: its output and the next state."""
    heads_per_group = u.shape[1] // b.shape[1]
    b = jnp.repeat(b, heads_per_group, axis=1)
    c = jnp.repeat(c, heads_per_group, axis=1)
    state = jnp.exp(log_decay)[..., None, None] * state + b[..., None] * u[..., None, :]
    return jnp.einsum("bnr,bnrp->bnp", c, state), state


def ssd_chunked(
    u: Float[Array, "B S N P"],
    log_decay: Float[Array, "B S N"],
    b: Float[Array, "B S G R"],
    c: Float[Array, "B S G R"],
    state: State,
    chunk: int,
) -> tuple[Float[Array, "B S N P"], State]:
    """A whole window of the recurrence in chunks of `chunk` tokens: outputs and the final state.

    Inside a chunk the dual, attention-like form is used: group-wise ``C B^T`` scores, decayed per head.
    Between chunks only the states are passed on. No tensor has both the head and the R axis per token.
    """
    size, groups, head_dim = u.shape[1], b.shape[2], u.shape[3]
    pad = -size % chunk
    if pad:
        u, log_decay, b, c = (
            jnp.pad(a, [(0, 0), (0, pad)] + [(0, 0)] * (a.ndim - 2)) for a in (u, log_decay, b, c)
        )
    # Groups before tokens, so that every contraction below is a plain batch of matrix products.
    u = rearrange(u, "b (c q) (g m) p -> b c g q m p", q=chunk, g=groups)
    log_decay = rearrange(log_decay, "b (c q) (g m) -> b c g m q", q=chunk, g=groups)
    b, c = (rearrange(a, "b (c q) g r -> b c g q r", q=chunk) for a in (b, c))

    cumulative = jnp.cumsum(log_decay, axis=-1)
    total = cumulative[..., -1]
    within = _within_chunks(u, cumulative, b, c)

    to_end = rearrange(jnp.exp(total[..., None] - cumulative), "b c g m q -> b c g q m 1")
    decayed = rearrange(u * to_end, "b c g q m p -> c b g q (m p)")
    decay = rearrange(jnp.repeat(jnp.exp(total), head_dim, axis=-1), "b c g z -> c b g 1 z")

    def pass_on(carried: Array, one: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        chunk_b, chunk_c, chunk_u, chunk_decay = one
        read = jnp.einsum("bgqr,bgrz->bgqz", chunk_c, carried)
        added = jnp.einsum("bgqr,bgqz->bgrz", chunk_b, chunk_u)
        return chunk_decay * carried + added, read

    # States are read and updated inside the scan: one is alive at a time, not one per chunk.
    by_chunk = (jnp.moveaxis(b, 1, 0), jnp.moveaxis(c, 1, 0), decayed, decay)
    carried = rearrange(state, "b (g m) r p -> b g r (m p)", g=groups)
    final, read = scan(pass_on, carried, by_chunk)
    from_history = rearrange(read, "c b g q (m p) -> b c g q m p", p=head_dim)
    from_history = from_history * rearrange(jnp.exp(cumulative), "b c g m q -> b c g q m 1")
    y = rearrange(within, "b c g m q p -> b c g q m p") + from_history
    y = rearrange(y, "b c g q m p -> b (c q) (g m) p")[:, :size]
    return y, rearrange(final, "b g r (m p) -> b (g m) r p", p=head_dim)


def _within_chunks(
    u: Float[Array, "B C G Q M P"],
    cumulative: Float[Array, "B C G M Q"],
    b: Float[Array, "B C G Q R"],
    c: Float[Array, "B C G Q R"],
) -> Float[Array, "B C G M Q P"]:
    """Each chunk's outputs from its own tokens."""
    chunk = u.shape[3]
    scores = jnp.einsum("bcgir,bcgjr->bcgij", c, b)
    lower = jnp.tril(jnp.ones((chunk, chunk), bool))
    # Masked before the exponential: above the diagonal the difference is positive and could overflow.
    decay = jnp.exp(jnp.where(lower, cumulative[..., :, None] - cumulative[..., None, :], -jnp.inf))
    heads_first = rearrange(u, "b c g q m p -> b c g m q p")
    return jnp.einsum("bcgmij,bcgmjp->bcgmip", scores[:, :, :, None] * decay, heads_first)


def ssd_chunks_at_once(
    tokens: Tokens,
    skip: Float[Array, "N"] | None,
    state: State,
    *,
    chunk: int,
) -> tuple[Float[Array, "B S N P"], State]:
    """`ssd_window` in the form of accelerators: a few large products, each of all chunks at once; outputs are
    in the dtype of x.

    `dt` and `skip` are part of the matrix that a chunk's x is multiplied by, so that x is read as it is and
    nothing else of its size is made. Tokens are the last axis: a head's channels are fewer, and would leave
    lanes of a vector unit empty. Factors and outputs are rounded to the dtype of x, as in the kernels of the
    reference; sums are in float32. The work of handing states on is quadratic in the number of chunks.
    """
    x, dt, log_decay, b, c = tokens
    (size, heads, head_dim), groups = x.shape[1:], b.shape[2]
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    factor = x.dtype

    def tokens_last(a: Float[Array, "B S N *P"]) -> Float[Array, "B C G M P Q"]:
        a = a.reshape(*a.shape[:2], -1)
        a = jnp.pad(a, [(0, 0), (0, -size % chunk), (0, 0)])
        a = jnp.swapaxes(a.reshape(a.shape[0], -1, chunk, a.shape[2]), 2, 3)
        return a.reshape(*a.shape[:2], groups, heads // groups, -1, chunk)

    x = tokens_last(x)
    dt, log_decay = tokens_last(dt), tokens_last(log_decay)[..., 0, :]
    b, c = (
        rearrange(
            jnp.pad(a, [(0, 0), (0, -size % chunk), (0, 0), (0, 0)]), "b (c q) g r -> b c g q r", q=chunk
        ).astype(factor)
        for a in (b, c)
    )
    cumulative = jnp.cumsum(log_decay, axis=-1)
    total = cumulative[..., -1]
    scores = jnp.tril(product("bcgir,bcgjr->bcgij", c, b))[:, :, :, None]
    # Above the diagonal the difference is positive and could overflow.
    decay = jnp.exp(jnp.minimum(cumulative[..., :, None] - cumulative[..., None, :], 0.0))
    weights = scores * decay * dt
    if skip is not None:
        weights = weights + rearrange(skip, "(g m) -> g m 1 1", g=groups) * jnp.eye(chunk)
    y = product("bcgmij,bcgmpj->bcgmpi", weights.astype(factor), x)

    to_end = dt * jnp.exp(total[..., None] - cumulative)[..., None, :]
    added = product("bcgqr,bcgmpq->bcgmpr", b, (x * to_end).astype(factor))
    state = rearrange(state, "b (g m) r p -> b g m p r", g=groups)
    before, final = _states_of_chunks(added, total, state, factor)
    read = product("bcgir,bcgmpr->bcgmpi", c, before)
    y = (y + read * jnp.exp(cumulative)[..., None, :]).astype(factor)
    y = jnp.swapaxes(y.reshape(*y.shape[:2], -1, chunk), 2, 3)
    y = y.reshape(y.shape[0], -1, y.shape[3])[:, :size]
    return y.reshape(*y.shape[:2], -1, head_dim), rearrange(final, "b g m p r -> b (g m) r p")


def _states_of_chunks(
    added: Float[Array, "B C G M P R"],
    total: Float[Array, "B C G M"],
    state: Float[Array, "B G M P R"],
    factor: jnp.dtype,
) -> tuple[Float[Array, "B C G M P R"], Float[Array, "B G M P R"]]:
    """The states in front of chunks, in dtype `factor`, and the one behind all of them.

    Args:
        added: what each chunk adds to a state.
        total: the log decay over each.
        state: in front of the first.
    """
    ends = jnp.cumsum(total, axis=1)
    starts = ends - total
    earlier = jnp.tril(jnp.ones((total.shape[1], total.shape[1]), bool), -1)[..., None, None]
    between = jnp.exp(jnp.where(earlier, starts[:, :, None] - ends[:, None, :], -jnp.inf))
    before = jnp.einsum(
        "bzcgm,bcgmpr->bzgmpr",
        between.astype(factor),
        added.astype(factor),
        preferred_element_type=jnp.float32,
    )
    before = before + jnp.exp(starts)[..., None, None] * state[:, None]
    ahead = jnp.exp(ends[:, -1:] - ends)[..., None, None]
    final = jnp.exp(ends[:, -1])[..., None, None] * state + (ahead * added).sum(1)
    return before.astype(factor), final


def ssd_replay(
    u: Float[Array, "B S N P"],
    log_decay: Float[Array, "B S N"],
    b: Float[Array, "B S G R"],
    state: State,
    n: Int[Array, "B"],
) -> State:
    """The state after the first `n` tokens of a window, from the window's inputs alone."""
    taken = jnp.arange(u.shape[1])[None, :] < n[:, None]
    log_decay = jnp.where(taken[..., None], log_decay, 0.0)
    # Decay from just after token i to the end. Shifted, not subtracted: that would cancel digits.
    after = lax.cumsum(jnp.pad(log_decay[:, 1:], ((0, 0), (0, 1), (0, 0))), axis=1, reverse=True)
    u = jnp.where(taken[..., None, None], u * jnp.exp(after)[..., None], 0.0)
    groups = b.shape[2]
    added = jnp.einsum("bsgr,bsgmp->bgmrp", b, rearrange(u, "b s (g m) p -> b s g m p", g=groups))
    kept = jnp.exp(log_decay.sum(1))[..., None, None] * state
    return kept + rearrange(added, "b g m r p -> b (g m) r p")


def ssd_tree(
    u: Float[Array, "B S N P"],
    log_decay: Float[Array, "B S N"],
    b: Float[Array, "B S G R"],
    c: Float[Array, "B S G R"],
    history: History,
    ancestors: Bool[Array, "B S S"],
) -> Float[Array, "B S N P"]:
    """Outputs of a window whose tokens form a tree: each follows the history, then its ancestors.

    The dual form with the ancestor relation in place of the causal mask; ``ancestors[b, i, j]`` says that
    j is i or an ancestor of i. Quadratic in the window, which is a handful of drafted tokens.
    """
    relation = ancestors.astype(jnp.float32)
    cumulative = jnp.einsum("bij,bjn->bni", relation, log_decay)
    decay = jnp.exp(
        jnp.where(ancestors[:, None], cumulative[..., :, None] - cumulative[..., None, :], -jnp.inf)
    )
    scores = jnp.einsum("bigr,bjgr->bgij", c, b)
    heads_per_group = u.shape[2] // b.shape[2]
    scores = repeat(scores, "b g i j -> b (g m) i j", m=heads_per_group) * decay
    within = jnp.einsum("bnij,bjnp->binp", scores, u)
    return within + jnp.swapaxes(history(jnp.swapaxes(c, 1, 2), jnp.exp(cumulative)[..., None]), 1, 2)


def ssd_matrix(
    log_decay: Float[Array, "B S N"], b: Float[Array, "B S G R"], c: Float[Array, "B S G R"]
) -> Float[Array, "B N S S"]:
    """The dense matrix M with ``y = M u`` from an empty history: ``M_ij = C_i (prod_{j<k<=i} a_k) B_j``.

    Quadratic in S: the oracle of the other forms and the layer's "hidden attention"
    (Ali, Zimerman and Wolf 2024).
    """
    size = log_decay.shape[1]
    heads_per_group = log_decay.shape[2] // b.shape[2]
    cumulative = jnp.moveaxis(jnp.cumsum(log_decay, axis=1), 1, 2)
    lower = jnp.tril(jnp.ones((size, size), bool))
    decay = jnp.exp(jnp.where(lower, cumulative[..., :, None] - cumulative[..., None, :], -jnp.inf))
    scores = jnp.einsum("bigr,bjgr->bgij", c, b)
    return jnp.repeat(scores, heads_per_group, axis=1) * decay


def ssd_window(
    tokens: Tokens,
    skip: Float[Array, "N"] | None,
    state: State,
    chunk: int,
) -> tuple[Float[Array, "B S N P"], State]:
    """The recurrence over a window of any length, in the form and chunk length that suit it, and a skip.

    ``skip * x`` is added to the output; outputs and states are float32, and the outputs of
    `ssd_chunks_at_once` numbers of the dtype of x. `chunk` is the longest chunk used; backends have bounds of
    their own, `CPU_CHUNK` and `ACCELERATOR_CHUNK`.
    """
    size = tokens.x.shape[1]
    if parts_of(size) > 1:
        return recurrence_in_parts(
            tokens,
            state,
            window=lambda tokens, state: ssd_window(tokens, skip, state, chunk),
            summary=_decay_and_sum,
            advance=lambda made, state: made[0] * state + made[1],
        )
    in_turn = functools.partial(_chunks_in_turn, chunk=min(chunk, size, CPU_CHUNK))
    if min(chunk, size) <= CPU_CHUNK:
        return in_turn(tokens, skip, state)
    by_backend = ByBackend(
        portable=functools.partial(_blocks_in_turn, chunk=min(chunk, size, ACCELERATOR_CHUNK)),
        cpu=in_turn,
    )
    y, state = by_backend(tokens, skip, state)
    return y, state


def _blocks_in_turn(
    tokens: Tokens,
    skip: Float[Array, "N"] | None,
    state: State,
    *,
    chunk: int,
) -> tuple[Float[Array, "B S N P"], State]:
    """`ssd_chunks_at_once` of `CHUNKS_AT_ONCE` at most, and then of the next ones."""
    size = tokens.x.shape[1]
    blocks = -(-size // (chunk * CHUNKS_AT_ONCE))
    at_once = functools.partial(ssd_chunks_at_once, chunk=chunk)
    if blocks == 1:
        y, state = at_once(tokens, skip, state)
        return _widened(y), state
    length = -(-size // (blocks * chunk)) * chunk

    def block(a: Float[Array, "B S ..."]) -> Float[Array, "L B Q ..."]:
        a = jnp.pad(a, [(0, 0), (0, blocks * length - size)] + [(0, 0)] * (a.ndim - 2))
        return jnp.moveaxis(a.reshape(a.shape[0], blocks, length, *a.shape[2:]), 1, 0)

    def one(state: State, tokens: Tokens) -> tuple[State, Array]:
        y, state = at_once(tokens, skip, state)
        return state, y

    state, y = scan(one, state, Tokens(*map(block, tokens)))
    return _widened(jnp.moveaxis(y, 0, 1).reshape(y.shape[1], -1, *y.shape[3:])[:, :size]), state


def _widened(y: Float[Array, "B S N P"]) -> Float[Array, "B S N P"]:
    """Outputs in float32 that lie in memory as they were rounded, all channels of a token along one axis: a
    compiler would leave out a rounding that it sees undone at once."""
    rounded = lax.optimization_barrier(y.reshape(*y.shape[:2], -1))
    return rounded.astype(jnp.float32).reshape(y.shape)


def _chunks_in_turn(
    tokens: Tokens,
    skip: Float[Array, "N"] | None,
    state: State,
    *,
    chunk: int,
) -> tuple[Float[Array, "B S N P"], State]:
    """`ssd_window` by `ssd_chunked`, or `ssd_step` where there is one token."""
    (u, log_decay, b), c = tokens.added(), tokens.c.astype(jnp.float32)
    if u.shape[1] == 1:
        y, state = ssd_step(u[:, 0], log_decay[:, 0], b[:, 0], c[:, 0], state)
        y = y[:, None]
    else:
        y, state = ssd_chunked(u, log_decay, b, c, state, chunk)
    return (y if skip is None else y + skip[:, None] * tokens.x.astype(jnp.float32)), state


def _decay_and_sum(tokens: Tokens, like: State) -> tuple[Float[Array, "B N 1 1"], State]:
    """What a window multiplies a state by, and what it adds to it."""
    u, log_decay, b = tokens.added()
    taken = jnp.full(u.shape[:1], u.shape[1])
    added = ssd_replay(u, log_decay, b, jnp.zeros_like(like), taken)
    return jnp.exp(log_decay.sum(1))[..., None, None], added
