"""P-EAGLE's loss against sums written out, over chains as they are drafted."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import D_MODEL, quick_jit, random_params
from strategy_helpers import architecture

from jaxmodels.layers.spec import filled
from jaxmodels.models.draft_heads.feature_head import Target
from jaxmodels.training.draft_heads.objective import Pupil
from jaxmodels.training.draft_heads.peagle import PEagleTraining
from jaxmodels.training.draft_heads.run import see

SIZES = {"layers": (0, 1, 2), "num_heads": 4, "num_kv_heads": 2, "head_dim": 6, "d_ff": 12}
TRAINING = PEagleTraining(**SIZES, draft_vocab_size=11, mask_token=4)
SIZE = 9
KNOWN = jnp.asarray([0, 2, 3, 5, 7, 11, 13, 17, 19, 23, 28])
TOKENS = jax.random.randint(jax.random.key(1), (2, SIZE + 1), 0, 29)
KEY = jax.random.key(0)
chains_of = quick_jit(TRAINING.chains, static_argnums=1)


def pupil():
    config, params = architecture("attention")
    head = TRAINING.head(config)
    return Pupil(head=head, params=random_params(head.spec()), target=Target(config, params), token_ids=KNOWN)


def pairs_of(key, size):
    """Anchors, depths and whether they exist, of the chains of one text."""
    chains = jax.device_get(chains_of(key, size))
    return chains.anchors, chains.depths, chains.exist


@quick_jit
def drafted(params, target_params, tokens, features, anchors, depths):
    """What a head predicts with so many masks behind the true pairs up to an anchor, each in a row alone."""
    head, target = pupil().head, Target(architecture("attention")[0], target_params)
    rows, size = tokens.shape
    is_true = jnp.arange(size) <= anchors[:, None]
    predicted, _ = head.extend(
        params,
        target,
        jnp.where(is_true, tokens, head.mask_token),
        jnp.where(is_true[..., None], features, head.mask_feature(params)),
        filled(head.init_history(rows, size), jnp.float32),
        valid=anchors + 1 + depths,
        logits_at=(anchors + depths)[:, None],
    )
    return predicted.logits[:, 0]


def test_the_loss_is_that_of_chains_as_they_are_drafted():
    ours = pupil()
    seen = quick_jit(functools.partial(see, ours))(TOKENS)
    features = ours.head.features(ours.params, seen.scored.taps)
    teacher, known, nats, right = np.asarray(seen.scored.logits, np.float64), np.asarray(KNOWN), [], []
    for row, key in enumerate(jax.random.split(KEY, 2)):
        anchors, depths, exist = pairs_of(key, SIZE)
        shape = (len(anchors), SIZE)
        read = (
            jnp.broadcast_to(TOKENS[row, 1:], shape),
            jnp.broadcast_to(features[row, :-1], (*shape, D_MODEL)),
        )
        found = drafted(ours.params, ours.target.params, *read, anchors, depths)
        found = np.asarray(found, np.float64)[exist]
        for anchor, depth, q in zip(anchors[exist], depths[exist], found, strict=True):
            scores = teacher[row, anchor + depth + 1]
            if depth == 0:
                right.append(known[q.argmax()] == scores.argmax())
            if scores.argmax() in known:
                p = np.exp(scores[known]) / np.exp(scores[known]).sum()
                nats.append(-(p * (q - np.log(np.exp(q).sum()))).sum())
    assert len(right) == 2 * SIZE
    loss, told = quick_jit(lambda params: TRAINING.loss(replace(ours, params=params), seen, KEY))(ours.params)
    np.testing.assert_allclose(loss, np.mean(nats), rtol=1e-5)
    np.testing.assert_allclose(told, np.mean(right))


def test_depths_keep_so_many_of_the_places():
    """0.7, 0.49, 0.343, 0.2401, then 0.2 of the 100 - d places."""
    assert TRAINING.counts(100) == (100, 69, 48, 33, 23, 19, 18, 18)
    assert TRAINING.counts(3) == (3, 1)


@pytest.mark.parametrize("size", [1, 2, 40])
def test_chains_are_whole_and_stay_inside_the_text(size):
    anchors, depths, exist = pairs_of(jax.random.key(size), size)
    pairs = list(zip(anchors[exist].tolist(), depths[exist].tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) >= {(anchor, 0) for anchor in range(size)}
    assert all(anchor + depth < size for anchor, depth in pairs)
    assert all(depth == 0 or (anchor, depth - 1) in pairs for anchor, depth in pairs)
    found = np.bincount([depth for _, depth in pairs])
    # At the floor of 0.2 a depth may keep every chain that has room, which is one fewer than it asks for.
    assert all(count - 1 <= n <= count for n, count in zip(found, TRAINING.counts(size), strict=False))


def test_the_mask_and_its_streams_are_trained():
    ours = pupil()
    seen = quick_jit(functools.partial(see, ours))(TOKENS)

    @quick_jit
    def gradient(params):
        return jax.grad(lambda params: TRAINING.loss(replace(ours, params=params), seen, KEY)[0])(params)

    found = gradient(ours.params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert np.abs(found["mask_streams"]).max() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": 0}, "PEagleTraining: depths must be a whole number >= 1"),
        ({"keep": 1.5}, "PEagleTraining: keep must be a finite number >= 0 and <= 1, got 1.5"),
        ({"layers": ()}, "PEagleTraining: layers must be numbers of streams"),
        ({"d_ff": 0}, "PEagleTraining: d_ff must be a whole number >= 1"),
    ],
    ids=["depths", "keep", "layers", "width"],
)
def test_sizes_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        PEagleTraining(**{**SIZES, **changes})
