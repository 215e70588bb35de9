"""The two halves of a deep compression autoencoder: stages that shrink an image, or let it grow, past which
the image is led as it is, its places rearranged as channels."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.layers.conv2d import Conv2D, upsample_nearest
from jaxmodels.layers.mlp import activate, check_activation
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.pixel_shuffle import pixel_shuffle, pixel_unshuffle
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.models.autoencoders.efficient_vit import (
    EPS,
    EfficientViTBlock,
    MultiscaleAttention,
    NormName,
    ResidualBlock,
)

# A halving turns each square of 2 x 2 places into one.
SQUARE = 4

# How the learned side of a change of size works: with pixels as channels, or by a stride and by repetition.
Resize = Literal["shuffle", "direct"]


@dataclass(frozen=True, kw_only=True)
class DCStage:
    """Equal blocks at one size.

    Attributes:
        channels: of the image.
        depth: how many blocks.
        attends: whether they are `EfficientViTBlock`, not `ResidualBlock`.
        kernels: see `MultiscaleAttention`.
        norm, activation: see `ResidualBlock`.
    """

    channels: int
    depth: int
    attends: bool = False
    kernels: tuple[int, ...] = ()
    norm: NormName = "rms_norm"
    activation: str = "silu"

    def block(self, head_dim: int) -> ResidualBlock | EfficientViTBlock:
        """One of its blocks."""
        if not self.attends:
            return ResidualBlock(channels=self.channels, norm=self.norm, activation=self.activation)
        attention = MultiscaleAttention(
            channels=self.channels, head_dim=head_dim, kernels=self.kernels, norm=self.norm
        )
        return EfficientViTBlock(attention=attention)


@dataclass(frozen=True, kw_only=True)
class Halving:
    """From stage to stage inwards: a convolution, and past it means over groups of a square's pixels."""

    before: int
    behind: int
    resize: Resize
    has_shortcut: bool = True

    def __post_init__(self) -> None:
        if self.has_shortcut:
            _check_ratio("Halving", self.before * SQUARE, self.behind)
        if self.resize == "shuffle":
            _check_ratio("Halving", self.behind, SQUARE)

    @property
    def conv(self) -> Conv2D:
        if self.resize == "shuffle":
            return Conv2D(in_channels=self.before, out_channels=self.behind // SQUARE)
        return Conv2D(in_channels=self.before, out_channels=self.behind, stride=2)

    def spec(self) -> ParamTree:
        return self.conv.spec()

    def __call__(self, params: Params, x: Float[Array, "B H W C"]) -> Float[Array, "B P Q F"]:
        y = self.conv(params, x)
        y = pixel_unshuffle(y) if self.resize == "shuffle" else y
        return y + mean_channels(pixel_unshuffle(x), self.behind) if self.has_shortcut else y


@dataclass(frozen=True, kw_only=True)
class Doubling:
    """From stage to stage outwards: a convolution, and past it channels as the pixels of a square."""

    before: int
    behind: int
    resize: Resize
    has_shortcut: bool = True

    def __post_init__(self) -> None:
        if self.has_shortcut:
            _check_ratio("Doubling", self.behind * SQUARE, self.before)

    @property
    def conv(self) -> Conv2D:
        channels = self.behind * SQUARE if self.resize == "shuffle" else self.behind
        return Conv2D(in_channels=self.before, out_channels=channels)

    def spec(self) -> ParamTree:
        return self.conv.spec()

    def __call__(self, params: Params, x: Float[Array, "B P Q C"]) -> Float[Array, "B H W F"]:
        if self.resize == "shuffle":
            y = pixel_shuffle(self.conv(params, x))
        else:
            y = self.conv(params, upsample_nearest(x))
        if not self.has_shortcut:
            return y
        return y + pixel_shuffle(repeat_channels(x, self.behind * SQUARE))


@dataclass(frozen=True, kw_only=True)
class DCShape:
    """The stages of one half, from the one next to the pixels inwards.

    Attributes:
        stages: the first may have no block: then the convolution next to the pixels changes the size.
        head_dim: of all attention.
        resize: how the image is halved or doubled.

    Raises:
        ValueError: there is no stage, or one but the first is without blocks.
    """

    stages: tuple[DCStage, ...]
    head_dim: int
    resize: Resize

    def __post_init__(self) -> None:
        depths = [stage.depth for stage in self.stages]
        if not depths or min(depths[1:], default=depths[0]) < 1:
            raise ValueError(f"every stage but the first of several needs a block, got depths of {depths}")
        for stage in self.stages:
            stage.block(self.head_dim)

    @property
    def begins_inside(self) -> bool:
        """Whether the stage next to the pixels has no block."""
        return self.stages[0].depth == 0

    @property
    def outermost(self) -> int:
        """The channels next to the convolution at the pixels."""
        return self.stages[1 if self.begins_inside else 0].channels

    @property
    def innermost(self) -> int:
        """The channels next to the convolution at the latents."""
        return self.stages[-1].channels

    @property
    def borders(self) -> dict[int, tuple[int, int]]:
        """The channels outside and inside of each change of size, by the number of the stage outside; without
        that at the pixels."""
        first = 1 if self.begins_inside else 0
        pairs = (
            (i, (self.stages[i].channels, self.stages[i + 1].channels)) for i in range(first, self._last)
        )
        return dict(pairs)

    @property
    def _last(self) -> int:
        return len(self.stages) - 1

    def spec(self) -> ParamTree:
        """The parameters of all blocks, by stage."""
        return {
            str(i): {str(j): stage.block(self.head_dim).spec() for j in range(stage.depth)}
            for i, stage in enumerate(self.stages)
        }

    def through(self, params: Params, index: int, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """The blocks of a stage, one behind the other."""
        stage = self.stages[index]
        for j in range(stage.depth):
            x = stage.block(self.head_dim)(params[str(index)][str(j)], x)
        return x


@dataclass(frozen=True, kw_only=True)
class DCEncoder:
    """From an image to latents.

    Attributes:
        shape: the stages.
        image_channels, latent_channels: of what it reads and gives.
        has_shortcut: whether means of channels are led past the last convolution.
    """

    shape: DCShape
    image_channels: int
    latent_channels: int
    has_shortcut: bool = True

    def __post_init__(self) -> None:
        if self.has_shortcut:
            _check_ratio("DCEncoder", self.shape.innermost, self.latent_channels)
        self.spec()

    @property
    def _ends(self) -> tuple[Conv2D | Halving, Conv2D]:
        shape, first = self.shape, self.shape.outermost
        conv_in: Conv2D | Halving = Conv2D(in_channels=self.image_channels, out_channels=first)
        if shape.begins_inside:
            conv_in = Halving(
                before=self.image_channels, behind=first, resize=shape.resize, has_shortcut=False
            )
        return conv_in, Conv2D(in_channels=shape.innermost, out_channels=self.latent_channels)

    @property
    def _resize(self) -> dict[int, Halving]:
        return {
            i: Halving(before=outside, behind=inside, resize=self.shape.resize)
            for i, (outside, inside) in self.shape.borders.items()
        }

    def spec(self) -> ParamTree:
        conv_in, conv_out = self._ends
        return {
            "conv_in": conv_in.spec(),
            "stages": self.shape.spec(),
            "resize": {str(i): layer.spec() for i, layer in self._resize.items()},
            "conv_out": conv_out.spec(),
        }

    def __call__(self, params: Params, x: Float[Array, "B H W C"]) -> Float[Array, "B P Q D"]:
        (conv_in, conv_out), resize = self._ends, self._resize
        x = conv_in(params["conv_in"], x)
        for i in range(len(self.shape.stages)):
            x = self.shape.through(params["stages"], i, x)
            if i in resize:
                x = resize[i](params["resize"][str(i)], x)
        y = conv_out(params["conv_out"], x)
        return y + mean_channels(x, self.latent_channels) if self.has_shortcut else y


@dataclass(frozen=True, kw_only=True)
class DCDecoder:
    """From latents to an image.

    Attributes:
        shape: the stages, in the encoder's order.
        image_channels, latent_channels: of what it gives and reads.
        activation: behind the last norm.
        has_shortcut: whether repeated channels are led past the first convolution.
    """

    shape: DCShape
    image_channels: int
    latent_channels: int
    activation: str = "relu"
    has_shortcut: bool = True

    def __post_init__(self) -> None:
        check_activation(self.activation)
        if self.has_shortcut:
            _check_ratio("DCDecoder", self.shape.innermost, self.latent_channels)
        self.spec()

    @property
    def _ends(self) -> tuple[Conv2D, Conv2D | Doubling]:
        shape, last = self.shape, self.shape.outermost
        conv_out: Conv2D | Doubling = Conv2D(in_channels=last, out_channels=self.image_channels)
        if shape.begins_inside:
            conv_out = Doubling(
                before=last, behind=self.image_channels, resize=shape.resize, has_shortcut=False
            )
        return Conv2D(in_channels=self.latent_channels, out_channels=shape.innermost), conv_out

    @property
    def _norm(self) -> RMSNorm:
        return RMSNorm(dim=self.shape.outermost, eps=EPS, bias=True)

    @property
    def _resize(self) -> dict[int, Doubling]:
        return {
            i: Doubling(before=inside, behind=outside, resize=self.shape.resize)
            for i, (outside, inside) in self.shape.borders.items()
        }

    def spec(self) -> ParamTree:
        conv_in, conv_out = self._ends
        return {
            "conv_in": conv_in.spec(),
            "stages": self.shape.spec(),
            "resize": {str(i): layer.spec() for i, layer in self._resize.items()},
            "norm_out": self._norm.spec(),
            "conv_out": conv_out.spec(),
        }

    def __call__(self, params: Params, x: Float[Array, "B P Q D"]) -> Float[Array, "B H W C"]:
        (conv_in, conv_out), resize = self._ends, self._resize
        y = conv_in(params["conv_in"], x)
        y = y + repeat_channels(x, self.shape.innermost) if self.has_shortcut else y
        for i in reversed(range(len(self.shape.stages))):
            if i in resize:
                y = resize[i](params["resize"][str(i)], y)
            y = self.shape.through(params["stages"], i, y)
        return conv_out(params["conv_out"], activate(self.activation, self._norm(params["norm_out"], y)))


def mean_channels(x: Float[Array, "B H W C"], channels: int) -> Float[Array, "B H W F"]:
    """The means of as many groups of neighbouring channels."""
    return x.reshape(*x.shape[:-1], channels, -1).mean(-1)


def repeat_channels(x: Float[Array, "B H W C"], channels: int) -> Float[Array, "B H W F"]:
    """Each channel repeated in its place, up to so many."""
    return jnp.repeat(x, channels // x.shape[-1], axis=-1)


def _check_ratio(name: str, many: int, few: int) -> None:
    if many % few:
        raise ValueError(f"{name}: {many} channels cannot be shared out among {few} evenly")
