"""DDT under the names of its official code, whose arguments are the configuration
(https://github.com/MCG-NJU/DDT)."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.condition import NORM_PARTS, ProjectedModulation
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.rope_axes import AxesRope
from jaxmodels.layers.timestep import TimestepEmbedding
from jaxmodels.models.adaptive_block import AdaptiveBlock
from jaxmodels.models.denoisers import parts, weight_rows
from jaxmodels.models.denoisers.class_conditioner import ClassConditioner
from jaxmodels.models.denoisers.ddt import DDT
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.denoisers.weight_rows import HEADS, affine
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader

# What no configuration says: the slowest frequency of times, which are from 0 (noise) to 1, and how far the
# positions of any canvas reach.
MAX_PERIOD, REACH = 10.0, 16.0

BLOCK = "blocks.{i}."
WEIGHTS = (
    *affine("patches/{p}", "x_embedder.proj", "d (c p q) -> d p q c"),
    *affine("encoder_patches/{p}", "s_embedder.proj", "d (c p q) -> d p q c"),
    *affine("out/{p}", "final_layer.linear", "(c p q) d -> p q c d", "(c p q) -> p q c"),
    *weight_rows.class_conditioner("conditioner"),
    *weight_rows.modulation("blocks/{i}/modulation", BLOCK + "adaLN_modulation.0"),
    Weight("blocks/{i}/mixer_norm/scale", BLOCK + "norm1.weight"),
    *(Weight(f"blocks/{{i}}/mixer/w_{part}", BLOCK + "attn.qkv.weight", HEADS) for part in "qkv"),
    Weight("blocks/{i}/mixer/query_norm/scale", BLOCK + "attn.q_norm.weight"),
    Weight("blocks/{i}/mixer/key_norm/scale", BLOCK + "attn.k_norm.weight"),
    *affine("blocks/{i}/mixer/{p}_o", BLOCK + "attn.proj", "d (n h) -> d n h"),
    Weight("blocks/{i}/ffn_norm/scale", BLOCK + "norm2.weight"),
    *weight_rows.gated_mlp("blocks/{i}/ffn", BLOCK + "mlp."),
    *weight_rows.modulation("final_norm/modulation", "final_layer.adaLN_modulation.0"),
)


def read_config(reader: ConfigReader) -> DDT:
    d_model, num_heads = reader.positive_or("hidden_size", 1152), reader.positive_or("num_groups", 12)
    reader.check_divides("num_groups", num_heads, "hidden_size", d_model)
    head_dim = d_model // num_heads
    if head_dim % 4:
        raise ConfigError(
            f"{reader.name}: key 'num_groups' is {num_heads}, which cuts the {d_model} features of "
            f"'hidden_size' into heads of {head_dim}; that must be a multiple of 4, as half of "
            "their pairs are turned by the column, half by the row"
        )
    rope = AxesRope(axes=(head_dim // 2, head_dim // 2), series="alternating")
    count, channels = reader.positive_or("num_blocks", 18), reader.positive_or("in_channels", 4)
    return DDT(
        projections=PatchProjections(
            d_model=d_model,
            patch=reader.positive_or("patch_size", 2),
            in_channels=channels,
            out_channels=channels,
        ),
        conditioner=ClassConditioner(
            time=TimestepEmbedding(d_model=d_model, max_period=MAX_PERIOD),
            num_classes=reader.positive_or("num_classes", 1000),
        ),
        rope=rope,
        reach=REACH,
        blocks=(ddt_block(num_heads, rope),) * count,
        num_encoder_blocks=reader.positive_or("num_encoder_blocks", 4),
        final_norm=parts.final_norm(d_model, NORM_PARTS, activation=None),
        family=FAMILY.model_type,
    )


def ddt_block(num_heads: int, rope: AxesRope) -> AdaptiveBlock:
    """One block; those of encoder and decoder are alike."""
    d_model, norm = num_heads * rope.rotary_dim, RMSNorm(dim=rope.rotary_dim, eps=parts.EPS, axis=None)
    mixer = replace(parts.plain_attention(num_heads, rope.rotary_dim, norm), rope=rope, qkv_bias=False)
    outer = RMSNorm(dim=d_model, eps=parts.EPS)
    return AdaptiveBlock(
        mixer_norm=outer,
        mixer=mixer,
        ffn_norm=outer,
        ffn=GatedMLP(d_model=d_model, d_ff=int(2 * (4 * d_model) / 3)),
        modulation=ProjectedModulation(d_model=d_model, d_condition=d_model, activation=None),
    )


def write_config(config: DDT) -> dict[str, Any]:
    attention = config.blocks[0].mixer
    assert isinstance(attention, Attention)
    return {
        "_class_name": FAMILY.model_type,
        "hidden_size": config.projections.d_model,
        "in_channels": config.projections.in_channels,
        "num_blocks": len(config.blocks),
        "num_classes": config.conditioner.num_classes,
        "num_encoder_blocks": config.num_encoder_blocks,
        "num_groups": attention.num_heads,
        "patch_size": config.projections.patch,
    }


# Published files are states of a training: the averaged weights are those that samples are made with, beside
# those that they average and what else was trained or frozen. The code predicts no variance whatever
# `learn_sigma` says, and reads `deep_supervision` nowhere.
FAMILY = Family(
    model_type="DDT",
    summary="DDT, as its official code has it",
    read_config=read_config,
    write_config=write_config,
    weights=WEIGHTS,
    renamed=((r"^ema_denoiser\.", ""),),
    unused=(r"denoiser\..*", r"vae\..*", r"diffusion_trainer\..*"),
    inert=("deep_supervision", "learn_sigma", "load_ema", "weight_path"),
)
