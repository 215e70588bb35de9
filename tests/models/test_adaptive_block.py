"""Decoders whose blocks go by a condition: splits into windows, rows and tokens, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import D_MODEL, VOCAB, commit, forward, quick_jit, random_params

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.condition import ProjectedModulation, TableModulation
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import LayerNorm, RMSNorm
from jaxmodels.layers.rope import Rope
from jaxmodels.models.adaptive_block import AdaptiveBlock
from jaxmodels.models.block import Block
from jaxmodels.models.costs import flops_per_token
from jaxmodels.models.decoder import Decoder

NORM = LayerNorm(dim=D_MODEL, scale=False, bias=False)
ATTENTION = Attention(d_model=D_MODEL, num_heads=2, num_kv_heads=1, head_dim=8, rope=Rope(rotary_dim=8))
FFN = GatedMLP(d_model=D_MODEL, d_ff=24)
WIDTH = 6


def conditioned(modulation):
    adaptive = AdaptiveBlock(mixer_norm=NORM, mixer=ATTENTION, ffn_norm=NORM, ffn=FFN, modulation=modulation)
    plain = Block(mixer_norm=NORM, mixer=ATTENTION, ffn_norm=NORM, ffn=FFN)
    return Decoder(
        vocab_size=VOCAB, d_model=D_MODEL, blocks=(plain, adaptive, adaptive), final_norm=RMSNorm(dim=D_MODEL)
    )


MODELS = {
    "projected": conditioned(ProjectedModulation(d_model=D_MODEL, d_condition=WIDTH)),
    "table": conditioned(TableModulation(d_model=D_MODEL, d_condition=D_MODEL)),
}
MODEL = MODELS["projected"]
BATCH, SIZE = 2, 9


def inputs(model, by_token, seed=0):
    rng = np.random.default_rng(seed)
    width = model.blocks[1].condition_width
    shape = (BATCH, SIZE, width) if by_token else (BATCH, width)
    tokens = jnp.asarray(rng.integers(VOCAB, size=(BATCH, SIZE)))
    return random_params(model.spec()), tokens, jnp.asarray(rng.standard_normal(shape), jnp.float32)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("by_token", [False, True], ids=["by row", "by token"])
@pytest.mark.parametrize("name", MODELS)
def test_any_split_into_windows_is_the_whole(name, by_token):
    model = MODELS[name]
    params, tokens, condition = inputs(model, by_token)
    whole = quick_jit(model.forward)(params, tokens, condition=condition)
    peek = quick_jit(model.peek)
    cache, scores, start = model.init_cache(BATCH, 16), [], 0
    for size, taken in ((4, 3), (1, 1), (5, 5)):
        window = slice(start, start + size)
        part = condition[:, window] if by_token else condition
        scored, pending = peek(params, tokens[:, window], cache, condition=part)
        cache = commit(model, pending, np.full(BATCH, taken, np.int32))
        scores.append(np.asarray(scored.logits)[:, :taken])
        start += taken
    np.testing.assert_allclose(np.concatenate(scores, axis=1), whole, atol=2e-5)


def test_a_condition_of_a_token_reaches_no_earlier_token():
    params, tokens, condition = inputs(MODEL, by_token=True)
    before = forward(MODEL, params, tokens, condition=condition)
    after = forward(MODEL, params, tokens, condition=condition.at[:, 5].add(1.0))
    np.testing.assert_allclose(after[:, :5], before[:, :5], atol=1e-6)
    assert np.abs(after[:, 5:] - before[:, 5:]).max((0, 2)).min() > 1e-3


def test_conditions_of_tokens_stay_with_them_in_rows_that_are_padded_on_the_left():
    params, tokens, condition = inputs(MODEL, by_token=True)
    valid = jnp.arange(SIZE) >= jnp.array([[0], [3]])
    padded = quick_jit(MODEL.forward)(params, tokens, valid=valid, condition=condition)
    alone = quick_jit(MODEL.forward)(params, tokens[1:, 3:], condition=condition[1:, 3:])
    np.testing.assert_allclose(padded[1:, 3:], alone, atol=2e-5)


def test_history_is_recomputed_under_another_condition():
    params, tokens, condition = inputs(MODEL, by_token=False)
    _, pending = quick_jit(MODEL.peek)(params, tokens, MODEL.init_cache(BATCH, 16), condition=condition)
    slots = jnp.broadcast_to(jnp.arange(SIZE), (BATCH, SIZE))
    scored, cache = quick_jit(MODEL.refresh)(
        params, tokens, commit(MODEL, pending), slots, condition=-condition
    )
    expected = forward(MODEL, params, tokens, condition=-condition)
    np.testing.assert_allclose(scored.logits, expected, atol=2e-5)
    assert cache.length.tolist() == [SIZE] * BATCH


def test_what_a_step_costs_includes_its_condition():
    modulations = 2 * 2 * 6 * D_MODEL * WIDTH
    plain = Block(mixer_norm=NORM, mixer=ATTENTION, ffn_norm=NORM, ffn=FFN)
    without = Decoder(vocab_size=VOCAB, d_model=D_MODEL, blocks=(plain,) * 3, final_norm=RMSNorm(dim=D_MODEL))
    assert flops_per_token(MODEL, 4).total == flops_per_token(without, 4).total + modulations


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (None, "block 1 reads one of width 6, but none is given"),
        (jnp.zeros((BATCH, 5)), r"block 1 reads \[2, 6\] or \[2, 9, 6\], got \[2, 5\]"),
        (jnp.zeros((BATCH, 4, 6)), r"got \[2, 4, 6\]"),
    ],
)
def test_a_missing_or_wrong_condition_is_refused_before_compilation(condition, message):
    params, tokens, _ = inputs(MODEL, by_token=False)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda p, c: MODEL.forward(p, tokens, condition=c), params, condition)
    with pytest.raises(ValueError, match=message):
        MODEL.peek(params, tokens, MODEL.init_cache(BATCH, 16), condition=condition)


def test_a_condition_that_no_block_reads_is_refused():
    model = dataclasses.replace(MODEL, blocks=MODEL.blocks[:1])
    params, tokens, condition = inputs(MODEL, by_token=False)
    with pytest.raises(ValueError, match=r"no block reads one, but \[2, 6\] is given"):
        model.forward(params, tokens, condition=condition)


def test_a_modulation_of_other_parts_is_refused():
    with pytest.raises(ValueError, match=r"must make .'mixer_shift'.*got .'shift', 'scale'."):
        conditioned(ProjectedModulation(d_model=D_MODEL, d_condition=WIDTH, parts=("shift", "scale")))
