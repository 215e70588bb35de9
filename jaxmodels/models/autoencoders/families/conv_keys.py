"""How `diffusers` spells the stages of its convolutional autoencoders, whatever stands between the halves."""

from typing import Any

from jaxmodels.models.autoencoders.stages import Shape
from jaxmodels.models.hf_config import ConfigError, ConfigReader

# Whether a stage's blocks attend, by the names that `diffusers` has for the two halves' stages.
DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}

# Attention had other names before release 0.18, which `diffusers` still reads.
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
RENAMED = tuple((rf"(attentions\.\d+)\.{old}\.", rf"\1.{new}.") for old, new in _OLD.items())


def read_shape(reader: ConfigReader) -> Shape:
    """The stages of both halves.

    Raises:
        ConfigError: the decoder's stages are not the encoder's in reverse.
    """
    channels = reader.take_or("block_out_channels", list, [64])
    stages = len(channels)
    down = reader.pattern("down_block_types", DOWN, stages, ["DownEncoderBlock2D"] * stages)
    up = reader.pattern("up_block_types", UP, stages, ["UpDecoderBlock2D"] * stages)
    attends = tuple(DOWN[name] for name in down)
    if attends != tuple(UP[name] for name in reversed(up)):
        raise ConfigError(
            f"{reader.name}: up_block_types must be those of down_block_types in reverse, got {up} and {down}"
        )
    return Shape(
        channels=reader.counts("block_out_channels", tuple(channels)),
        blocks_per_stage=reader.positive_or("layers_per_block", 1),
        attends=attends,
        middle_attends=reader.flag("mid_block_add_attention", True),
        num_groups=reader.positive_or("norm_num_groups", 32),
        activation=reader.take_or("act_fn", str, "silu"),
    )


def write_shape(shape: Shape) -> dict[str, Any]:
    """The keys that `read_shape` reads."""
    return {
        "act_fn": shape.activation,
        "block_out_channels": list(shape.channels),
        "down_block_types": [_name(DOWN, attends) for attends in shape.attends],
        "layers_per_block": shape.blocks_per_stage,
        "mid_block_add_attention": shape.middle_attends,
        "norm_num_groups": shape.num_groups,
        "up_block_types": [_name(UP, attends) for attends in reversed(shape.attends)],
    }


def read_image_channels(reader: ConfigReader) -> int:
    """The channels of images, which must be the same on both sides."""
    image = reader.positive_or("in_channels", 3)
    if reader.positive_or("out_channels", 3) != image:
        raise ConfigError(f"{reader.name}: key 'out_channels' must equal 'in_channels' = {image}")
    return image


def _name(names: dict[str, bool], attends: bool) -> str:
    return next(name for name, value in names.items() if value == attends)
