"""Training of DFlash heads: blocks at several places of each text, all slots at once."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import number, shown, whole
from jaxmodels.decoding.drafters.dflash import DFlashDrafter
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.rope import Rope
from jaxmodels.layers.spec import Params
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.draft_heads.block_conv import BlockConv
from jaxmodels.models.draft_heads.dflash import DFlash, DFlashBlock, even_layers
from jaxmodels.models.draft_heads.slot_choice import (
    CandidateSelector,
    MarkovBias,
    SlotChoice,
    SlotConfidence,
)
from jaxmodels.training.draft_heads.objective import RIGHT_FIRST_DRAFTS, Pupil, Seen, known_rows

_SIZES = ("layers", "num_heads", "num_kv_heads", "head_dim", "d_ff", "anchors")


@dataclass(frozen=True, kw_only=True)
class DFlashTraining:
    """A DFlash head, and its training: cross-entropy of each slot to the model's own distribution there.

    A block begins at a random token of the text and sees the features in front of it. The drafts of slot k
    count ``exp(-(k - 1) / decay)``, since they are of use only where those before them are right. A head with
    a confidence adds the binary cross-entropy to the share ``sum_v min(p, q)`` that sampling would accept. A
    `SlotChoice` is told the tokens of the text; the logits that a selector chooses from are trained beside
    its scores. Sources: dflash 0.1.0; speculators 0.9.0 for DSpark.

    Attributes:
        layers: of the head.
        num_heads, num_kv_heads, head_dim: of its attention.
        d_ff: width of its feed-forwards.
        target_layers: the target's blocks behind which features are taken; None for `even_layers`.
        block_size: slots of a block.
        mask_token: what stands in slots to be filled, a token of the target's.
        draft_vocab_size: see `HeadObjective`.
        selector_rank: of DFlash2's selector, beside which there are its convolutions; None for neither.
        markov_rank: of DSpark's bias by the token before, beside which there is its confidence, and drafts
            begin with the newest token's own slot; None for none of these.
        rope_theta: of the rotary embedding.
        anchors: blocks of each text.
        decay: see above.

    Raises:
        ValueError: a field is out of range; the message names it. When run, texts shorter than a block.
    """

    layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int
    target_layers: tuple[int, ...] | None = None
    block_size: int = 16
    mask_token: int = 0
    draft_vocab_size: int | None = None
    selector_rank: int | None = None
    markov_rank: int | None = None
    rope_theta: float = 10000.0
    anchors: int = 16
    decay: float = 4.0

    measure: ClassVar[str] = RIGHT_FIRST_DRAFTS

    def __post_init__(self) -> None:
        for name in _SIZES:
            whole(f"DFlashTraining: {name}", getattr(self, name), low=1)
        for name in ("draft_vocab_size", "selector_rank", "markov_rank"):
            if getattr(self, name) is not None:
                whole(f"DFlashTraining: {name}", getattr(self, name), low=1)
        whole("DFlashTraining: block_size", self.block_size, low=2)
        whole("DFlashTraining: mask_token", self.mask_token)
        number("DFlashTraining: decay", self.decay, low=0.0, low_included=False)
        if self.selector_rank is not None and (self.draft_vocab_size, self.markov_rank) != (None, None):
            raise ValueError(
                f"DFlashTraining: selector_rank={self.selector_rank} goes with neither draft_vocab_size="
                f"{self.draft_vocab_size} nor markov_rank={self.markov_rank}"
            )
        if self.target_layers is not None:
            given = self.target_layers
            if not isinstance(given, tuple | list) or not given:
                raise ValueError(f"DFlashTraining: target_layers must name blocks, got {shown(given)}")
            object.__setattr__(self, "target_layers", tuple(given))

    def head(self, target: Decoder) -> DFlash:
        width, known = target.d_model, self.draft_vocab_size or target.vocab_size
        norm, conv = RMSNorm(dim=width), None
        head_norm = RMSNorm(dim=self.head_dim, axis=None)
        choice: SlotChoice | None = None
        if self.selector_rank is not None:
            conv = BlockConv(d_model=width)
            choice = CandidateSelector(vocab_size=known, d_model=width, rank=self.selector_rank)
        if self.markov_rank is not None:
            choice = MarkovBias(
                target_vocab_size=target.vocab_size, vocab_size=known, d_model=width, rank=self.markov_rank
            )
        block = DFlashBlock(
            mixer_norm=norm,
            mixer=Attention(
                d_model=width,
                num_heads=self.num_heads,
                num_kv_heads=self.num_kv_heads,
                head_dim=self.head_dim,
                rope=Rope(rotary_dim=self.head_dim, theta=self.rope_theta),
                query_norm=head_norm,
                key_norm=head_norm,
            ),
            ffn_norm=norm,
            ffn=GatedMLP(d_model=width, d_ff=self.d_ff),
            mixer_conv=conv,
            ffn_conv=conv,
        )
        read = self.target_layers or even_layers(len(target.blocks), self.layers)
        plain = self.markov_rank is None
        return DFlash(
            target_vocab_size=target.vocab_size,
            vocab_size=known,
            d_model=width,
            blocks=(block,) * self.layers,
            feature_norm=norm,
            norm=norm,
            target_layers=read,
            target_depth=len(target.blocks),
            block_size=self.block_size,
            mask_token=self.mask_token,
            from_anchor=not plain,
            choice=choice,
            confidence=None if plain else SlotConfidence(d_model=width, rank=self.markov_rank),
            layout="dflash" if known == target.vocab_size else "speculators_dflash",
        )

    def start(self, pupil: Pupil) -> Params:
        """A head of its own begins as that of the target."""
        if "head" not in pupil.params:
            return pupil.params
        return {**pupil.params, "head": {"weight": known_rows(pupil)}}

    def loss(self, pupil: Pupil, seen: Seen, key: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
        costs, right = self.slots(pupil, seen, key)
        weights = jnp.exp(-jnp.arange(costs.shape[1]) / self.decay)
        return (costs * weights).mean(0).sum() / weights.sum(), right[:, 0].mean(dtype=jnp.float32)

    def drafter(self, pupil: Pupil) -> DFlashDrafter:
        return DFlashDrafter(head=pupil.head, params=pupil.params, token_ids=pupil.token_ids)

    def slots(self, pupil: Pupil, seen: Seen, key: Array) -> tuple[Float[Array, "R G"], Bool[Array, "R G"]]:
        """What each drafting slot of the blocks costs, and whether the token that it finds best is the
        model's."""
        head, tokens, scores = pupil.head, seen.tokens, seen.scored.logits
        batch, length = tokens.shape
        width = head.slots(head.size)
        if length <= width:
            raise ValueError(f"texts of {length} tokens hold no block of {width} slots and a token before it")
        last = length - width + (not head.from_anchor)
        places = jax.vmap(lambda row: jax.random.permutation(row, last - 1)[: self.anchors])
        anchors = 1 + places(jax.random.split(key, batch))
        block = jnp.full((*anchors.shape, width), head.mask_token).at[..., 0].set(_at(tokens, anchors))
        embedded = head.embed(pupil.params, pupil.target, block)
        features = head.features(pupil.params, seen.scored.taps)
        hidden = head.forward(pupil.params, embedded, features, anchors)[:, :, width - head.size :]
        # A draft follows the token at `before`, where the model's own opinion of it stands.
        before = (anchors[:, :, None] + jnp.arange(head.size)).reshape(batch, -1)
        told, wanted = (_at(a, before).reshape(-1, head.size, *a.shape[2:]) for a in (tokens, scores))
        hidden = hidden.reshape(-1, *hidden.shape[2:])
        return self._compared(pupil, hidden, told, wanted.astype(jnp.float32))

    def _compared(
        self,
        pupil: Pupil,
        hidden: Float[Array, "R G D"],
        told: Int[Array, "R G"],
        wanted: Float[Array, "R G V"],
    ) -> tuple[Float[Array, "R G"], Bool[Array, "R G"]]:
        """Slots against the model's scores; told: the tokens in front of them."""
        head, params = pupil.head, pupil.params
        logits, best = head.logits(params, pupil.target, hidden), wanted.max(-1)
        if pupil.token_ids is not None:
            wanted = wanted[..., pupil.token_ids]
        p = jax.nn.softmax(wanted, axis=-1)
        costs = _cross_entropy(p, logits)
        if head.choice is not None:
            scores = head.choice.taught(params["choice"], logits, hidden, told, jnp.argmax(wanted, axis=-1))
            among = jnp.where(jnp.isfinite(scores), p, 0.0)
            chosen = _cross_entropy(among / among.sum(-1, keepdims=True), scores)
            costs = costs + chosen if isinstance(head.choice, CandidateSelector) else chosen
            logits = scores
        if head.confidence is not None:
            share = jax.lax.stop_gradient(jnp.minimum(p, jax.nn.softmax(logits, axis=-1)).sum(-1))
            sure = head.confidence_logits(params, hidden, told)
            costs = costs + jax.nn.softplus(sure) - share * sure
        found = jnp.take_along_axis(wanted, jnp.argmax(logits, axis=-1)[..., None], axis=-1)[..., 0]
        return costs, found == best


def _cross_entropy(p: Float[Array, "... V"], logits: Float[Array, "... V"]) -> Float[Array, "..."]:
    """``-sum p log q``; what has no probability costs nothing."""
    log_q = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.where(p > 0, p * jnp.where(p > 0, log_q, 0.0), 0.0).sum(-1)


def _at(values: Any, places: Int[Array, "B N"]) -> Any:
    """What stands at places of each row."""
    return jax.vmap(lambda row, at: row[at])(values, places)
