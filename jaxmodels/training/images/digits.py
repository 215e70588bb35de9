"""scikit-learn's handwritten digits as images with classes, in two halves that share no image."""

from dataclasses import dataclass

import jax
import numpy as np

# As scikit-learn has them: pixels from 0 to 16, of 8 x 8 places.
_SIZE, _INK = 8, 16.0
NUM_CLASSES = 10
# Every sixth image is held out; the file has the classes in no order.
_HELD_OUT = 6


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Images with pixels from -1 (paper) to 1 (ink), and what they show.

    Attributes:
        images: f32[N, size, size, 1].
        labels: i32[N], from 0 to 9.
    """

    images: np.ndarray
    labels: np.ndarray


def load_digits(size: int) -> tuple[Digits, Digits]:
    """The images to train on and those held out, enlarged to `size` x `size` by cubic interpolation.

    Raises:
        ImportError: scikit-learn, which has the images, is not installed.
        ValueError: `size` is no multiple of 8.
    """
    if size % _SIZE or size < _SIZE:
        raise ValueError(f"size must be a multiple of {_SIZE}, got {size}")
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn, which is not installed; install jaxmodels[digits]"
        ) from error
    found = load()
    images = enlarged(found.images[..., None].astype(np.float32) / (_INK / 2) - 1, size)
    held_out = np.arange(len(images)) % _HELD_OUT == 0
    labels = found.target.astype(np.int32)
    train, rest = (Digits(images=images[chosen], labels=labels[chosen]) for chosen in (~held_out, held_out))
    return train, rest


def enlarged(images: np.ndarray, size: int) -> np.ndarray:
    """Square images [N, H, H, C] at another size."""
    shape = (len(images), size, size, images.shape[-1])
    return np.clip(np.asarray(jax.image.resize(images, shape, "cubic")), -1, 1)


def reduced(images: np.ndarray) -> np.ndarray:
    """Each image as the 64 means of its squares: what a classifier of the original images reads."""
    batch, size = images.shape[:2]
    step = size // _SIZE
    return images.reshape(batch, _SIZE, step, _SIZE, step).mean((2, 4)).reshape(batch, -1)


def shifted(images: np.ndarray, by: tuple[int, int]) -> np.ndarray:
    """The images moved down and to the right, or up and to the left where negative; paper comes in."""
    pads = [(max(step, 0), max(-step, 0)) for step in by]
    padded = np.pad(images, ((0, 0), *pads, (0, 0)), constant_values=-1)
    starts = [max(-step, 0) for step in by]
    height, width = images.shape[1:3]
    return padded[:, starts[0] : starts[0] + height, starts[1] : starts[1] + width]


def moved(digits: Digits, shift: int) -> Digits:
    """The images at every place up to `shift` pixels from their own."""
    steps = range(-shift, shift + 1)
    places = [(down, right) for down in steps for right in steps]
    images = [shifted(digits.images, place) for place in places]
    return Digits(images=np.concatenate(images), labels=np.tile(digits.labels, len(places)))
