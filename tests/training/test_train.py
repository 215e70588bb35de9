import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_language_model import ToyModel

from jaxmodels.training.loss import language_model_loss
from jaxmodels.training.objectives.next_token import NextToken
from jaxmodels.training.optimizer import AdamW, WarmupCosine
from jaxmodels.training.train import abstract_state, init_state, make_train_step

MODEL = ToyModel()
SCHEDULE = WarmupCosine(peak=0.05, warmup_steps=2, total_steps=60)


def optimizer(**fields):
    return AdamW(**fields).build(SCHEDULE, MODEL.spec())


def batch(seed=0, size=8):
    return jax.random.randint(jax.random.key(seed), (size, 12), 0, MODEL.vocab_size)


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulation_equals_one_big_batch(accumulate):
    # unequal numbers of predicted tokens per micro-batch: a mean of means would differ
    mask = jax.random.bernoulli(jax.random.key(1), jnp.linspace(0.1, 1, 8)[:, None], (8, 12))
    # eps of the size of the gradient: with a small one Adam turns rounding of tiny gradients into whole steps
    adam = optimizer(eps=1e-2)
    whole = make_train_step(MODEL, adam, SCHEDULE)
    parts = make_train_step(MODEL, adam, SCHEDULE, accumulate=accumulate)
    expected, expected_metrics = whole(init_state(MODEL, adam), batch(), mask)
    got, metrics = parts(init_state(MODEL, adam), batch(), mask)
    for name in metrics:
        np.testing.assert_allclose(metrics[name], expected_metrics[name], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got.params, expected.params)
    assert got.step == 1


def test_metrics_are_those_of_the_state_before_the_update():
    state = init_state(MODEL, optimizer(), seed=3)
    slope = jax.value_and_grad(
        lambda params: language_model_loss(MODEL.forward(params, batch()), batch(), z_loss=1e-3)[0]
    )
    loss, grads = jax.jit(slope)(state.params)
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
    _, metrics = make_train_step(MODEL, optimizer(), SCHEDULE, objective=NextToken(z_loss=1e-3))(
        state, batch()
    )
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)
    np.testing.assert_allclose(metrics["learning_rate"], SCHEDULE(0), rtol=1e-6)


def test_learns_a_repeating_sequence():
    tokens = jnp.tile(jnp.arange(6), (4, 2))
    step, state = make_train_step(MODEL, optimizer(), SCHEDULE), init_state(MODEL, optimizer())
    losses = []
    for _ in range(60):
        state, metrics = step(state, tokens)
        losses.append(float(metrics["loss"]))
    assert losses[0] > 2.5
    assert losses[-1] < 0.1
    assert step._cache_size() == 1


def test_the_state_is_donated():
    state = init_state(MODEL, optimizer())
    compiled = make_train_step(MODEL, optimizer(), SCHEDULE).lower(state, batch()).compile()
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert compiled.memory_analysis().alias_size_in_bytes >= state_bytes


def test_accumulation_bounds_memory():
    state = abstract_state(MODEL, optimizer())
    tokens = jax.ShapeDtypeStruct((64, 128), jnp.int32)

    def temp(accumulate):
        step = make_train_step(MODEL, optimizer(), SCHEDULE, accumulate=accumulate)
        return step.lower(state, tokens).compile().memory_analysis().temp_size_in_bytes

    assert temp(16) < temp(1) / 4


def test_abstract_state_matches():
    concrete = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), init_state(MODEL, optimizer()))
    assert jax.tree.structure(concrete) == jax.tree.structure(abstract_state(MODEL, optimizer()))
    assert jax.tree.leaves(concrete) == jax.tree.leaves(abstract_state(MODEL, optimizer()))


def test_bad_accumulation_is_named():
    with pytest.raises(ValueError, match="accumulate must be at least 1, got 0"):
        make_train_step(MODEL, optimizer(), SCHEDULE, accumulate=0)
    step = make_train_step(MODEL, optimizer(), SCHEDULE, accumulate=3)
    with pytest.raises(ValueError, match=r"batch of 8.*accumulate=3"):
        step(init_state(MODEL, optimizer()), batch())
