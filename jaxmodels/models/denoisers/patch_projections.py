"""The first and the last projection of a denoiser that works on patches."""

from dataclasses import dataclass

from jaxtyping import Array, Float

from jaxmodels.layers.linear import linear
from jaxmodels.layers.patches import patch_grid, patchify, unpatchify
from jaxmodels.layers.sequence_parts import split
from jaxmodels.layers.spec import ZEROS, FanIn, Param, Params, ParamTree


@dataclass(frozen=True, kw_only=True)
class PatchProjections:
    """From the numbers of a patch to the stream, and from the stream to those of the prediction.

    Attributes:
        d_model: width of the stream.
        patch: height and width of a patch.
        in_channels: channels of a canvas.
        out_channels: channels of the prediction, twice as many where it also predicts a variance.
    """

    d_model: int
    patch: int
    in_channels: int
    out_channels: int

    def spec(self) -> ParamTree:
        p, d, c = self.patch, self.d_model, self.in_channels
        return {
            "patches": {
                "w": Param((d, p, p, c), ("embed", None, None, None), FanIn(p * p * c)),
                "b": Param((d,), ("embed",), ZEROS),
            },
            "out": {
                "w": Param((p, p, self.out_channels, d), (None, None, None, "embed"), ZEROS),
                "b": Param((p, p, self.out_channels), (None, None, None), ZEROS),
            },
        }

    def flops_per_token(self) -> int:
        """FLOPs of both for one patch."""
        return 2 * self.d_model * self.patch**2 * (self.in_channels + self.out_channels)

    def grid(self, x: Array) -> tuple[int, int]:
        """Rows and columns of patches in canvases.

        Raises:
            ValueError: `x` is no [B, H, W, C] of the model's channels, or `patch` does not divide H and W.
        """
        if x.ndim != 4 or x.shape[3] != self.in_channels:
            raise ValueError(f"x: expected canvases [B, H, W, {self.in_channels}], got {list(x.shape)}")
        return patch_grid(x.shape[1], x.shape[2], self.patch)

    def embed(self, params: Params, x: Float[Array, "B H W C"]) -> Float[Array, "B S D"]:
        """Each patch of the canvas as a token, without its position.

        Devices that share a sequence share the patches from here on, see `jaxmodels.layers.sequence_parts`.
        """
        w = params["patches"]["w"]
        patches = split(patchify(x.astype(w.dtype), self.patch))
        return linear(patches, w.reshape(self.d_model, -1)) + params["patches"]["b"]

    def predict(
        self, params: Params, hidden: Float[Array, "B S D"], height: int, width: int
    ) -> Float[Array, "B H W O"]:
        """The tokens' predictions as a canvas of `height` x `width`."""
        w, b = params["out"]["w"], params["out"]["b"]
        patches = linear(hidden, w.reshape(-1, self.d_model)) + b.reshape(-1)
        return unpatchify(patches, height=height, width=width, patch=self.patch)
