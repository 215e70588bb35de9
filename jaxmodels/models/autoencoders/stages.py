"""The two halves of a convolutional autoencoder: stages of blocks that shrink an image, or let it grow."""

from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Array, Float

from jaxmodels.layers.conv2d import Conv2D, upsample_nearest
from jaxmodels.layers.image_norm import GroupNorm
from jaxmodels.layers.mlp import activate
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.models.autoencoders.residual import ConvBlock, PlaceAttention


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the two halves of an autoencoder have in common.

    Attributes:
        channels: of each stage, from the one next to the pixels inwards. Between two stages the image's
            height and width are halved.
        blocks_per_stage: of the encoder; the decoder has one more.
        attends: of each stage, whether its blocks are followed by attention.
        middle_attends: whether there is attention between the two blocks in the middle.
        num_groups: of all norms.
        activation: of the blocks.

    Raises:
        ValueError: there is no stage, `attends` is not of as many stages, or `num_groups` does not divide the
            channels.
    """

    channels: tuple[int, ...]
    blocks_per_stage: int = 1
    attends: tuple[bool, ...] = ()
    middle_attends: bool = True
    num_groups: int = 32
    activation: str = "silu"

    def __post_init__(self) -> None:
        if not self.channels or len(self.attends) != len(self.channels):
            raise ValueError(
                f"Shape: channels={self.channels} and attends={self.attends} must have one entry for each of "
                "the same stages, at least one"
            )
        for channels in self.channels:
            self.block(channels, channels)

    @property
    def factor(self) -> int:
        """How many times higher and wider an image is than its latents."""
        return int(2 ** (len(self.channels) - 1))

    def block(self, before: int, behind: int) -> ConvBlock:
        return ConvBlock(
            in_channels=before,
            out_channels=behind,
            num_groups=self.num_groups,
            activation=self.activation,
        )

    def stage(self, before: int, behind: int, count: int, attends: bool) -> "Stage":
        """`count` blocks, the first of which changes the number of channels."""
        widths = (before, *(behind,) * count)
        attention = PlaceAttention(channels=behind, num_groups=self.num_groups) if attends else None
        return Stage(blocks=tuple(self.block(*pair) for pair in pairwise(widths)), attention=attention)

    @property
    def middle(self) -> "Middle":
        channels = self.channels[-1]
        attention = PlaceAttention(channels=channels, num_groups=self.num_groups)
        return Middle(
            block=self.block(channels, channels), attention=attention if self.middle_attends else None
        )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Blocks one behind the other, each followed by attention with weights of its own if there is any."""

    blocks: tuple[ConvBlock, ...]
    attention: PlaceAttention | None

    def spec(self) -> ParamTree:
        tree: ParamTree = {"blocks": {str(i): block.spec() for i, block in enumerate(self.blocks)}}
        if self.attention is not None:
            tree["attentions"] = {str(i): self.attention.spec() for i in range(len(self.blocks))}
        return tree

    def __call__(self, params: Params, x: Float[Array, "B H W C"]) -> Float[Array, "B H W F"]:
        for i, block in enumerate(self.blocks):
            x = block(params["blocks"][str(i)], x)
            if self.attention is not None:
                x = self.attention(params["attentions"][str(i)], x)
        return x


@dataclass(frozen=True, kw_only=True)
class Middle:
    """Two blocks, with attention between them if there is any."""

    block: ConvBlock
    attention: PlaceAttention | None

    def spec(self) -> ParamTree:
        tree: ParamTree = {"blocks": {"0": self.block.spec(), "1": self.block.spec()}}
        if self.attention is not None:
            tree["attentions"] = {"0": self.attention.spec()}
        return tree

    def __call__(self, params: Params, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        x = self.block(params["blocks"]["0"], x)
        if self.attention is not None:
            x = self.attention(params["attentions"]["0"], x)
        return self.block(params["blocks"]["1"], x)


@dataclass(frozen=True, kw_only=True)
class ConvEncoder:
    """From an image to numbers of its latent places: the stages, outermost first, then the middle.

    Attributes:
        shape: the stages.
        in_channels: of the image.
        out_channels: of the latents.
    """

    shape: Shape
    in_channels: int
    out_channels: int

    @property
    def stages(self) -> tuple[Stage, ...]:
        shape = self.shape
        pairs = pairwise((shape.channels[0], *shape.channels))
        return tuple(
            shape.stage(*pair, shape.blocks_per_stage, attends)
            for pair, attends in zip(pairs, shape.attends, strict=True)
        )

    def spec(self) -> ParamTree:
        channels = self.shape.channels
        return {
            "conv_in": Conv2D(in_channels=self.in_channels, out_channels=channels[0]).spec(),
            "stages": {str(i): stage.spec() for i, stage in enumerate(self.stages)},
            "resize": {str(i): _halving(width).spec() for i, width in enumerate(channels[:-1])},
            "middle": self.shape.middle.spec(),
            **_end(self.shape, channels[-1], self.out_channels).spec(),
        }

    def __call__(self, params: Params, x: Float[Array, "B H W C"]) -> Float[Array, "B P Q F"]:
        channels = self.shape.channels
        x = Conv2D(in_channels=self.in_channels, out_channels=channels[0])(params["conv_in"], x)
        for i, stage in enumerate(self.stages):
            x = stage(params["stages"][str(i)], x)
            if i + 1 < len(channels):
                x = _halving(channels[i])(params["resize"][str(i)], x)
        x = self.shape.middle(params["middle"], x)
        return _end(self.shape, channels[-1], self.out_channels)(params, x)


@dataclass(frozen=True, kw_only=True)
class ConvDecoder:
    """From numbers of latent places to an image: the middle, then the stages, innermost first.

    Attributes:
        shape: the stages, in the encoder's order.
        in_channels: of the latents.
        out_channels: of the image.
    """

    shape: Shape
    in_channels: int
    out_channels: int

    @property
    def stages(self) -> tuple[Stage, ...]:
        shape = self.shape
        inwards = tuple(reversed(shape.channels))
        return tuple(
            shape.stage(*pair, shape.blocks_per_stage + 1, attends)
            for pair, attends in zip(pairwise((inwards[0], *inwards)), reversed(shape.attends), strict=True)
        )

    def spec(self) -> ParamTree:
        inwards = tuple(reversed(self.shape.channels))
        return {
            "conv_in": Conv2D(in_channels=self.in_channels, out_channels=inwards[0]).spec(),
            "middle": self.shape.middle.spec(),
            "stages": {str(i): stage.spec() for i, stage in enumerate(self.stages)},
            "resize": {str(i): _same(width).spec() for i, width in enumerate(inwards[:-1])},
            **_end(self.shape, inwards[-1], self.out_channels).spec(),
        }

    def __call__(self, params: Params, x: Float[Array, "B P Q C"]) -> Float[Array, "B H W F"]:
        inwards = tuple(reversed(self.shape.channels))
        x = Conv2D(in_channels=self.in_channels, out_channels=inwards[0])(params["conv_in"], x)
        x = self.shape.middle(params["middle"], x)
        for i, stage in enumerate(self.stages):
            x = stage(params["stages"][str(i)], x)
            if i + 1 < len(inwards):
                x = _same(inwards[i])(params["resize"][str(i)], upsample_nearest(x))
        return _end(self.shape, inwards[-1], self.out_channels)(params, x)


@dataclass(frozen=True, kw_only=True)
class _End:
    """``conv(silu(norm(x)))``, whatever the activation of the blocks."""

    norm: GroupNorm
    conv: Conv2D

    def spec(self) -> ParamTree:
        return {"norm_out": self.norm.spec(), "conv_out": self.conv.spec()}

    def __call__(self, params: Params, x: Float[Array, "B H W C"]) -> Float[Array, "B H W F"]:
        return self.conv(params["conv_out"], activate("silu", self.norm(params["norm_out"], x)))


def _end(shape: Shape, before: int, behind: int) -> _End:
    return _End(
        norm=GroupNorm(channels=before, num_groups=shape.num_groups),
        conv=Conv2D(in_channels=before, out_channels=behind),
    )


def _halving(channels: int) -> Conv2D:
    """From stage to stage inwards. It has zeros below and to the right alone, as all of this lineage have."""
    return Conv2D(in_channels=channels, out_channels=channels, stride=2, padding=(0, 1))


def _same(channels: int) -> Conv2D:
    """Behind every doubling."""
    return Conv2D(in_channels=channels, out_channels=channels)
