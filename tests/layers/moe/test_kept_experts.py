"""The experts that stay on the device are those used last, and hold what the host's do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.expert_memory import device_sharding, host_sharding
from jaxmodels.layers.moe.kept_experts import HostExperts, empty_slots, fetched_ahead, with_chosen
from jaxmodels.layers.moe.routing import Routing

EXPERTS, WIDTH, KEPT = 6, 3, 4


@pytest.fixture(scope="module")
def params():
    stack = np.arange(EXPERTS * WIDTH * 2, dtype=np.float32).reshape(EXPERTS, WIDTH, 2)
    hosted = jax.device_put(stack, host_sharding(device_sharding()))
    return {"w_up": hosted, "b_up": jnp.zeros((EXPERTS, 2))}


def routing(experts, scores):
    """One token's."""
    scores = jnp.asarray(scores, jnp.float32)[None, None]
    experts = jnp.asarray(experts, jnp.int32)[None, None]
    return Routing(experts=experts, weights=jnp.ones(experts.shape), logits=scores, scores=scores)


def held(slots):
    """The weights of each expert that is there."""
    return {int(e): np.asarray(slots.stacks["w_up"][i]) for i, e in enumerate(slots.experts) if e < EXPERTS}


def test_what_was_used_last_is_kept(params):
    """Against a list of experts in the order of their last use."""
    step, slots = jax.jit(with_chosen), empty_slots(params, EXPERTS, HostExperts(kept=KEPT))
    recent, fetches = [], 0
    for expert in np.random.default_rng(0).integers(EXPERTS, size=20).tolist():
        fetches += expert not in recent[-KEPT:]
        recent = [e for e in recent if e != expert] + [expert]
        slots, at_hand = step(slots, None, params, jnp.asarray([EXPERTS, expert]))
        assert set(held(slots)) == set(recent[-KEPT:])
        assert int(slots.fetches) == fetches
        for one, weights in held(slots).items():
            np.testing.assert_array_equal(weights, np.asarray(params["w_up"])[one])
        stack = at_hand["w_up"]
        np.testing.assert_array_equal(stack.slots[stack.place[expert]], np.asarray(params["w_up"])[expert])
    assert fetches < 20


def test_experts_of_one_window_do_not_displace_each_other(params):
    slots = empty_slots(params, EXPERTS, HostExperts(kept=KEPT))
    for chosen in ([0, 1, 2, 3], [4, 0, 5, 1], [2, 3, 4, 0]):
        slots, _ = with_chosen(slots, None, params, jnp.asarray(chosen))
        assert set(held(slots)) == set(chosen)
    assert int(slots.fetches) == 4 + 2 + 2


def test_what_comes_ahead_is_what_a_guess_prefers_and_is_not_there(params):
    slots = empty_slots(params, EXPERTS, HostExperts(kept=KEPT, ahead=2))
    slots, _ = with_chosen(slots, None, params, jnp.asarray([5, 0]))
    guess = routing([5, 2], [0.0, 0.1, 0.3, 0.2, 0.15, 0.9])
    coming, x = jax.jit(fetched_ahead, static_argnums=4)(slots, params, guess, jnp.ones((1, 1, 3)), 2)
    np.testing.assert_array_equal(coming.experts, [2, 3])
    np.testing.assert_array_equal(x, jnp.ones((1, 1, 3)))
    slots, _ = with_chosen(slots, coming, params, jnp.asarray([2, 5]))
    assert set(held(slots)) == {5, 0, 2, 3} and int(slots.fetches) == 4


def test_what_comes_displaces_none_that_the_guess_would_choose(params):
    slots = empty_slots(params, EXPERTS, HostExperts(kept=2, ahead=2))
    slots, _ = with_chosen(slots, None, params, jnp.asarray([5, 0]))
    guess = routing([5, 2], [0.0, 0.1, 0.3, 0.2, 0.15, 0.9])
    coming, _ = fetched_ahead(slots, params, guess, jnp.ones((1, 1, 3)), 2)
    slots, _ = with_chosen(slots, coming, params, jnp.asarray([2, 5]))
    assert set(held(slots)) == {5, 2} and int(slots.fetches) == 4


def test_nothing_comes_where_all_are_there(params):
    slots = empty_slots(params, EXPERTS, HostExperts(kept=EXPERTS, ahead=1))
    slots, _ = with_chosen(slots, None, params, jnp.arange(EXPERTS))
    coming, _ = fetched_ahead(slots, params, routing([0], np.ones(EXPERTS)), jnp.ones((1, 1, 3)), 1)
    slots, _ = with_chosen(slots, coming, params, jnp.asarray([0]))
    assert sorted(held(slots)) == list(range(EXPERTS))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [({"kept": -1}, "kept must be at least 0, got -1"), ({"kept": 2, "ahead": 3}, "from 0 to kept=2, got 3")],
)
def test_numbers_that_do_not_fit_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        HostExperts(**numbers)
