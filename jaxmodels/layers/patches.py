"""Images as sequences of patches, and back: height and width in patches row by row, channels last."""

from einops import rearrange
from jaxtyping import Array, Float


def patchify(x: Float[Array, "B H W C"], patch: int) -> Float[Array, "B S P"]:
    """The patches of an image in rows from the top, each as its ``patch * patch * C`` numbers (row, column,
    channel).

    Raises:
        ValueError: `patch` does not divide height and width.
    """
    patch_grid(x.shape[1], x.shape[2], patch)
    return rearrange(x, "b (h p) (w q) c -> b (h w) (p q c)", p=patch, q=patch)


def unpatchify(x: Float[Array, "B S P"], *, height: int, width: int, patch: int) -> Float[Array, "B H W C"]:
    """The image of `height` x `width` whose `patchify` is `x`.

    Raises:
        ValueError: `patch` does not divide the sizes, or `x` has another number of patches.
    """
    rows, columns = patch_grid(height, width, patch)
    if x.shape[1] != rows * columns:
        raise ValueError(
            f"{x.shape[1]} patches are no image of {height} x {width}, which has {rows} x {columns} patches "
            f"of {patch} x {patch}"
        )
    return rearrange(x, "b (h w) (p q c) -> b (h p) (w q) c", h=rows, p=patch, q=patch)


def patch_grid(height: int, width: int, patch: int) -> tuple[int, int]:
    """Rows and columns of patches in an image.

    Raises:
        ValueError: `patch` does not divide height and width.
    """
    if height % patch or width % patch or height < 1 or width < 1:
        raise ValueError(f"patches of {patch} x {patch} do not divide an image of {height} x {width}")
    return height // patch, width // patch
