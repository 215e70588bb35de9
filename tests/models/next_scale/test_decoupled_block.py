"""Blocks of two mixers: splits into windows, what they cost, what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import D_MODEL, VOCAB, attention, commit, quick_jit, random_params, ssd

from jaxmodels.layers.condition import BLOCK_PARTS, ProjectedModulation
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import LayerNorm, RMSNorm
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.next_scale.decoupled_block import DECOUPLED_PARTS, DecoupledBlock

BATCH, SIZE, WIDTH = 2, 9, 6
NORM = LayerNorm(dim=D_MODEL, scale=False, bias=False)
FFN = GatedMLP(d_model=D_MODEL, d_ff=24)


def block(parts=DECOUPLED_PARTS):
    modulation = ProjectedModulation(d_model=D_MODEL, d_condition=WIDTH, parts=parts)
    return DecoupledBlock(
        mixer_norm=NORM,
        mixer=attention(),
        across_norm=NORM,
        across=ssd(),
        ffn_norm=NORM,
        ffn=FFN,
        modulation=modulation,
    )


MODEL = Decoder(vocab_size=VOCAB, d_model=D_MODEL, blocks=(block(),), final_norm=RMSNorm(dim=D_MODEL))


def test_any_split_into_windows_is_the_whole():
    rng, params = np.random.default_rng(0), random_params(MODEL.spec())
    tokens = jnp.asarray(rng.integers(VOCAB, size=(BATCH, SIZE)))
    condition = jnp.asarray(rng.standard_normal((BATCH, WIDTH)), jnp.float32)
    expected = quick_jit(MODEL.forward)(params, tokens, condition=condition)
    peek, cache, scores, first = quick_jit(MODEL.peek), MODEL.init_cache(BATCH, 16), [], 0
    for size, taken in ((5, 4), (5, 5)):
        scored, pending = peek(params, tokens[:, first : first + size], cache, condition=condition)
        cache = commit(MODEL, pending, np.full(BATCH, taken, np.int32))
        scores.append(np.asarray(scored.logits)[:, :taken])
        first += taken
    np.testing.assert_allclose(np.concatenate(scores, axis=1), expected, atol=2e-5)


def test_what_a_token_costs_is_the_sum_of_its_layers_and_its_condition():
    layers = sum(layer.flops_per_token(7) for layer in (attention(), ssd(), FFN))
    assert block().flops_per_token(7) == layers + 2 * 9 * D_MODEL * WIDTH


def test_other_parts_are_refused():
    with pytest.raises(ValueError, match=r"DecoupledBlock: modulation must make .*across_shift"):
        block(BLOCK_PARTS)
