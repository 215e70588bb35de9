"""Edits that delete tokens and make room for others, in a block whose length stays."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import whole
from jaxmodels.decoding.masked.remask.token_edits import check_known_places
from jaxmodels.decoding.masked.seen import Edited, Seen, Stop
from jaxmodels.decoding.masked.unmask.ranking import best, top
from jaxmodels.decoding.samplers import check_number
from jaxmodels.models.filling import MaskFilling
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class Levenshtein:
    """What `LevenshteinEdits` remembers of a block; S is the most steps that it takes.

    Attributes:
        original: bool[B, L], places that were unknown when the block began, wherever edits have moved them.
        steps: i32[B], steps so far.
        settled: i32[B], those that began without an unknown original place.
        texts: i32[B, S, L], the block before each of the steps.
        tried: bool[B, L, V], tokens that were written to each place.
    """

    original: jax.Array
    steps: jax.Array
    settled: jax.Array
    texts: jax.Array
    tried: jax.Array


@struct.dataclass
class _Plan:
    """A step's changes, before places move: where (`writes`, bool[B, L]) and what (`tokens`, i32[B, L])."""

    writes: jax.Array
    tokens: jax.Array


@dataclass(frozen=True, kw_only=True)
class LevenshteinEdits:
    """A `Remask`: beside replacing tokens as `TokenEdits` does, a place may propose to be left out or to make
    room for an unknown token in front of itself.

    A place that is left out moves those behind it to the front, and unknown ones fill the block up; room for
    a token moves what is behind it, and what leaves the block is lost. Places that edits make unknown are
    new ones. While places are unknown that were so when the block began, a step fills in one more than there
    are new ones, so that one at least is no new one; when they are all filled in it fills in all new ones.
    Steps after that are counted; the last fills in and edits with ordinary tokens alone. A block that has
    stood there before is kept from going round in circles: the least probable of its changes becomes the
    most probable token that was not tried in its place.

    Source: LLaDA2.2, by sglang's ``JointThresholdInDel``, which unmasks by ``StrictThreshold(0.5)``. There a
    token may also be edited into the mask token, which is never proposed here.

    Attributes:
        mask_token: the model's, see `MaskFilling`.
        delete_token: proposed by a place to be left out.
        split_token: proposed by a place to make room in front of itself.
        threshold: exceeded by the probability of an edit; 0 edits every change.
        passes: steps after the last original place was filled in, at most.

    Raises:
        ValueError: a value outside its range, or tokens that are the same; when run, a model with another
            mask token, or an exit beside it.
    """

    mask_token: int = 156895
    delete_token: int = 156930
    split_token: int = 156931
    threshold: float = 0.0
    passes: int = 16

    def __post_init__(self) -> None:
        tokens = [whole(name, getattr(self, name)) for name in ("mask_token", "delete_token", "split_token")]
        if len(set(tokens)) < len(tokens):
            raise ValueError(
                "mask_token, delete_token and split_token must be three tokens, got "
                f"{', '.join(map(str, tokens))}"
            )
        check_number("threshold", self.threshold, low=0.0)
        object.__setattr__(self, "passes", whole("passes", self.passes))

    def check(self, filling: MaskFilling, stop: Stop | None) -> None:
        check_known_places("LevenshteinEdits", filling)
        if filling.mask_token != self.mask_token:
            raise ValueError(
                f"remask: LevenshteinEdits has mask_token={self.mask_token}, but the model's is "
                f"{filling.mask_token}"
            )
        if stop is not None:
            raise ValueError(
                "stop: an exit fills in the most probable tokens, among them those by which LevenshteinEdits "
                "leaves places out; leave out one of the two"
            )

    def named_tokens(self) -> Iterable[int]:
        return self.mask_token, self.delete_token, self.split_token

    def begin(self, batch: int, length: int, vocab: int) -> Levenshtein:
        none = jnp.zeros((batch,), jnp.int32)
        return Levenshtein(
            original=jnp.zeros((batch, length), bool),
            steps=none,
            settled=none,
            texts=jnp.zeros((batch, length + self.passes + 2, length), jnp.int32),
            tried=jnp.zeros((batch, length, vocab), bool),
        )

    def fuse(self, seen: Seen) -> tuple[Float[Array, "B L V"], Levenshtein]:
        memory: Levenshtein = seen.memory
        original = jnp.where((memory.steps == 0)[:, None], seen.masked, memory.original)
        is_settled = ~(original & seen.masked).any(1)
        memory = replace(
            memory, original=original, steps=memory.steps + 1, settled=memory.settled + is_settled
        )
        return seen.logits, memory

    def __call__(self, seen: Seen, tokens: Int[Array, "B L"]) -> Edited:
        memory: Levenshtein = seen.memory
        filled, is_last = self._filled(seen, seen.masked & (tokens != seen.tokens))
        edits = seen.editable & (seen.proposed != seen.tokens) & (seen.probability > self.threshold)
        plan = _Plan(writes=filled | edits, tokens=seen.proposed)
        plan = self._ordinary(seen, plan, is_last)
        plan = self._unstuck(seen, plan, ~is_last)
        now = jnp.arange(memory.texts.shape[1]) == (memory.steps - 1)[:, None]
        written = jnp.arange(seen.logits.shape[-1]) == plan.tokens[:, :, None]
        tokens, original = self._moved(seen, plan)
        memory = replace(
            memory,
            original=original,
            texts=jnp.where(now[:, :, None], seen.tokens[:, None], memory.texts),
            tried=memory.tried | (written & plan.writes[:, :, None]),
        )
        return Edited(tokens=tokens, unfinished=plan.writes.any(1) & ~is_last, memory=memory)

    def _filled(self, seen: Seen, chosen: Bool[Array, "B L"]) -> tuple[Bool[Array, "B L"], Bool[Array, "B"]]:
        """Which unknown places are filled in, at least those `chosen`; rows that take their last step."""
        memory: Levenshtein = seen.memory
        open_places = memory.original & seen.masked
        is_settled = ~open_places.any(1)
        needed = 1 + (seen.masked & ~memory.original).sum(1)
        enough = (chosen.sum(1) >= needed)[:, None]
        filled = jnp.where(enough, chosen, top(seen.probability, seen.masked, needed))
        most = seen.masked.shape[1] + self.passes
        if self.passes:
            is_last = (memory.settled >= self.passes) | (memory.steps > most)
        else:
            is_last = is_settled | ~(open_places & ~filled).any(1) | (memory.steps > most)
        return jnp.where((is_settled | is_last)[:, None], seen.masked, filled), is_last

    def _ordinary(self, seen: Seen, plan: _Plan, rows: Bool[Array, "B"]) -> _Plan:
        """The plan of these rows without tokens that would leave places out or unknown."""
        ids = jnp.arange(seen.logits.shape[-1])
        is_edit = (ids == self.delete_token) | (ids == self.split_token) | (ids == self.mask_token)
        ordinary = jnp.argmax(jnp.where(is_edit, -jnp.inf, seen.logits), axis=-1)
        changes = rows[:, None] & is_edit[plan.tokens]
        return replace(plan, tokens=jnp.where(changes, ordinary, plan.tokens))

    def _unstuck(self, seen: Seen, plan: _Plan, rows: Bool[Array, "B"]) -> _Plan:
        """The plan of these rows with a token that was not tried, if their block has stood there before."""
        memory: Levenshtein = seen.memory
        earlier = jnp.arange(memory.texts.shape[1]) < (memory.steps - 1)[:, None]
        returned = ((memory.texts == seen.tokens[:, None]).all(2) & earlier).any(1)
        least_sure = best(-seen.probability, plan.writes & (plan.tokens != seen.tokens))
        untried = jnp.argmax(jnp.where(memory.tried, -jnp.inf, seen.logits), axis=-1)
        return replace(plan, tokens=jnp.where(least_sure & (rows & returned)[:, None], untried, plan.tokens))

    def _moved(self, seen: Seen, plan: _Plan) -> tuple[Int[Array, "B L"], Bool[Array, "B L"]]:
        """The block behind the plan, and which of its places are original ones."""
        length = seen.masked.shape[1]
        answer = seen.masked | seen.editable
        splits = plan.writes & (plan.tokens == self.split_token)
        deletes = plan.writes & (plan.tokens == self.delete_token)
        room = jnp.where(answer, 1 + splits - deletes, 0)
        first = jnp.argmax(answer, axis=1)[:, None]
        end = first + answer.sum(1)[:, None]
        to = first + jnp.cumsum(room, axis=1) - 1  # where a place ends up; room for a token is in front
        to = jnp.where(answer & ~deletes & (to < end), to, length)
        kept = jnp.where(plan.writes & ~splits, plan.tokens, seen.tokens)
        rows = jnp.arange(answer.shape[0])[:, None]
        tokens = jnp.where(answer, self.mask_token, seen.tokens)
        tokens = tokens.at[rows, to].set(kept, mode="drop")
        original = jnp.zeros_like(answer).at[rows, to].set(seen.memory.original, mode="drop")
        return tokens, original


register_dataclass(LevenshteinEdits, ["threshold"], ["mask_token", "delete_token", "split_token", "passes"])
