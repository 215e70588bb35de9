"""What training a draft head differentiates: the parts that all kinds of head share."""

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from jaxmodels.decoding.draft_record import DraftRecord
from jaxmodels.layers.spec import Params
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.draft_heads.feature_head import Target
from jaxmodels.models.scored import Scored

# The share of the first drafted tokens that are what the target finds best.
RIGHT_FIRST_DRAFTS = "right_first_drafts"


@struct.dataclass
class Seen:
    """A batch of windows of text, and what the frozen target computed of it.

    Attributes:
        tokens: i32[B, S].
        scored: the target's logits everywhere, its last hidden state, and the taps of the head.
        weights: f32[B, S], how much it counts what a head predicts each token to be; None where all count.
        drafts: [B, S], what was drafted behind each token where the text was generated, see `DraftRecord`;
            None for other texts.
    """

    tokens: jax.Array
    scored: Scored
    weights: jax.Array | None = None
    drafts: DraftRecord | None = None


@dataclass(frozen=True)
class Pupil:
    """A head in training.

    Attributes:
        head, params: which is trained.
        target: the frozen model that it learns to draft for.
        token_ids: i32[W], the target's number of each token that the head knows; None where it knows all.
    """

    head: Any
    params: Params
    target: Target
    token_ids: Int[Array, "W"] | None


class HeadObjective(Protocol):
    """One kind of head with how it is trained. Implementations are frozen dataclasses."""

    @property
    def draft_vocab_size(self) -> int | None:
        """How many tokens the head knows, the most frequent of the training text; None for all."""

    @property
    def measure(self) -> str:
        """What `loss` tells beside what is differentiated."""

    def head(self, target: Decoder) -> Any:
        """The head to train, for this target: it has a `spec` and names its `taps`."""

    def start(self, pupil: Pupil) -> Params:
        """What training begins with, of parameters that were drawn: some may be the target's."""

    def loss(self, pupil: Pupil, seen: Seen, key: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """What is differentiated, and what is told, as `measure` names it."""

    def drafter(self, pupil: Pupil) -> Any:
        """What is shipped: a `Drafter` that `save_drafter` writes, or what `save_draft_length` does."""


def see(pupil: Pupil, tokens: Int[Array, "B S"]) -> Seen:
    """What the target computes of windows of text."""
    config: Any = pupil.target.config
    assert isinstance(config, Decoder)
    scored = config.forward_scored(pupil.target.params, tokens, taps=pupil.head.taps)
    return Seen(tokens=tokens, scored=jax.lax.stop_gradient(scored))


def counts_ahead(seen: Seen, ahead: int, size: int) -> Float[Array, "B {size}"]:
    """How much it counts what the first `size` places predict of the tokens so many places further on.

    The token behind the window's last one is predicted too, where all tokens count.
    """
    batch, length = seen.tokens.shape
    if seen.weights is None:
        return jnp.broadcast_to(jnp.arange(size) + ahead <= length, (batch, size)).astype(jnp.float32)
    return jnp.pad(seen.weights, ((0, 0), (0, ahead + size)))[:, ahead : ahead + size]


def cross_entropy(
    teacher: Float[Array, "B S V"],
    logits: Float[Array, "B S W"],
    token_ids: Int[Array, "W"] | None,
    counts: Float[Array, "B S"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean cross entropy to the teacher's distribution over the tokens that a head knows, and the share
    of places where both find the same token best.

    Places are left out whose best token the head does not know, as EAGLE-3's authors do; in the share they
    count as wrong.

    Args:
        teacher: scores over the target's vocabulary.
        logits: over the head's.
        token_ids: see `Pupil`.
        counts: how much each place counts.
    """
    teacher = jax.lax.stop_gradient(teacher).astype(jnp.float32)
    best, found, known = teacher.max(-1), jnp.argmax(logits, axis=-1), counts
    if token_ids is not None:
        teacher = teacher[..., token_ids]
        known = counts * (teacher.max(-1) == best)
    right = jnp.take_along_axis(teacher, found[..., None], axis=-1)[..., 0] == best
    nats = -(jax.nn.softmax(teacher) * jax.nn.log_softmax(logits.astype(jnp.float32))).sum(-1)
    loss = (nats * known).sum() / jnp.maximum(known.sum(), 1.0)
    return loss, (right * counts).sum() / jnp.maximum(counts.sum(), 1.0)


def known_rows(pupil: Pupil) -> Float[Array, "W D"]:
    """The rows of the target's output head for the tokens that a head knows."""
    config: Any = pupil.target.config
    weight = pupil.target.params["embed" if config.tie_embeddings else "head"]["weight"]
    return jnp.array(weight if pupil.token_ids is None else weight[pupil.token_ids], jnp.float32)
