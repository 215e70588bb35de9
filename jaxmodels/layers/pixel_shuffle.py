"""Squares of places as channels, and back, in torch's order of channels."""

from einops import rearrange
from jaxtyping import Array, Float


def pixel_unshuffle(x: Float[Array, "B H W C"], factor: int = 2) -> Float[Array, "B P Q F"]:
    """An image smaller by `factor` whose places hold a square each: its channels by channel, row, column.

    Raises:
        ValueError: `factor` does not divide height and width.
    """
    height, width = x.shape[1:3]
    if height % factor or width % factor:
        raise ValueError(f"squares of {factor} x {factor} do not divide an image of {height} x {width}")
    return rearrange(x, "b (h p) (w q) c -> b h w (c p q)", p=factor, q=factor)


def pixel_shuffle(x: Float[Array, "B P Q F"], factor: int = 2) -> Float[Array, "B H W C"]:
    """The image whose `pixel_unshuffle` is `x`."""
    return rearrange(x, "b h w (c p q) -> b (h p) (w q) c", p=factor, q=factor)
