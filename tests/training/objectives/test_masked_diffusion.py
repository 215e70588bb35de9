import itertools
import math

import jax
import jax.numpy as jnp
import masked_model
import numpy as np
import pytest
from masked_model import MASK, costs, forward, gradients, loss_of, model, nats, prepare, shown, windows

from jaxmodels.models.families import config_from_hf
from jaxmodels.training.objectives.masked_diffusion import MaskedDiffusion
from jaxmodels.training.objectives.objective import Windows


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("offset", [0, 1])
def test_the_published_loss(offset):
    # every token masked with probability p, what the masked ones cost over p, over all tokens: LLaDA
    objective, of = MaskedDiffusion(), model(offset=offset)
    example = objective.prepare(windows(prompt=offset), jax.random.key(3))
    level = (np.arange(6) / 6 + float(jax.random.uniform(jax.random.split(jax.random.key(3), 3)[1]))) % 1
    ratio = 1e-3 + (1 - 1e-3) * level
    masked = np.asarray(example.masked)
    alone = nats(forward(of, shown(example.tokens, masked)), example.tokens, offset)
    expected = (alone * masked / ratio[:, None]).sum() / (6 * (12 - offset))
    loss, count = loss_of(objective, of, example)
    assert masked.any() and count == 6 * (12 - offset)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("masking", ["independent", "counted"])
@pytest.mark.parametrize("offset", [0, 1])
def test_two_views_hide_each_answer_once(masking, offset):
    objective = MaskedDiffusion(masking=masking, complementary=True)
    of = model(offset=offset)
    example = objective.prepare(windows(prompt=5), jax.random.key(4))
    masked, rest = np.asarray(example.masked), np.asarray(example.rest)
    assert ((masked ^ rest) == (np.arange(12) >= 5)).all() and not (masked & rest).any()
    alone = sum(
        hidden * nats(forward(of, shown(example.tokens, hidden)), example.tokens, offset)
        for hidden in (masked, rest)
    )
    np.testing.assert_allclose(costs(objective, of, example), example.weight * alone, rtol=1e-4)
    if masking == "counted":  # half of what l of 7 and 7 - l of 7 cost, of 0..7
        count = masked.sum(1)
        with np.errstate(divide="ignore"):
            weight = np.where(masked, (8 / count)[:, None], np.where(rest, (8 / (7 - count))[:, None], 0)) / 2
        np.testing.assert_allclose(example.weight, weight, rtol=1e-6)


def test_the_estimator_is_the_mean_over_all_orders():
    # the bound is what the tokens cost in a random order, each given those before it in the order
    of, tokens = model(), windows(batch=1, size=4).tokens
    orders = list(itertools.permutations(range(4)))
    total = 0.0
    for order in orders:
        for i, place in enumerate(order):
            hidden = np.isin(np.arange(4), order[i:])
            total += nats(forward(of, shown(tokens, hidden[None])), tokens)[0, place]
    repeated = Windows(tokens=jnp.tile(tokens, (4000, 1)), predicted=jnp.ones((4000, 4), bool))
    for objective in (MaskedDiffusion().estimator, MaskedDiffusion(masking="counted")):
        example = objective.prepare(repeated, jax.random.key(0))
        each = np.asarray(costs(objective, of, example).sum(1))
        assert abs(each.mean() - total / len(orders)) < 4 * each.std() / math.sqrt(4000)


def test_counts_are_uniform_and_ratios_spread_evenly():
    example = prepare(MaskedDiffusion(masking="counted"), windows(batch=24), jax.random.key(0))
    assert sorted(np.asarray(example.masked).sum(1)) == sorted([*range(1, 13)] * 2)
    both = prepare(MaskedDiffusion().estimator, windows(batch=26), jax.random.key(0))
    assert sorted(np.asarray(both.masked).sum(1)) == sorted([*range(13)] * 2)


def test_prefixes_are_known_and_cheap_ratios_bounded():
    objective = MaskedDiffusion(masking="counted", complementary=True, prefix_share=1.0, weight_floor=0.5)
    example = objective.prepare(windows(batch=40), jax.random.key(0))
    hidden = np.asarray(example.masked | example.rest)
    starts = hidden.argmax(1)
    assert (hidden == (np.arange(12) >= starts[:, None])).all()
    assert starts.min() == 1 and starts.max() == 9
    assert float(example.weight.max()) <= 1.0  # half of 1 / 0.5
    np.testing.assert_array_equal(example.count, hidden.sum(1))


def test_padding_is_not_seen():
    objective, of = MaskedDiffusion().estimator, model()
    short = windows(batch=2, size=8)
    padded = Windows(
        tokens=jnp.pad(short.tokens, ((0, 0), (0, 4)), constant_values=3),
        predicted=jnp.pad(short.predicted, ((0, 0), (0, 4))),
        valid=jnp.array([8, 8]),
    )
    example = objective.prepare(padded, jax.random.key(2))
    cut = jax.tree.map(lambda leaf: leaf[:, :8] if leaf.ndim == 2 else leaf, example).replace(valid=None)
    got = costs(objective, of, example)
    np.testing.assert_allclose(got[:, :8], costs(objective, of, cut), rtol=1e-4)
    assert not got[:, 8:].any()


def test_gradients_are_finite_and_reach_the_mask_token():
    grads = gradients(MaskedDiffusion(complementary=True), model())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert np.abs(grads["embed"]["weight"][MASK]).max() > 0


def test_bad_input_is_named():
    causal = config_from_hf(
        {
            "model_type": "llama", "vocab_size": 9, "hidden_size": 4, "intermediate_size": 4,
            "num_hidden_layers": 1, "num_attention_heads": 1,
        }
    )  # fmt: skip
    with pytest.raises(ValueError, match="masked_diffusion trains models that fill in a mask token"):
        MaskedDiffusion().check(causal)
    MaskedDiffusion().check(masked_model.model())
    for fields, message in (
        ({"masking": "some"}, "masking must be one of independent, counted, got 'some'"),
        ({"least_ratio": 0.7}, "least_ratio must be"),
        ({"prefix_share": 2}, "prefix_share must be"),
        ({"weight_floor": -1}, "weight_floor must be"),
        ({"draws": 1}, "draws must be a whole number >= 2"),
    ):
        with pytest.raises(ValueError, match=message):
            MaskedDiffusion(**fields)
