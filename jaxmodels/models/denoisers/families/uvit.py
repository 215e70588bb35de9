"""U-ViT under the names of its official code, whose arguments are the configuration
(https://github.com/baofff/U-ViT)."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.conv2d import Conv2D
from jaxmodels.layers.mlp import MLP
from jaxmodels.layers.norm import LayerNorm
from jaxmodels.models.denoisers import parts, weight_rows
from jaxmodels.models.denoisers.class_table import ClassTable
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.denoisers.skip_block import SkipBlock
from jaxmodels.models.denoisers.uvit import UViT
from jaxmodels.models.denoisers.weight_rows import affine
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense

# Of its norms, which no configuration says, and how much wider the projection of the time is inside.
EPS, TIME_FACTOR = 1e-5, 4

WEIGHTS = (
    *weight_rows.ends("patch_embed.proj", "decoder_pred"),
    Weight("positions/weight", "pos_embed", "1 s d -> s d"),
    Weight("classes/weight", "label_emb.weight"),
    *affine("time/{p}_up", "time_embed.0"),
    *affine("time/{p}_down", "time_embed.2"),
    *dense.layer_norm_rows("final_norm", "norm"),
    *affine("smoothing/{p}", "final_layer"),
)


def read_config(reader: ConfigReader) -> UViT:
    reader.expect("skip", True)
    reader.expect("qk_scale", None)
    d_model, num_heads = reader.positive_or("embed_dim", 768), reader.positive_or("num_heads", 12)
    reader.check_divides("num_heads", num_heads, "embed_dim", d_model)
    depth, channels = reader.positive_or("depth", 12), reader.positive_or("in_chans", 3)
    if d_model % 2 or depth % 2:
        key, value = ("embed_dim", d_model) if d_model % 2 else ("depth", depth)
        raise ConfigError(f"{reader.name}: key {key!r} must be even, got {value}")
    attention = parts.plain_attention(num_heads, d_model // num_heads)
    norm = LayerNorm(dim=d_model, eps=EPS)
    block = SkipBlock(
        mixer_norm=norm,
        mixer=replace(attention, qkv_bias=reader.flag("qkv_bias", False)),
        ffn_norm=norm,
        ffn=MLP(d_model=d_model, d_ff=int(d_model * reader.factor("mlp_ratio", 4.0))),
    )
    half, time = depth // 2, MLP(d_model=d_model, d_ff=TIME_FACTOR * d_model, activation="silu")
    return UViT(
        sample_size=reader.positive_or("img_size", 224),
        projections=PatchProjections(
            d_model=d_model,
            patch=reader.positive_or("patch_size", 16),
            in_channels=channels,
            out_channels=channels,
        ),
        classes=_read_classes(reader, d_model),
        time=time if reader.flag("mlp_time_embed", False) else None,
        blocks=(block,) * (half + 1) + (replace(block, joins=True),) * half,
        final_norm=norm,
        smoothing=Conv2D(in_channels=channels, out_channels=channels) if reader.flag("conv", True) else None,
        family=FAMILY.model_type,
    )


def _read_classes(reader: ConfigReader, d_model: int) -> ClassTable | None:
    if reader.values.get("num_classes") == -1:
        reader.consume("num_classes")
        return None
    rows = reader.count("num_classes")
    return None if rows is None else ClassTable(num_rows=rows, d_model=d_model)


def write_config(config: UViT) -> dict[str, Any]:
    block = config.blocks[0]
    attention, ffn = block.mixer, block.ffn
    assert isinstance(attention, Attention) and isinstance(ffn, MLP)
    return {
        "_class_name": FAMILY.model_type,
        "conv": config.smoothing is not None,
        "depth": len(config.blocks) - 1,
        "embed_dim": config.projections.d_model,
        "img_size": config.sample_size,
        "in_chans": config.projections.in_channels,
        "mlp_ratio": ffn.d_ff / config.projections.d_model,
        "mlp_time_embed": config.time is not None,
        "num_classes": -1 if config.classes is None else config.classes.num_rows,
        "num_heads": attention.num_heads,
        "patch_size": config.projections.patch,
        "qkv_bias": attention.qkv_bias,
    }


def block_rows(config: UViT) -> tuple[Weight, ...]:
    """The rows of the blocks, whose names tell the first half, the middle one and the second half apart."""
    half = len(config.blocks) // 2
    names = [f"in_blocks.{i}." for i in range(half)]
    names += ["mid_block.", *(f"out_blocks.{i}." for i in range(half))]
    return tuple(
        row
        for i, name in enumerate(names)
        for row in (
            *weight_rows.vit_block(f"blocks/{i}", name),
            *affine(f"blocks/{i}/skip/{{p}}", f"{name}skip_linear"),
        )
    )


# Checkpoints of activations are no part of a forward pass.
FAMILY = Family(
    model_type="UViT",
    summary="U-ViT, as its official code has it",
    read_config=read_config,
    write_config=write_config,
    weights=WEIGHTS,
    named_weights=block_rows,
    inert=("use_checkpoint",),
)
