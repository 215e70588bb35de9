"""Each of Medusa's heads learns what the model says that many tokens further on."""

import functools

import jax
import numpy as np
from draft_heads import known_tokens
from model_helpers import quick_jit, random_params
from strategy_helpers import architecture

from jaxmodels.models.draft_heads.feature_head import Target
from jaxmodels.training.draft_heads.medusa import MedusaTraining
from jaxmodels.training.draft_heads.objective import Pupil
from jaxmodels.training.draft_heads.run import see

TRAINING = MedusaTraining(heads=3, draft_vocab_size=11)


def test_the_loss_is_that_of_the_definition():
    config, params = architecture("ssd")
    head, known = TRAINING.head(config), np.asarray(known_tokens(11))
    pupil = Pupil(
        head=head,
        params=random_params(head.spec()),
        target=Target(config, params),
        token_ids=known_tokens(11),
    )
    tokens = jax.random.randint(jax.random.key(1), (2, 9), 0, 29)
    seen = quick_jit(functools.partial(see, pupil))(tokens)
    teacher = np.asarray(seen.scored.logits, np.float64)
    logits = np.asarray(quick_jit(head)(pupil.params, seen.scored.hidden), np.float64)
    expected = 0.0
    for k in range(3):
        nats = []
        for row in range(2):
            for place in range(9 - 1 - k):
                scores = teacher[row, place + 1 + k]
                if scores.argmax() in known:
                    p = np.exp(scores[known]) / np.exp(scores[known]).sum()
                    q = logits[row, place, k]
                    nats.append(-(p * (q - np.log(np.exp(q).sum()))).sum())
        assert len(nats) > 0
        expected += 0.8**k * np.mean(nats)
    loss, _ = quick_jit(functools.partial(TRAINING.loss, pupil))(seen, jax.random.key(0))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
