"""Keys and values of the whole canvas are kept; a step recomputes those of the places that matter most."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import whole
from jaxmodels.decoding.masked.caches.kept import Kept, Shown
from jaxmodels.decoding.masked.caches.rewriting import check_rewrites
from jaxmodels.decoding.masked.canvas import Canvas, look
from jaxmodels.decoding.masked.unmask.ranking import ranks, top
from jaxmodels.decoding.samplers import check_number
from jaxmodels.decoding.strategy import Request
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import BlockStack, Cache, LanguageModel, RewritesHistory
from jaxmodels.models.scored import NOWHERE
from jaxmodels.pytrees import register_dataclass

# By falling importance: why a place is recomputed.
IN_BLOCK, JUST_FILLED, UNKNOWN, ATTENDED, BETWEEN, NOT = 5, 4, 3, 2, 1, 0


@struct.dataclass
class Importance:
    """What `D2Cache` remembers of each place of the canvas.

    Attributes:
        confidence: f32[B, N], the highest probability of its token when its logits were computed last.
        attention: f32[B, N], how much of what all places hold came from it: column sums of the rollout.
        unknown: bool[B, N], the places that were unknown then.
    """

    confidence: jax.Array
    attention: jax.Array
    unknown: jax.Array


@dataclass(frozen=True, kw_only=True)
class D2Cache:
    """A step recomputes `budget` places: unknown ones that are likely to be filled in next, those that were
    filled in by the step before, and those that the others attend to most.

    First come the `candidates` unknown places of the highest confidence times certainty density, the share
    of known places around them; they are looked for from the block on, up to the end of the block that holds
    the last of so many unknown places, the present block before the others. Then the tokens of the step
    before; then, of the rest, the nucleus `mass` of the attention rollout; then small gaps between those; and
    what is left of the budget goes to places by the rollout. Only unknown places that were recomputed can be
    filled in. The first pass computes everything, and so does every one whose budget holds the whole canvas,
    which gives the answers of `Recompute`. Attention that tells its weights only.

    Source: Jiang et al. 2025 (d2Cache, https://arxiv.org/abs/2509.23094) and its program, which recomputes as
    many places as the row that needs most, instead of a fixed budget; the order in which a budget is spent is
    inferred. There a model whose logits speak of the next place recomputes the place in front of a candidate.

    Attributes:
        budget: places that a step recomputes, as many as the canvas has at most.
        candidates: unknown places among them, at most.
        density_width: places; standard deviation of the density's Gaussian.
        mass: of the rollout's column sums, at most so much, but one place at least.
        gap: two recomputed places that are at most so far apart have those between them recomputed.

    Raises:
        ValueError: a value outside its range; when run, a model that tells no attention weights.
    """

    budget: int = 64
    candidates: int = 32
    density_width: float = 10.0
    mass: float = 0.1
    gap: int = 4

    scores_all = False

    def __post_init__(self) -> None:
        for name, low in (("budget", 1), ("candidates", 1), ("gap", 0)):
            object.__setattr__(self, name, whole(name, getattr(self, name), low=low))
        check_number("density_width", self.density_width, low=0.0, low_included=False)
        check_number("mass", self.mass, low=0.0, high=1.0)

    def check(self, config: LanguageModel, length: int) -> None:
        check_rewrites(self, config)
        names = weight_taps(config)
        known = getattr(config, "tap_names", ())
        missing = [name for name in names if name not in known]
        if missing or not names:
            raise ValueError(
                f"cache={self} asks what tokens attend to, and the model does not tell "
                f"{missing[0] if missing else 'it'}; use Dual(), which does not ask"
            )

    def begin(self, shown: Shown, request: Request, cache: Cache, window: int) -> Kept:
        config, params, canvas = shown.config, shown.params, shown.canvas
        taps = weight_taps(config)
        scored, pending = config.peek(
            params, canvas.tokens, cache, valid=canvas.length, taps=taps, logits_at=NOWHERE
        )
        everywhere = jnp.broadcast_to(canvas.places, canvas.tokens.shape)
        memory = Importance(
            confidence=_spoken_of(_certainties(config, params, scored.hidden), shown.offset),
            attention=rollout(
                [scored.taps[name] for name in taps], everywhere, canvas.is_valid, everywhere.shape[1]
            ),
            unknown=canvas.unknown,
        )
        return Kept(
            cache=config.commit(pending),
            refreshes=jnp.ones_like(canvas.start),
            memory=memory,
            fresh=jnp.zeros(canvas.tokens.shape, bool),
        )

    def score(self, shown: Shown, kept: Kept) -> tuple[Float[Array, "B L V"], Kept]:
        config, canvas = shown.config, shown.canvas
        assert isinstance(config, RewritesHistory)
        size, offset = canvas.tokens.shape[1], shown.offset
        why = self.reasons(canvas, kept.memory, shown.length, offset)
        share = kept.memory.attention / jnp.maximum(kept.memory.attention.sum(1, keepdims=True), 1e-9)
        order = jnp.argsort(ranks(why + jnp.minimum(share, 0.5), canvas.is_valid), axis=1)
        slots = order[:, : min(self.budget, size)].astype(jnp.int32)
        real = jnp.take_along_axis(canvas.is_valid, slots, axis=1)
        taps = weight_taps(config)
        scored, cache = config.refresh(
            shown.params, look(canvas.tokens, slots), kept.cache, slots, valid=real, taps=taps
        )
        rows = jnp.arange(slots.shape[0])[:, None]
        spoken_of = jnp.where(real, slots + offset, size)
        certainty = jax.nn.softmax(scored.logits, axis=-1).max(-1)
        memory = Importance(
            confidence=kept.memory.confidence.at[rows, spoken_of].set(certainty, mode="drop"),
            attention=rollout([scored.taps[name] for name in taps], slots, real, size),
            unknown=canvas.unknown,
        )
        fresh = jnp.zeros(canvas.tokens.shape, bool).at[rows, spoken_of].set(True, mode="drop")
        found = (
            jnp.zeros(canvas.tokens.shape, jnp.int32)
            .at[rows, spoken_of]
            .set(jnp.arange(slots.shape[1], dtype=jnp.int32)[None], mode="drop")
        )
        at = look(found, shown.places)
        logits = jnp.take_along_axis(scored.logits, at[:, :, None], axis=1)
        return logits, replace(kept, cache=cache, memory=memory, fresh=fresh)

    def advance(self, shown: Shown, kept: Kept, finished: Bool[Array, "B"]) -> Kept:
        return kept

    def reasons(self, canvas: Canvas, memory: Importance, length: int, offset: int) -> Float[Array, "B N"]:
        """Why each place is recomputed in this step, by falling importance; NOT where it need not be."""
        in_block = (canvas.places >= canvas.start[:, None]) & (
            canvas.places < (canvas.start + canvas.size)[:, None]
        )
        likely = self.likely(canvas, memory.confidence, in_block, length)
        in_front = jnp.pad(likely[:, offset:], ((0, 0), (0, offset)))  # whose logits speak of a likely place
        block_front = jnp.pad(in_block[:, offset:], ((0, 0), (0, offset)))
        new = memory.unknown & ~canvas.unknown & canvas.is_valid
        chosen = in_front | new
        attended = nucleus(memory.attention, self.mass, canvas.is_valid & ~chosen)
        between = gaps(chosen | attended, self.gap) & canvas.is_valid
        why = jnp.full(canvas.tokens.shape, float(NOT))
        for level, places in (
            (BETWEEN, between),
            (ATTENDED, attended),
            (UNKNOWN, in_front),
            (JUST_FILLED, new),
            (IN_BLOCK, in_front & block_front),
        ):
            why = jnp.where(places, float(level), why)
        return why

    def likely(
        self,
        canvas: Canvas,
        confidence: Float[Array, "B N"],
        in_block: Bool[Array, "B N"],
        length: int,
    ) -> Bool[Array, "B N"]:
        """The unknown places that are likely to be filled in next."""
        unknown = canvas.unknown & canvas.is_valid
        enough = jnp.cumsum(unknown, axis=1) >= self.candidates
        last = jnp.where(enough.any(1), jnp.argmax(enough, axis=1), canvas.length - 1)
        end = canvas.start + ((last - canvas.start) // length + 1) * length
        density = certainty_density(~unknown, canvas.length, self.density_width)
        scores = confidence * density
        scores = scores + jnp.where(in_block, scores.max(1, keepdims=True), 0.0)
        count = jnp.full(canvas.start.shape, self.candidates)
        return top(scores, unknown & (canvas.places < end[:, None]), count)


def certainty_density(
    known: Bool[Array, "B N"], length: Int[Array, "B"], width: float
) -> Float[Array, "B N"]:
    """The share of known places around each place, weighed by a Gaussian.

    All places in front of the canvas count as known; those behind the `length` places of a row do where its
    last place is known.
    """
    size = known.shape[1]
    ahead = jnp.arange(-size, 2 * size)
    ends = jnp.take_along_axis(known, length[:, None] - 1, axis=1)
    inside = known[:, jnp.clip(ahead, 0, size - 1)]
    all_known = jnp.where(ahead < 0, True, jnp.where(ahead < length[:, None], inside, ends))
    weights = jnp.exp(-((jnp.arange(size)[:, None] - ahead) ** 2) / (2 * width**2))
    density: Array = all_known.astype(jnp.float32) @ (weights / weights.sum(1, keepdims=True)).T
    return density


def nucleus(
    scores: Float[Array, "B N"], mass: Float[Array, ""] | float, among: Bool[Array, "B N"]
) -> Bool[Array, "B N"]:
    """Of `among`, the highest scores that together make up at most the share `mass`; one at least."""
    shares = jnp.where(among, scores, 0.0)
    shares = shares / (shares.sum(1, keepdims=True) + 1e-9)
    number = ranks(shares, among)
    in_order = jnp.take_along_axis(shares, jnp.argsort(number, axis=1), axis=1)
    reached = jnp.take_along_axis(jnp.cumsum(in_order, axis=1), number, axis=1)
    return among & ((reached <= mass) | (number == 0))


def gaps(chosen: Bool[Array, "B N"], width: int) -> Bool[Array, "B N"]:
    """The places between two chosen ones that are at most `width` apart, which belong to them."""
    index = jnp.broadcast_to(jnp.arange(chosen.shape[1]), chosen.shape)
    size = chosen.shape[1]
    behind = lax.cummax(jnp.where(chosen, index, -1), axis=1)
    ahead = lax.cummin(jnp.where(chosen, index, size), axis=1, reverse=True)
    return (ahead - behind <= width) & (behind >= 0) & (ahead < size)


def rollout(
    weights: list[Float[Array, "B S T"]], places: Int[Array, "B S"], real: Bool[Array, "B S"], size: int
) -> Float[Array, "B N"]:
    """How much of what all places hold behind the last layer came from each place: column sums of the product
    of all layers' ``(A + I) / 2``, rows normalised.

    Args:
        weights: of each layer the rows of A that were computed, those of `places`, over the slots of the
            cache; the other rows are the identity's.
        size: N, of which the cache may have more slots, or fewer where the canvas ends with padding.
        real: which of `places` are none but padding.
    """
    batch = places.shape[0]
    rows = jnp.arange(batch)[:, None]
    product = jnp.broadcast_to(jnp.eye(size, dtype=jnp.float32), (batch, size, size))
    itself = jax.nn.one_hot(places, size, dtype=jnp.float32)
    at = jnp.where(real, places, size)
    for layer in weights:
        slots = min(size, layer.shape[2])
        mixed = itself.at[:, :, :slots].add(layer[:, :, :slots])
        mixed = mixed / mixed.sum(-1, keepdims=True)
        product = product.at[rows, at].set(jnp.einsum("bst,btu->bsu", mixed, product), mode="drop")
    return product.sum(1)


def weight_taps(config: Any) -> tuple[str, ...]:
    """The names of the attention weights of all of a model's blocks."""
    blocks = config.blocks if isinstance(config, BlockStack) else ()
    return tuple(f"blocks/{i}/attention_weights" for i in range(len(blocks)))


def _certainties(config: LanguageModel, params: Params, hidden: Float[Array, "B N D"]) -> Float[Array, "B N"]:
    """The highest probability of each place's logits, made of a few places at a time."""

    def of_place(one: Float[Array, "B D"]) -> Float[Array, "B"]:
        return jax.nn.softmax(config.logits(params, one[:, None])[:, 0], axis=-1).max(-1)

    return lax.map(of_place, jnp.swapaxes(hidden, 0, 1), batch_size=32).T


def _spoken_of(values: Float[Array, "B N"], offset: int) -> Float[Array, "B N"]:
    """By the places that logits speak of, what is given by the places that they are of."""
    return jnp.pad(values, ((0, 0), (offset, 0)))[:, : values.shape[1]]


register_dataclass(D2Cache, ["mass"], ["budget", "candidates", "density_width", "gap"])
