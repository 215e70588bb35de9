import jax
import numpy as np
import pytest
from masked_model import forward, gradients, loss_of, model, nats, shown, windows

from jaxmodels.training.objectives.certainty_forcing import CertaintyForcing


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("offset", [0, 1])
def test_the_published_loss(offset):
    objective, of = CertaintyForcing(block=4), model(offset=offset)
    example = objective.prepare(windows(batch=40, size=14, prompt=3), jax.random.key(1))
    tokens, expected = np.asarray(example.tokens), 0.0
    active = np.asarray(example.weight) > 0
    for hidden in (np.asarray(example.masked), np.asarray(example.rest)):
        logits = np.asarray(forward(of, shown(tokens, hidden)), np.float64)
        alone = nats(logits, tokens, offset)
        logits = np.roll(logits, offset, axis=1)
        p = np.exp(logits / 0.5)
        p /= p.sum(-1, keepdims=True)
        entropy = -(p * np.log(p)).sum(-1)
        counted = active & hidden
        right = counted & (logits.argmax(-1) == tokens)
        assert right.any()
        expected += alone[counted].mean() + 2 * entropy[right].mean()
    loss, count = loss_of(objective, of, example)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert count == active.sum()


def test_one_block_is_halved_and_all_behind_it_is_masked():
    example = CertaintyForcing(block=4).prepare(windows(batch=60, size=14, prompt=3), jax.random.key(2))
    masked, rest, active = (np.asarray(leaf) for leaf in (example.masked, example.rest, example.weight > 0))
    starts = active.argmax(1)
    assert set(starts) == {3, 7, 11}
    place = np.arange(14)
    assert (active == ((place >= starts[:, None]) & (place < starts[:, None] + 4))).all()
    later = place >= starts[:, None] + 4
    assert (masked & rest == later).all() and (masked | rest == active | later).all()
    assert 0.3 < masked[active].mean() < 0.7


def test_gradients_are_finite():
    grads = gradients(CertaintyForcing(block=4), model())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_bad_input_is_named():
    for name, value in (("block", 0), ("ratio", 2), ("entropy_weight", -1), ("temperature", 0)):
        with pytest.raises(ValueError, match=f"CertaintyForcing: {name} must be"):
            CertaintyForcing(**{name: value})
