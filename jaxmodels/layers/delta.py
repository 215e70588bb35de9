"""The gated delta rule: step, chunked, replayed and tree forms, with a decay per head or per key channel.

The recurrence, per head n whose key and query are those of group g:

    decayed_t = exp(log_decay_t) * state_{t-1}                                state: [R, P]
    update_t  = beta_t * (v_t - k_t . decayed_t)
    state_t   = decayed_t + k_t (outer) update_t
    y_t       = q_t . state_t

What is written is the part of the value that the state does not predict yet, hence the name. A decay per head
multiplies the whole state (Gated DeltaNet, https://arxiv.org/abs/2412.06464), one per channel each of its R
rows (Kimi Delta Attention, https://arxiv.org/abs/2510.26692); `log_decay` has a last axis of 1 or R
accordingly and is never positive. A token with ``log_decay = 0`` and ``beta = 0`` leaves the state as it was,
which is how padding is expressed.

Once the updates are known, the state is a linear recurrence in them (`delta_replay`), and an update depends
on earlier tokens only: so a window's updates are all that is needed to settle any prefix of it, or any path.

States are laid out ``[B, N, R, P]`` as in `jaxmodels.layers.ssd`.
"""

import functools

import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.backends import ByBackend
from jaxmodels.layers.mapped import scan
from jaxmodels.layers.sequence_parts import parts_of, recurrence_in_parts
from jaxmodels.layers.state.history import History

State = Float[Array, "B N R P"]

# Chunk lengths measured per backend: CPUs want the Q x Q blocks to stay in their inner caches.
CPU_CHUNK = 32

# Inside blocks of this many tokens, decays per channel and inverses are computed entry by entry.
BLOCK = 8


def delta_step(
    q: Float[Array, "B G R"],
    k: Float[Array, "B G R"],
    v: Float[Array, "B N P"],
    beta: Float[Array, "B N"],
    log_decay: Float[Array, "B N #R"],
    state: State,
) -> tuple[Float[Array, "B N P"], Float[Array, "B N P"], State]:
    """One token of the recurrence: its output, its update and the next state.

    The old state is read once for both products, ``k . decayed`` and ``q . decayed``.
    """
    q, k = (jnp.repeat(a, v.shape[1] // a.shape[1], axis=1) for a in (q, k))
    decay = jnp.exp(log_decay)
    readers = jnp.stack([k, q], axis=2) * decay[:, :, None]
    predicted, from_history = jnp.unstack(jnp.einsum("bnxr,bnrp->bnxp", readers, state), axis=2)
    update = beta[..., None] * (v - predicted)
    state = decay[..., None] * state + k[..., None] * update[..., None, :]
    return from_history + (q * k).sum(-1, keepdims=True) * update, update, state


def delta_chunked(
    q: Float[Array, "B S G R"],
    k: Float[Array, "B S G R"],
    v: Float[Array, "B S N P"],
    beta: Float[Array, "B S N"],
    log_decay: Float[Array, "B S N #R"],
    state: State,
    chunk: int,
) -> tuple[Float[Array, "B S N P"], Float[Array, "B S N P"], State]:
    """A whole window in chunks of `chunk` tokens: outputs, updates and the final state.

    With G the decay summed from a chunk's start, its updates U solve the unit lower-triangular system

        (1 + A) U = beta * (V - (K exp(G)) state),    A_ij = beta_i K_i . exp(G_i - G_j) K_j  for j < i

    (the UT transform of https://arxiv.org/abs/2406.06484). A depends on no state, so all chunks' systems are
    inverted at once; between chunks only the states are passed on. Exponents are never positive.
    """
    size = v.shape[1]
    inverse, scores, readers, writers, total = _prepare(q, k, beta, log_decay, v.shape[2], chunk)

    def pass_on(carried: State, one: tuple[Array, ...]) -> tuple[State, tuple[Array, Array]]:
        inverse, scores, readers, writers, total, v = one
        read = jnp.einsum("bnqr,bnrp->bnqp", readers, carried)
        predicted, from_history = read[:, :, :chunk], read[:, :, chunk:]
        update = inverse @ (v - predicted)
        kept = jnp.exp(total)[..., None] * carried
        return kept + jnp.einsum("bnqr,bnqp->bnrp", writers, update), (from_history + scores @ update, update)

    chunks = (inverse, scores, readers, writers, total, _to_chunks(v, chunk))
    state, (y, update) = scan(pass_on, state, chunks)
    y, update = (rearrange(a, "c b n q p -> b (c q) n p")[:, :size] for a in (y, update))
    return y, update, state


def _prepare(
    q: Float[Array, "B S G R"],
    k: Float[Array, "B S G R"],
    beta: Float[Array, "B S N"],
    log_decay: Float[Array, "B S N #R"],
    heads: int,
    chunk: int,
) -> tuple[Array, Array, Array, Array, Array]:
    """What the chunks need beside the state and their values, all in front of the scan.

    The inverse of the chunk's system, times beta; the scores of q on k; (k; q) as they read the chunk's
    first state, [C, B, N, 2Q, R]; k as it writes into its last; the chunk's whole decay.
    """
    q, k = (_to_chunks(a, chunk) for a in (q, k))
    beta, log_decay = _to_chunks(beta[..., None], chunk), _to_chunks(log_decay, chunk)
    scores = _decayed_scores(jnp.concatenate([k, q], axis=-2), k, log_decay)
    inverse = _unit_lower_inverse(beta * jnp.tril(scores[..., :chunk, :], -1)) * jnp.swapaxes(beta, -1, -2)
    q, k = (jnp.repeat(a, heads // a.shape[2], axis=2) for a in (q, k))
    decay = jnp.exp(jnp.cumsum(log_decay, axis=-2))
    readers = jnp.concatenate([k * decay, q * decay], axis=-2)
    writers = k * jnp.exp(decay_after(log_decay, axis=-2))
    total = log_decay.sum(-2)
    return inverse, jnp.tril(scores[..., chunk:, :]), readers, writers, total


def _to_chunks(a: Float[Array, "B S N H"], chunk: int) -> Float[Array, "C B N Q H"]:
    """Chunks of tokens, the last one padded with zeros."""
    a = jnp.pad(a, [(0, 0), (0, -a.shape[1] % chunk), (0, 0), (0, 0)])
    return rearrange(a, "b (c q) n h -> c b n q h", q=chunk)


def decay_after(log_decay: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """The decay from just after each token to the end. Shifted, not subtracted: that would cancel digits."""
    axis %= log_decay.ndim
    tail = lax.slice_in_dim(log_decay, 1, None, axis=axis)
    padded = jnp.pad(tail, [(0, int(i == axis)) for i in range(tail.ndim)])
    return lax.cumsum(padded, axis=axis, reverse=True)


def _between(log_decay: Float[Array, "*b Q"]) -> Float[Array, "*b Q Q"]:
    """The decay from just after token j to token i, at [i, j]; 0 above the diagonal. Sums, no differences."""
    below = jnp.tril(jnp.ones((log_decay.shape[-1],) * 2, bool), -1)
    return jnp.cumsum(jnp.where(below, log_decay[..., :, None], 0.0), axis=-2)


def _decayed_scores(
    rows: Float[Array, "C B G Z R"], k: Float[Array, "C B G Q R"], log_decay: Float[Array, "C B N Q #R"]
) -> Float[Array, "C B N Z Q"]:
    """``sum_r rows_ir exp(G_ir - G_jr) k_jr``, of which the lower triangles are meaningful.

    `rows` are the chunk's keys, then its queries: Z = 2Q.
    """
    chunk, per_group = k.shape[3], log_decay.shape[2] // k.shape[2]
    if log_decay.shape[-1] == 1:
        products = jnp.repeat(rows @ jnp.swapaxes(k, -1, -2), per_group, axis=2)
        decay = jnp.exp(_between(log_decay[..., 0]))
        return products * jnp.concatenate([decay, decay], axis=-2)
    rows, k = (jnp.repeat(a, per_group, axis=2) for a in (rows, k))
    block = BLOCK if chunk % BLOCK == 0 else chunk
    rows = rearrange(rows, "c b n (x i q) r -> c b n i (x q) r", x=2, q=block)
    k, log_decay = (rearrange(a, "c b n (i q) r -> c b n i q r", q=block) for a in (k, log_decay))
    since = jnp.cumsum(log_decay, axis=-2)
    within = _scores_entry_by_entry(rows, k, since)
    # Between blocks, the decay is cut in two at the start of the later one: both factors are at most 1, and
    # the sum over channels becomes a matrix product.
    whole = jnp.moveaxis(since[..., -1, :], -1, -2)
    skipped = jnp.pad(_between(whole)[..., :-1, :], [(0, 0)] * 4 + [(1, 0), (0, 0)])
    skipped = rearrange(skipped, "c b n r i j -> c b n i j 1 r")
    earlier = k[..., None, :, :, :] * jnp.exp(skipped + decay_after(log_decay, axis=-2)[..., None, :, :, :])
    earlier = rearrange(earlier, "c b n i j q r -> c b n i r (j q)")
    decay = jnp.exp(since)
    between = (rows * jnp.concatenate([decay, decay], axis=-2)) @ earlier
    index = jnp.arange(chunk // block)
    same = (index[:, None] == index.repeat(block))[:, None]
    scores = jnp.where(same, jnp.tile(within, chunk // block), between)
    return rearrange(scores, "c b n i (x q) j -> c b n (x i q) j", x=2)


def _scores_entry_by_entry(
    rows: Float[Array, "*b Z R"], k: Float[Array, "*b Q R"], cumulative: Float[Array, "*b Q #R"]
) -> Float[Array, "*b Z Q"]:
    difference = jnp.minimum(cumulative[..., :, None, :] - cumulative[..., None, :, :], 0.0)
    weighted = k[..., None, :, :] * jnp.exp(difference)
    pairs = rearrange(rows, "... (x q) r -> ... x q 1 r", x=rows.shape[-2] // k.shape[-2])
    return rearrange((pairs * weighted[..., None, :, :, :]).sum(-1), "... x q j -> ... (x q) j")


def _unit_lower_inverse(a: Float[Array, "*b Q Q"]) -> Float[Array, "*b Q Q"]:
    """The inverse of ``1 + a``, where `a` is strictly lower triangular.

    Halves are inverted and joined, ``[[S, 0], [-T a_21 S, T]]``, which has the accuracy of forward
    substitution and consists of matrix products. The product ``(1 - a)(1 + a^2)(1 + a^4)...`` does not have
    it: powers of `a` grow binomially and cancel. XLA's triangular solve is far slower on CPU from Q = 64.
    """
    size = a.shape[-1]
    if size <= BLOCK or size % 2:
        return _inverse_by_substitution(a)
    half = size // 2
    first, second = _unit_lower_inverse(jnp.stack([a[..., :half, :half], a[..., half:, half:]]))
    joined = -(second @ (a[..., half:, :half] @ first))
    top = jnp.concatenate([first, jnp.zeros_like(first)], axis=-1)
    return jnp.concatenate([top, jnp.concatenate([joined, second], axis=-1)], axis=-2)


def _inverse_by_substitution(a: Float[Array, "*b Q Q"]) -> Float[Array, "*b Q Q"]:
    unit = jnp.eye(a.shape[-1], dtype=a.dtype)
    rows: list[Array] = []
    for i in range(a.shape[-1]):
        row = jnp.broadcast_to(unit[i], a.shape[:-1])
        for j, earlier in enumerate(rows):
            row = row - a[..., i, j, None] * earlier
        rows.append(row)
    return jnp.stack(rows, axis=-2)


def delta_replay(
    k: Float[Array, "B S G R"],
    update: Float[Array, "B S N P"],
    log_decay: Float[Array, "B S N #R"],
    state: State,
    n: Int[Array, "B"],
) -> State:
    """The state after the first `n` tokens of a window, from their keys, updates and decays.

    For tokens that were computed as a tree, `k`, `update` and `log_decay` are gathered along a path first.
    """
    taken = (jnp.arange(k.shape[1])[None, :] < n[:, None])[..., None, None]
    log_decay = jnp.where(taken, log_decay, 0.0)
    k = jnp.repeat(k, update.shape[2] // k.shape[2], axis=2)
    added = jnp.einsum(
        "bsnr,bsnp->bnrp", jnp.where(taken, k * jnp.exp(decay_after(log_decay, axis=1)), 0.0), update
    )
    return jnp.exp(log_decay.sum(1))[..., None] * state + added


def delta_tree(
    q: Float[Array, "B S G R"],
    k: Float[Array, "B S G R"],
    v: Float[Array, "B S N P"],
    beta: Float[Array, "B S N"],
    log_decay: Float[Array, "B S N #R"],
    history: History,
    ancestors: Bool[Array, "B S S"] | None,
) -> tuple[Float[Array, "B S N P"], Float[Array, "B S N P"]]:
    """Outputs and updates of a window whose tokens form a tree, or with `ancestors` None follow one another.

    A token follows the history, then its ancestors: ``ancestors[b, i, j]`` says that j is i or an ancestor
    of i; tokens may stand in any order. The chunk's system with the ancestor relation in place of the lower
    triangle. Quadratic in the window, which is a handful of drafted tokens.
    """
    size, heads = v.shape[1:3]
    related = jnp.tril(jnp.ones((1, size, size), bool)) if ancestors is None else ancestors
    cumulative = jnp.einsum("bij,bjnr->bnir", _per_row(related, v), log_decay)
    readers = rearrange(jnp.concatenate([k, q], axis=1), "b z g r -> b g z r")
    decay = jnp.exp(cumulative)
    found = history(readers, jnp.concatenate([decay, decay], axis=2))
    predicted, from_history = found[:, :, :size], found[:, :, size:]
    q, k = (rearrange(jnp.repeat(a, heads // a.shape[2], axis=2), "b s n r -> b n s r") for a in (q, k))
    beta = rearrange(beta, "b s n -> b n s 1")
    scores = _scores_entry_by_entry(jnp.concatenate([k, q], axis=2), k, cumulative)
    related = related[:, None]
    system = jnp.where(related & ~jnp.eye(size, dtype=bool), beta * scores[:, :, :size], 0.0)
    right = beta * (rearrange(v, "b s n p -> b n s p") - predicted)
    if ancestors is None:
        update = right if size == 1 else _unit_lower_inverse(system) @ right
    else:
        # The system is nilpotent: after d rounds every token with fewer than d ancestors has its update.
        update = lax.fori_loop(0, size, lambda _, update: right - system @ update, jnp.zeros_like(right))
    y = from_history + jnp.where(related, scores[:, :, size:], 0.0) @ update
    return rearrange(y, "b n s p -> b s n p"), rearrange(update, "b n s p -> b s n p")


def _per_row(related: Bool[Array, "#B S S"], v: Float[Array, "B S N P"]) -> Float[Array, "B S S"]:
    return jnp.broadcast_to(related, (v.shape[0], *related.shape[1:])).astype(jnp.float32)


def delta_window(
    q: Float[Array, "B S G R"],
    k: Float[Array, "B S G R"],
    v: Float[Array, "B S N P"],
    beta: Float[Array, "B S N"],
    log_decay: Float[Array, "B S N #R"],
    state: State,
    chunk: int,
) -> tuple[Float[Array, "B S N P"], Float[Array, "B S N P"], State]:
    """The recurrence over a window of any length, in the form and chunk length that suit it.

    `chunk` is the longest chunk used; on CPU it is `CPU_CHUNK` at most.
    """
    size = v.shape[1]
    if parts_of(size) > 1:

        def of_part(tokens: tuple[Array, ...], state: State) -> tuple[tuple[Array, Array], State]:
            q, k, v, beta, log_decay = tokens
            y, update, state = delta_window(q, k, v, beta, log_decay, state, chunk)
            return (y, update), state

        (y, update), state = recurrence_in_parts(
            (q, k, v, beta, log_decay),
            state,
            window=of_part,
            summary=functools.partial(_map_and_sum, chunk=chunk),
            advance=lambda made, state: made[0] @ state + made[1],
        )
        return y, update, state
    if size == 1:
        y, update, state = delta_step(q[:, 0], k[:, 0], v[:, 0], beta[:, 0], log_decay[:, 0], state)
        return y[:, None], update[:, None], state
    chunk = min(chunk, size)
    if chunk > BLOCK:
        chunk += -chunk % BLOCK
    if chunk <= CPU_CHUNK:
        return delta_chunked(q, k, v, beta, log_decay, state, chunk)
    by_backend = ByBackend(
        portable=functools.partial(delta_chunked, chunk=chunk),
        cpu=functools.partial(delta_chunked, chunk=CPU_CHUNK),
    )
    y, update, state = by_backend(q, k, v, beta, log_decay, state)
    return y, update, state


def _map_and_sum(
    tokens: tuple[Array, ...], like: State, *, chunk: int
) -> tuple[Float[Array, "B N R R"], State]:
    """What a window multiplies a state by, and what it adds to it.

    Both at once: columns of the state do not mix, so that those of the unit matrix behind those of an empty
    state, with values of 0, become the first.
    """
    q, k, v, beta, log_decay = tokens
    keys = like.shape[-2]
    unit = jnp.broadcast_to(jnp.eye(keys, dtype=like.dtype), (*like.shape[:-1], keys))
    values = jnp.concatenate([v, jnp.zeros((*v.shape[:-1], keys), v.dtype)], axis=-1)
    columns = jnp.concatenate([jnp.zeros_like(like), unit], axis=-1)
    _, _, behind = delta_window(q, k, values, beta, log_decay, columns, chunk)
    return behind[..., like.shape[-1] :], behind[..., : like.shape[-1]]
