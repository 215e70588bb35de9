"""The training-time test shows a head what it will see when it drafts."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from model_helpers import quick_jit, random_params
from strategy_helpers import architecture

from jaxmodels.layers.spec import filled
from jaxmodels.models.draft_heads.feature_head import Target
from jaxmodels.training.draft_heads.eagle3 import Columns, Eagle3Training
from jaxmodels.training.draft_heads.objective import Pupil, cross_entropy
from jaxmodels.training.draft_heads.run import see

STEPS = 4
TRAINING = Eagle3Training(
    layers=(0, 1, 2), num_heads=4, num_kv_heads=2, head_dim=6, d_ff=12, draft_vocab_size=11, steps=STEPS
)
KNOWN = jnp.asarray([0, 2, 3, 5, 7, 11, 13, 17, 19, 23, 28])


def pupil():
    config, params = architecture("attention")
    head = TRAINING.head(config)
    return Pupil(head=head, params=random_params(head.spec()), target=Target(config, params), token_ids=KNOWN)


@quick_jit
def seen_with_columns(tokens):
    """What the target computes, and the head's logits [steps, B, S-1, W] as the loss computes them."""
    ours = pupil()
    seen = see(ours, tokens)
    return seen, columns_logits(ours, tokens, seen)


def columns_logits(ours, tokens, seen):
    head, columns, found = ours.head, Columns(ours.head.blocks[0].mixer), []
    features = head.features(ours.params, seen.scored.taps)[:, :-1]
    for step in range(STEPS):
        ahead = jnp.roll(tokens[:, 1:], -step, axis=1)
        stream = columns.extend(ours, head.begin(ours.params, ours.target, ahead, features), step)
        predicted = head.predict(ours.params, stream)
        features = predicted.features
        found.append(predicted.logits)
    return jnp.stack(found)


def test_each_column_is_a_chain_as_it_is_drafted():
    ours = pupil()
    tokens = jax.random.randint(jax.random.key(1), (2, 9), 0, 29)
    seen, in_columns = seen_with_columns(tokens)
    features = ours.head.features(ours.params, seen.scored.taps)

    @quick_jit
    def extend(tokens, features, history, valid):
        return ours.head.extend(ours.params, ours.target, tokens, features, history, valid=valid)

    for column in (0, 3):
        history = filled(ours.head.init_history(2, 12), jnp.float32)
        predicted, history = extend(tokens[:, 1:], features[:, :-1], history, jnp.full(2, column + 1))
        last = column  # what stands behind it is padding
        for step in range(STEPS):
            np.testing.assert_allclose(
                in_columns[step, :, column], predicted.logits[:, last], atol=2e-5, err_msg=f"{column} {step}"
            )
            predicted, history = extend(
                tokens[:, column + 2 + step : column + 3 + step],
                predicted.features[:, last : last + 1],
                history,
                jnp.ones(2, jnp.int32),
            )
            last = 0


def test_the_loss_is_that_of_the_definition():
    """Cross entropy to the target's softmax over known tokens, where its best token is one of them."""
    ours = pupil()
    tokens = jax.random.randint(jax.random.key(1), (2, 9), 0, 29)
    seen, in_columns = seen_with_columns(tokens)
    logits = np.asarray(in_columns, np.float64)
    teacher, known = np.asarray(seen.scored.logits, np.float64), np.asarray(KNOWN)
    expected = 0.0
    for step in range(STEPS):
        nats = []
        for row in range(2):
            for column in range(9 - 1 - step):
                scores = teacher[row, column + 1 + step]
                if scores.argmax() in known:
                    p = np.exp(scores[known]) / np.exp(scores[known]).sum()
                    q = logits[step, row, column]
                    nats.append(-(p * (q - np.log(np.exp(q).sum()))).sum())
        assert 0 < len(nats) < 2 * (9 - 1 - step)
        expected += 0.8**step * np.mean(nats)
    loss, _ = quick_jit(functools.partial(TRAINING.loss, ours))(seen, jax.random.key(0))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_what_the_head_does_not_know_counts_as_wrong():
    teacher = jnp.asarray([[[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]]])
    logits = jnp.asarray([[[5.0, 1.0], [5.0, 1.0]]])
    _, share = cross_entropy(teacher, logits, jnp.asarray([0, 2]), jnp.ones((1, 2)))
    assert float(share) == 0.5


def test_training_begins_with_the_output_head_of_the_target():
    ours = pupil()
    start = TRAINING.start(ours)
    weight = ours.target.params["head"]["weight"]
    np.testing.assert_array_equal(start["head"]["weight"], weight[KNOWN])
    assert replace(ours, params=start).params["fc"] is ours.params["fc"]
