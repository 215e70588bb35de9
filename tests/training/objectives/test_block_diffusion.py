import jax
import numpy as np
import pytest
from masked_model import MASK, costs, gradients, loss_of, model, nats, parameters, prepare, shown, windows
from model_helpers import commit, peek_scored

from jaxmodels.layers.masks import BlockCausal
from jaxmodels.training.objectives.block_diffusion import BlockDiffusion, NoisyAndClean
from jaxmodels.training.objectives.objective import Windows

BLOCK = 4


def block_by_block(of, tokens, hidden, offset):
    """Costs [B, S] of separate passes: of each block, behind the known blocks before it in a cache."""
    tokens, hidden, params = np.asarray(tokens), np.asarray(hidden), parameters(of)
    cache, size = of.init_cache(len(tokens), tokens.shape[1]), tokens.shape[1]
    before, found = np.zeros((len(tokens), 1, of.vocab_size)), []
    for start in range(0, size, BLOCK):
        end = min(start + BLOCK, size)
        clean = tokens[:, start:end]
        noisy = shown(clean, hidden[:, start:end])
        scored, pending = peek_scored(of, params, noisy, cache)
        cache = commit(of, pending, np.zeros(len(tokens), np.int32))
        logits = np.asarray(scored.logits)
        if offset:  # the first token of a block is predicted by the last of the one before, as it is
            logits = np.concatenate([before, logits[:, :-1]], axis=1)
        found.append(nats(logits, clean))
        scored, pending = peek_scored(of, params, clean, cache)
        cache, before = commit(of, pending), np.asarray(scored.logits)[:, -1:]
    return np.concatenate(found, axis=1)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(("offset", "size", "complementary"), [(0, 12, False), (1, 10, True)])
def test_equals_separate_passes_over_known_history(offset, size, complementary):
    objective = BlockDiffusion(block=BLOCK, complementary=complementary)
    of = model(BlockCausal(BLOCK), offset)
    objective.check(of)
    example = prepare(objective, windows(batch=3, size=size, prompt=offset), jax.random.key(5))
    hidden = [np.asarray(example.masked)] + ([np.asarray(example.rest)] if complementary else [])
    alone = sum(these * block_by_block(of, example.tokens, these, offset) for these in hidden)
    np.testing.assert_allclose(costs(objective, of, example), example.weight * alone, rtol=1e-3, atol=1e-5)
    loss, count = loss_of(objective, of, example)
    np.testing.assert_allclose(loss, (example.weight * alone).sum() / (3 * (size - offset)), rtol=1e-4)
    assert count == 3 * (size - offset)


def test_each_block_has_its_own_ratio():
    example = prepare(
        BlockDiffusion(block=4, masking="counted"), windows(batch=4, size=12), jax.random.key(0)
    )
    by_block = np.asarray(example.masked).reshape(-1, 4).sum(1)
    assert sorted(by_block) == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    weight = np.where(example.masked, np.repeat(4 / by_block, 4).reshape(4, 12), 0)
    np.testing.assert_allclose(example.weight, weight, rtol=1e-6)


def test_padding_is_not_seen():
    objective, of = BlockDiffusion(block=BLOCK).estimator, model(BlockCausal(BLOCK))
    short = windows(batch=2, size=10)
    padded = Windows(
        tokens=np.pad(short.tokens, ((0, 0), (0, 4)), constant_values=3),
        predicted=np.pad(short.predicted, ((0, 0), (0, 4))),
        valid=np.array([10, 10]),
    )
    example = jax.device_get(prepare(objective, padded, jax.random.key(2)))
    cut = jax.tree.map(lambda leaf: leaf[:, :10] if leaf.ndim == 2 else leaf, example).replace(valid=None)
    got = np.asarray(costs(objective, of, example))
    np.testing.assert_allclose(got[:, :10], costs(objective, of, cut), rtol=1e-4)
    assert not got[:, 10:].any()


def test_gradients_are_finite_and_reach_the_mask_token():
    grads = gradients(BlockDiffusion(block=BLOCK, complementary=True), model(BlockCausal(BLOCK)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert np.abs(grads["embed"]["weight"][MASK]).max() > 0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="block must be a whole number >= 1"):
        BlockDiffusion(block=0)
    with pytest.raises(ValueError, match=r"block=4 trains models whose tokens see whole blocks of 4"):
        BlockDiffusion(block=4).check(model(BlockCausal(8)))
    with pytest.raises(ValueError, match="NoisyAndClean expected 8 tokens, got 6"):
        NoisyAndClean(2, 4).check(6, None)
