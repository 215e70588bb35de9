"""Rows of weight tables for the halves of a convolutional autoencoder, in the names of `diffusers`."""

from collections.abc import Iterator

from jaxmodels.models.autoencoders.stages import ConvDecoder, ConvEncoder, Stage
from jaxmodels.models.denoisers import weight_rows
from jaxmodels.models.denoisers.weight_rows import affine
from jaxmodels.models.family import Weight


def encoder(half: ConvEncoder) -> tuple[Weight, ...]:
    """The rows of the half that shrinks images, under "encoder"."""
    return tuple(_half("encoder", half.stages, "down_blocks", "downsamplers"))


def decoder(half: ConvDecoder) -> tuple[Weight, ...]:
    """The rows of the half that lets them grow, under "decoder"."""
    return tuple(_half("decoder", half.stages, "up_blocks", "upsamplers"))


def norm(ours: str, theirs: str) -> tuple[Weight, ...]:
    """The rows of a norm with scale and bias."""
    return Weight(f"{ours}/scale", f"{theirs}.weight"), Weight(f"{ours}/bias", f"{theirs}.bias")


def _half(half: str, stages: tuple[Stage, ...], names: str, resizers: str) -> Iterator[Weight]:
    for end in ("conv_in", "conv_out"):
        yield from affine(f"{half}/{end}/{{p}}", f"{half}.{end}")
    yield from norm(f"{half}/norm_out", f"{half}.conv_norm_out")
    yield from _blocks(f"{half}/middle", f"{half}.mid_block", 2)
    for i, stage in enumerate(stages):
        theirs = f"{half}.{names}.{i}"
        yield from _blocks(f"{half}/stages/{i}", theirs, len(stage.blocks))
        yield from affine(f"{half}/resize/{i}/{{p}}", f"{theirs}.{resizers}.0.conv")


def _blocks(ours: str, theirs: str, count: int) -> Iterator[Weight]:
    for i in range(count):
        block, name = f"{ours}/blocks/{i}", f"{theirs}.resnets.{i}"
        for end, number in (("in", 1), ("out", 2)):
            yield from norm(f"{block}/norm_{end}", f"{name}.norm{number}")
            yield from affine(f"{block}/conv_{end}/{{p}}", f"{name}.conv{number}")
        yield from affine(f"{block}/skip/{{p}}", f"{name}.conv_shortcut")
        attention, name = f"{ours}/attentions/{i}", f"{theirs}.attentions.{i}."
        yield from norm(f"{attention}/norm", f"{name}group_norm")
        yield from weight_rows.attention(f"{attention}/attention", name)
