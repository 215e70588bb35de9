"""FasterCache against the hooks of `diffusers` on a PixArt under two conditions."""

import numpy as np
import pytest
import torch
from diffusers import PixArtTransformer2DModel
from diffusers.hooks import FasterCacheConfig, apply_faster_cache
from diffusers_modules import draw, randomised
from step_caches import canvases, plan_at, run, tiny

from jaxmodels.checkpoints.diffusers import load_denoiser
from jaxmodels.decoding.diffusion import Asked, Denoise, drawn
from jaxmodels.decoding.diffusion.caches.fastercache import FasterCache
from jaxmodels.decoding.diffusion.samplers import DDIM
from jaxmodels.models.denoisers.text import Text

STEPS = 9
TIMES = np.linspace(900, 20, STEPS)
PIXART = {
    "num_attention_heads": 3,
    "attention_head_dim": 8,
    "cross_attention_dim": 24,
    "caption_channels": 10,
    "num_layers": 2,
    "sample_size": 8,
}


def test_predictions_are_those_of_diffusers(tmp_path):
    theirs = randomised(PixArtTransformer2DModel(**PIXART))
    theirs.save_pretrained(tmp_path)
    config, params = load_denoiser(tmp_path)
    xs, (tokens, of_torch), now = canvases(STEPS, batch=1), draw(2, 7, 10, seed=1), {}
    options = {"both_within": (-1, 750), "attention_within": (-1, 800)}
    apply_faster_cache(
        theirs,
        FasterCacheConfig(
            unconditional_batch_timestep_skip_range=options["both_within"],
            spatial_attention_timestep_skip_range=options["attention_within"],
            attention_weight_callback=lambda _: 0.5,
            tensor_format="BCHW",
            current_timestep_callback=lambda: now["time"],
        ),
    )
    wanted = []
    for x, time in zip(xs, TIMES, strict=True):
        now["time"] = time
        canvas = torch.tensor(x).movedim(-1, 1)
        with torch.no_grad():
            found = theirs(
                hidden_states=torch.cat([canvas, canvas]),
                encoder_hidden_states=of_torch.flip(0),  # without the condition, then with it
                timestep=torch.full((2,), time),
                encoder_attention_mask=torch.ones(2, 7),
                added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            ).sample
        wanted.append(found.flip(0).movedim(1, -1).numpy())
    both = np.concatenate([xs, xs], axis=1)
    given = (config, params, both, plan_at(TIMES), Text(tokens=tokens))
    found, blocks, _ = run(FasterCache(**options), *given, guided=True)
    assert blocks.tolist() == [2, 2, 1, 1, 1, 2, 1, 1, 1]
    assert np.abs(found - np.stack(wanted)).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("images", [1, 2])
def test_a_run_without_guidance_is_refused(images):
    config, params, _ = tiny("DiT")
    asked = Asked(drawn(0, images, (8, 8, 4)), np.zeros(images, np.int32))
    with pytest.raises(ValueError, match=r"FasterCache is for guided runs.*this one has no guidance"):
        Denoise(sampler=DDIM(), steps=2, cache=FasterCache()).run(config, params, asked)


@pytest.mark.parametrize("name", ["both_within", "attention_within", "low_within", "high_within"])
def test_published_times_are_refused_where_a_model_s_go_from_0_to_1(name):
    within = {"both_within": (0, 1), "attention_within": (0, 1), "low_within": (0, 1), "high_within": (0, 1)}
    times = plan_at(np.linspace(0, 0.9, 4))
    FasterCache(**within).rows(None, times)
    with pytest.raises(
        ValueError, match=rf"{name} must be times from 0 to 1, .* from 0.9 to 0, got 2 to 641"
    ):
        FasterCache(**within | {name: (2, 641)}).rows(None, times)
    with pytest.raises(ValueError, match="both_within"):
        FasterCache().rows(None, times)
