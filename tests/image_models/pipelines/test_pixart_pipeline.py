"""PixArt as a whole: images of prompts and of given texts against `diffusers`; files both ways."""

import diffusers
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusion_pipelines import assert_written_alike, channels_first, noise, pixart, texts
from prompt_encoders import t5, t5_tokenizer

import jaxmodels as jm
from jaxmodels.decoding.diffusion.noise import Injected
from jaxmodels.models.denoisers.text import Text

PROMPTS = ["A photo of a Cat ", "3 boats"]


@pytest.fixture(scope="module", params=["texts", "prompts"])
def saved(request, tmp_path_factory):
    tokenizer = t5_tokenizer(length=120) if request.param == "prompts" else None
    encoder = None if tokenizer is None else t5(tokenizer)
    theirs = pixart(t5=encoder, tokenizer=tokenizer, features=10 if encoder is None else 24)
    directory = tmp_path_factory.mktemp("pixart")
    theirs.save_pretrained(directory)
    return theirs, directory


def drawn(theirs, asked, start, steps, **options):
    """What the pipeline draws from this noise: of prompts, or of texts and those to lead away from."""
    if isinstance(asked[0], str):
        given = {"prompt": asked}
    else:
        names = ("prompt_embeds", "negative_prompt_embeds")
        given = {name: torch.tensor(tokens) for name, (tokens, _) in zip(names, asked, strict=True)}
        names = ("prompt_attention_mask", "negative_prompt_attention_mask")
        given |= {name: torch.tensor(seen) for name, (_, seen) in zip(names, asked, strict=True)}
        given |= {"negative_prompt": None}
    return theirs(
        **given,
        latents=channels_first(start),
        num_inference_steps=steps,
        height=2 * start.shape[1],
        width=2 * start.shape[2],
        use_resolution_binning=False,
        output_type="np",
        **options,
    ).images


@pytest.mark.wide(every_run=1)
def test_images_are_those_of_diffusers(saved):
    """Of canvases that are no squares."""
    theirs, directory = saved
    model, start = jm.load(directory), noise(2, 8, 12, 4)
    if theirs.text_encoder is not None:
        asked, ours = PROMPTS, {"asked": PROMPTS}
    else:
        asked = [texts(2, 10, seed=seed) for seed in (0, 1)]
        both = [Text(tokens=jnp.asarray(tokens), seen=jnp.asarray(seen)) for tokens, seen in asked]
        ours = {"asked": both[0], "negative": both[1]}
    wanted = drawn(theirs, asked, start, 5)
    given = {name: value for name, value in ours.items() if name != "asked"}
    made = model.generate(ours["asked"], 5, size=(16, 24), noise=Injected(start), **given)
    np.testing.assert_allclose(made.pixels, wanted, atol=1e-3)


def test_files_are_written_as_they_were(saved, tmp_path):
    theirs, directory = saved
    jm.save(jm.load(directory), tmp_path)
    assert_written_alike(directory, tmp_path)
    again = diffusers.PixArtAlphaPipeline.from_pretrained(tmp_path)
    assert (again.text_encoder is None) == (theirs.text_encoder is None)


def test_what_it_does_not_draw_is_refused(saved):
    theirs, directory = saved
    model = jm.load(directory)
    told = "draws prompts, one text or several, got 3" if theirs.text_encoder else "has no text encoder"
    with pytest.raises(ValueError, match=told):
        model.generate(3)
    with pytest.raises(ValueError, match="size=17 x 17: height and width must be multiples of 4"):
        model.generate("a cat", size=17)
