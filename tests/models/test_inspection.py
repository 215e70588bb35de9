import numpy as np
import pytest
from model_helpers import (
    ARCHITECTURES,
    D_MODEL,
    attention,
    decoder,
    draw_tokens,
    mamba,
    quick_jit,
    random_params,
    ssd,
)

from jaxmodels.layers.conv import causal_conv
from jaxmodels.layers.spec import init_state
from jaxmodels.layers.window import fresh_window
from jaxmodels.models.inspection import (
    blocks_with_hidden_attention,
    expert_loads,
    hidden_attention,
    importance,
)

TOKENS = draw_tokens(2, 9)


def silu(x):
    return x / (1 + np.exp(-x))


def convolved(mixer, params, x, weight, bias):
    """The recurrence's inputs: projected, convolved, activated."""
    inputs = np.asarray(x) @ np.asarray(params["w_x"]).T
    padded = np.pad(inputs, ((0, 0), (mixer.conv_width - 1, 0), (0, 0)))
    return silu(np.asarray(quick_jit(causal_conv)(padded, params[weight], params[bias])))


@pytest.mark.parametrize("mixer", [ssd(), mamba()], ids=["ssd", "mamba"])
def test_the_matrix_times_the_inputs_is_the_layers_output(mixer):
    params = random_params(mixer.spec())
    x = np.random.default_rng(0).standard_normal((2, 9, D_MODEL)).astype(np.float32)
    window = fresh_window(TOKENS)
    state = init_state(mixer, 2, 0, np.float32)
    y = quick_jit(lambda params, x: mixer.write(params, x, state, window)[0][0])(params, x)
    matrix = np.asarray(quick_jit(lambda params, x: mixer.hidden_attention(params, x, window))(params, x))
    if mixer == ssd():
        xs = convolved(mixer, params, x, "conv_x", "conv_bias_x").reshape(
            2, 9, mixer.num_heads, mixer.head_dim
        )
        expected = np.einsum("bnij,bjnp->binp", matrix, xs) + np.asarray(params["d_skip"])[:, None] * xs
    else:
        xs = convolved(mixer, params, x, "conv_w", "conv_b")
        expected = np.einsum("bcij,bjc->bic", matrix, xs) + np.asarray(params["d_skip"]) * xs
    np.testing.assert_allclose(y, expected.reshape(y.shape), rtol=2e-4, atol=2e-4)
    assert np.abs(np.triu(matrix, 1)).max() == 0


def test_a_block_sees_what_the_blocks_before_it_made():
    """The first block's matrix follows its own norm's input; the second's depends on the first."""
    config = decoder(ssd(), attention(), ssd())
    params = random_params(config.spec())
    assert blocks_with_hidden_attention(config) == (0, 2)
    matrix = hidden_attention(config, params, TOKENS, 2)
    assert matrix.shape == (2, 8, 9, 9)
    params["blocks"]["1"]["mixer"]["w_o"] = params["blocks"]["1"]["mixer"]["w_o"] * 0
    assert np.abs(hidden_attention(config, params, TOKENS, 2) - matrix).max() > 1e-3


def matrix_behind_norm(block, weights, stream):
    x = block.mixer_norm(weights["mixer_norm"], stream)
    return block.mixer.hidden_attention(weights["mixer"], x, fresh_window(TOKENS))


def test_blocks_behind_shared_attention_are_shown():
    config = ARCHITECTURES["sharing"]
    params = random_params(config.spec())
    assert blocks_with_hidden_attention(config) == (0, 1, 2)

    @quick_jit
    def by_parts(params):
        stream = config.forward_scored(params, TOKENS, taps=("blocks/0",)).taps["blocks/0"]
        return matrix_behind_norm(config.blocks[1], params["blocks"]["1"], stream)

    expected = by_parts(params)
    np.testing.assert_allclose(hidden_attention(config, params, TOKENS, 1), expected, rtol=1e-4, atol=1e-5)


def test_a_mixer_behind_shared_attention_reads_what_that_adds():
    """Without it, the matrix is that of the normed embeddings; with it, another one."""
    config = ARCHITECTURES["sharing"]
    params = random_params(config.spec())
    weights = params["blocks"]["0"]
    first = quick_jit(lambda p: matrix_behind_norm(config.blocks[0], weights, config.embeddings(p, TOKENS)))
    alone = np.asarray(first(params))
    assert np.abs(hidden_attention(config, params, TOKENS, 0) - alone).max() > 1e-3
    without = {**params["blocks"], "0": {**weights, "w_out": 0 * weights["w_out"]}}
    matrix = hidden_attention(config, {**params, "blocks": without}, TOKENS, 0)
    np.testing.assert_allclose(matrix, alone, rtol=1e-4, atol=1e-5)


def test_importance_shares_each_row_out():
    config = decoder(ssd())
    shown = importance(hidden_attention(config, random_params(config.spec()), TOKENS, 0))
    np.testing.assert_allclose(shown.sum(-1), 1.0, rtol=1e-5)
    assert (shown >= 0).all()


@pytest.mark.parametrize(("block", "message"), [(1, r"mixer: Attention.*\[0, 2\]"), (7, "mixer: none")])
def test_other_blocks_are_refused(block, message):
    config = decoder(ssd(), attention(), ssd())
    with pytest.raises(ValueError, match=message):
        hidden_attention(config, {}, TOKENS, block)


def test_a_dense_model_has_no_expert_load():
    config = ARCHITECTURES["attention"]
    with pytest.raises(ValueError, match="no mixture of experts"):
        expert_loads(config, random_params(config.spec()), TOKENS)
