"""What diffusion models are asked for: classes, texts, sizes; what is none of these is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.image_models.conditions import Classes, GivenTexts, Told, pixel_size
from jaxmodels.models.denoisers.text import Text

TOLD = Told(height=32, width=16, strength=3.5)
TEXT = Text(tokens=jnp.zeros((2, 5, 3)))


def test_the_class_behind_the_last_stands_for_none():
    classes = Classes(num_classes=10)
    assert classes.rows(3, TOLD).tolist() == [3] and classes.rows(np.array([0, 9]), TOLD).tolist() == [0, 9]
    assert classes.nothing(2, TOLD).tolist() == [10, 10]


def test_what_a_denoiser_is_told_stands_beside_the_text():
    plain = GivenTexts().rows(TEXT, TOLD)
    assert plain.resolution is plain.aspect_ratio is plain.guidance is None
    told = GivenTexts(tells_size=True, tells_strength=True).rows(TEXT, TOLD)
    assert told.resolution.tolist() == [[32, 16]] * 2 and told.aspect_ratio.tolist() == [2, 2]
    assert told.guidance.tolist() == [3.5, 3.5]


def test_without_text_encoder_a_prompt_is_refused_and_guidance_needs_another_text():
    for asked in ("a cat", ["a cat"], 3):
        with pytest.raises(ValueError, match="the model has no text encoder"):
            GivenTexts().rows(asked, TOLD)
    with pytest.raises(ValueError, match="give it as negative=, or guidance=1 for none"):
        GivenTexts().nothing(2, TOLD)


def test_sizes_are_multiples_of_a_patch():
    assert pixel_size(64, 16) == (64, 64) and pixel_size((16, 32), 16) == (16, 32)
    for size, told in (
        (40, "size=40 x 40: height and width must be multiples of 16, .* for instance 32 x 32"),
        ((32, 8), "size=32 x 8: .* for instance 32 x 16"),
        (0, "size must be a whole number >= 1"),
        ((1, 2, 3), r"size must be a number or \(height, width\), got \(1, 2, 3\)"),
        ("64", "size must be a whole number, got '64'"),
    ):
        with pytest.raises(ValueError, match=told):
            pixel_size(size, 16)
