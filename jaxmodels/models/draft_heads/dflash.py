"""DFlash: a block of draft tokens from one pass over masked slots that see the target's own features.

The draft is a few transformer layers without an embedding or a head of their own. Keys and values of the text
come from features of the target, the streams behind some of its blocks, mixed by one linear map that all
layers share; they are kept. The newest token and masks behind it are the queries. Their keys and values live
for one pass:

    features:  f0 f1 f2 f3 | x4  _  _  _       every slot sees the features and all slots of its block,
                           |  .  x5 x6 x7      slot j says which token stands at its own place

Sources: the dflash package 0.1.0 (DFlash, DFlash2), speculators 0.9.0 (DSpark), transformers'
``MuseGlimmerAssistantModel``.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import whole
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache.policy import attend_slots, rotated
from jaxmodels.layers.linear import linear
from jaxmodels.layers.masks import BIDIRECTIONAL, CAUSAL
from jaxmodels.layers.mlp import FeedForward
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.spec import FanIn, Normal, Param, Params, ParamTree, buffer, filled
from jaxmodels.layers.window import Window, next_window, ropes_of
from jaxmodels.models.block import layer_specs
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.draft_heads.block_conv import BlockConv
from jaxmodels.models.draft_heads.feature_head import Target, check_streams, check_vocabulary, check_width
from jaxmodels.models.draft_heads.slot_choice import SlotChoice, SlotConfidence
from jaxmodels.models.language_model import LanguageModel


@struct.dataclass
class DFlashCache:
    """Keys and values of the features of each row's history.

    Attributes:
        length: i32[B], tokens whose features are held.
        layers: one state per layer.
    """

    length: jax.Array
    layers: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class DFlashBlock:
    """Attention of a block's slots to the features and one another, then a feed-forward.

    Attributes:
        mixer_norm, mixer, ffn_norm, ffn: as in a `Block`; features are not normalised again.
        causal: whether a slot sees only those of its block that stand before it.
        mixer_conv, ffn_conv: convolutions around either layer, inside the block; None for none.
    """

    mixer_norm: Norm
    mixer: Attention
    ffn_norm: Norm
    ffn: FeedForward
    causal: bool = False
    mixer_conv: BlockConv | None = None
    ffn_conv: BlockConv | None = None

    def spec(self) -> ParamTree:
        return layer_specs(
            mixer_norm=self.mixer_norm,
            mixer=self.mixer,
            mixer_conv=self.mixer_conv,
            ffn_norm=self.ffn_norm,
            ffn=self.ffn,
            ffn_conv=self.ffn_conv,
        )

    def keep(self, params: Params, features: Float[Array, "B S D"], state: Any, window: Window) -> Any:
        """The state with keys and values of the features of `window`."""
        _, pending = self.mixer.write(params["mixer"], features, state, window)
        return self.mixer.commit(pending)

    def peek(
        self, params: Params, x: Float[Array, "B W D"], state: Any, window: Window
    ) -> tuple[Float[Array, "B W D"], Any]:
        """A block behind the features in `state`, which is given back as it was."""
        window = replace(window, mask=CAUSAL if self.causal else BIDIRECTIONAL)
        y, kernel = self._before(params, "mixer", x)
        held, pending = self.mixer.write(params["mixer"], y, state, window)
        y = self.mixer.read(params["mixer"], held, pending, window)
        state = self.mixer.commit(pending, jnp.zeros_like(window.start))
        return self._feed_forward(params, x + self._after(params, "mixer", y, kernel)), state

    def forward(
        self,
        params: Params,
        x: Float[Array, "B*N W D"],
        features: Float[Array, "B S D"],
        blocks: Window,
        text: Window,
        seen: Bool[Array, "B N*W S+N*W"],
    ) -> Float[Array, "B*N W D"]:
        """`peek` of N blocks of each row at once, without a cache. Differentiable.

        blocks, text: where the slots of all blocks and the features stand. seen: which of both, the features
        first, each slot sees.
        """
        mixer, own = self.mixer, params["mixer"]
        batch, size = features.shape[:2]
        y, kernel = self._before(params, "mixer", x)
        flat = y.reshape(batch, -1, y.shape[-1])
        slots = rotated(mixer.heads, mixer.project(own, flat, blocks), blocks)
        held = rotated(mixer.heads, mixer.project(own, features, text), text)
        k, v = (
            jnp.swapaxes(jnp.concatenate(pair, axis=1), 1, 2)
            for pair in ((held.k, slots.k), (held.v, slots.v))
        )

        def allowed(q0: Any, q_size: int, k0: Any, k_size: int) -> Bool[Array, "B Q T"]:
            rows = jax.lax.dynamic_slice_in_dim(seen, q0, q_size, axis=1)
            return jax.lax.dynamic_slice_in_dim(rows, k0, k_size, axis=2)

        total = size + flat.shape[1]
        found = attend_slots(mixer.heads, slots.q, k, v, allowed=allowed, key_range=lambda *_: (0, total))
        y = mixer.output(own, found, None).reshape(x.shape)
        return self._feed_forward(params, x + self._after(params, "mixer", y, kernel))

    def _feed_forward(self, params: Params, x: Float[Array, "B W D"]) -> Float[Array, "B W D"]:
        y, kernel = self._before(params, "ffn", x)
        return x + self._after(params, "ffn", self.ffn(params["ffn"], y), kernel)

    def _before(self, params: Params, name: str, x: Float[Array, "B W D"]) -> tuple[Array, Array | None]:
        norm: Norm = getattr(self, f"{name}_norm")
        conv: BlockConv | None = getattr(self, f"{name}_conv")
        x = norm(params[f"{name}_norm"], x)
        return (x, None) if conv is None else conv.before(params[f"{name}_conv"], x)

    def _after(
        self, params: Params, name: str, y: Float[Array, "B W D"], kernel: Array | None
    ) -> Float[Array, "B W D"]:
        conv: BlockConv | None = getattr(self, f"{name}_conv")
        return y if conv is None or kernel is None else conv.after(params[f"{name}_conv"], y, kernel)


@dataclass(frozen=True, kw_only=True)
class DFlash:
    """The draft head; see the module. Static: parameters are a tree of `spec()`'s structure.

    Attributes:
        target_vocab_size, d_model: of the target, whose embedding it uses.
        vocab_size: tokens that it can draft: all of the target's, of whose head it then makes use, or fewer,
            with a head of its own.
        blocks: in order.
        feature_norm: behind the map of the features.
        norm: in front of the target's head.
        target_layers: the blocks of the target behind which features are taken.
        block_size: slots of a block, the newest token's included.
        mask_token: the token whose embedding stands in slots that are to be filled.
        target_depth: blocks of the target that it was trained for; None where its checkpoint does not say.
        from_anchor: slot j says what stands at place j + 1, so that the newest token's own slot drafts too
            (DSpark); else slot j says what stands at place j.
        embed_scale: multiplies the target's embeddings, in place of the target's own factor.
        logit_scale, logit_softcap: as in `Decoder`, in place of the target's own.
        choice: how a slot's token goes by the one before; None where only its logits count.
        confidence: how sure a slot is; None where the probability of its token tells.
        layout: the published form that it was read in and is written in; see `checkpoints/draft_heads`.

    Raises:
        ValueError: a number outside its range, or no target layer.
    """

    target_vocab_size: int
    vocab_size: int
    d_model: int
    blocks: tuple[DFlashBlock, ...]
    feature_norm: Norm
    norm: Norm
    target_layers: tuple[int, ...]
    block_size: int
    mask_token: int
    target_depth: int | None = None
    from_anchor: bool = False
    embed_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    choice: SlotChoice | None = None
    confidence: SlotConfidence | None = None
    layout: str = "dflash"

    def __post_init__(self) -> None:
        whole("DFlash: block_size", self.block_size, low=1 if self.from_anchor else 2)
        whole("DFlash: mask_token", self.mask_token, low=0, high=self.target_vocab_size - 1)
        if not self.target_layers:
            raise ValueError(
                "DFlash: target_layers is empty; name the target's blocks that features are from"
            )
        for i, layer in enumerate(self.target_layers):
            whole(f"DFlash: target_layers[{i}]", layer, low=0)
        rank = None if self.confidence is None else self.confidence.rank
        if rank is not None and rank != getattr(self.choice, "rank", None):
            raise ValueError(
                f"DFlash: the confidence reads a table of rank {rank}, and choice has "
                f"{getattr(self.choice, 'rank', 'none')}"
            )

    @property
    def size(self) -> int:
        """Tokens that a whole block drafts."""
        return self.block_size - (not self.from_anchor)

    def slots(self, size: int) -> int:
        """Slots of a block that drafts `size` tokens."""
        return size + (not self.from_anchor)

    @property
    def taps(self) -> tuple[str, ...]:
        """The target's streams that features are made of: of its last block the one behind the final norm,
        which is what the ``hidden_states`` of transformers hold there."""
        last = None if self.target_depth is None else self.target_depth - 1
        return tuple("hidden" if layer == last else f"blocks/{layer}" for layer in self.target_layers)

    def spec(self) -> ParamTree:
        width = self.d_model * len(self.target_layers)
        tree: ParamTree = {
            "fc": {"weight": Param((self.d_model, width), ("embed", None), FanIn(width))},
            "feature_norm": self.feature_norm.spec(),
            "blocks": {str(i): block.spec() for i, block in enumerate(self.blocks)},
            "norm": self.norm.spec(),
        }
        if self.vocab_size != self.target_vocab_size:
            shape = (self.vocab_size, self.d_model)
            tree["head"] = {"weight": Param(shape, ("vocab", "embed"), Normal(0.02))}
        for name in ("choice", "confidence"):
            if getattr(self, name) is not None:
                tree[name] = getattr(self, name).spec()
        return tree

    def check_target(self, target: LanguageModel) -> None:
        """Raises ValueError, with both values, where it was made for a target of another shape."""
        target = decoder_of(target)
        check_width("DFlash", self.d_model, target)
        check_vocabulary("DFlash", self.target_vocab_size, target)
        if self.target_depth not in (None, len(target.blocks)):
            raise ValueError(
                f"DFlash: it was trained for a target of {self.target_depth} blocks, and this one has "
                f"{len(target.blocks)}"
            )
        check_streams("DFlash", self.taps, target)

    def init_cache(self, batch: int, capacity: int, dtype: DTypeLike) -> DFlashCache:
        """No features yet, with room for those of `capacity` tokens, the slots of a block included."""
        length: Any = buffer((batch,), ("batch",), "int32")
        layers = tuple(block.mixer.state_spec(batch, capacity) for block in self.blocks)
        cache: DFlashCache = filled(DFlashCache(length=length, layers=layers), dtype)
        return cache

    def features(self, params: Params, taps: Any) -> Float[Array, "B S D"]:
        """What the layers see of tokens, from the target's streams behind them, by name."""
        streams = jnp.concatenate([taps[name] for name in self.taps], axis=-1)
        mixed = linear(streams.astype(params["fc"]["weight"].dtype), params["fc"]["weight"])
        return self.feature_norm(params["feature_norm"], mixed)

    def keep(
        self, params: Params, features: Float[Array, "B S D"], cache: DFlashCache, count: Int[Array, "B"]
    ) -> DFlashCache:
        """The cache with the first ``count[b]`` of these features behind those it holds."""
        window = next_window(features, cache.length, valid=count).with_rotations(self._ropes)
        layers = tuple(
            block.keep(params["blocks"][str(i)], features, state, window)
            for i, (block, state) in enumerate(zip(self.blocks, cache.layers, strict=True))
        )
        return DFlashCache(length=cache.length + window.valid, layers=layers)

    def peek(
        self,
        params: Params,
        embedded: Float[Array, "B W D"],
        cache: DFlashCache,
        valid: Int[Array, "B"],
    ) -> tuple[Float[Array, "B W D"], DFlashCache]:
        """The slots of a block behind the features, behind the final norm; the cache as it was.

        valid: how many slots of each row are real.
        """
        window = next_window(embedded, cache.length, valid=valid).with_rotations(self._ropes)
        x, states = embedded, []
        for i, (block, held) in enumerate(zip(self.blocks, cache.layers, strict=True)):
            x, state = block.peek(params["blocks"][str(i)], x, held, window)
            states.append(state)
        return self.norm(params["norm"], x), replace(cache, layers=tuple(states))

    def forward(
        self,
        params: Params,
        embedded: Float[Array, "B N W D"],
        features: Float[Array, "B S D"],
        anchors: Int[Array, "B N"],
    ) -> Float[Array, "B N W D"]:
        """`peek` of blocks at several places of whole texts, each behind the features in front of its anchor.
        Differentiable.

        anchors: the position of each block's first slot.
        """
        batch, count, width, _ = embedded.shape
        places = anchors[:, :, None] + jnp.arange(width)
        flat = places.reshape(batch, -1)
        blocks = next_window(flat, jnp.zeros(batch, jnp.int32), positions=flat).with_rotations(self._ropes)
        text = next_window(features, jnp.zeros(batch, jnp.int32)).with_rotations(self._ropes)
        x = embedded.reshape(batch * count, width, -1)
        for i, block in enumerate(self.blocks):
            seen = _seen(block, anchors, places, features.shape[1])
            x = block.forward(params["blocks"][str(i)], x, features, blocks, text, seen)
        return self.norm(params["norm"], x).reshape(embedded.shape)

    def embed(self, params: Params, target: Target, tokens: Int[Array, "... W"]) -> Float[Array, "... W D"]:
        """A block's tokens and masks: the target's embeddings, in the head's dtype."""
        config = replace(decoder_of(target.config), embed_scale=self.embed_scale)
        embedded = config.embeddings(target.params, tokens)
        return embedded.astype(params["fc"]["weight"].dtype)

    def logits(self, params: Params, target: Target, hidden: Float[Array, "... D"]) -> Float[Array, "... W"]:
        """f32, by the target's head, or by the head's own over the tokens that it knows."""
        config = replace(
            decoder_of(target.config), logit_scale=self.logit_scale, logit_softcap=self.logit_softcap
        )
        given = target.params
        if self.vocab_size != self.target_vocab_size:
            config = replace(config, tie_embeddings=False, head_bias=False, head_transform=None)
            given = {**given, "head": params["head"]}
        return config.logits(given, hidden.astype(config.dtype_of(given)))

    def confidence_logits(
        self, params: Params, hidden: Float[Array, "... D"], before: Int[Array, "..."]
    ) -> Float[Array, "..."]:
        """How sure slots are, in front of the sigmoid; of heads with a `confidence`."""
        assert self.confidence is not None
        told = None if self.confidence.rank is None else params["choice"]["before"][before]
        return self.confidence.logits(params["confidence"], hidden, told)

    @property
    def _ropes(self) -> tuple[Any, ...]:
        return ropes_of(*(block.mixer for block in self.blocks))


def decoder_of(target: LanguageModel) -> Decoder:
    """The target; ValueError where it is no `Decoder`."""
    if not isinstance(target, Decoder):
        raise ValueError(
            f"DFlash: it reads the blocks of a Decoder, and the target is a {type(target).__name__}"
        )
    return target


def _seen(
    block: DFlashBlock, anchors: Int[Array, "B N"], places: Int[Array, "B N W"], size: int
) -> Bool[Array, "B N*W S+N*W"]:
    """What each slot of a row's blocks sees: those in front of its anchor; its block's."""
    batch, count, width = places.shape
    reach, text = block.mixer.sliding_window, jnp.arange(size)
    history = jnp.broadcast_to(text < anchors[:, :, None, None], (batch, count, width, size))
    slot = jnp.arange(width)
    inside = slot[:, None] >= slot if block.causal else jnp.ones((width, width), bool)
    if reach is not None:
        history = history & (places[..., None] - text < reach)
        inside = inside & (jnp.abs(slot[:, None] - slot) < reach)
    same = jnp.eye(count, dtype=bool)[:, None, :, None] & inside[None, :, None, :]
    same = jnp.broadcast_to(
        same.reshape(1, count * width, count * width), (batch, count * width, count * width)
    )
    return jnp.concatenate([history.reshape(batch, count * width, size), same], axis=-1)


def even_layers(target_depth: int, count: int) -> tuple[int, ...]:
    """The blocks that a head of `count` layers reads by default: evenly from the second to the third last.

    Of a single layer the middle one. Source: ``build_target_layer_ids`` of dflash 0.1.0.
    """
    if count == 1:
        return (target_depth // 2,)
    return tuple(round(1 + i * (target_depth - 4) / (count - 1)) for i in range(count))
