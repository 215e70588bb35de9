"""Next-token cross-entropy, in nats per token and in bits per byte."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def next_token_nats(logits: Float[Array, "B S V"], tokens: Int[Array, "B S"]) -> Float[Array, "B S-1"]:
    """Cross-entropy of token s + 1 under the logits at position s, f32 nats."""
    return token_nats(logits[:, :-1], tokens[:, 1:])


def token_nats(logits: Float[Array, "B S V"], tokens: Int[Array, "B S"]) -> Float[Array, "B S"]:
    """Cross-entropy of each token under the logits at its own place, f32 nats."""
    logits = logits.astype(jnp.float32)
    target = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - target


def language_model_loss(
    logits: Float[Array, "B S V"],
    tokens: Int[Array, "B S"],
    mask: Bool[Array, "B S"] | None = None,
    *,
    z_loss: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean next-token cross-entropy of a batch of windows.

    Args:
        logits: of any float dtype; the loss is computed in f32.
        tokens: the windows; the first token of each is context only.
        mask: which tokens are predicted, all by default. `mask[:, 0]` has no effect.
        z_loss: weight of the mean of ``log(Z)**2``, which keeps the normaliser Z near 1 (PaLM,
            https://arxiv.org/abs/2204.02311, section 5, uses 1e-4).

    Returns:
        The mean in nats per predicted token (0 if there is none) and the number of predicted tokens, both
        f32.
    """
    nats = next_token_nats(logits, tokens)
    if z_loss:
        normaliser = jax.nn.logsumexp(logits[:, :-1].astype(jnp.float32), axis=-1)
        nats = nats + z_loss * normaliser**2
    predicted = jnp.ones_like(nats) if mask is None else mask[:, 1:].astype(jnp.float32)
    count = predicted.sum()
    return (nats * predicted).sum() / jnp.maximum(count, 1.0), count


def nats_to_bits_per_byte(nats: float, num_bytes: int) -> float:
    """Bits per byte of a text of `num_bytes` UTF-8 bytes whose tokens cost `nats` in all.

    Raises:
        ValueError: `num_bytes` is not positive.
    """
    if num_bytes <= 0:
        raise ValueError(f"nats_to_bits_per_byte: num_bytes must be positive, got {num_bytes}")
    return nats / math.log(2) / num_bytes
