"""A DFlash head against its mathematics written out, the dflash package, and itself in parts."""

import jax.numpy as jnp
import numpy as np
import pytest
from dflash_heads import HEADS, by_hand, features, head, keep, params_of, peek
from model_helpers import D_MODEL, VOCAB, attention, decoder, quick_jit, random_params, ssd

from jaxmodels.models.draft_heads.dflash import even_layers
from jaxmodels.models.draft_heads.feature_head import Target
from jaxmodels.models.draft_heads.slot_choice import SlotConfidence

LENGTHS, WIDTH = np.array([7, 2, 5], np.int32), 4


def streams(size=9):
    return np.random.default_rng(1).standard_normal((3, size, 2 * D_MODEL)).astype(np.float32)


def taps(of):
    return {"blocks/0": of[..., :D_MODEL], "blocks/1": of[..., D_MODEL:]}


def slots():
    return np.random.default_rng(2).standard_normal((3, WIDTH, D_MODEL)).astype(np.float32)


@pytest.mark.wide(every_run=2)
@pytest.mark.parametrize("name", HEADS)
def test_a_block_behind_features_is_what_the_mathematics_say(name):
    """Rows of different lengths; the features come in two parts, and blocks in between leave no trace."""
    one, params = HEADS[name], params_of(name)
    made = np.asarray(features(one, params, taps(streams())))
    cache = one.init_cache(3, 16, jnp.float32)
    first, whole = LENGTHS // 2, np.full(3, WIDTH, np.int32)
    cache = keep(one, params, made[:, :3], cache, first)
    _, cache = peek(one, params, slots()[:, ::-1], cache, whole)
    rest = np.stack([np.roll(row, -n, axis=0) for row, n in zip(made, first, strict=True)])
    cache = keep(one, params, rest, cache, LENGTHS - first)
    np.testing.assert_array_equal(cache.length, LENGTHS)
    hidden, _ = peek(one, params, slots(), cache, whole)
    for row, length in enumerate(LENGTHS):
        expected = by_hand(one, params, slots()[row], streams()[row], length)
        np.testing.assert_allclose(hidden[row], expected, atol=2e-5)


@pytest.mark.parametrize("name", ["plain", "sliding", "convolved"])
def test_blocks_at_several_places_at_once_are_the_single_ones(name):
    one, params = HEADS[name], params_of(name)
    made, anchors = features(one, params, taps(streams())), np.asarray([[1, 4], [2, 8], [5, 6]], np.int32)
    both = np.stack([slots(), slots()[:, ::-1]], axis=1)
    hidden = np.asarray(quick_jit(one.forward)(params, both, made, anchors))
    for (row, n), anchor in np.ndenumerate(anchors):
        expected = by_hand(one, params, both[row, n], streams()[row], int(anchor))
        np.testing.assert_allclose(hidden[row, n], expected, atol=2e-5)


def test_layers_that_are_read_by_default():
    assert even_layers(36, 5) == (1, 9, 17, 25, 33)
    assert even_layers(36, 1) == (18,)


def test_the_stream_behind_the_last_block_is_read_normalised():
    """As transformers has it in its hidden states."""
    assert head(target_layers=(0, 3), target_depth=4).taps == ("blocks/0", "hidden")
    assert head(target_layers=(0, 3), target_depth=5).taps == ("blocks/0", "blocks/3")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 8}, "reads streams of width 8, and those of the target have 16"),
        (
            {"target_vocab_size": 31, "vocab_size": 31},
            f"trained for a vocabulary of 31 tokens, and the target's has {VOCAB}",
        ),
        ({"target_depth": 7}, "trained for a target of 7 blocks, and this one has 2"),
        (
            {"target_layers": (0, 2)},
            "reads the stream 'blocks/2', and the target has embeddings, blocks/0, blocks/1",
        ),
    ],
)
def test_a_head_for_another_model_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        head(**changes).check_target(decoder(attention(), ssd()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_size": 1}, "DFlash: block_size must be a whole number >= 2"),
        ({"mask_token": VOCAB}, f"DFlash: mask_token must be a whole number >= 0 and <= {VOCAB - 1}"),
        ({"target_layers": ()}, "DFlash: target_layers is empty"),
        (
            {"confidence": SlotConfidence(d_model=D_MODEL, rank=4)},
            "the confidence reads a table of rank 4, and choice has none",
        ),
    ],
)
def test_values_outside_their_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        head(**changes)


def test_a_head_of_fewer_tokens_has_an_output_of_its_own():
    one, target = head(vocab_size=11), decoder(attention(), ssd())
    params, hidden = random_params(one.spec()), jnp.asarray(slots())
    logits = one.logits(params, Target(target, random_params(target.spec())), hidden)
    np.testing.assert_allclose(logits, hidden @ params["head"]["weight"].T, rtol=1e-4, atol=1e-5)
