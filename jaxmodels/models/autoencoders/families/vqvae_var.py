"""VAR's autoencoder in the names of its authors' code (https://github.com/FoundationVision/VAR, class
``VQVAE``).

The keys are the arguments of that class, with those that it hands on to its halves: ``ch_mult``,
``in_channels``, ``num_res_blocks``, ``using_sa``, ``using_mid_sa``, and ``num_groups`` of the norms.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from jaxmodels.models.autoencoders import weight_rows
from jaxmodels.models.autoencoders.multi_scale import MultiScaleVQ
from jaxmodels.models.autoencoders.pyramid import Pyramid
from jaxmodels.models.autoencoders.stages import Shape, Stage
from jaxmodels.models.denoisers.weight_rows import affine
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader

CHANNELS = (1, 1, 2, 2, 4)
SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
# Of its training; and the convolutions that all scales share, which decides their names: 0 for none.
NOTES = ("beta", "dropout")
SHARED = "share_quant_resi"


def read_config(reader: ConfigReader) -> MultiScaleVQ:
    reader.expect("using_znorm", False)
    base, sides = reader.positive_or("ch", 128), _list(reader, "v_patch_nums", SIDES)
    channels = tuple(base * times for times in _list(reader, "ch_mult", CHANNELS))
    attends = (False,) * (len(channels) - 1) + (reader.flag("using_sa", True),)
    share = reader.take_or("quant_resi", float, 0.5)
    if not -1 <= share <= 1:
        raise ConfigError(f"{reader.name}: key 'quant_resi' must be from -1 to 1, got {share}")
    shared = reader.take_or(SHARED, int, 4)
    reader.consume(*NOTES)
    return MultiScaleVQ(
        image_channels=reader.positive_or("in_channels", 3),
        shape=Shape(
            channels=channels,
            blocks_per_stage=reader.positive_or("num_res_blocks", 2),
            attends=attends,
            middle_attends=reader.flag("using_mid_sa", True),
            num_groups=reader.positive_or("num_groups", 32),
        ),
        pyramid=Pyramid(
            sides=sides,
            num_codes=reader.positive_or("vocab_size", 4096),
            code_width=reader.positive_or("z_channels", 32),
            num_refinements=(shared or len(sides)) if abs(share) > 1e-6 else 0,
            refinement_share=abs(share),
        ),
        kernel=reader.positive_or("quant_conv_ks", 3),
        family=FAMILY.model_type,
        notes=(
            *((key, reader.values[key]) for key in NOTES if key in reader.values),
            (SHARED, shared),
        ),
    )


def _list(reader: ConfigReader, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """Whole numbers from 1 on, of whatever count."""
    return reader.counts(key, tuple(reader.take_or(key, list, list(default))))


def write_config(config: MultiScaleVQ) -> dict[str, Any]:
    pyramid, shape = config.pyramid, config.shape
    base = shape.channels[0]
    return {
        "_class_name": FAMILY.model_type,
        "ch": base,
        "ch_mult": [channels // base for channels in shape.channels],
        "in_channels": config.image_channels,
        "num_groups": shape.num_groups,
        "num_res_blocks": shape.blocks_per_stage,
        "quant_conv_ks": config.kernel,
        "quant_resi": pyramid.refinement_share,
        SHARED: pyramid.num_refinements,
        "using_mid_sa": shape.middle_attends,
        "using_sa": shape.attends[-1],
        "v_patch_nums": list(pyramid.sides),
        "vocab_size": pyramid.num_codes,
        "z_channels": pyramid.code_width,
        **dict(config.notes),
    }


def named_weights(config: MultiScaleVQ) -> tuple[Weight, ...]:
    stages = len(config.shape.channels)
    return (
        *_half("encoder", "down", config.encoder.stages, list(range(stages)), "downsample"),
        *affine("to_code/{p}", "quant_conv"),
        Weight("codebook/weight", "quantize.embedding.weight"),
        *_refinements(config),
        *affine("from_code/{p}", "post_quant_conv"),
        *_half("decoder", "up", config.decoder.stages, list(reversed(range(stages))), "upsample"),
    )


def _refinements(config: MultiScaleVQ) -> Iterator[Weight]:
    shared = dict(config.notes).get(SHARED, config.pyramid.num_refinements)
    for i in range(config.pyramid.num_refinements):
        theirs = {0: f"{i}", 1: "qresi"}.get(shared, f"qresi_ls.{i}")
        yield from affine(f"refine/{i}/{{p}}", f"quantize.quant_resi.{theirs}")


def _half(
    half: str, name: str, stages: tuple[Stage, ...], numbers: list[int], resizer: str
) -> Iterator[Weight]:
    for end in ("conv_in", "conv_out"):
        yield from affine(f"{half}/{end}/{{p}}", f"{half}.{end}")
    yield from weight_rows.norm(f"{half}/norm_out", f"{half}.norm_out")
    for i in range(2):
        yield from _block(f"{half}/middle/blocks/{i}", f"{half}.mid.block_{i + 1}")
    yield from _attention(f"{half}/middle/attentions/0", f"{half}.mid.attn_1")
    for i, (stage, number) in enumerate(zip(stages, numbers, strict=True)):
        ours, theirs = f"{half}/stages/{i}", f"{half}.{name}.{number}"
        for j in range(len(stage.blocks)):
            yield from _block(f"{ours}/blocks/{j}", f"{theirs}.block.{j}")
            yield from _attention(f"{ours}/attentions/{j}", f"{theirs}.attn.{j}")
        yield from affine(f"{half}/resize/{i}/{{p}}", f"{theirs}.{resizer}.conv")


def _block(ours: str, theirs: str) -> Iterator[Weight]:
    for end, number in (("in", 1), ("out", 2)):
        yield from weight_rows.norm(f"{ours}/norm_{end}", f"{theirs}.norm{number}")
        yield from affine(f"{ours}/conv_{end}/{{p}}", f"{theirs}.conv{number}")
    yield from affine(f"{ours}/skip/{{p}}", f"{theirs}.nin_shortcut")


def _attention(ours: str, theirs: str) -> Iterator[Weight]:
    """Its projections are convolutions of single places."""
    yield from weight_rows.norm(f"{ours}/norm", f"{theirs}.norm")
    inputs = (
        affine(f"{ours}/attention/{{p}}_{part}", f"{theirs}.qkv", "(n h) d 1 1 -> n h d", "(n h) -> n h")
        for part in "qkv"
    )
    yield from chain(*inputs)
    yield from affine(f"{ours}/attention/{{p}}_o", f"{theirs}.proj_out", "d (n h) 1 1 -> d n h")


FAMILY = Family(
    model_type="VQVAE",
    summary="VAR's autoencoders of several scales",
    read_config=read_config,
    write_config=write_config,
    weights=(),
    named_weights=named_weights,
    unused=(r"quantize\.ema_vocab_hit_SV",),
    inert=("default_qresi_counts", "test_mode"),
)
