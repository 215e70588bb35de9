"""Images as files: rows of them in one picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

# Between the images of a picture, in their pixels, and how many pixels of the picture an image is high at
# least.
_MARGIN, _SMALLEST = 2, 96
_PAPER = 1.0


def check_picture(file: str | Path) -> None:
    """Raises where no picture could be written to a file of this name.

    Raises:
        ValueError: the name does not end as a picture's.
    """
    from PIL import Image  # not at the top: models of text need no pictures

    if Path(file).suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"{str(file)!r} does not end as a picture's name does; use .png")


def write_picture(file: str | Path, rows: Sequence[Sequence[np.ndarray]]) -> None:
    """Writes rows of images as one picture, with white between them; small images are enlarged, each pixel
    to a square.

    Args:
        file: where to, in the format that its name ends in.
        rows: images f32[H, W, C] of one shape, with pixels from 0 to 1. Rows may be of different lengths.

    Raises:
        ValueError: see `check_picture`.
    """
    check_picture(file)
    from PIL import Image

    height, width, channels = rows[0][0].shape
    factor = -(-_SMALLEST // height)
    down, across = (factor * (side + _MARGIN) for side in (height, width))
    margin, columns = factor * _MARGIN, max(map(len, rows))
    paper = np.full((len(rows) * down - margin, columns * across - margin, channels), _PAPER)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            enlarged = np.asarray(image).repeat(factor, 0).repeat(factor, 1)
            top, left = i * down, j * across
            paper[top : top + len(enlarged), left : left + enlarged.shape[1]] = enlarged
    picture = np.rint(paper * 255).astype(np.uint8)
    Image.fromarray(picture[..., 0] if channels == 1 else picture).save(file)
