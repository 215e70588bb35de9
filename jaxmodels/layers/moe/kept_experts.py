"""Experts that lie in host memory, and which of them stay on the device from window to window.

What was used last is kept, as tokens that follow each other choose many of the same experts, and what a
router would choose is guessed from an earlier stream: both after https://arxiv.org/abs/2312.17238, where the
guess is made from the stream of the mixture before.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.host_memory import fetched, in_host_memory
from jaxmodels.layers.moe.routing import Routing
from jaxmodels.layers.slotted import SlottedStack
from jaxmodels.layers.spec import Params


@dataclass(frozen=True, kw_only=True)
class HostExperts:
    """How the experts of a mixture that lie in host memory come to the device.

    Attributes:
        kept: how many of each layer stay on the device, those that were used last. They serve windows whose
            tokens cannot choose more, tokens times experts per token; for others, and with 0, the chosen
            experts are fetched one by one, and none stay.
        ahead: how many of these are fetched while the mixer in front of the layer computes: of those that are
            not there, the ones that the router would choose if the mixer added nothing. They are fetched
            whether they turn out to be chosen or not.

    Raises:
        ValueError: `kept` is negative, or `ahead` is no number up to `kept`.
    """

    kept: int = 0
    ahead: int = 0

    def __post_init__(self) -> None:
        if self.kept < 0:
            raise ValueError(f"HostExperts: kept must be at least 0, got {self.kept}")
        if not 0 <= self.ahead <= self.kept:
            raise ValueError(f"HostExperts: ahead must be from 0 to kept={self.kept}, got {self.ahead}")


FETCHED_EACH_TIME = HostExperts()


@struct.dataclass
class Coming:
    """Experts that are on their way to the device.

    Attributes:
        experts: i32[A], which; the number of experts for none.
        parts: for each of them its part of the stacks in host memory.
        guessed: bool[E], the experts that the guess would choose, which they do not displace.
    """

    experts: jax.Array
    parts: tuple[Params, ...]
    guessed: jax.Array


@struct.dataclass
class ExpertSlots:
    """The experts of one layer that are on the device.

    Attributes:
        experts: i32[N], the expert in each slot; the number of experts where there is none.
        used: i32[N], the window that each was chosen in last.
        windows: i32[], how many there were.
        fetches: i32[], how many experts were fetched so far.
        stacks: for each projection in host memory an array [N, ...], or what a quantised one is made of.
    """

    experts: jax.Array
    used: jax.Array
    windows: jax.Array
    fetches: jax.Array
    stacks: Params

    @property
    def count(self) -> int:
        return self.experts.shape[0]


def empty_slots(params: Params, num_experts: int, how: HostExperts) -> ExpertSlots:
    """Slots for a layer with these parameters, some of them in host memory."""
    return ExpertSlots(
        experts=jnp.full(how.kept, num_experts, jnp.int32),
        used=jnp.zeros(how.kept, jnp.int32),
        windows=jnp.zeros((), jnp.int32),
        fetches=jnp.zeros((), jnp.int32),
        stacks=jax.tree.map(lambda a: jnp.zeros((how.kept, *a.shape[1:]), a.dtype), hosted_stacks(params)),
    )


def hosted_stacks(params: Params) -> Params:
    """Those of a layer's parameters that lie in host memory."""
    return {name: leaf for name, leaf in params.items() if in_host_memory(leaf)}


def with_chosen(
    slots: ExpertSlots, coming: Coming | None, params: Params, chosen: Int[Array, "..."]
) -> tuple[ExpertSlots, Params]:
    """The slots with all chosen experts in them, and the layer's parameters, of which those in host memory
    are read from the slots.

    Experts that come, and then those that are missing, take the places of those that were used longest ago.
    `chosen` must not choose more experts than there are slots; it holds the number of experts for none.
    """
    hosted, num_experts = hosted_stacks(params), _groups(params)
    if coming is not None:
        slots = _arrived(slots, coming, num_experts)
    wanted = _marked(chosen, num_experts)
    most = min(chosen.size, num_experts)
    missing = jnp.flatnonzero(wanted & ~_is_there(slots, num_experts), size=most, fill_value=num_experts)
    missing = missing.astype(jnp.int32)
    count = (missing < num_experts).sum(dtype=jnp.int32)
    in_use = wanted.at[slots.experts].get(mode="fill", fill_value=False)
    places = _oldest(slots, in_use)[:most]

    def fetch(i: Array, stacks: Params) -> Params:
        return _put(stacks, places[i], _of_expert(hosted, missing[i]))

    places_filled = jnp.where(jnp.arange(most) < count, places, slots.count)
    experts = slots.experts.at[places_filled].set(missing, mode="drop")
    windows = slots.windows + 1
    slots = replace(
        slots,
        experts=experts,
        used=jnp.where(wanted.at[experts].get(mode="fill", fill_value=False), windows, slots.used),
        windows=windows,
        fetches=slots.fetches + count,
        stacks=lax.fori_loop(0, count, fetch, slots.stacks),
    )
    place = jnp.zeros(num_experts, jnp.int32).at[experts].set(jnp.arange(slots.count), mode="drop")
    return slots, params | {name: SlottedStack(stack, place) for name, stack in slots.stacks.items()}


def fetched_ahead(
    slots: ExpertSlots, params: Params, guess: Routing, x: Float[Array, "B S D"], count: int
) -> tuple[Coming, Float[Array, "B S D"]]:
    """Begins to fetch so many experts that a guess would choose and that are not there, in front of what is
    computed with `x`: (those that come, x)."""
    hosted, num_experts = hosted_stacks(params), _groups(params)
    worth = jnp.where(_is_there(slots, num_experts), -1.0, _preference(guess)[:num_experts])
    values, experts = lax.top_k(worth, count)
    experts = experts.astype(jnp.int32)
    # By itself the TPU compiler begins the fetches behind the products.
    experts, x = lax.optimization_barrier((experts, x))
    coming = Coming(
        experts=jnp.where(values < 0, num_experts, experts),
        parts=tuple(_of_expert(hosted, experts[i]) for i in range(count)),
        guessed=_marked(guess.drop_padding().experts, num_experts),
    )
    return coming, x


def _preference(guess: Routing) -> Float[Array, "E"]:
    """Higher for experts that more tokens would be sent to, then for those of a higher score."""
    guess = guess.drop_padding()
    scores = guess.scores.mean(tuple(range(guess.scores.ndim - 1)))
    low, high = scores.min(), scores.max()
    votes = guess.assigned().reshape(-1, guess.num_experts).sum(0)
    return votes + 0.5 * (scores - low) / jnp.maximum(high - low, 1e-9)


def _arrived(slots: ExpertSlots, coming: Coming, num_experts: int) -> ExpertSlots:
    """The slots with the experts that were on their way in the places of those used longest ago."""
    stacks, experts = slots.stacks, slots.experts
    guessed = coming.guessed.at[experts].get(mode="fill", fill_value=False)
    places = _oldest(slots, guessed)
    for i, part in enumerate(coming.parts):
        expert, place = coming.experts[i], places[i]
        is_one = (expert < num_experts) & ~guessed[place]
        before = _of_expert(stacks, place)
        stacks = _put(stacks, place, jax.tree.map(lambda a, b, it=is_one: jnp.where(it, a, b), part, before))
        experts = experts.at[place].set(jnp.where(is_one, expert, experts[place]))
    return replace(slots, stacks=stacks, experts=experts, fetches=slots.fetches + len(coming.parts))


def _is_there(slots: ExpertSlots, num_experts: int) -> Bool[Array, "E"]:
    return _marked(slots.experts, num_experts)


def _marked(experts: Int[Array, "..."], num_experts: int) -> Bool[Array, "E"]:
    return jnp.zeros(num_experts, bool).at[experts.reshape(-1)].set(True, mode="drop")


def _oldest(slots: ExpertSlots, in_use: Array) -> Int[Array, "N"]:
    """The slots, those that were used longest ago in front, those in use at the end."""
    return jnp.argsort(jnp.where(in_use, slots.windows + 1, slots.used), stable=True).astype(jnp.int32)


def _groups(params: Params) -> int:
    return int(jax.tree.leaves(hosted_stacks(params))[0].shape[0])


def _of_expert(stacks: Params, expert: Array) -> Params:
    return fetched(jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, expert, 0, keepdims=False), stacks))


def _put(stacks: Params, place: Array, part: Params) -> Params:
    return jax.tree.map(lambda a, one: lax.dynamic_update_index_in_dim(a, one, place, 0), stacks, part)
