import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_helpers import (
    ARCHITECTURES,
    attention,
    commit,
    decoder,
    draw_tokens,
    forward,
    peek,
    quick_jit,
    random_params,
    ssd,
)

from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import GatedRMSNorm, RMSNorm
from jaxmodels.layers.rope import Rope
from jaxmodels.layers.spec import abstract_params, count_params, init_state, walk
from jaxmodels.layers.window import fresh_window
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder

SIZE, CAPACITY = 12, 23
EPSILON = np.finfo(np.float32).eps / 2  # the largest relative error of rounding
TOKENS = draw_tokens(2, SIZE)
TREE_PARENTS = [-1, 0, 0, 1]
TREE = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]], bool)


@dataclasses.dataclass(frozen=True)
class Case:
    config: Decoder
    params: dict
    whole: np.ndarray  # the full forward's logits of TOKENS
    atol: float  # of logits over the largest

    def start(self):
        return self.config.init_cache(2, CAPACITY)

    def peek(self, tokens, cache, **kwargs):
        return peek(self.config, self.params, jnp.asarray(tokens), cache, **kwargs)

    def commit(self, *arguments):
        return commit(self.config, *arguments)

    def after(self, tokens):
        """The cache after rows of equal length, fed one token at a time."""
        cache = self.start()
        for i in range(tokens.shape[1]):
            cache = self.commit(self.peek(tokens[:, i : i + 1], cache)[1])
        return cache


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(request):
    config = ARCHITECTURES[request.param]
    params = random_params(config.spec())
    whole = np.asarray(forward(config, params, TOKENS))
    return Case(config, params, whole, max(3e-6, 5 * rounding(config, params, whole)))


def rounding(config, params, whole):
    """How far logits move, over the largest, when every parameter moves by a rounding error: four draws.

    A gated delta rule or seven layers in a chain amplify it ten times as much as the others.
    """
    moved = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        other = jax.tree.map(lambda p, rng=rng: p * (1 + EPSILON * rng.choice([-1, 1], p.shape)), params)
        moved.append(np.abs(forward(config, jax.tree.map(np.float32, other), TOKENS) - whole).max())
    return max(moved) / np.abs(whole).max()


def keeps_slots(block):
    """Whether the block's state holds something per token."""
    parts, _ = jax.tree.flatten_with_path(init_state(block, 1, 1, jnp.float32))
    return any(path[-1] == jax.tree_util.GetAttrKey("positions") for path, _ in parts)


def close(ours, expected, atol=3e-6):
    """Equal but for rounding: float32 through a few layers."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(ours) / scale, np.asarray(expected) / scale, atol=atol)


# --- one computation, any split ----------------------------------------------------------------------


def test_logits_are_of_their_kind(case):
    assert case.whole.dtype == np.float32
    assert case.whole.shape == (2, SIZE, case.config.vocab_size)
    assert case.whole.std() > 0.1


@pytest.mark.wide(every_run=1)
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(parts=st.lists(st.sampled_from([1, 3, 4]), min_size=SIZE, max_size=SIZE))
def test_any_split_into_windows_is_the_full_forward(case, parts):
    cache, start = case.start(), 0
    for part in parts:
        if start + part > SIZE:
            continue
        logits, pending = case.peek(TOKENS[:, start : start + part], cache)
        close(logits, case.whole[:, start : start + part], case.atol)
        cache, start = case.commit(pending), start + part
    np.testing.assert_array_equal(cache.length, [start, start])


def test_prefill_and_single_steps_are_the_full_forward(case):
    logits, pending = case.peek(TOKENS[:, :4], case.start())
    close(logits, case.whole[:, :4], case.atol)
    cache = case.commit(pending)
    for i in range(4, SIZE):
        logits, pending = case.peek(TOKENS[:, i : i + 1], cache)
        close(logits[:, 0], case.whole[:, i], case.atol)
        cache = case.commit(pending)


# --- committing a part of a window -------------------------------------------------------------------


def test_committing_n_of_a_window_is_having_fed_only_those(case):
    """Every n, another one in each row, by `n` and by `valid`."""
    cache = case.commit(case.peek(TOKENS[:, :3], case.start())[1])
    window, following = TOKENS[:, 3:7], TOKENS[:, 7:8]
    _, pending = case.peek(window, cache)
    expected = []
    for n in range(5):
        fed = jnp.concatenate([TOKENS[:, :3], window[:, :n]], axis=1)
        expected.append(case.peek(following, case.after(fed))[0])
    for n in range(5):
        counts = jnp.asarray([n, 4 - n])
        kept = case.commit(pending, counts)
        np.testing.assert_array_equal(kept.length, 3 + counts)
        logits, _ = case.peek(following, kept)
        settled = case.commit(case.peek(window, cache, valid=counts)[1])
        np.testing.assert_array_equal(settled.length, kept.length)
        by_valid, _ = case.peek(following, settled)
        for row, count in enumerate((n, 4 - n)):
            close(logits[row], expected[count][row], case.atol)
            close(by_valid[row], expected[count][row], case.atol)


def test_committing_nothing_is_looking_without_touching(case):
    cache = case.commit(case.peek(TOKENS[:, :4], case.start())[1])
    expected, _ = case.peek(TOKENS[:, 4:8], cache)
    _, pending = case.peek(draw_tokens(2, 4, seed=9), cache)
    again = case.commit(pending, jnp.zeros(2, jnp.int32))
    np.testing.assert_array_equal(again.length, cache.length)
    np.testing.assert_array_equal(case.peek(TOKENS[:, 4:8], again)[0], expected)


@pytest.mark.wide(every_run=3)
def test_a_tree_is_each_of_its_branches(case):
    cache = case.after(TOKENS[:, :3])
    tree_tokens = draw_tokens(2, 4, seed=7)
    positions = 3 + jnp.broadcast_to(jnp.asarray([0, 1, 1, 2]), (2, 4))
    logits, pending = case.peek(tree_tokens, cache, positions=positions, mask=jnp.asarray(TREE))
    paths = [[0], [0, 1], [0, 2], [0, 1, 3]]
    assert [path[-2] if len(path) > 1 else -1 for path in paths] == TREE_PARENTS
    # One row keeps the longest branch, the other one the shorter and pads its path.
    kept = case.commit(pending, jnp.asarray([3, 2]), jnp.asarray([[0, 1, 3], [0, 2, 0]]))
    np.testing.assert_array_equal(kept.length, [6, 5])
    following, _ = case.peek(TOKENS[:, 7:8], kept)
    for path in paths:
        branch = case.after(jnp.concatenate([TOKENS[:, :3], tree_tokens[:, path[:-1]]], axis=1))
        expected, last = case.peek(tree_tokens[:, path[-1:]], branch)
        close(logits[:, path[-1]], expected[:, 0], case.atol)
        for row, taken in enumerate(([0, 1, 3], [0, 2])):
            if taken == path:
                close(following[row], case.peek(TOKENS[:, 7:8], case.commit(last))[0][row], case.atol)
    whole_path = case.commit(pending, None, jnp.asarray([[0, 1, 3]] * 2))
    np.testing.assert_array_equal(whole_path.length, [6, 6])
    np.testing.assert_array_equal(case.peek(TOKENS[:, 7:8], whole_path)[0][0], following[0])


def test_padding_does_not_change_the_real_tokens(case):
    lengths = jnp.asarray([SIZE - 5, SIZE])
    spoiled = jnp.where(jnp.arange(SIZE) < lengths[:, None], TOKENS, 7)
    ours = forward(case.config, case.params, spoiled, valid=lengths)
    for row, n in enumerate(lengths):
        close(ours[row, :n], case.whole[row, :n], case.atol)


def test_a_bidirectional_forward_sees_what_follows(case):
    changed = TOKENS.at[:, -1].add(1) % case.config.vocab_size
    both_ways = quick_jit(functools.partial(case.config.forward, mask=BIDIRECTIONAL))
    ours, other = both_ways(case.params, TOKENS), both_ways(case.params, changed)
    has_attention = any(keeps_slots(block) for block in case.config.blocks)
    assert (np.abs(ours[:, -2] - other[:, -2]).max() > 1e-4) == has_attention
    if not has_attention:
        close(ours, case.whole, case.atol)


# --- as a function among JAX's transformations -------------------------------------------------------


@pytest.mark.wide(every_run=3)
def test_gradients_reach_every_parameter(case):
    def loss(params):
        logits = case.config.forward(params, TOKENS[:, :6])
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), TOKENS[:, 1:7, None], axis=-1).sum()

    gradients = dict(walk(quick_jit(jax.grad(loss))(case.params)))
    assert gradients.keys() == dict(walk(case.config.spec())).keys()
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all(), path
        if path != "blocks/0/ffn/router/w_previous":  # before the first mixture there is no other
            assert np.abs(gradient).max() > 1e-6, path


def test_the_gradient_is_the_slope_of_the_loss():
    config = ARCHITECTURES["hybrid"]
    params = random_params(config.spec())
    direction = random_params(config.spec(), seed=1)

    def loss(step):
        moved = jax.tree.map(lambda p, d: p + step * d, params, direction)
        return jax.nn.log_softmax(config.forward(moved, TOKENS[:, :6]))[..., 3].mean()

    slope = quick_jit(jax.grad(loss))(0.0)
    value = quick_jit(loss)
    np.testing.assert_allclose(slope, (value(1e-3) - value(-1e-3)) / 2e-3, rtol=5e-3)


@pytest.mark.sweep
def test_vmap_over_models():
    config = ARCHITECTURES["hybrid"]
    each = [random_params(config.spec(), seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

    def two_steps(params, tokens):
        _, pending = config.peek(params, tokens[:, :3], config.init_cache(2, CAPACITY))
        scored, _ = config.peek(params, tokens[:, 3:4], config.commit(pending, jnp.asarray([3, 2])))
        return scored.logits

    together = quick_jit(jax.vmap(two_steps, in_axes=(0, None)))(stacked, TOKENS)
    alone = quick_jit(two_steps)
    for row, params in enumerate(each):
        close(together[row], alone(params, TOKENS))


@pytest.mark.parametrize("name", ["hybrid", "sliding", "latent"])
def test_a_loop_can_carry_the_cache(name):
    """Types and shapes never change, whatever dtype cache and parameters have."""
    config = ARCHITECTURES[name]
    for params_dtype, cache_dtype in (
        ("float32", "bfloat16"),
        ("bfloat16", "bfloat16"),
        ("bfloat16", "float32"),
    ):
        params = abstract_params(config.spec(), params_dtype)
        cache = jax.eval_shape(functools.partial(config.init_cache, 2, CAPACITY, cache_dtype))
        tokens, n = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((2, 3), (2,)))
        scored, pending = jax.eval_shape(config.peek, params, tokens, cache)
        assert scored.logits.dtype == jnp.float32
        for arguments in ((pending,), (pending, n), (pending, n, tokens), (pending, None, tokens)):
            assert jax.eval_shape(config.commit, *arguments) == cache


def test_a_wider_residual_stream():
    config = dataclasses.replace(ARCHITECTURES["hybrid"], residual_dtype="float32")
    params = abstract_params(config.spec(), "bfloat16")

    def dtypes(one):
        stream = jax.eval_shape(lambda p: one.embed(p, TOKENS, fresh_window(TOKENS)), params)
        return stream.hidden.dtype, stream.embedded.dtype

    assert dtypes(config) == (jnp.float32, jnp.bfloat16)
    narrow = dataclasses.replace(config, residual_dtype=None)
    assert dtypes(narrow) == (jnp.bfloat16, jnp.bfloat16)
    for one in (config, narrow):
        scored = jax.eval_shape(one.forward_scored, params, TOKENS)
        assert scored.hidden.dtype == jnp.bfloat16
    same = random_params(config.spec())
    np.testing.assert_array_equal(forward(config, same, TOKENS[:, :3]), forward(narrow, same, TOKENS[:, :3]))


def test_tied_heads_read_the_embedding():
    tied = decoder(ssd(), tie_embeddings=True)
    untied = dataclasses.replace(tied, tie_embeddings=False)
    assert set(untied.spec()) - set(tied.spec()) == {"head"}
    params = random_params(tied.spec())
    same = {**params, "head": params["embed"]}
    np.testing.assert_array_equal(forward(tied, params, TOKENS[:, :4]), forward(untied, same, TOKENS[:, :4]))


# --- what XLA makes of it ----------------------------------------------------------------------------


def decode_loop(config):
    """32 greedy tokens, half of the time dropping the second token of each window of two."""

    def run(params, token, cache):
        def step(i, carry):
            token, cache = carry
            scored, pending = config.peek(params, jnp.concatenate([token, token + 1], axis=1), cache)
            n = jnp.full(cache.length.shape, 1 + i % 2)
            return jnp.argmax(scored.logits[:, :1], axis=-1).astype(jnp.int32), config.commit(pending, n)

        return jax.lax.while_loop(
            lambda c: c[0] < 32, lambda c: (c[0] + 1, *step(c[0], c[1:])), (0, token, cache)
        )[1:]

    return run


@pytest.mark.wide(every_run=2)
@pytest.mark.parametrize(
    ("name", "batch"), [("attention", 1), ("sliding", 2), ("latent", 2), ("ssd", 1), ("hybrid", 2)]
)
def test_a_decode_loop_works_in_the_caches_own_buffers(name, batch):
    config = ARCHITECTURES[name]
    params = abstract_params(config.spec())
    token = jax.ShapeDtypeStruct((batch, 1), jnp.int32)
    temporary = []
    for capacity in (1024, 8192):
        cache = jax.eval_shape(functools.partial(config.init_cache, batch, capacity))
        lowered = jax.jit(decode_loop(config), donate_argnums=2).lower(params, token, cache)
        compiled = lowered.compile(compiler_options={"xla_backend_optimization_level": 0})
        memory = compiled.memory_analysis()
        cache_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))
        assert memory.alias_size_in_bytes >= cache_bytes
        temporary.append(memory.temp_size_in_bytes)
        assert "callback" not in compiled.as_text()
    # XLA copies the slots' positions, 4 bytes each, but neither keys nor values, of 24 bytes or more.
    layers = sum(keeps_slots(block) for block in config.blocks)
    assert temporary[1] - temporary[0] <= 16 * layers * batch * (8192 - 1024)


def mixer_work(config, slots):
    """Multiplications and additions of one token in the mixers' states: 2 per multiply-accumulate."""
    total = 0
    for block in config.blocks:
        mixer = block.mixer
        if hasattr(mixer, "state_dim"):
            # decay, input and their sum for each state, then the read-out; the convolution's taps
            total += 5 * mixer.num_heads * mixer.head_dim * mixer.state_dim
            total += 2 * mixer.conv_width * mixer.d_conv
        else:
            total += 4 * slots * mixer.num_heads * mixer.head_dim
    return total


@pytest.mark.parametrize("name", ["attention", "ssd", "hybrid"])
def test_one_decoded_token_costs_two_operations_per_parameter(name):
    d, slots = 128, 64
    norm, ffn = RMSNorm(dim=d), GatedMLP(d_model=d, d_ff=320)
    one = attention(d_model=d, num_heads=8, head_dim=16, rope=Rope(rotary_dim=16))
    two = ssd(d_model=d, num_heads=8, head_dim=32, state_dim=32, norm=GatedRMSNorm(dim=256, num_groups=2))
    mixers = {"attention": [one, one], "ssd": [two, two], "hybrid": [one, two]}[name]
    blocks = tuple(Block(mixer_norm=norm, mixer=mixer, ffn_norm=norm, ffn=ffn) for mixer in mixers)
    config = Decoder(vocab_size=500, d_model=d, blocks=blocks, final_norm=norm, tie_embeddings=True)

    def one_token(params, token, cache):
        scored, pending = config.peek(params, token, cache)
        return scored.logits, config.commit(pending)

    cache = jax.eval_shape(functools.partial(config.init_cache, 1, slots))
    token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    lowered = jax.jit(one_token, donate_argnums=2).lower(abstract_params(config.spec()), token, cache)
    flops = lowered.compile(compiler_options={"xla_backend_optimization_level": 0}).cost_analysis()["flops"]
    needed = 2 * count_params(config.spec()) + mixer_work(config, slots)
    assert 0.95 * needed < flops <= 1.15 * needed


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "capacity"), [(0, 4), (2, 0), (-1, 4)])
def test_caches_have_room(batch, capacity):
    with pytest.raises(ValueError, match=f"batch={batch} and capacity={capacity} must be at least 1"):
        ARCHITECTURES["hybrid"].init_cache(batch, capacity)


@pytest.mark.parametrize("shape", [(3, 4), (5, 5), (3, 4, 4), (4,)])
def test_masks_that_do_not_fit_are_refused(shape):
    config = ARCHITECTURES["ssd"]
    params, tokens = abstract_params(config.spec()), TOKENS[:, :4]
    mask = jnp.ones(shape, bool)
    message = r"mask: expected bool\[4, 4\] or bool\[2, 4, 4\]"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda p: config.forward(p, tokens, mask=mask), params)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda p: config.peek(p, tokens, config.init_cache(2, 9), mask=mask), params)


def test_a_window_must_fit_the_cache():
    config = ARCHITECTURES["attention"]
    with pytest.raises(ValueError, match="window of 5 tokens does not fit a cache of 4 slots"):
        jax.eval_shape(
            lambda p: config.peek(p, TOKENS[:, :5], config.init_cache(2, 4)), abstract_params(config.spec())
        )


def test_the_batch_must_be_the_caches():
    config = ARCHITECTURES["hybrid"]
    with pytest.raises(ValueError, match="tokens have 2 rows, the cache has 3"):
        jax.eval_shape(
            lambda p: config.peek(p, TOKENS[:, :5], config.init_cache(3, 9)), abstract_params(config.spec())
        )


def test_decoders_are_hashable_configurations():
    assert hash(decoder(ssd(), attention())) == hash(decoder(ssd(), attention()))
    assert decoder(ssd()) != decoder(ssd(), ssd())
