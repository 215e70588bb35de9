"""Draft tokens as branches of a text: many drafts, each at its own place, scored in one pass with it."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.training.objectives.objective import Score


@struct.dataclass
class Branches:
    """Chains of draft tokens, each behind some token of the text.

    Attributes:
        anchors: i32[B, N], the place in the text of the token that each draft follows.
        drafts: i32[B, N, G].
    """

    anchors: jax.Array
    drafts: jax.Array

    @property
    def places(self) -> Int[Array, "B N G"]:
        """Where in the text each draft token would stand."""
        return self.anchors[:, :, None] + 1 + jnp.arange(self.drafts.shape[2])

    def wrong(self, tokens: Int[Array, "B S"]) -> Bool[Array, "B N G"]:
        """Which draft tokens are not what the text has there."""
        return self.drafts != at_places(tokens, self.places)


def at_places(values: Array, places: Int[Array, "B N G"]) -> Array:
    """[B, N, G, ...] of ``values[B, S, ...]``; a place behind the end counts as the last."""
    rows = jnp.arange(places.shape[0])[:, None, None]
    return values[rows, jnp.minimum(places, values.shape[1] - 1)]


def ancestors(size: int, branches: Branches) -> Bool[Array, "B T T"]:
    """Who sees whom in a window of the text's `size` tokens and all drafts behind them, T in all.

    The text is causal. A draft token sees the text up to its anchor, and those before it in its own draft.
    """
    batch, count, length = branches.drafts.shape
    text = jnp.arange(size)
    own = jnp.arange(count * length)
    before = (own[:, None] // length == own // length) & (own <= own[:, None])
    anchors = jnp.repeat(branches.anchors, length, axis=1)[:, :, None]
    causal = jnp.broadcast_to(text <= text[:, None], (batch, size, size))
    nothing = jnp.zeros((batch, size, count * length), bool)
    drafts = jnp.concatenate([text <= anchors, jnp.broadcast_to(before, (batch, *before.shape))], axis=2)
    return jnp.concatenate([jnp.concatenate([causal, nothing], axis=2), drafts], axis=1)


def score_branches(
    score: Score, tokens: Int[Array, "B S"], branches: Branches
) -> tuple[Float[Array, "B S V"], Float[Array, "B N G V"]]:
    """The logits behind each token of the text and behind each draft token."""
    batch, size = tokens.shape
    places = jnp.broadcast_to(jnp.arange(size), tokens.shape)
    logits = score(
        jnp.concatenate([tokens, branches.drafts.reshape(batch, -1)], axis=1),
        mask=ancestors(size, branches),
        positions=jnp.concatenate([places, branches.places.reshape(batch, -1)], axis=1),
    )
    text, drafts = logits[:, :size], logits[:, size:]
    return text, drafts.reshape(*branches.drafts.shape, -1)


def choices_behind(
    text: Float[Array, "B S V"], drafts: Float[Array, "B N G V"], anchors: Int[Array, "B N"]
) -> Int[Array, "B N G+1"]:
    """The most probable token behind each anchor, and behind each draft token that follows it."""
    first = jnp.argmax(at_places(text, anchors[:, :, None]), axis=-1)
    return jnp.concatenate([first, jnp.argmax(drafts, axis=-1)], axis=2).astype(jnp.int32)


def soft_nats(teacher: Float[Array, "... V"], student: Float[Array, "... V"]) -> Float[Array, "..."]:
    """Cross-entropy of the student's distribution under the teacher's, f32 nats, without its gradient."""
    probabilities = jax.nn.softmax(jax.lax.stop_gradient(teacher).astype(jnp.float32), axis=-1)
    return -(probabilities * jax.nn.log_softmax(student.astype(jnp.float32), axis=-1)).sum(-1)
