"""The loss of a DFlash head: blocks at several places of each text, all slots at once."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.checks import number, whole
from jaxmodels.layers.spec import Params
from jaxmodels.models.draft_heads.dflash import DFlash, decoder_of
from jaxmodels.models.draft_heads.feature_head import Target
from jaxmodels.models.scored import NOWHERE


@dataclass(frozen=True, kw_only=True)
class DFlashLoss:
    """Cross-entropy of each slot to the model's own distribution at its place, given the text in front of it.

    A block begins at a random token of the text and sees the features in front of it. Slot k of its drafts
    counts ``exp(-(k - 1) / decay)``, since it is of use only where those before it are right. A head with a
    confidence adds the binary cross-entropy to the share ``sum_v min(p, q)`` that sampling would accept. A
    `SlotChoice` is told the tokens of the text, and a selector's logits are trained beside its scores.
    Sources: dflash 0.1.0; speculators 0.9.0 for the confidence.

    Attributes:
        anchors: blocks of each text.
        decay: see above.

    Raises:
        ValueError: a number outside its range; when called, texts that are shorter than a block.
    """

    anchors: int = 16
    decay: float = 4.0

    def __post_init__(self) -> None:
        whole("DFlashLoss: anchors", self.anchors, low=1)
        number("DFlashLoss: decay", self.decay, low=0.0, low_included=False)

    def __call__(
        self,
        head: DFlash,
        params: Params,
        target: Target,
        tokens: Int[Array, "B S"],
        key: Array,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, "..."]]]:
        """The mean over slots by their weights, and metrics: `agreement` f32[G], how often each slot says
        what the model does, and `accepted`, how many of a block would be accepted greedily."""
        batch, length = tokens.shape
        width = head.slots(head.size)
        if length <= width:
            raise ValueError(f"texts of {length} tokens hold no block of {width} slots and a token before it")
        config = decoder_of(target.config)
        seen = config.forward_scored(target.params, tokens, taps=head.taps, logits_at=NOWHERE)
        seen = jax.lax.stop_gradient(seen)
        last = length - width + (not head.from_anchor)
        places = jax.vmap(lambda row: jax.random.permutation(row, last - 1)[: self.anchors])
        anchors = 1 + places(jax.random.split(key, batch))
        block = jnp.full((*anchors.shape, width), head.mask_token).at[..., 0].set(_at(tokens, anchors))
        embedded = head.embed(params, target, block)
        hidden = head.forward(params, embedded, head.features(params, seen.taps), anchors)
        hidden = hidden[:, :, width - head.size :]
        # A draft follows the token at `before`, whose hidden state gives the model's own opinion of it.
        before = anchors[:, :, None] + jnp.arange(head.size)
        wanted = config.logits(target.params, _at(seen.hidden, before.reshape(batch, -1)))
        flat = (batch * anchors.shape[1], head.size)
        told = _at(tokens, before.reshape(batch, -1)).reshape(flat)
        wanted = wanted.reshape(*flat, -1)
        logits = head.logits(params, target, hidden).reshape(*flat, -1)
        return self._compared(head, params, logits, hidden.reshape(*flat, -1), told, wanted)

    def _compared(
        self,
        head: DFlash,
        params: Params,
        logits: Float[Array, "B G V"],
        hidden: Float[Array, "B G D"],
        told: Int[Array, "B G"],
        wanted: Float[Array, "B G V"],
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, "..."]]]:
        """Blocks against the model's logits at their slots; told: the tokens in front of the slots."""
        p = jax.nn.softmax(wanted, axis=-1)
        right = jnp.argmax(wanted, axis=-1)
        costs = _cross_entropy(p, logits)
        if head.choice is not None:
            scores = head.choice.taught(params["choice"], logits, hidden, told, right)
            is_kept = jnp.isfinite(scores)
            among = jnp.where(is_kept, p, 0.0)
            chosen = _cross_entropy(among / among.sum(-1, keepdims=True), scores)
            costs = jnp.where(is_kept.all(), chosen, costs + chosen)
            logits = scores
        if head.confidence is not None:
            share = jax.lax.stop_gradient(jnp.minimum(p, jax.nn.softmax(logits, axis=-1)).sum(-1))
            sure = head.confidence_logits(params, hidden, told)
            costs = costs + jax.nn.softplus(sure) - share * sure
        weights = jnp.exp(-jnp.arange(head.size) / self.decay)
        loss = (costs * weights).mean(0).sum() / weights.sum()
        agrees = (jnp.argmax(logits, axis=-1) == right).astype(jnp.float32)
        metrics = {"agreement": agrees.mean(0), "accepted": jnp.cumprod(agrees, axis=1).sum(1).mean()}
        return loss, metrics


def _cross_entropy(p: Float[Array, "... V"], logits: Float[Array, "... V"]) -> Float[Array, "..."]:
    """``-sum p log q``; what has no probability costs nothing."""
    log_q = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.where(p > 0, p * jnp.where(p > 0, log_q, 0.0), 0.0).sum(-1)


def _at(values: Any, places: Int[Array, "B N"]) -> Any:
    """What stands at places of each row."""
    return jax.vmap(lambda row, at: row[at])(values, places)
