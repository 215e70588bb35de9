"""A head has read what it would have read of the whole text at once; trees are those of EAGLE-2."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draft_heads import eagle3_drafter
from model_helpers import quick_jit
from strategy_helpers import MODELS, architecture, ready
from test_model_drafter import around

from jaxmodels.decoding import FeatureTreeDrafter, Greedy, Speculative
from jaxmodels.decoding.drafters import Verdict
from jaxmodels.decoding.drafters.feature_state import begin_state, next_state, read_all
from jaxmodels.layers.spec import filled
from jaxmodels.models.draft_heads.feature_head import Target

TEXTS = np.random.default_rng(4).integers(1, 29, (2, 14)).astype(np.int32)


def scene(drafter, lengths):
    """A round behind prompts of these lengths, the next tokens of the texts the newest, and taps."""
    config, params = architecture("attention")
    prompts = [row[:n].tolist() for row, n in zip(TEXTS, lengths, strict=True)]
    request = ready(config, params, Speculative(draft=drafter), prompts=prompts).request
    now = around(config, params, request, Greedy())
    token = jnp.asarray([row[n] for row, n in zip(TEXTS, lengths, strict=True)])
    return replace(now, token=token), taps_of(config, params, request.tokens, drafter)


def taps_of(config, params, tokens, drafter):
    return _forward_scored(config, params, tokens, taps=drafter.taps).taps


_forward_scored = quick_jit(
    type(MODELS["attention"]).forward_scored, static_argnums=0, static_argnames="taps"
)


@functools.partial(quick_jit, static_argnums=0)
def extend(head, params, target, tokens, features, history, valid):
    config, _ = architecture("attention")
    return head.extend(params, Target(config, target), tokens, features, history, valid=valid)


def from_scratch(drafter, row, length, chain=()):
    """The head's logits behind a text of `length` tokens and then `chain`, with nothing kept."""
    config, params = architecture("attention")
    head, tokens, one = drafter.head, jnp.asarray(TEXTS[row : row + 1]), jnp.ones(1, jnp.int32)
    features = head.features(drafter.params, taps_of(config, params, tokens, drafter))
    history = filled(head.init_history(1, 30), jnp.float32)
    predicted, history = extend(
        head, drafter.params, params, tokens[:, 1:], features[:, :-1], history, one * length
    )
    last = length - 1  # what stands behind it is padding
    for token in chain:
        before = predicted.features[:, last : last + 1]
        predicted, history = extend(
            head, drafter.params, params, jnp.full((1, 1), token), before, history, one
        )
        last = 0
    return predicted.logits[0, last]


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("fields", [{}, {"norm_output": True}, {"norm_before_residual": True}])
def test_what_was_read_is_the_text_with_the_models_own_features(fields):
    drafter, lengths, accepted = eagle3_drafter(**fields), np.asarray([6, 4]), np.asarray([3, 1])
    now, taps = scene(drafter, lengths)
    begin = quick_jit(lambda taps: begin_state(drafter.head, drafter.params, now, taps, room=20, longest=5))
    read_state = quick_jit(lambda state: read_all(drafter.head, drafter.params, now, state))
    read = read_state(begin(taps))
    for row in range(2):
        np.testing.assert_allclose(read.logits[row], from_scratch(drafter, row, lengths[row]), atol=1e-5)
    # Of a window of five tokens, three and one become history.
    config, params = architecture("attention")
    place = np.asarray(lengths)[:, None] + np.arange(5)
    seen = taps_of(config, params, jnp.asarray(TEXTS), drafter)
    verdict = Verdict(
        path=jnp.broadcast_to(jnp.arange(5), (2, 5)),
        count=jnp.asarray(accepted),
        tokens=jnp.asarray(np.take_along_axis(TEXTS, np.minimum(place + 1, 13), axis=1)),
        choices=jnp.zeros((2, 5), jnp.int32),
        taps={name: jnp.take_along_axis(tap, place[:, :, None], axis=1) for name, tap in seen.items()},
    )
    state = quick_jit(lambda history: next_state(drafter.head, drafter.params, history, verdict, 5))(
        read.history
    )
    read = read_state(state)
    for row in range(2):
        expected = from_scratch(drafter, row, lengths[row] + accepted[row])
        np.testing.assert_allclose(read.logits[row], expected, atol=1e-5)


def eagle2(drafter, row, length, total, depth, top_k):
    """The tree as its authors describe it, each path's scores from a chain of its own."""

    def best(path):
        scores = np.asarray(jax.nn.log_softmax(from_scratch(drafter, row, length, path)))
        return [(int(token), float(scores[token])) for token in np.argsort(-scores, kind="stable")[:top_k]]

    beam = [((token,), score) for token, score in best(())]
    candidates = list(beam)
    for _ in range(depth):
        level = [((*path, token), score + more) for path, score in beam for token, more in best(path)]
        candidates += level
        beam = sorted(level, key=lambda one: -one[1])[:top_k]
    return {path for path, _ in sorted(candidates, key=lambda one: -one[1])[: total - 1]}


def test_the_tree_is_that_of_the_authors_procedure():
    plain, lengths = eagle3_drafter(), np.asarray([6, 4])
    numbers = {"total": 12, "depth": 2, "top_k": 3}
    drafter = FeatureTreeDrafter(head=plain.head, params=plain.params, **numbers)
    now, taps = scene(drafter, lengths)
    proposal, _ = quick_jit(lambda taps: drafter.propose(drafter.begin(now, taps), now))(taps)
    for row in range(2):
        paths = [()]
        for token, parent in zip(proposal.tokens[row], proposal.tree.parents[row], strict=True):
            paths.append((*paths[int(parent)], int(token)))
        assert set(paths[1:]) == eagle2(plain, row, lengths[row], **numbers)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"total": 1}, "total must be a whole number >= 2 .*, got 1"),
        ({"top_k": 30}, "top_k must be a whole number >= 1 and <= 29, got 30"),
        ({"total": 60, "depth": 1, "top_k": 3}, "needs as many candidates, and depth=1 and top_k=3 give 12"),
    ],
    ids=["total", "top_k", "candidates"],
)
def test_numbers_that_make_no_tree_are_refused(numbers, message):
    plain = eagle3_drafter()
    with pytest.raises(ValueError, match=message):
        FeatureTreeDrafter(head=plain.head, params=plain.params, **numbers)
