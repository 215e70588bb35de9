import jax.numpy as jnp
import numpy as np
from model_helpers import attention, latent, ssd

from jaxmodels.layers.masks import BIDIRECTIONAL, CAUSAL, Ancestors, Split
from jaxmodels.layers.rope import Rope
from jaxmodels.layers.rope_scaling import DynamicNTKScaling
from jaxmodels.layers.sum_mixer import Branch, SumMixer
from jaxmodels.layers.window import Window, fresh_window, next_window, ropes_of, take_path


def test_a_fresh_window_starts_at_nothing():
    window = fresh_window(jnp.zeros((2, 3), jnp.int32))
    assert window.size == 3
    assert window.mask is CAUSAL
    np.testing.assert_array_equal(window.start, [0, 0])
    np.testing.assert_array_equal(window.positions, [[0, 1, 2], [0, 1, 2]])
    assert window.is_valid.all()


def test_valid_counts_the_leading_tokens():
    window = fresh_window(jnp.zeros((3, 2), jnp.int32), valid=jnp.asarray([0, 1, 2]))
    np.testing.assert_array_equal(window.is_valid, [[False, False], [True, False], [True, True]])


def test_rotations_are_made_up_front_and_count_the_real_tokens():
    rope = Rope(rotary_dim=4, scaling=DynamicNTKScaling(factor=2.0, max_position_embeddings=8))
    bare = Window(start=jnp.asarray([7, 7]), positions=jnp.asarray([[7, 8]] * 2), valid=jnp.asarray([1, 2]))
    window = bare.with_rotations([rope])
    made = window.rotation(rope)
    assert window.rotation(Rope(rotary_dim=4, scaling=rope.scaling)) is made
    assert window.rotation(Rope(rotary_dim=2 * 2, theta=20.0)) is not made
    np.testing.assert_array_equal(bare.rotation(rope).cos, made.cos)
    assert not bare.rotations
    # Eight tokens fit the trained length, nine stretch it.
    plain = Rope(rotary_dim=4).rotations(window.positions, jnp.asarray([8, 8]))
    np.testing.assert_allclose(made.cos[0], plain.cos[0], rtol=1e-6)
    assert np.abs(made.cos[1] - plain.cos[1]).max() > 1e-3


def test_a_draft_token_is_rotated_as_if_it_were_the_newest_token():
    rope = Rope(rotary_dim=4, scaling=DynamicNTKScaling(factor=2.0, max_position_embeddings=8))
    tokens, start = jnp.zeros((2, 3), jnp.int32), jnp.asarray([7, 9])
    window = next_window(tokens, start, known=jnp.asarray([8, 15]))
    np.testing.assert_array_equal(window.lengths, [[8, 9, 10], [15, 15, 15]])
    for i, lengths in enumerate(np.transpose(window.lengths)):
        alone = rope.rotations(window.positions[:, i : i + 1], jnp.asarray(lengths))
        np.testing.assert_array_equal(window.rotation(rope).cos[:, i], alone.cos[:, 0])
    np.testing.assert_array_equal(next_window(tokens, start).lengths, [10, 12])


def test_the_parts_of_a_model_name_their_ropes_once():
    low, high = (Rope(rotary_dim=4, theta=theta) for theta in (10.0, 20.0))
    assert ropes_of(attention(rope=low), attention(rope=None), ssd(), None, attention(rope=high)) == (
        low,
        high,
    )
    both = SumMixer(branches=(Branch(name="a", mixer=attention(rope=high)), Branch(name="b", mixer=ssd())))
    assert ropes_of(both, latent(rope=low), both) == (high, low)


def test_only_arrays_make_a_tree():
    tokens, tree = jnp.zeros((2, 3), jnp.int32), np.tril(np.ones((3, 3), bool))
    assert fresh_window(tokens).ancestors is None
    assert fresh_window(tokens, mask=BIDIRECTIONAL).ancestors is None
    np.testing.assert_array_equal(fresh_window(tokens, mask=jnp.asarray(tree)).ancestors, [tree, tree])


def test_a_path_picks_tokens_of_each_row():
    a = np.arange(2 * 4 * 3).reshape(2, 4, 3)
    ours = take_path(jnp.asarray(a), jnp.asarray([[3, 0], [1, 1]]))
    np.testing.assert_array_equal(ours, np.stack([a[0, [3, 0]], a[1, [1, 1]]]))


def test_branches_follow_the_order_in_which_a_window_was_packed():
    tree = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 1]], bool)
    valid, mask = np.array([[0, 1, 1], [1, 1, 1]], bool), Split(history=CAUSAL, window=Ancestors(tree))
    window = next_window(jnp.zeros((2, 3), jnp.int32), jnp.asarray([4, 9]), valid=valid, mask=mask)
    np.testing.assert_array_equal(window.index, [[1, 2, 0], [0, 1, 2]])
    np.testing.assert_array_equal(window.valid, [2, 3])
    np.testing.assert_array_equal(window.positions, [[4, 5, 6], [9, 10, 11]])
    order = [1, 2, 0]
    np.testing.assert_array_equal(window.ancestors, [tree[np.ix_(order, order)], tree])


def test_a_packed_window_takes_positions_and_slots_of_the_callers_order():
    given = jnp.asarray([[10, 11, 12]])
    window = next_window(
        given, jnp.zeros(1, jnp.int32), valid=np.array([[0, 1, 0]], bool), positions=given, slots=given + 10
    )
    np.testing.assert_array_equal(window.positions, [[11, 10, 12]])
    np.testing.assert_array_equal(window.slots, [[21, 20, 22]])
