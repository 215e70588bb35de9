"""Jacobi forcing: which states of a trajectory are taken, and the loss of a window that is read twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, VOCAB, random_params

from jaxmodels.training.objectives.jacobi_forcing import JacobiForcing, nearest_state
from jaxmodels.training.objectives.objective import Windows
from jaxmodels.training.objectives.scorer import Scorer

OBJECTIVE = JacobiForcing(block=4, prompt=5, ratios=3, passes=2)


def windows(batch=2, size=18):
    tokens = jnp.asarray(np.random.default_rng(0).integers(1, VOCAB, (batch, size)), jnp.int32)
    return Windows(tokens=tokens, predicted=jnp.ones(tokens.shape, bool))


def test_the_published_states_are_taken():
    right = jnp.array([0, 2, 5, 7, 8])[:, None, None] * jnp.ones((1, 1, 4), int)
    chosen = nearest_state(right, 8, jnp.linspace(0.0, 1.0, 4))
    assert chosen.tolist() == [[4, 2, 1, 0]]


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("name", ["attention", "hybrid"])
def test_the_loss_is_that_of_rows_by_themselves(name):
    config = ARCHITECTURES[name]
    params = random_params(config.spec())
    forward = jax.jit(lambda tokens: jax.nn.log_softmax(config.forward(params, tokens)[0]))

    def behind(tokens):
        return np.asarray(forward(np.array([tokens], np.int32)))

    example = OBJECTIVE.prepare(windows(), jax.random.key(1))
    size, total, nats = OBJECTIVE.block, [], []
    for row, drafts in zip(*map(np.asarray, (example.windows.tokens, example.drafts)), strict=True):
        assert drafts.shape == (3, 4) and np.isin(drafts, row[: OBJECTIVE.prompt]).all()
        noisy = []
        for j, draft in enumerate(drafts.tolist()):
            start = OBJECTIVE.prompt + j * size
            text, states = row[start : start + size].tolist(), [draft]
            for _ in range(OBJECTIVE.passes):
                said = behind([*row[:start], *states[-1]])[start - 1 : -1]
                states.append(said.argmax(-1).tolist())
            right = [int(np.cumprod(np.equal(state, text)).sum()) for state in [*states, text]]
            gaps = [abs((size - count) / size - [0.0, 0.5, 1.0][j]) for count in right]
            noisy.append([*states, text][int(np.argmin(gaps))])
        assert noisy[0] == row[5:9].tolist()  # the first ratio is 0
        clean, drafted = behind(row), behind([*row[:5], *np.concatenate(noisy)])
        for j, state in enumerate(noisy):
            start = OBJECTIVE.prompt + j * size
            wrong = np.cumsum(np.not_equal(state, row[start : start + size])) > 0
            kept = start + np.flatnonzero(wrong)
            total.append(-(np.exp(clean[kept]) * drafted[kept]).sum(-1).mean() if len(kept) else 0.0)
        nats.append(-clean[range(17), row[1:]].mean())
    loss, count = jax.jit(lambda p: OBJECTIVE.loss(Scorer(config, p), example))(params)
    np.testing.assert_allclose(loss, np.mean(total) + 10 * np.mean(nats), rtol=1e-4)
    assert count == 2 * 17


def test_gradients_are_finite():
    config = ARCHITECTURES["attention"]
    example = OBJECTIVE.prepare(windows(), jax.random.key(1))
    grads = jax.jit(jax.grad(lambda p: OBJECTIVE.loss(Scorer(config, p), example)[0]))(
        random_params(config.spec())
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_bad_input_is_named():
    faults = [("block", 1), ("prompt", 0), ("ratios", 1), ("passes", 0), ("next_token_weight", -1)]
    for name, value in faults:
        with pytest.raises(ValueError, match=f"JacobiForcing: {name} must be"):
            JacobiForcing(**{name: value})
    with pytest.raises(ValueError, match="at least 9 tokens, got sequence_length=8"):
        OBJECTIVE.prepare(windows(size=8), jax.random.key(0))
