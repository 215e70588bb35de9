"""Rows whose logits are no numbers end there, whatever the strategy, and the error names them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import VOCAB
from strategy_helpers import NEW, PROMPTS, architecture, decode, expected, nearby, ready

import jaxmodels as jm
from jaxmodels.decoding import (
    Autoregressive,
    Draft,
    EarlyExit,
    Jacobi,
    MaskedDiffusion,
    Sample,
    SCMoE,
    Speculative,
)
from jaxmodels.decoding.generation import NoTokenError, stream
from jaxmodels.decoding.masked import FixedBlocks
from jaxmodels.decoding.processors import Suppress
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.models.filling import MaskFilling


def spoilt(params, token):
    """Parameters with which nothing follows `token`."""
    weight = params["embed"]["weight"]
    return {**params, "embed": {"weight": weight.at[token].set(jnp.nan)}}


def lengths_up_to(tokens, token):
    """(how many tokens each row has up to the first `token`, included; whether more are asked for)"""
    found = (tokens == token).any(1)
    lengths = np.where(found, (tokens == token).argmax(1) + 1, NEW)
    return lengths, lengths < NEW


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["attention", "hybrid"])
def test_every_strategy_ends_the_row_and_no_other(name):
    config, params = architecture(name)
    free = expected(name).tokens
    said = [token for token in free[:, 1:4].ravel().tolist() if not any(token in row for row in PROMPTS)]
    token = next(token for token in said if 0 < lengths_up_to(free, token)[1].sum() < len(free))
    lengths, found = lengths_up_to(free, token)
    bad = spoilt(params, token)
    for strategy in (Autoregressive(), EarlyExit(threshold=1.5)):
        ours = decode(config, bad, strategy)
        np.testing.assert_array_equal(ours.stuck, found)
        np.testing.assert_array_equal(ours.lengths, lengths)
    # A draft token that is no number may end its row before it is due: it is a real token of the window.
    for strategy in (Jacobi(window=3), Speculative(draft=Draft(config, nearby(params, 0.1)), gamma=2)):
        ours = decode(config, bad, strategy)
        assert ours.stuck[found].all() and (ours.lengths <= lengths).all()
        for row, whole, length in zip(ours.tokens, free, ours.lengths, strict=True):
            assert row[:length].tolist() == whole[:length].tolist()
    useless = Draft(config, jax.tree.map(lambda leaf: leaf * jnp.nan, params))
    ours = decode(config, params, Speculative(draft=useless, gamma=2))
    np.testing.assert_array_equal(ours.tokens, free)


@pytest.mark.sweep
def test_samples_contrasts_and_blocks_are_looked_at_too():
    config, params = architecture("hybrid")
    bad = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    for strategy in (
        Autoregressive(sampler=Sample(temperature=0.7, top_k=3, top_p=0.9)),
        Speculative(draft=Draft(config, params), gamma=2, sampler=Sample()),
        SCMoE(),
    ):
        ours = decode(config, bad, strategy, PROMPTS[:2])
        assert ours.stuck.all() and not ours.lengths.any()
    masked = dataclasses.replace(config, mask=BIDIRECTIONAL, filling=MaskFilling(mask_token=VOCAB - 1))
    ours = decode(masked, bad, MaskedDiffusion(blocks=FixedBlocks(4)), PROMPTS[:2], new=8)
    assert ours.stuck.all() and not ours.lengths.any()


def test_the_error_names_row_and_step():
    config, params = architecture("attention")
    model = jm.Model(config=config, params=jax.tree.map(lambda leaf: leaf * jnp.nan, params))
    with pytest.raises(NoTokenError, match=r"row 0 as new token 0, row 1 as new token 0 .*NaN or infinity"):
        model.generate(PROMPTS[:2], 4)
    bad = spoilt(params, int(expected("attention").tokens[0, 4]))
    made = ready(config, bad, Autoregressive(), PROMPTS[:1], 8)
    results = stream(config, bad, Autoregressive(), made, 1)
    assert next(results).lengths.tolist() == [1]
    with pytest.raises(NoTokenError, match=r"row 0 as new token [1-5] "):
        list(results)
    everything = Autoregressive(processors=(Suppress(range(VOCAB)),))
    with pytest.raises(NoTokenError, match="processors rule out every token"):
        dataclasses.replace(model, params=params).generate(PROMPTS[:1], 4, everything)
