"""Consistency: the drafts of its rounds are those of decoding, and the losses those of rows by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, VOCAB, quick_jit, random_params

from jaxmodels.training.objectives.branches import Branches, ancestors, choices_behind, score_branches
from jaxmodels.training.objectives.consistency import Consistency, first_drafts, next_drafts
from jaxmodels.training.objectives.objective import Windows
from jaxmodels.training.objectives.scorer import Scorer

OBJECTIVE = Consistency(window=4, places=3, rounds=2, next_token_weight=10.0, decay=0.5)


def windows(batch=2, size=16):
    tokens = jnp.asarray(np.random.default_rng(0).integers(1, VOCAB, (batch, size)), jnp.int32)
    return Windows(tokens=tokens, predicted=jnp.ones(tokens.shape, bool).at[:, :5].set(False))


def model(name):
    config = ARCHITECTURES[name]
    return config, random_params(config.spec())


def test_a_draft_sees_its_text_and_itself():
    branches = Branches(anchors=jnp.array([[0, 2]]), drafts=jnp.zeros((1, 2, 2), jnp.int32))
    expected = """
        x . .  . . . .
        x x .  . . . .
        x x x  . . . .

        x . .  x . . .
        x . .  x x . .
        x x x  . . x .
        x x x  . . x x
    """
    seen = [[mark == "x" for mark in line.split()] for line in expected.splitlines() if line.strip()]
    np.testing.assert_array_equal(ancestors(3, branches)[0], seen)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["attention", "ssd"])
def test_the_loss_is_that_of_rows_by_themselves(name):
    config, params = model(name)
    forward = jax.jit(lambda tokens: jax.nn.log_softmax(config.forward(params, tokens)[0]))
    example = OBJECTIVE.prepare(windows(), jax.random.key(1))
    tokens, anchors = np.asarray(example.windows.tokens), np.asarray(example.anchors)
    assert (anchors >= 4).all() and (anchors < 15).all()  # before the tokens that are predicted
    found = np.zeros(2), np.zeros(2)  # of each round: weighted nats, weights
    for row, places in zip(tokens, anchors, strict=True):
        text = np.asarray(forward(row[None]))
        for first in places.tolist():
            at, draft = first, [row[first]] * (OBJECTIVE.window - 1)
            for i in range(OBJECTIVE.rounds):
                behind = np.asarray(forward(np.array([[*row[: at + 1], *draft]], np.int32)))[at:]
                wrong = [token != right for token, right in zip(draft, row[at + 1 :], strict=False)]
                wrong += [True] * (len(draft) - len(wrong))
                for k in range(sum(np.cumsum(wrong) == 0), min(len(draft), len(row) - at - 2)):
                    target = text[at + 1 + k]
                    found[0][i] -= 0.5**k * (np.exp(target) * behind[k + 1]).sum()
                    found[1][i] += 0.5**k
                settled = 1 + sum(np.cumsum(wrong) == 0)
                said = behind.argmax(-1).tolist()
                draft = (said[settled:] + said[-1:] * len(draft))[: len(draft)]
                at += settled
    nats = [-np.asarray(forward(row[None]))[range(4, 15), row[5:]] for row in tokens]
    expected = (found[0] / found[1]).mean() + 10 * np.mean(nats)
    loss, count = jax.jit(lambda p: OBJECTIVE.loss(Scorer(config, p), example))(params)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    assert count == 22


def test_a_text_that_the_model_wrote_is_decoded_as_by_jacobi():
    config, params = model("attention")
    forward = quick_jit(lambda row: config.forward(params, row[None])[0])

    def next_token(row):
        """In one program: a causal model does not see the padding behind the row."""
        padded = np.array(row + [0] * (20 - len(row)), np.int32)
        return int(np.asarray(forward(padded))[len(row) - 1].argmax())

    text = [3, 1, 4]
    for _ in range(12):
        text.append(next_token(text))
    tokens, at = jnp.array([text]), 3
    branches = first_drafts(tokens, jnp.array([[at]]), 3)
    score = Scorer(config, params)

    @quick_jit
    def next_round(branches):
        choices = choices_behind(*score_branches(score, tokens, branches), branches.anchors)
        return next_drafts(tokens, branches, choices)

    for _ in range(3):
        drafts = np.asarray(branches.drafts)[0, 0].tolist()
        said = [next_token([*text[: at + 1], *drafts[:i]]) for i in range(4)]
        count = 1
        while count < 4 and drafts[count - 1] == said[count - 1]:
            count += 1
        branches = next_round(branches)
        at += count
        assert branches.anchors.tolist() == [[at]]
        assert np.asarray(branches.drafts)[0, 0].tolist() == (said[count:] + said[-1:] * 3)[:3]


def test_the_text_gets_no_gradient_from_what_drafts_say():
    """Where the next token counts for nothing, the head's gradient is that of the drafts alone."""
    config, params = model("attention")
    objective = Consistency(window=4, places=3, rounds=1, next_token_weight=0.0)
    example = objective.prepare(windows(), jax.random.key(1))
    grads = jax.jit(jax.grad(lambda p: objective.loss(Scorer(config, p), example)[0]))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))


def test_bad_input_is_named():
    faults = [("window", 1), ("places", 0), ("rounds", 0), ("next_token_weight", -1), ("decay", 2)]
    for name, value in faults:
        with pytest.raises(ValueError, match=f"Consistency: {name} must be"):
            Consistency(**{name: value})
