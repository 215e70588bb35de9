"""What d2Cache recomputes, against the published rules on the host, and the answers that it gives."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from strategy_helpers import PROMPTS, architecture, decode
from test_driver import BOTH_WAYS, LENGTH, MASK, NEW, masked_model, strategy

from jaxmodels.decoding.masked import D2Cache, Recompute
from jaxmodels.decoding.masked.caches.d2_cache import certainty_density, gaps, nucleus, rollout
from jaxmodels.decoding.masked.remask import TokenEdits
from jaxmodels.models.filling import MaskFilling

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("last_known", [False, True])
def test_density_is_a_gaussian_average_of_what_is_known(last_known):
    size, width = 23, 3.0
    known = RNG.random((2, size)) < 0.5
    known[:, -1] = last_known
    # Published: ones in front, ones behind where the last place is known, else zeros; as long as the text.
    padded = np.concatenate([np.ones((2, size)), known, np.full((2, size), float(last_known))], axis=1)
    distance = np.arange(size)[:, None] + size - np.arange(3 * size)
    kernel = np.exp(-(distance**2) / (2 * width**2))
    ours = certainty_density(jnp.asarray(known), jnp.full((2,), size), width)
    np.testing.assert_allclose(ours, padded @ kernel.T / kernel.sum(1), atol=1e-5)
    wider = jnp.pad(jnp.asarray(known), ((0, 0), (0, 5)))
    behind = certainty_density(wider, jnp.full((2,), size), width)[:, :size]
    np.testing.assert_allclose(behind, ours, atol=1e-5)


def test_the_nucleus_holds_at_most_its_mass_and_one_place_at_least():
    for mass in (0.0, 0.1, 0.5, 0.9):
        scores, among = RNG.random((4, 17)).astype(np.float32), RNG.random((4, 17)) < 0.7
        chosen = nucleus(jnp.asarray(scores), mass, jnp.asarray(among))
        for row in range(4):
            order = np.argsort(-np.where(among[row], scores[row], 0.0), kind="stable")
            total = scores[row][among[row]].sum() + 1e-9
            expected = np.zeros(17, bool)
            for n, place in enumerate(order[: among[row].sum()]):
                if n == 0 or scores[row][order[: n + 1]].sum() / total <= mass:
                    expected[place] = True
            np.testing.assert_array_equal(chosen[row], expected)


def test_gaps_between_near_places_are_closed():
    chosen = np.zeros((1, 16), bool)
    chosen[0, [2, 5, 9, 10]] = True
    closed = np.flatnonzero(gaps(jnp.asarray(chosen), 3)[0])
    assert closed.tolist() == [2, 3, 4, 5, 9, 10]


def test_the_rollout_keeps_the_rows_that_were_not_computed():
    size, layers = 9, 3
    full = RNG.dirichlet(np.ones(size), (layers, size))
    places = np.array([7, 2, 4])
    product = np.eye(size)
    for layer in full:
        mixed = np.eye(size)
        mixed[places] = layer[places]
        mixed = mixed + np.eye(size)
        product = mixed / mixed.sum(-1, keepdims=True) @ product
    weights = [jnp.asarray(np.pad(layer[places], ((0, 0), (0, 2)))[None], jnp.float32) for layer in full]
    real = jnp.asarray([[True, True, True]])
    ours = rollout(weights, jnp.asarray(places[None], jnp.int32), real, size)
    np.testing.assert_allclose(ours[0], product.sum(0), atol=1e-5)


@pytest.mark.sweep
@pytest.mark.parametrize("offset", [0, 1])
def test_a_budget_for_everything_gives_the_answers_of_no_cache(offset):
    config, params = masked_model("attention", BOTH_WAYS, offset)
    expected = decode(config, params, strategy(Recompute()), new=NEW)
    ours = decode(config, params, strategy(D2Cache(budget=500)), new=NEW)
    np.testing.assert_array_equal(ours.tokens, expected.tokens)
    np.testing.assert_array_equal(ours.counters["calls"], expected.counters["calls"])


@pytest.mark.sweep
@pytest.mark.parametrize("offset", [0, 1])
def test_only_recomputed_places_are_filled_in(offset):
    """A rule that takes all it may takes as many as the budget."""
    config, params = masked_model("attention", BOTH_WAYS, offset)
    ours = decode(config, params, strategy(D2Cache(budget=2, candidates=2), threshold=0.0), new=NEW)
    assert ours.lengths.tolist() == [NEW] * 4
    assert not (ours.tokens == MASK).any()
    assert (ours.counters["calls"] >= NEW // 2).all()
    whole = decode(config, params, strategy(D2Cache(budget=500), threshold=0.0), new=NEW)
    assert whole.counters["calls"].tolist() == [NEW // LENGTH] * 4


@pytest.mark.sweep
def test_a_row_alone_gives_what_it_gives_in_a_batch():
    config, params = masked_model("attention", BOTH_WAYS)
    cache = D2Cache(budget=8, candidates=4)
    together = decode(config, params, strategy(cache), new=NEW)
    alone = decode(config, params, strategy(cache), PROMPTS[2:3], new=NEW)
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 0}, "budget must be a whole number >= 1 .*, got 0"),
        ({"mass": 2.0}, "mass must be a finite number .*, got 2.0"),
        ({"density_width": 0.0}, "density_width must be a finite number > 0"),
    ],
)
def test_values_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        D2Cache(**arguments)


def test_what_it_cannot_serve_is_refused_by_name():
    config, params = architecture("ssd")
    config = replace(config, mask=BOTH_WAYS, filling=MaskFilling(mask_token=MASK))
    with pytest.raises(ValueError, match=r"asks what tokens attend to.*use Dual"):
        decode(config, params, strategy(D2Cache()), new=NEW)
    config, params = masked_model("attention", BOTH_WAYS)
    with pytest.raises(ValueError, match="remask and stop judge all of them"):
        decode(config, params, strategy(D2Cache(), remask=TokenEdits()), new=NEW)
