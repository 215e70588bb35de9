"""The one language-model architecture: an embedding, a tuple of blocks, a head; spoken to in two verbs.

    peek(params, inputs, cache)  -> scored, pending     score a window of tokens against a history
    commit(pending, n)           -> cache               make the window's first n tokens history

Every decoding method is a loop over the two (see `jaxmodels.decoding`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxmodels.layers.condition import AdaptiveNorm
from jaxmodels.layers.head_transform import HeadTransform
from jaxmodels.layers.linear import contract
from jaxmodels.layers.masks import CAUSAL, Mask, MaskLike, check_mask
from jaxmodels.layers.moe.moe import MoE
from jaxmodels.layers.moe.routing import Routing
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.partition import spread_rows
from jaxmodels.layers.rope import Rotary
from jaxmodels.layers.spec import Param, Params, ParamTree, filled, walk
from jaxmodels.layers.timestep import TimestepEmbedding
from jaxmodels.layers.window import Valid, Window, check_valid, fresh_window, next_window, ropes_of
from jaxmodels.models import ends
from jaxmodels.models.block import DecoderBlock, SharingBlock, Stream, Weighing, block_flops
from jaxmodels.models.cache import Cache, Pending, cache_spec, committed
from jaxmodels.models.denoising import Denoising
from jaxmodels.models.depth import (
    ALL_LAYERS,
    Depth,
    Walk,
    check_cache,
    kept_by,
    pass_blocks,
)
from jaxmodels.models.filling import MaskFilling
from jaxmodels.models.inputs import Inputs, check_condition, check_inputs, check_window
from jaxmodels.models.packing import pack, unpack
from jaxmodels.models.refresh import check_slots, refresh_window
from jaxmodels.models.scored import EVERYWHERE, LogitsAt, Scored, check_wanted, logits_where
from jaxmodels.models.slots import fitted, token_limit
from jaxmodels.models.transcript import note, recoded


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A language model. Static and hashable: it is the configuration, and it is the module.

    Attributes:
        vocab_size: rows of the embedding, and logits per token.
        d_model: width of the residual stream.
        blocks: in order.
        final_norm: in front of the head; None where the last block normalises.
        tie_embeddings: whether the head is the transposed embedding.
        embed_scale: multiplies the embeddings.
        segments: rows of a learned embedding of segments, the first and the second text say, that is added to
            the tokens'; None for none. Tokens are of segment 0; for others see `embeddings`.
        learned_positions: rows of a learned embedding of positions that is added to the tokens'; None for
            none.
        embed_norm: of the sum of all embeddings, in front of the first block; None for none.
        head_transform: between the final norm and the head; None for nothing.
        head_bias: whether each logit has a learned bias.
        time: makes the condition of time 0, which blocks and final norm go by where the caller gives none.
            None: a condition must be given where one is read.
        logit_scale, logit_softcap: the logits are ``logit_scale * logits``, then ``softcap * tanh(logits /
            softcap)``.
        residual_dtype: dtype of the residual stream where it is wider than the parameters.
        max_positions: longest sequence it was trained for, None if unbounded (advisory: it is kept for the
            checkpoint's sake).
        recode_beyond: a sequence of more tokens than this has other rotations for all of them, so that a
            history which grows beyond it is encoded anew, once; None: never.
        mask: who sees whom in whole sequences, and in windows whose caller does not say.
        filling: how it is shown unknown tokens, if it was trained to fill them in.
        denoising: how it refines a canvas, if it was trained to read one beside a text; see
            `jaxmodels.models.denoising`.
        family: the `model_type` it was read as and is written back as; None if it has no such form.
    """

    vocab_size: int
    d_model: int
    blocks: tuple[DecoderBlock, ...]
    final_norm: Norm | AdaptiveNorm | None
    tie_embeddings: bool = False
    embed_scale: float = 1.0
    segments: int | None = None
    learned_positions: int | None = None
    embed_norm: Norm | None = None
    head_transform: HeadTransform | None = None
    head_bias: bool = False
    time: TimestepEmbedding | None = None
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    residual_dtype: str | None = None
    max_positions: int | None = None
    recode_beyond: int | None = None
    mask: Mask = CAUSAL
    filling: MaskFilling | None = None
    denoising: Denoising | None = None
    family: str | None = None

    def __post_init__(self) -> None:
        if self.recode_beyond is not None and self.recode_beyond < 1:
            raise ValueError(f"Decoder: recode_beyond must be at least 1 or None, got {self.recode_beyond}")
        for block in self.blocks:
            if (
                isinstance(block, SharingBlock)
                and block.shared_spec() != self._shared_spec[str(block.shared)]
            ):
                raise ValueError(f"blocks with shared={block.shared} must have the same shared parameters")

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""
        blocks: ParamTree = {str(i): block.spec() for i, block in enumerate(self.blocks)}
        tree: ParamTree = {**ends.ends_spec(self), "blocks": blocks}
        if self._shared_spec:
            tree["shared"] = self._shared_spec
        if self.denoising is not None:
            tree["denoising"] = self.denoising.spec(self.blocks)
        # Parameters are drawn in this order: what a seed gives must not depend on later additions.
        first = ("embed", "blocks", "final_norm", "shared")
        return {name: tree[name] for name in (*first, *tree) if name in tree}

    @property
    def _shared_spec(self) -> ParamTree:
        """The parameters that blocks share, by number."""
        sharing = [block for block in self.blocks if isinstance(block, SharingBlock)]
        return {str(block.shared): block.shared_spec() for block in sharing}

    def block_params(self, params: Params, index: int) -> Params:
        """What block `index` computes with: its own parameters and, under "shared", those of its
        ``shared/{j}``, which other blocks are given as well."""
        block, own = self.blocks[index], params["blocks"][str(index)]
        if not isinstance(block, SharingBlock):
            return own
        return {**own, "shared": params["shared"][str(block.shared)]}

    @property
    def ropes(self) -> tuple[Rotary, ...]:
        """The rotary embeddings of its layers, each once."""
        return ropes_of(*self.blocks)

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token that sees `context` tokens, itself included, without the head; 0 counts the
        weights alone."""
        return sum(block_flops(block, context) * times for block, times in self._kinds_of_blocks)

    @cached_property
    def _kinds_of_blocks(self) -> tuple[tuple[DecoderBlock, int], ...]:
        """Blocks that differ, and how often each occurs."""
        return tuple(Counter(self.blocks).items())

    @property
    def head_flops(self) -> int:
        """FLOPs of one token's logits."""
        transform = 0 if self.head_transform is None else self.head_transform.flops_per_token()
        return transform + 2 * self.vocab_size * self.d_model

    def unread(self, rows: int) -> list[Param]:
        """What a step of `rows` rows leaves unread at least, as parameters of that shape.

        An embedding that is not the head, and experts that are more than the rows can choose.
        """
        table = Param((self.vocab_size, self.d_model), ("vocab", "embed"), contracted=(-1,))
        idle = [] if self.tie_embeddings else [table]
        for block in self.blocks:
            if isinstance(block.ffn, MoE):
                count = block.ffn.experts.num_experts
                unchosen = count - min(rows * block.ffn.router.top_k, count)
                stacks = [param for _, param in walk(block.ffn.experts.spec())] if unchosen else []
                idle += [replace(p, shape=(unchosen, *p.shape[1:])) for p in stacks]
        return idle

    def cache_spec(self, batch: int, capacity: int, *, depth: Depth = ALL_LAYERS) -> Cache:
        """What `init_cache` makes, with a `Buffer` in the place of each array."""
        return cache_spec(self, batch, capacity, depth)

    def init_cache(
        self, batch: int, capacity: int, dtype: DTypeLike = jnp.float32, *, depth: Depth = ALL_LAYERS
    ) -> Cache:
        """Empty histories with room for `capacity` tokens each, pending windows included.

        With `depth`, for windows that are read by it: where it repeats blocks, each pass has a history of its
        own, and where it keeps a state, that is in the cache.

        Raises:
            ValueError: a size below 1, or a policy that does not fit the model or a history that may be
                encoded anew.
        """
        return filled(self.cache_spec(batch, capacity, depth=depth), dtype)

    def forward(
        self,
        params: Params,
        inputs: Inputs,
        *,
        mask: MaskLike | None = None,
        valid: Valid | None = None,
        condition: Array | None = None,
    ) -> Float[Array, "B S V"]:
        """Float32 logits of whole sequences, without a cache. Differentiable.

        `mask` says who sees whom, by default as the model's own.

        Raises:
            ValueError: inputs, mask or condition do not fit the model, see `begin_forward`.
        """
        scored = self.forward_scored(params, inputs, mask=mask, valid=valid, condition=condition)
        logits: Array = scored.logits
        return logits

    def forward_scored(
        self,
        params: Params,
        inputs: Inputs,
        *,
        mask: MaskLike | None = None,
        valid: Valid | None = None,
        taps: Sequence[str] = (),
        logits_at: LogitsAt = EVERYWHERE,
        condition: Array | None = None,
    ) -> Scored:
        """What `peek` gives, of whole sequences without a cache. Differentiable.

        Raises:
            ValueError: as `forward`; taps or logits_at do not fit, see `peek`.
        """
        check_inputs(inputs, self.d_model)
        check_wanted((*self.stream_names, "hidden"), inputs, taps, logits_at)
        stream, window = self.begin_forward(params, inputs, mask=mask, valid=valid, condition=condition)
        seen = {"embeddings": stream.hidden} if "embeddings" in taps else {}
        for i, block in enumerate(self.blocks):
            stream = block.forward(self.block_params(params, i), stream, window)
            if f"blocks/{i}" in taps:
                seen[f"blocks/{i}"] = stream.hidden
        return self._scored(params, stream, window, seen, taps, logits_at)

    def forward_with_routing(
        self,
        params: Params,
        inputs: Inputs,
        *,
        mask: MaskLike | None = None,
        valid: Valid | None = None,
        condition: Array | None = None,
    ) -> tuple[Float[Array, "B S V"], dict[str, Routing]]:
        """`forward`, and what each block that is a mixture of experts decided, by the block's name in
        ``params["blocks"]``."""
        hidden, routings = self.hidden_with_routing(
            params, inputs, mask=mask, valid=valid, condition=condition
        )
        return self.logits(params, hidden), routings

    def hidden_with_routing(
        self,
        params: Params,
        inputs: Inputs,
        *,
        positions: Int[Array, "B S"] | None = None,
        mask: MaskLike | None = None,
        valid: Valid | None = None,
        condition: Array | None = None,
    ) -> tuple[Float[Array, "B S D"], dict[str, Routing]]:
        """`forward_with_routing` without the head: what `logits` takes, at `positions` (0, 1, ... by
        default)."""
        stream, window = self.begin_forward(
            params, inputs, positions=positions, mask=mask, valid=valid, condition=condition
        )
        routings = {}
        for i, block in enumerate(self.blocks):
            stream = block.forward(self.block_params(params, i), replace(stream, routings=()), window)
            if stream.routings:
                (routings[str(i)],) = unpack(window, stream.routings)
        hidden: Array = unpack(window, self.normalise(params, stream))
        return hidden, routings

    def begin_forward(
        self,
        params: Params,
        inputs: Inputs,
        *,
        positions: Int[Array, "B S"] | None = None,
        mask: MaskLike | None = None,
        valid: Valid | None = None,
        condition: Array | None = None,
    ) -> tuple[Stream, Window]:
        """Whole sequences in front of the first block, for callers who go from block to block themselves.

        Where `valid` is bool[B, S], the stream is packed: `unpack` puts what is found back in its place.

        Raises:
            ValueError: inputs are neither token ids nor embeddings of the model's width; a mask or `valid` of
                another window; more tokens than learned positions; a condition that is missing, not read, or
                of another width.
        """
        check_inputs(inputs, self.d_model)
        batch, size = inputs.shape[:2]
        mask = self.mask if mask is None else mask
        check_mask(mask, size, batch)
        check_valid(valid, batch, size)
        check_condition(condition, self.blocks, batch, size, has_default=self.time is not None)
        learned = self.learned_positions
        if valid is None and positions is None and learned is not None and size > learned:
            raise ValueError(f"forward: {size} tokens, but the model has learned {learned} positions")
        window = fresh_window(inputs, valid, mask, positions=positions, ropes=self.ropes)
        stream = self.begin(params, pack(window, inputs), window, condition)
        return replace(stream, hidden=spread_rows(stream.hidden)), window

    def peek(
        self,
        params: Params,
        inputs: Inputs,
        cache: Cache,
        *,
        positions: Int[Array, "B S"] | None = None,
        mask: MaskLike | None = None,
        valid: Valid | None = None,
        known: Int[Array, "B"] | None = None,
        depth: Depth = ALL_LAYERS,
        taps: Sequence[str] = (),
        logits_at: LogitsAt = EVERYWHERE,
        condition: Array | None = None,
    ) -> tuple[Scored, Pending]:
        """Scores a window that follows the history in `cache`; the cache is spent.

        Args:
            inputs: token ids [B, S], or embeddings [B, S, D] in their place, see `embeddings`.
            positions: logical positions, by default the ones after the history.
            mask: who sees whom, by default the model's own.
            valid: how many leading tokens of each row are real, by default all; or bool[B, S], which tokens
                are, as in a prompt that is padded on the left: positions then count real tokens alone. What
                stands at padded places of the result is meaningless.
            known: how many tokens of each row's sequence are certain, by default those up to the window's
                last real one; the others are draft tokens. Rotations that depend on a sequence's length go by
                it; draft tokens that they cannot serve yet become padding, so that no more than
                ``pending.valid`` tokens may be committed.
            depth: which blocks the window is read through, and what the others are shown of it.
            taps: names, some of `tap_names`, of what the result holds beside the last hidden state.
            logits_at: where the head is computed: EVERYWHERE, NOWHERE, or window indices i32[B, P].
            condition: [B, C] or [B, S, C] for blocks that go by one.

        Tokens that find no slot in the cache become padding, in recurrent layers too: ``pending.valid`` is
        what can be committed. A tap behind a block that `depth` skips holds the stream that passed it by.

        Raises:
            ValueError: inputs, mask, taps, logits_at or condition do not fit the model, the window or each
                other; a cache of another batch; embeddings where histories are encoded anew from tokens.
        """
        mask = self.mask if mask is None else mask
        check_window(self, inputs, cache, mask=mask, valid=valid, condition=condition)
        check_wanted(self.tap_names, inputs, taps, logits_at)
        window = next_window(inputs, cache.length, positions=positions, valid=valid, mask=mask, known=known)
        cache = recoded(self, params, cache, window)
        inputs = pack(window, inputs)
        return self.score(
            params, inputs, cache, window, depth=depth, taps=taps, logits_at=logits_at, condition=condition
        )

    def score(
        self,
        params: Params,
        inputs: Inputs,
        cache: Cache,
        window: Window,
        *,
        depth: Depth = ALL_LAYERS,
        taps: Sequence[str] = (),
        logits_at: LogitsAt = EVERYWHERE,
        condition: Array | None = None,
    ) -> tuple[Scored, Pending]:
        """`peek` of a window whose history, if there is one, needs not be encoded anew for it.

        Inputs are in the window's order (see `pack`); the condition and the result are in the caller's.
        """
        stream, seen, pending = self.through_blocks(
            params, inputs, cache, window, depth=depth, taps=taps, condition=condition
        )
        return self._scored(params, stream, window, seen, taps, logits_at), pending

    def through_blocks(
        self,
        params: Params,
        inputs: Inputs,
        cache: Cache,
        window: Window,
        *,
        stream: Stream | None = None,
        depth: Depth = ALL_LAYERS,
        taps: Sequence[str] = (),
        condition: Array | None = None,
    ) -> tuple[Stream, dict[str, Array], Pending]:
        """`score` as far as the last block: (the stream behind it, the taps so far, what `commit` needs).

        `stream` is what stands in front of the first block, by default what `begin` makes of the inputs.
        """
        window = fitted(window, token_limit(self.blocks, cache.layers))
        transcript = cache.transcript
        if transcript is not None:
            transcript, window = note(transcript, inputs, window)
        window = window.with_rotations(self.ropes)
        if stream is None:
            stream = self.begin(params, inputs, window, condition)
        seen = {"embeddings": stream.hidden} if "embeddings" in taps else {}
        check_cache(depth, cache.repeats, cache.memory, len(self.blocks), self.d_model)
        walk = depth.begin(self.begin_walk(params, window, cache.memory))
        stream, walk, written, behind, kept = pass_blocks(
            depth,
            self.blocks,
            [self.block_params(params, i) for i in range(len(self.blocks))],
            cache.passes(),
            stream,
            walk,
            taps,
            cache.kept,
        )
        return (
            stream,
            seen | behind,
            Pending(
                start=window.start,
                valid=window.valid,
                layers=tuple(first for first, *_ in written),
                depth=unpack(window, walk.depth),
                transcript=transcript,
                index=window.index,
                repeats=tuple(tuple(again) for _, *again in written) if cache.repeats else (),
                memory=(cache.memory, walk.state if kept_by(depth, 1, self.d_model) is not None else None),
                kept=kept,
            ),
        )

    def begin_walk(self, params: Params, window: Window, memory: Any) -> Walk:
        """A policy's way through a window, in front of the first block: with nothing of the policy's own but
        its state, for its `begin`."""
        return Walk(
            window=window,
            blocks=len(self.blocks),
            d_model=self.d_model,
            head=lambda stream: self.logits(params, self.normalise(params, stream)),
            head_of=lambda stream, tokens: ends.logits_of(
                self, params, self.normalise(params, stream), tokens
            ),
            depth=jnp.zeros(window.positions.shape, jnp.int32),
            state=memory,
        )

    @property
    def stream_names(self) -> tuple[str, ...]:
        """The streams to ask for: "embeddings", in front of the first block, and "blocks/i", behind
        block i; in the residual stream's dtype."""
        return ("embeddings", *(f"blocks/{i}" for i in range(len(self.blocks))))

    @property
    def tap_names(self) -> tuple[str, ...]:
        """What `peek` can be asked for: the streams, "hidden", which is `Scored.hidden`, and of blocks that
        attend "blocks/i/attention_weights", f32[B, S, T]: what the window's tokens weigh each slot of the
        cache with, the mean over heads."""
        weighing = (i for i, block in enumerate(self.blocks) if isinstance(block.mixer, Weighing))
        return (*self.stream_names, "hidden", *(f"blocks/{i}/attention_weights" for i in weighing))

    def begin(self, params: Params, inputs: Inputs, window: Window, condition: Array | None = None) -> Stream:
        """The stream in front of the first block, with the condition of each of its tokens or rows."""
        if condition is None and self.time is not None:
            condition = self.time(params["time"], jnp.zeros(inputs.shape[0]))
        elif condition is not None and condition.ndim == 3:
            condition = pack(window, condition)
        return replace(self.embed(params, inputs, window), condition=condition)

    def _scored(
        self,
        params: Params,
        stream: Stream,
        window: Window,
        seen: dict[str, Array],
        taps: Sequence[str],
        logits_at: LogitsAt,
    ) -> Scored:
        """What is given of a window whose stream behind the last block this is, and `seen` before it."""
        hidden, seen = unpack(window, (self.normalise(params, stream), seen))
        if "hidden" in taps:
            seen = {**seen, "hidden": hidden}
        logits = logits_where(partial(self.logits, params), hidden, logits_at)
        return Scored(hidden=hidden, logits=logits, taps=seen)

    def commit(
        self,
        pending: Pending,
        n: Int[Array, "B"] | None = None,
        path: Int[Array, "B P"] | None = None,
    ) -> Cache:
        """Makes the first ``n[b]`` real tokens of each row's window history; 0 gives back the old cache.

        With `n` None all valid tokens are committed; their state is already known, so nothing is replayed.
        With `path` the tokens ``window[path[b, 0]], window[path[b, 1]], ...`` are, of which the first n.
        Padding is never committed: no more than ``pending.valid`` tokens, and of a path those before the
        first that is padding.
        """
        return committed(self.blocks, pending, n, path)

    def refresh(
        self,
        params: Params,
        inputs: Inputs,
        cache: Cache,
        slots: Int[Array, "B S"],
        *,
        positions: Int[Array, "B S"] | None = None,
        mask: MaskLike | None = None,
        valid: Valid | None = None,
        taps: Sequence[str] = (),
        logits_at: LogitsAt = EVERYWHERE,
        condition: Array | None = None,
    ) -> tuple[Scored, Cache]:
        """Recomputes committed entries in place: what the layers keep of the tokens in `slots`; the cache is
        spent.

        Layer by layer the entries are written and then read, so that these tokens see one another as they
        are now, and of the rest of the history what was kept of it. Dual caches, d2Cache, edited tokens and
        selective recomputation are calls of this.

        Args:
            inputs: what stands in the slots from now on, tokens or embeddings as for `peek`.
            slots: which tokens of the history, counted from 0, [B, S].
            positions: their positions, by default those that they have.
            mask: as for `peek`; what is not recomputed is history.
            valid, taps, logits_at, condition: as for `peek`.

        Tokens become padding whose slot holds nothing: beyond the history, or where a `RingCache` has lost
        what the token sees. Inside a compiled program, where slots have no value yet, so do those outside
        the cache, and those whose slot stands before in the same row.

        Raises:
            ValueError: as `peek`; slots outside the cache or given twice; a layer that keeps one state for
                its whole history, or whose cache policy evicts tokens or keeps sums of them.
        """
        mask = self.mask if mask is None else mask
        check_window(self, inputs, cache, mask=mask, valid=valid, condition=condition)
        check_wanted(self.tap_names, inputs, taps, logits_at)
        check_slots(slots, valid, inputs.shape[:2], token_limit(self.blocks, cache.layers))
        window = refresh_window(
            self.blocks, cache.layers, cache.length, slots, positions=positions, mask=mask, valid=valid
        )
        scored, pending = self.score(
            params,
            pack(window, inputs),
            cache,
            window,
            taps=taps,
            logits_at=logits_at,
            condition=condition,
        )
        return scored, replace(self.commit(pending), length=cache.length)

    def dtype_of(self, params: Params) -> jnp.dtype:
        """The dtype of the embeddings, in which the layers compute and a cache is usually kept."""
        return params["embed"]["weight"].dtype

    def embeddings(
        self, params: Params, tokens: Int[Array, "B S"], segments: Int[Array, "B S"] | None = None
    ) -> Float[Array, "B S D"]:
        """The tokens' embeddings, times `embed_scale`: what may be given to `peek` in their place.

        Those of a model with segments hold its tokens' segments too, which are 0 where `segments` is None.
        Learned positions are added inside, to tokens and embeddings alike. That is what transformers calls
        `inputs_embeds` for Gemma and GPT-2; where it multiplies `inputs_embeds` by a factor of the model
        (Granite's ``embedding_multiplier``), it is their product.

        Raises:
            ValueError: `segments` are given to a model without such.
        """
        return ends.embeddings(self, params, tokens, segments)

    def soft_embeddings(self, params: Params, weights: Float[Array, "B S V"]) -> Float[Array, "B S D"]:
        """The weighted sum of the embeddings of all tokens, times `embed_scale`."""
        x = contract("...v,vd->...d", weights.astype(self.dtype_of(params)), params["embed"]["weight"])
        return ends.scaled_embeddings(self, x)

    def embed(self, params: Params, inputs: Inputs, window: Window) -> Stream:
        """The stream in front of the first block."""
        return ends.embed(self, params, inputs, window)

    def normalise(self, params: Params, stream: Stream) -> Float[Array, "B S D"]:
        """The final norm, if there is one, in the parameters' dtype."""
        return ends.normalise(self, params, stream)

    def logits(self, params: Params, hidden: Float[Array, "B S D"]) -> Float[Array, "B S V"]:
        """The head: float32 scores over the vocabulary."""
        return ends.logits(self, params, hidden)
