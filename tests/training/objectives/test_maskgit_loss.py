import jax
import numpy as np
import pytest
from masked_model import MASK, forward, gradients, loss_of, model, shown, windows

from jaxmodels.training.objectives.maskgit import MaskGIT


def test_the_published_loss():
    objective, of = MaskGIT(class_dropout=0.5), model()
    example = objective.prepare(windows(batch=10), jax.random.key(1))
    tokens, hidden = np.asarray(example.tokens), np.asarray(example.hidden)
    dropped = np.asarray(example.dropped)
    assert dropped[:, 0].any() and not dropped[:, 0].all() and not dropped[:, 1:].any()
    logits = np.asarray(forward(of, shown(tokens, hidden | dropped)), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = 0.9 * np.eye(MASK + 1)[tokens] + 0.1 / (MASK + 1)
    expected = -(targets * log_p).sum(-1)[hidden].mean()
    loss, count = loss_of(objective, of, example)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert count == hidden.sum()


def test_the_share_of_masks_is_a_cosine_and_the_class_is_no_code():
    example = MaskGIT().prepare(windows(batch=400, size=65), jax.random.key(0))
    hidden = np.asarray(example.hidden)
    u = (np.arange(400) + 0.5) / 400
    np.testing.assert_allclose(np.sort(hidden.sum(1)), np.sort(64 * np.cos(np.pi / 2 * u)), atol=1)
    assert hidden.any(1).all() and not hidden[:, 0].any()


def test_gradients_are_finite():
    grads = gradients(MaskGIT(), model())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="MaskGIT: label_smoothing must be"):
        MaskGIT(label_smoothing=2)
    with pytest.raises(ValueError, match="MaskGIT: class_dropout must be"):
        MaskGIT(class_dropout=-1)
