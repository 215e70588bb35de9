import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, D_MODEL, attention, draw_tokens, forward, random_params

from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.spec import walk
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.scanned import ScannedDecoder

CONFIG = ARCHITECTURES["sharing"]
TOKENS = draw_tokens(2, 6)


def merged(params, name):
    """A block's transformer layer with its adapters multiplied into the weights, in float64."""
    shared = {key: np.asarray(leaf, np.float64) for key, leaf in params["shared"]["0"][name].items()}
    return shared, {k: np.asarray(v, np.float64) for k, v in params["blocks"]["0"][name]["adapter"].items()}


def test_shared_parameters_are_there_once():
    paths = [path for path, _ in walk(CONFIG.spec())]
    assert sum(path.endswith("attention/w_q") for path in paths) == 1
    assert "shared/0/attention/w_q" in paths
    for i in (0, 2):
        assert f"blocks/{i}/attention/adapter/a_q" in paths
        assert f"blocks/{i}/w_out" in paths
    assert not any(path.startswith(("shared/0/attention/adapter", "blocks/1/attention")) for path in paths)


def test_blocks_are_given_the_same_parameters_beside_their_own():
    params = random_params(CONFIG.spec())
    first, plain, last = (CONFIG.block_params(params, i) for i in range(3))
    assert first["shared"] is last["shared"] is params["shared"]["0"]
    assert "shared" not in plain
    assert first["attention"] is params["blocks"]["0"]["attention"]


def test_adapters_add_to_the_shared_weights():
    """A model whose shared layer has the sums as its weights, for the only block that uses it."""
    one = dataclasses.replace(CONFIG, blocks=CONFIG.blocks[:2])
    sharing = one.blocks[0]
    plain = dataclasses.replace(
        sharing,
        attention=attention(input_dim=2 * D_MODEL),
        ffn=GatedMLP(d_model=D_MODEL, d_ff=24),
    )
    params = random_params(one.spec())
    heads, low = merged(params, "attention")
    summed = {
        f"w_{x}": heads[f"w_{x}"] + np.einsum("rd,nhr->nhd", low[f"a_{x}"], low[f"b_{x}"]) for x in "qkv"
    }
    mlp, low = merged(params, "ffn")
    mlp |= {f"w_{x}": mlp[f"w_{x}"] + low[f"b_{x}"] @ low["a"] for x in ("gate", "up")}
    own = {k: v for k, v in params["blocks"]["0"].items() if k not in ("attention", "ffn")}
    shared = {**params["shared"]["0"], "attention": heads | summed, "ffn": mlp}
    same = {**params, "blocks": {**params["blocks"], "0": own}, "shared": {"0": shared}}
    ours = forward(one, params, TOKENS)
    expected = forward(dataclasses.replace(one, blocks=(plain, one.blocks[1])), same, TOKENS)
    assert jnp.abs(expected).max() > 0.1
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)


def test_the_shared_attention_reads_the_embeddings_and_reaches_the_mixer_alone():
    """Without its projection the block is one of the mixer; with it, it depends on what was embedded."""
    params = random_params(CONFIG.spec())
    zero = {**params["blocks"]["0"], "w_out": jnp.zeros((D_MODEL, D_MODEL))}
    cut = dataclasses.replace(CONFIG, blocks=CONFIG.blocks[:1])
    without = forward(cut, {**params, "blocks": {"0": zero}}, TOKENS)
    block = dataclasses.replace(CONFIG.blocks[1], mixer=CONFIG.blocks[0].mixer)
    plain = dataclasses.replace(CONFIG, blocks=(block,))
    own = {name: params["blocks"]["0"][name] for name in ("mixer_norm", "mixer")}
    expected = forward(plain, {**params, "blocks": {"0": own}}, TOKENS)
    np.testing.assert_allclose(without, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(forward(cut, params, TOKENS) - expected).max() > 1e-2


def test_costs_count_the_shared_attention_in_every_block():
    sharing, layers = CONFIG.blocks[0], ("attention", "ffn", "mixer")
    for context in (0, 7):
        parts = sum(getattr(sharing, name).flops_per_token(context) for name in layers)
        assert sharing.flops_per_token(context) == parts + 2 * D_MODEL**2


def test_what_cannot_be_shared_is_refused():
    sharing, plain, _ = CONFIG.blocks
    with pytest.raises(ValueError, match="input_dim=16 must be twice d_model=16"):
        dataclasses.replace(sharing, attention=attention())
    other = dataclasses.replace(sharing, ffn=GatedMLP(d_model=D_MODEL, d_ff=8))
    with pytest.raises(ValueError, match="blocks with shared=0 must have the same shared parameters"):
        dataclasses.replace(CONFIG, blocks=(sharing, plain, other))
    with pytest.raises(ValueError, match="blocks that share parameters cannot be stacked"):
        ScannedDecoder(dataclasses.replace(CONFIG, blocks=(sharing, sharing)))
    assert isinstance(CONFIG, Decoder)
