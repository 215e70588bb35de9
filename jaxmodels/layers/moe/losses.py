"""What keeps routers balanced and their logits small. Means are over real tokens.

Leading axes beyond ``[B, S, ...]``, such as stacked layers, are averaged over.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.layers.moe.routing import Routing


def load_balance_loss(
    routing: Routing,
    *,
    by_row: bool = False,
    load_before: Int[Array, "*layers E"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """``E * sum over e of f[e] * P[e]``: 1 under perfect balance, E where one expert takes everything.

    f is the share of all slots that an expert fills, P the mean of its score, scores summing to 1 per token.
    Only P has a gradient (https://arxiv.org/abs/2101.03961). transformers' loss is k times this one.

    Args:
        routing: of one layer.
        by_row: balance within each row (DeepSeek-V3's sequence-wise loss), not over the batch.
        load_before: loads of earlier micro-batches of the same step, added to f: the global-batch loss of
            https://arxiv.org/abs/2501.11873, which lets a micro-batch be unbalanced if the batch is not.
        axis_name: mapped axis over which f is summed, for batches spread with `shard_map`.
    """
    tokens = (-2,) if by_row else (-3, -2)
    scores = routing.scores / jnp.maximum(routing.scores.sum(-1, keepdims=True), 1e-20)
    real = jnp.ones_like(scores[..., :1]) if routing.valid is None else routing.valid[..., None]
    share = (scores * real).sum(tokens) / jnp.maximum(real.sum(tokens), 1.0)
    load = routing.drop_padding().assigned().sum(tokens)
    if load_before is not None:
        load = load + load_before
    if axis_name is not None:
        load = lax.psum(load, axis_name)
    load = lax.stop_gradient(load / jnp.maximum(load.sum(-1, keepdims=True), 1.0))
    return (routing.num_experts * (load * share).sum(-1)).mean()


def router_z_loss(routing: Routing) -> Float[Array, ""]:
    """Mean of ``logsumexp(logits)^2``, which keeps router logits small (https://arxiv.org/abs/2202.08906)."""
    squares = jax.nn.logsumexp(routing.logits, axis=-1) ** 2
    if routing.valid is None:
        return squares.mean()
    return (squares * routing.valid).sum() / jnp.maximum(routing.valid.sum(), 1)


def locality_loss(routing: Routing, steepness: float = 100.0) -> Float[Array, ""]:
    """Cross-entropy between which experts a token and the one before it activate: neighbours should agree.

    A logit's sign decides in a `ReLURouter`; ``sigmoid(steepness * logit)`` stands for it. Mean over experts
    and pairs of real tokens. Source: BlockFFN (https://github.com/thunlp/BlockFFN), its activation locality.
    """
    before, after = (steepness * routing.logits[..., part, :] for part in (slice(-1), slice(1, None)))
    target = jax.nn.sigmoid(after)
    entropy = target * jax.nn.softplus(-before) + (1.0 - target) * jax.nn.softplus(before)
    if routing.valid is None:
        return entropy.mean()
    pairs = (routing.valid[..., :-1] & routing.valid[..., 1:])[..., None]
    return (entropy * pairs).sum() / jnp.maximum(pairs.sum() * routing.num_experts, 1)


def chunk_sparsity_loss(routing: Routing, size: int = 64) -> Float[Array, ""]:
    """The chance that a chunk of `size` tokens activates an expert, in the mean over chunks and experts.

    With ``p = relu(logits) / sum(relu(logits))`` that is ``1 - product over the chunk of (1 - p)``; padding
    counts as p = 0. Source: BlockFFN (https://github.com/thunlp/BlockFFN), its chunk sparsification.
    """
    scores = jax.nn.relu(routing.logits)
    chances = scores / (scores.sum(-1, keepdims=True) + 1e-5)
    if routing.valid is not None:
        chances = chances * routing.valid[..., None]
    *lead, tokens, experts = chances.shape
    spare = -tokens % size
    chances = jnp.pad(chances, [(0, 0)] * len(lead) + [(0, spare), (0, 0)])
    idle = jnp.log(1.0 - chances + 1e-5).reshape(*lead, -1, size, experts).sum(-2)
    return 1.0 - jnp.exp(idle).mean()


def coupling_loss(
    w_router: Float[Array, "*layers E D"],
    w_in: Float[Array, "*layers E D F"],
    key: jax.Array | None = None,
    alpha: float = 1.0,
) -> Float[Array, ""]:
    """The expert-router coupling (ERC) loss: each router row should excite its own expert most.

    With ``M[i, j] = |r_i @ w_in[j]|``, r_i being the router's weights for expert i, it is the mean over i and
    j of ``max(M[i, j] - alpha * M[i, i], 0) + max(M[j, i] - alpha * M[i, i], 0)``, i and j different. With a
    key each r_i is multiplied by noise in ``1 - eps_i .. 1 + eps_i``, where eps_i is half the distance to the
    nearest other row over its own length, so that it stays in its own cell. Source:
    https://arxiv.org/abs/2512.23447.

    Args:
        w_router: the router's weights.
        w_in: the experts' first projection (the gate of gated experts).
        key: for the noise; None adds none.
        alpha: how much weaker than its own the other activations must be, 0 to 1.
    """
    rows = w_router.astype(jnp.float32)
    if key is not None:
        fixed = lax.stop_gradient(rows)
        apart = jnp.linalg.norm(fixed[..., :, None, :] - fixed[..., None, :, :], axis=-1)
        apart = apart + jnp.where(jnp.eye(apart.shape[-1], dtype=bool), jnp.inf, 0.0)
        eps = apart.min(-1) / (2 * jnp.maximum(jnp.linalg.norm(fixed, axis=-1), 1e-20))
        noise = jax.random.uniform(key, rows.shape, minval=-1.0, maxval=1.0)
        rows = rows * (1.0 + eps[..., None] * noise)
    excited = jnp.einsum("...id,...jdf->...ijf", rows, w_in.astype(jnp.float32))
    norms = jnp.sqrt(jnp.square(excited).sum(-1) + 1e-20)
    own = jnp.diagonal(norms, axis1=-2, axis2=-1)[..., :, None]
    excess = jax.nn.relu(norms - alpha * own) + jax.nn.relu(jnp.swapaxes(norms, -1, -2) - alpha * own)
    others = ~jnp.eye(norms.shape[-1], dtype=bool)
    return jnp.where(others, excess, 0.0).mean()


def update_selection_bias(
    bias: Float[Array, "*layers E"], load: Int[Array, "*layers E"], rate: float
) -> Float[Array, "*layers E"]:
    """`bias` moved by `rate` towards balance: up for experts with less than the mean load, down for others.

    Applied after the optimiser's update and outside the gradient (https://arxiv.org/abs/2408.15664).
    """
    load = load.astype(jnp.float32)
    return bias + rate * jnp.sign(load.mean(-1, keepdims=True) - load)
