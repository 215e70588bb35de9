"""aMUSEd and MAGE through masked generation, against a loop over the model and scheduler of `diffusers`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AmusedScheduler, UVit2DModel
from diffusers_modules import draw, randomised
from token_image_models import AMUSED
from token_image_models import MAGE as MAGE_VALUES

from jaxmodels.checkpoints.diffusers import load_token_image_model
from jaxmodels.decoding import MaskedDiffusion
from jaxmodels.decoding.generation import run
from jaxmodels.decoding.masked import Dual, FixedBlocks
from jaxmodels.decoding.masked.images import plan_images
from jaxmodels.decoding.masked.unmask import MAGE, MaskGIT, ToZero
from jaxmodels.layers.spec import init_params
from jaxmodels.models.token_images.condition import Prompt
from jaxmodels.models.token_images.families import TOKEN_IMAGE_MODELS
from jaxmodels.models.token_images.whole_canvas import MAGECanvas, PromptedCanvas, WholeCanvas

STILL = ToZero(0.0)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("steps", [1, 5])
def test_amused_fills_a_grid_as_its_scheduler_does(steps, tmp_path, monkeypatch):
    """Without chance: the likeliest codes, and the most certain places."""
    theirs = randomised(UVit2DModel(**AMUSED | {"downsample": True, "upsample": True}))
    theirs.save_pretrained(tmp_path)
    model, params = load_token_image_model(tmp_path)
    (tokens, their_tokens), (pooled, their_pooled) = draw(2, 5, 14, seed=1), draw(2, 10, seed=2)
    described = np.array([[512, 512, 0, 0, 6], [768.5, 300, 12, 0, 5.25]], np.float32)

    config = WholeCanvas(PromptedCanvas(model, rows=4, columns=6, mask_token=39))
    prompt = Prompt(tokens=tokens, pooled=pooled, described=jnp.asarray(described))
    weights = {"model": params, "prompt": prompt}
    strategy = MaskedDiffusion(blocks=FixedBlocks(24), steps=steps, unmask=MaskGIT(temperature=STILL))
    ready = plan_images(config, weights, np.zeros((2, 1), np.int32), 24, seed=0)
    found = run(config, weights, strategy, ready)
    assert found.steps == steps

    scheduler = AmusedScheduler(mask_token_id=39)
    scheduler.set_timesteps(steps, temperature=(0, 0))
    monkeypatch.setattr(torch, "multinomial", lambda chances, count, **options: chances.argmax(-1)[:, None])
    grid = torch.full((2, 4, 6), 39)
    for time in scheduler.timesteps:
        with torch.no_grad():
            logits = theirs(grid, their_tokens, their_pooled, torch.tensor(described))
        grid = scheduler.step(logits, time, grid).prev_sample
    np.testing.assert_array_equal(found.tokens.reshape(2, 4, 6), grid.numpy())


@pytest.mark.sweep
def test_mage_fills_its_images_in():
    model = TOKEN_IMAGE_MODELS.read(MAGE_VALUES)
    params = init_params(model.spec(), jax.random.key(0))
    config = WholeCanvas(MAGECanvas(model))
    strategy = MaskedDiffusion(blocks=FixedBlocks(16), steps=4, unmask=MAGE(temperature=STILL))
    given = np.full((3, 1), model.class_token)
    made = run(config, params, strategy, plan_images(config, params, given, 16, seed=0))
    assert made.tokens.shape == (3, 16) and made.steps == 4
    assert made.tokens.min() >= 0 and made.tokens.max() < model.num_codes
    np.testing.assert_array_equal(made.tokens[0], made.tokens[1])


def test_what_a_model_without_history_cannot_do_is_refused():
    model = TOKEN_IMAGE_MODELS.read(MAGE_VALUES)
    config = WholeCanvas(MAGECanvas(model))
    strategy = MaskedDiffusion(blocks=FixedBlocks(16), cache=Dual())
    with pytest.raises(ValueError, match="WholeCanvas has no verb for; use Recompute"):
        strategy.check_model(config, 16)
    cache, tokens = config.init_cache(2, 17, jnp.float32), jnp.zeros((2, 16), jnp.int32)
    with pytest.raises(ValueError, match=r"expected whole sequences \[B, 17\], got \[2, 16\]"):
        config.peek({}, tokens, cache)
    with pytest.raises(ValueError, match="condition: the model reads whole sequences in one way"):
        config.peek({}, tokens, cache, condition=jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="taps: the model has no 'blocks/0'"):
        config.peek({}, tokens, cache, taps=("blocks/0",))
