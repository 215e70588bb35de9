"""Images are saved as pictures."""

import numpy as np
import pytest
from PIL import Image

from jaxmodels import Images


def images(count, channels):
    pixels = np.random.default_rng(0).random((count, 48, 32, channels)).astype(np.float32)
    return Images(pixels=pixels, calls=1, seconds=0.0)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_picture_holds_the_images_row_by_row(tmp_path, channels, mode):
    made, file = images(5, channels), tmp_path / "a.png"
    made.save(file, columns=3)
    picture = Image.open(file)
    assert picture.format == "PNG" and picture.mode == mode
    drawn = np.asarray(picture).reshape(2 * 100 - 4, 3 * 68 - 4, channels)
    for i, image in enumerate(made.pixels):
        top, left = i // 3 * 100, i % 3 * 68
        seen = drawn[top : top + 96 : 2, left : left + 64 : 2] / 255
        np.testing.assert_allclose(seen, image, atol=0.6 / 255)
    assert (drawn[96:100] == 255).all() and (drawn[100:, 136:] == 255).all()
    made.save(tmp_path / "row.png")
    assert Image.open(tmp_path / "row.png").size == (5 * 68 - 4, 96)


def test_what_cannot_be_saved_is_told(tmp_path):
    made = images(1, 1)
    with pytest.raises(ValueError, match=r"'a\.text' does not end as a picture's name does"):
        made.save("a.text")
    with pytest.raises(ValueError, match=r"columns must be a whole number >= 1 .* got 0"):
        made.save(tmp_path / "a.png", columns=0)
    assert not list(tmp_path.iterdir())
