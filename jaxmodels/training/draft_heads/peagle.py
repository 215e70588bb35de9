"""P-EAGLE's training: chains of masked pairs behind a part of the text's places, fewer the longer they are.

Pair i is the target's feature of token i and token i + 1, as in `eagle3`. A pair at depth d of the chain that
begins behind anchor a stands at place a + d and is made of the head's mask alone; that of depth 0 is the
true pair. It sees the true pairs up to its anchor and its own chain, and is to predict what the true pair at
its place would. All are read in one window.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import number, whole
from jaxmodels.decoding.drafters.peagle import PEagleDrafter
from jaxmodels.layers.spec import Params
from jaxmodels.layers.window import fresh_window, ropes_of
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.draft_heads.eagle3 import Eagle3
from jaxmodels.training.draft_heads.eagle3 import checked_layers, one_layer_head
from jaxmodels.training.draft_heads.objective import (
    RIGHT_FIRST_DRAFTS,
    Pupil,
    Seen,
    cross_entropy,
    known_rows,
)


@struct.dataclass
class Chains:
    """The pairs of texts, those of depth 0 first and in their order.

    Attributes:
        anchors: i32[..., T], the place of the true pair behind which each one's chain begins.
        depths: i32[..., T], how many pairs behind it.
        exist: bool[..., T], false where a text has no room for as many pairs of a depth.
    """

    anchors: jax.Array
    depths: jax.Array
    exist: jax.Array

    @property
    def places(self) -> Int[Array, "... T"]:
        """Those of pairs that do not exist may lie beyond the text."""
        return self.anchors + self.depths

    @property
    def seen(self) -> Bool[Array, "... T T"]:
        """Whether pair i sees pair j: a true one up to its anchor, or one of its own chain."""
        anchor, depth = self.anchors[..., :, None], self.depths[..., :, None]
        its_anchor, its_depth = self.anchors[..., None, :], self.depths[..., None, :]
        is_text = (its_depth == 0) & (its_anchor <= anchor)
        is_chain = (its_anchor == anchor) & (its_depth <= depth) & self.exist[..., None, :]
        return is_text | is_chain


def chain_logits(
    pupil: Pupil, tokens: Int[Array, "B N"], features: Float[Array, "B N F"], chains: Chains
) -> Float[Array, "B T W"]:
    """What a head predicts at every pair of `chains`; the true pairs are those of tokens and features."""
    head, params = pupil.head, pupil.params
    places, is_true = chains.anchors, chains.depths == 0
    read = jnp.where(is_true, jnp.take_along_axis(tokens, places, axis=1), head.mask_token)
    found = jnp.take_along_axis(features, places[:, :, None], axis=1)
    found = jnp.where(is_true[:, :, None], found, head.mask_feature(params))
    stream = head.begin(params, pupil.target, read, found)
    window = fresh_window(read, positions=chains.places, mask=chains.seen, ropes=ropes_of(*head.blocks))
    for i, block in enumerate(head.blocks):
        stream = block.forward(params["blocks"][str(i)], stream, window)
    logits = head.predict(params, stream).logits
    assert logits is not None
    return logits


@dataclass(frozen=True, kw_only=True)
class PEagleTraining:
    """A parallel EAGLE-3 head of one layer, and its training on chains that are sampled at every step.

    Depth d keeps ``max(keep ** d, keep_least)`` of the places that it could have, drawn at random among the
    chains that reach depth d - 1. Every pair counts alike. Source: speculators 0.9.0, whose default is
    another divergence; the cross entropy is that of `Eagle3Training`.

    Attributes:
        layers, num_heads, num_kv_heads, head_dim, d_ff, draft_vocab_size, rope_theta: see `Eagle3Training`.
        mask_token: see `Eagle3`.
        depths: K, how many tokens a pass predicts, and the drafter drafts.
        keep, keep_least: see above.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    layers: tuple[int, ...]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int
    draft_vocab_size: int | None = None
    rope_theta: float = 10000.0
    mask_token: int = 0
    depths: int = 8
    keep: float = 0.7
    keep_least: float = 0.2

    measure: ClassVar[str] = RIGHT_FIRST_DRAFTS

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", checked_layers("PEagleTraining", self))
        whole("PEagleTraining: mask_token", self.mask_token)
        whole("PEagleTraining: depths", self.depths, low=1)
        for name in ("keep", "keep_least"):
            number(f"PEagleTraining: {name}", getattr(self, name), low=0, high=1)

    def head(self, target: Decoder) -> Eagle3:
        return one_layer_head(self, target, mask_token=self.mask_token)

    def start(self, pupil: Pupil) -> Params:
        """The output head is that of the target."""
        return {**pupil.params, "head": {"weight": known_rows(pupil)}}

    def loss(self, pupil: Pupil, seen: Seen, key: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The mean cross entropy, over all pairs, to what the target says behind the tokens there."""
        tokens, teacher = seen.tokens, seen.scored.logits
        batch, size = tokens.shape[0], tokens.shape[1] - 1
        chains = jax.vmap(lambda row: self.chains(row, size))(jax.random.split(key, batch))
        features = pupil.head.features(pupil.params, seen.scored.taps)[:, :-1]
        logits = chain_logits(pupil, tokens[:, 1:], features, chains)
        places = jnp.minimum(chains.places, size - 1)[:, :, None]
        wanted = jnp.take_along_axis(teacher[:, 1:], places, axis=1)
        loss, _ = cross_entropy(wanted, logits, pupil.token_ids, chains.exist.astype(jnp.float32))
        first = jnp.ones((batch, size), jnp.float32)
        _, told = cross_entropy(wanted[:, :size], logits[:, :size], pupil.token_ids, first)
        return loss, told

    def drafter(self, pupil: Pupil) -> PEagleDrafter:
        return PEagleDrafter(
            head=pupil.head, params=pupil.params, token_ids=pupil.token_ids, size=self.depths
        )

    def counts(self, size: int) -> tuple[int, ...]:
        """How many chains reach each depth in a text of `size` pairs, for depths that any reaches."""
        counts = [size]
        for depth in range(1, self.depths):
            share = max(self.keep**depth, self.keep_least)
            counts.append(min(int((size - depth) * share), counts[-1]))
        return tuple(count for count in counts if count > 0)

    def chains(self, key: Array, size: int) -> Chains:
        """Chains behind random anchors of one text, in which those of a depth are among those of the last."""
        anchors, exist = jnp.arange(size), jnp.ones(size, bool)
        levels = [(anchors, exist)]
        anchors = jax.random.permutation(key, anchors)
        for depth, count in enumerate(self.counts(size)[1:], start=1):
            exist = exist & (anchors + depth < size)
            first = jnp.argsort(~exist, stable=True)[:count]
            anchors, exist = anchors[first], exist[first]
            levels.append((anchors, exist))
        depths = [jnp.full(len(level[0]), depth) for depth, level in enumerate(levels)]
        return Chains(
            anchors=jnp.concatenate([level[0] for level in levels]),
            depths=jnp.concatenate(depths),
            exist=jnp.concatenate([level[1] for level in levels]),
        )
