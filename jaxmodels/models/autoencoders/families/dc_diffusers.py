"""Deep compression autoencoders as `diffusers` stores them (`AutoencoderDC`)."""

from collections.abc import Iterator
from typing import Any

from jaxmodels.checks import shown
from jaxmodels.models.autoencoders.dc import AutoencoderDC
from jaxmodels.models.autoencoders.dc_stages import DCDecoder, DCEncoder, DCShape, DCStage, Resize
from jaxmodels.models.autoencoders.efficient_vit import NORMS
from jaxmodels.models.autoencoders.weight_rows import norm
from jaxmodels.models.denoisers.weight_rows import affine
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader

# Whether a stage's blocks attend, by the names that `diffusers` has for them.
BLOCKS = {"ResBlock": False, "EfficientViTBlock": True}
# How images are halved and doubled, by the same.
DOWN: dict[str, Resize] = {"pixel_unshuffle": "shuffle", "conv": "direct"}
UP: dict[str, Resize] = {"pixel_shuffle": "shuffle", "interpolate": "direct"}

CHANNELS = [128, 256, 512, 512, 1024, 1024]
DEPTHS = {"encoder": [2, 2, 2, 3, 3, 3], "decoder": [3, 3, 3, 3, 3, 3]}
KERNELS: list[list[int]] = [[], [], [], [5], [5], [5]]


def read_config(reader: ConfigReader) -> AutoencoderDC:
    head_dim = reader.positive_or("attention_head_dim", 32)
    image, latent = reader.positive_or("in_channels", 3), reader.positive_or("latent_channels", 32)
    shapes = {}
    for half, key, names in (
        ("encoder", "downsample_block_type", DOWN),
        ("decoder", "upsample_block_type", UP),
    ):
        reader.expect(key, *names)
        resize = names[reader.take_or(key, str, next(iter(names)))]
        shapes[half] = DCShape(stages=tuple(_stages(reader, half)), head_dim=head_dim, resize=resize)
    return AutoencoderDC(
        encoder=DCEncoder(
            shape=shapes["encoder"],
            image_channels=image,
            latent_channels=latent,
            has_shortcut=reader.flag("encoder_out_shortcut", True),
        ),
        decoder=DCDecoder(
            shape=shapes["decoder"],
            image_channels=image,
            latent_channels=latent,
            activation=reader.take_or("decoder_conv_act_fn", str, "relu"),
            has_shortcut=reader.flag("decoder_in_shortcut", True),
        ),
        scaling_factor=reader.factor("scaling_factor", 1.0),
        family=FAMILY.model_type,
    )


def _stages(reader: ConfigReader, half: str) -> Iterator[DCStage]:
    channels = reader.take_or(f"{half}_block_out_channels", list, CHANNELS)
    count = len(channels)
    channels = list(reader.counts(f"{half}_block_out_channels", tuple(channels)))
    depths = _per_stage(reader, f"{half}_layers_per_block", DEPTHS[half], count)
    if not all(type(depth) is int and depth >= 0 for depth in depths):
        key = f"{half}_layers_per_block"
        raise ConfigError(f"{reader.name}: key {key!r} must hold whole numbers >= 0, got {shown(depths)}")
    types = _chosen(reader, f"{half}_block_types", tuple(BLOCKS), "ResBlock", count)
    kernels = _per_stage(reader, f"{half}_qkv_multiscales", KERNELS, count)
    norms, activations = ["rms_norm"] * count, ["silu"] * count
    if half == "decoder":
        norms = _chosen(reader, "decoder_norm_types", NORMS, "rms_norm", count)
        activations = _chosen(reader, "decoder_act_fns", None, "silu", count)
    for i, depth in enumerate(depths):
        yield DCStage(
            channels=channels[i],
            depth=depth,
            attends=BLOCKS[types[i]],
            kernels=tuple(kernels[i]),
            norm=norms[i],  # type: ignore[arg-type]  # one of NORMS, as `_chosen` sees to
            activation=activations[i],
        )


def _per_stage(reader: ConfigReader, key: str, default: list[Any], count: int) -> list[Any]:
    """A list with an entry for each stage."""
    given = list(reader.take_or(key, list, default))
    if len(given) != count:
        raise ConfigError(f"{reader.name}: key {key!r} must hold {count} entries, got {shown(given)}")
    return given


def _chosen(
    reader: ConfigReader, key: str, known: tuple[str, ...] | None, default: str, count: int
) -> list[str]:
    """A name for each stage, of those that are `known` if any: a list of them, or one for all."""
    given = reader.values.get(key)
    if isinstance(given, list | tuple):
        names = _per_stage(reader, key, [], count)
    else:
        names = [reader.take_or(key, str, default)] * count
    if not all(isinstance(name, str) and (known is None or name in known) for name in names):
        expected = "names of activations" if known is None else f"some of {list(known)}"
        raise ConfigError(f"{reader.name}: key {key!r} must hold {expected}, got {shown(given)}")
    return names


def write_config(config: AutoencoderDC) -> dict[str, Any]:
    halves = {"encoder": config.encoder.shape, "decoder": config.decoder.shape}
    written: dict[str, Any] = {
        "_class_name": FAMILY.model_type,
        "attention_head_dim": halves["encoder"].head_dim,
        "decoder_act_fns": _together([stage.activation for stage in halves["decoder"].stages]),
        "decoder_conv_act_fn": config.decoder.activation,
        "decoder_in_shortcut": config.decoder.has_shortcut,
        "decoder_norm_types": _together([stage.norm for stage in halves["decoder"].stages]),
        "downsample_block_type": _name(DOWN, halves["encoder"].resize),
        "encoder_out_shortcut": config.encoder.has_shortcut,
        "in_channels": config.image_channels,
        "latent_channels": config.latent_channels,
        "scaling_factor": config.scaling_factor,
        "upsample_block_type": _name(UP, halves["decoder"].resize),
    }
    for half, shape in halves.items():
        stages = shape.stages
        written[f"{half}_block_out_channels"] = [stage.channels for stage in stages]
        written[f"{half}_block_types"] = _together([_name(BLOCKS, stage.attends) for stage in stages])
        written[f"{half}_layers_per_block"] = [stage.depth for stage in stages]
        written[f"{half}_qkv_multiscales"] = [list(stage.kernels) for stage in stages]
    return written


def _together(names: list[str]) -> str | list[str]:
    """What `_chosen` reads: one name where all stages have the same."""
    return names if len(set(names)) > 1 else names[0]


def _name(names: dict[str, Any], value: Any) -> str:
    return next(name for name, meant in names.items() if meant == value)


def named_weights(config: AutoencoderDC) -> tuple[Weight, ...]:
    return (
        *_half("encoder", config.encoder.shape, "down_blocks"),
        *_half("decoder", config.decoder.shape, "up_blocks"),
        *norm("decoder/norm_out", "decoder.norm_out"),
    )


def _half(half: str, shape: DCShape, blocks: str) -> Iterator[Weight]:
    for end, at_pixels in (("conv_in", half == "encoder"), ("conv_out", half == "decoder")):
        inner = ".conv" if at_pixels and shape.begins_inside else ""
        yield from affine(f"{half}/{end}/{{p}}", f"{half}.{end}{inner}")
    for i, stage in enumerate(shape.stages):
        theirs = f"{half}.{blocks}.{i}"
        # The layer that changes the size stands behind the blocks of the encoder, in front of the decoder's.
        first = 1 if half == "decoder" and i in shape.borders else 0
        resize = 0 if half == "decoder" else stage.depth
        yield from affine(f"{half}/resize/{i}/{{p}}", f"{theirs}.{resize}.conv")
        rows = _attending if stage.attends else _residual
        for j in range(stage.depth):
            yield from rows(f"{half}/stages/{i}/{j}", f"{theirs}.{first + j}", stage)


def _residual(ours: str, theirs: str, stage: DCStage) -> Iterator[Weight]:
    yield from affine(f"{ours}/conv_in/{{p}}", f"{theirs}.conv1")
    yield from affine(f"{ours}/conv_out/{{p}}", f"{theirs}.conv2")
    yield from _norm(f"{ours}/norm", f"{theirs}.norm")


def _attending(ours: str, theirs: str, stage: DCStage) -> Iterator[Weight]:
    attention, name = f"{ours}/attention", f"{theirs}.attn"
    yield from (Weight(f"{attention}/w_{part}", f"{name}.to_{part}.weight") for part in "qkv")
    for i in range(len(stage.kernels)):
        scale, scale_name = f"{attention}/scales/{i}", f"{name}.to_qkv_multiscale.{i}"
        yield Weight(f"{scale}/neighbours/w", f"{scale_name}.proj_in.weight")
        yield Weight(f"{scale}/mix/w", f"{scale_name}.proj_out.weight")
    yield Weight(f"{attention}/w_o", f"{name}.to_out.weight")
    yield from _norm(f"{attention}/norm", f"{name}.norm_out")
    for layer, conv in (("expand", "inverted"), ("depthwise", "depth"), ("point", "point")):
        yield from affine(f"{ours}/ffn/{layer}/{{p}}", f"{theirs}.conv_out.conv_{conv}")
    yield from norm(f"{ours}/ffn_norm", f"{theirs}.conv_out.norm")


def _norm(ours: str, theirs: str) -> Iterator[Weight]:
    """The rows of any of `NORMS`."""
    yield from norm(ours, theirs)
    yield Weight(f"{ours}/mean", f"{theirs}.running_mean")
    yield Weight(f"{ours}/variance", f"{theirs}.running_var")


FAMILY = Family(
    model_type="AutoencoderDC",
    summary="the deep compression autoencoders of Sana",
    read_config=read_config,
    write_config=write_config,
    weights=(),
    # How many batches a norm saw in training.
    unused=(r".+\.num_batches_tracked",),
    named_weights=named_weights,
)
