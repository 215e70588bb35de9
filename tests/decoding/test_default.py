"""The strategy that a model is decoded with where the caller names none."""

from dataclasses import replace

import numpy as np
import pytest
from model_helpers import ARCHITECTURES, VOCAB, random_params

import jaxmodels as jm
from jaxmodels.cli.strategies import Asked, CanvasCacheName, StrategyName, StrategyOptions
from jaxmodels.decoding import Autoregressive, MaskedDiffusion, Sample, StreamingDiffusion
from jaxmodels.decoding.default import default_strategy
from jaxmodels.decoding.masked import Dual, FinishedBlocks, FixedBlocks, Recompute, Threshold, unmask
from jaxmodels.layers.masks import BIDIRECTIONAL, CAUSAL, BlockCausal
from jaxmodels.models.filling import MaskFilling

CONFIG = ARCHITECTURES["attention"]
FILLING = MaskFilling(mask_token=VOCAB - 1)


@pytest.mark.wide(every_run=2)
@pytest.mark.parametrize(
    ("mask", "filling", "expected"),
    [
        (CAUSAL, None, Autoregressive()),
        (CAUSAL, FILLING, StreamingDiffusion()),
        (BIDIRECTIONAL, FILLING, MaskedDiffusion(blocks=FixedBlocks(8), cache=Recompute())),
        (BlockCausal(4), FILLING, MaskedDiffusion(blocks=FixedBlocks(4), cache=FinishedBlocks())),
    ],
)
def test_it_is_what_the_model_was_trained_for(mask, filling, expected):
    config = replace(CONFIG, mask=mask, filling=filling)
    assert default_strategy(config, 8) == expected
    model = jm.Model(config=config, params=random_params(config.spec()))
    ours = model.generate([[1, 2, 3]], max_new_tokens=8, stop_tokens=[])
    named = model.generate([[1, 2, 3]], max_new_tokens=8, strategy=expected, stop_tokens=[])
    np.testing.assert_array_equal(ours.tokens, named.tokens)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, MaskedDiffusion(blocks=FixedBlocks(4), cache=FinishedBlocks(), sampler=Sample())),
        (
            {"threshold": 0.5, "block": 8, "canvas_cache": CanvasCacheName.DUAL},
            MaskedDiffusion(blocks=FixedBlocks(8), unmask=Threshold(0.5), cache=Dual(), sampler=Sample()),
        ),
        (
            {"name": StrategyName.MASKED_DIFFUSION, "steps": 2, "canvas_cache": CanvasCacheName.NONE},
            MaskedDiffusion(
                blocks=FixedBlocks(4), steps=2, unmask=unmask.Quota(), cache=Recompute(), sampler=Sample()
            ),
        ),
        ({"name": StrategyName.AUTOREGRESSIVE}, Autoregressive(sampler=Sample())),
    ],
)
def test_the_command_line_changes_it_by_its_options(options, expected):
    config = replace(CONFIG, mask=BlockCausal(4), filling=FILLING)
    model = jm.Model(config=config, params={})
    asked = Asked(model, "a model", [1, 2, 3], 8)
    assert StrategyOptions(**options).build(Autoregressive(sampler=Sample()), None, asked) == expected


def test_options_of_two_rules_are_refused():
    with pytest.raises(ValueError, match="--steps and --threshold are two ways"):
        StrategyOptions(name=StrategyName.MASKED_DIFFUSION, steps=2, threshold=0.5)
    with pytest.raises(ValueError, match="--canvas-cache belongs to --strategy masked-diffusion"):
        StrategyOptions(name=StrategyName.JACOBI, canvas_cache=CanvasCacheName.DUAL)
