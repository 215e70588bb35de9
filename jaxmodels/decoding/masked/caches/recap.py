"""Cheap steps between full ones: only the places that are about to be filled in are computed anew."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.masked.caches.kept import Kept, Shown, once_if_any
from jaxmodels.decoding.masked.caches.rewriting import check_rewrites
from jaxmodels.decoding.masked.canvas import Canvas, block_places, in_block, look
from jaxmodels.decoding.masked.unmask.ranking import ranks
from jaxmodels.decoding.samplers import check_number
from jaxmodels.decoding.strategy import Request
from jaxmodels.models.filling import filling_of
from jaxmodels.models.language_model import Cache, LanguageModel, RewritesHistory
from jaxmodels.models.scored import NOWHERE
from jaxmodels.pytrees import register_dataclass

# By which number of a row's keys the noise of groups is drawn, apart from proposals and rules.
GROUPS = 3


@struct.dataclass
class Group:
    """What `ReCAP` remembers.

    Attributes:
        places: i32[B, G], those of the group, counted in the sequence.
        hidden: [B, N, D], last hidden states before the first step.
        is_fresh: bool[B], whether `hidden` is what a full step would compute now.
        keys: one random key per row.
    """

    places: jax.Array
    hidden: jax.Array
    is_fresh: jax.Array
    keys: jax.Array


@dataclass(frozen=True, kw_only=True)
class ReCAP:
    """Groups of steps: a full one chooses the places that the whole group may fill in; those that follow
    compute these places alone, against what the full step kept of all others.

    The places of a group are the most certain unknown ones, with noise as `MaskGIT` has it, whose temperature
    falls with the share of the block that is unknown. The tokens of the prompt, a class say, are computed in
    every step. Until the first group begins, or with ``local=0`` and groups of whole blocks, the answer is
    that of `Recompute`. Attention only. Source: Plug-and-Play Context Feature Reuse for Efficient Masked
    Generation (ReCAP), in its form for MaskGIT, whose groups hold exactly the places that their steps fill
    in; here they are of one size, and a step that would fill in more takes what there is.

    Attributes:
        tokens: places of a group: a shape.
        local: steps of a group behind its full one.
        full: full steps in front of the first group.
        temperature: of the noise, while all is unknown.

    Raises:
        ValueError: a number out of range; when run, a model that keeps no single tokens, or whose logits
            speak of another place than their own, or a group larger than a block.
    """

    tokens: int
    local: int = 1
    full: int = 4
    temperature: float = 4.5

    scores_all = False

    def __post_init__(self) -> None:
        whole("tokens", self.tokens, low=1)
        for name in ("local", "full"):
            if not is_traced(getattr(self, name)):
                whole(name, getattr(self, name))
        check_number("temperature", self.temperature, low=0.0)

    def check(self, config: LanguageModel, length: int) -> None:
        check_rewrites(self, config)
        filling = filling_of(config)
        if filling is not None and filling.offset:
            raise ValueError(
                f"cache={self} computes single places, and the model's logits speak of the place behind "
                "their own; use Dual()"
            )
        if self.tokens > length:
            raise ValueError(f"cache={self}: a group of {self.tokens} tokens exceeds the block of {length}")

    def begin(self, shown: Shown, request: Request, cache: Cache, window: int) -> Kept:
        config, canvas = shown.config, shown.canvas
        scored, pending = config.peek(
            shown.params, canvas.tokens, cache, valid=canvas.length, logits_at=NOWHERE
        )
        batch = len(canvas.start)
        group = Group(
            places=jnp.zeros((batch, self.tokens), jnp.int32),
            hidden=scored.hidden,
            is_fresh=jnp.ones((batch,), bool),
            keys=request.keys,
        )
        return Kept(
            cache=config.commit(pending),
            refreshes=jnp.zeros_like(canvas.start),
            memory=group,
            fresh=jnp.ones(canvas.tokens.shape, bool),
        )

    def score(self, shown: Shown, kept: Kept) -> tuple[Float[Array, "B L V"], Kept]:
        config, params, canvas = shown.config, shown.params, shown.canvas
        assert isinstance(config, RewritesHistory)
        group: Group = kept.memory
        is_full = self._is_full(canvas.step)
        places = shown.places
        slots = jnp.broadcast_to(canvas.places, canvas.tokens.shape)

        def at_first(state: _State) -> _State:
            hidden = jax.vmap(lambda row, at: row.at[at].get(mode="clip"))(group.hidden, places)
            return state.give(group.is_fresh, config.logits(params, hidden))

        def all_anew(state: _State) -> _State:
            rows = is_full & ~group.is_fresh
            at, valid = jnp.minimum(places, slots.shape[1] - 1), jnp.where(rows, canvas.length, 0)
            scored, cache = config.refresh(
                params, canvas.tokens, state.cache, slots, valid=valid, logits_at=at
            )
            return replace(state.give(rows, scored.logits), cache=cache)

        def group_anew(state: _State) -> _State:
            prompts = canvas.tokens.shape[1] - canvas.answer_slots
            chosen = jnp.concatenate([slots[:, :prompts], group.places], axis=1)
            is_prompt = chosen < canvas.prompt[:, None]
            valid = (is_prompt | (jnp.arange(chosen.shape[1]) >= prompts)) & (chosen < canvas.length[:, None])
            at = jnp.broadcast_to(prompts + jnp.arange(self.tokens), group.places.shape)
            scored, cache = config.refresh(
                params,
                look(canvas.tokens, chosen),
                state.cache,
                chosen,
                valid=valid & ~is_full[:, None],
                logits_at=at,
            )
            rows = jnp.arange(len(chosen))[:, None]
            logits = (
                jnp.zeros_like(state.logits).at[rows, group.places - canvas.start[:, None]].set(scored.logits)
            )
            return replace(state.give(~is_full, logits), cache=cache)

        nothing = jnp.zeros((*places.shape, config.vocab_size), jnp.float32)
        state = _State(cache=kept.cache, logits=nothing)
        state = once_if_any(group.is_fresh, at_first, state)
        state = once_if_any(is_full & ~group.is_fresh, all_anew, state)
        state = once_if_any(~is_full, group_anew, state)
        begins = is_full & (canvas.step >= self.full)
        chosen = jnp.where(begins[:, None], self._choose(canvas, state.logits, group.keys), group.places)
        group = replace(group, places=chosen, is_fresh=jnp.zeros_like(group.is_fresh))
        rows = jnp.arange(len(chosen))[:, None]
        in_group = jnp.zeros(canvas.tokens.shape, bool).at[rows, chosen].set(True, mode="drop")
        fresh = in_group | (canvas.step < self.full)[:, None]
        return state.logits, replace(kept, cache=state.cache, memory=group, fresh=fresh)

    def advance(self, shown: Shown, kept: Kept, finished: Bool[Array, "B"]) -> Kept:
        return kept

    def _is_full(self, step: Int[Array, "B"]) -> Bool[Array, "B"]:
        return (step < self.full) | ((step - self.full) % (self.local + 1) == 0)

    def _choose(self, canvas: Canvas, logits: Float[Array, "B L V"], keys: Array) -> Int[Array, "B G"]:
        """The places of a group that begins now."""
        length = logits.shape[1]
        unknown = look(canvas.unknown, block_places(canvas, length)) & in_block(canvas, length)
        share = unknown.sum(1) / jnp.maximum(canvas.initial, 1)
        noise = jax.vmap(
            lambda key, step: jax.random.gumbel(
                jax.random.fold_in(jax.random.fold_in(key, step), GROUPS), (length,)
            )
        )(keys, canvas.step)
        certainty = logits.max(-1) - jax.nn.logsumexp(logits, axis=-1)
        rank = ranks(certainty + (self.temperature * share)[:, None] * noise, unknown)
        order = jnp.argsort(rank, axis=1)[:, : self.tokens].astype(jnp.int32)
        return canvas.start[:, None] + order


@struct.dataclass
class _State:
    """What the passes of a step change."""

    cache: Cache
    logits: jax.Array

    def give(self, rows: Bool[Array, "B"], logits: Float[Array, "B L V"]) -> "_State":
        """The state with the logits of these rows."""
        return replace(self, logits=jnp.where(rows[:, None, None], logits, self.logits))


register_dataclass(ReCAP, ["local", "full", "temperature"], ["tokens"])
