"""DiT and SiT under the names of their official code, whose arguments are the configuration
(https://github.com/facebookresearch/DiT, https://github.com/willisma/SiT)."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import MLP
from jaxmodels.models.denoisers import weight_rows
from jaxmodels.models.denoisers.dit import DiT, dit, dit_block
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.denoisers.weight_rows import HEAD_BIAS, HEADS, affine
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigError, ConfigReader

BLOCK = "blocks.{i}."
WEIGHTS = (
    *weight_rows.ends("x_embedder.proj", "final_layer.linear"),
    *weight_rows.class_conditioner("conditioners/0"),
    *weight_rows.modulation("blocks/{i}/modulation", BLOCK + "adaLN_modulation.1"),
    *affine("blocks/{i}/mixer/{p}_q", BLOCK + "attn.qkv", HEADS, HEAD_BIAS),
    *affine("blocks/{i}/mixer/{p}_k", BLOCK + "attn.qkv", HEADS, HEAD_BIAS),
    *affine("blocks/{i}/mixer/{p}_v", BLOCK + "attn.qkv", HEADS, HEAD_BIAS),
    *affine("blocks/{i}/mixer/{p}_o", BLOCK + "attn.proj", "d (n h) -> d n h"),
    *affine("blocks/{i}/ffn/{p}_up", BLOCK + "mlp.fc1"),
    *affine("blocks/{i}/ffn/{p}_down", BLOCK + "mlp.fc2"),
    *weight_rows.modulation("final_norm/modulation", "final_layer.adaLN_modulation.1"),
)


def read_config(reader: ConfigReader) -> DiT:
    d_model, num_heads = reader.positive_or("hidden_size", 1152), reader.positive_or("num_heads", 16)
    reader.check_divides("num_heads", num_heads, "hidden_size", d_model)
    in_channels, ratio = reader.positive_or("in_channels", 4), reader.factor("mlp_ratio", 4.0)
    if reader.take_or("class_dropout_prob", float, 0.1) <= 0:
        raise ConfigError(
            f"{reader.name}: key 'class_dropout_prob' is 0, so that the table of classes has no row for no "
            "class; it must be above 0"
        )
    return dit(
        dit_block(num_heads, d_model // num_heads, int(d_model * ratio)),
        reader.positive_or("depth", 28),
        sample_size=reader.positive_or("input_size", 32),
        projections=PatchProjections(
            d_model=d_model,
            patch=reader.positive_or("patch_size", 2),
            in_channels=in_channels,
            out_channels=in_channels * (2 if reader.flag("learn_sigma", True) else 1),
        ),
        num_classes=reader.positive_or("num_classes", 1000),
        family=FAMILY.model_type,
    )


def write_config(config: DiT) -> dict[str, Any]:
    attention, ffn = config.blocks[0].mixer, config.blocks[0].ffn
    assert isinstance(attention, Attention) and isinstance(ffn, MLP)
    return {
        "_class_name": FAMILY.model_type,
        "depth": len(config.blocks),
        "hidden_size": config.projections.d_model,
        "in_channels": config.projections.in_channels,
        "input_size": config.sample_size,
        "learn_sigma": config.projections.out_channels == 2 * config.projections.in_channels,
        "mlp_ratio": ffn.d_ff / config.projections.d_model,
        "num_classes": config.conditioner.num_classes,
        "num_heads": attention.num_heads,
        "patch_size": config.projections.patch,
    }


# The embedding of positions is stored, and computed alike.
FAMILY = Family(
    model_type="DiT",
    summary="DiT, as its official code has it",
    read_config=read_config,
    write_config=write_config,
    weights=WEIGHTS,
    unused=("pos_embed",),
)

# Neither shortcut models nor MeanFlow have published files of this kind. The name of the second embedding is
# the one that MeanFlow's code has for the time between the two ends of a step.
FLOW_MAP = replace(
    FAMILY,
    model_type="FlowMapDiT",
    summary="DiT that goes by two times, as models of few steps do",
    read_config=lambda reader: _with_second_time(read_config(reader)),
    write_config=lambda config: write_config(config) | {"_class_name": "FlowMapDiT"},
    weights=(
        *WEIGHTS,
        *affine("conditioners/0/second/{p}_in", "h_embedder.mlp.0"),
        *affine("conditioners/0/second/{p}_out", "h_embedder.mlp.2"),
    ),
)

SIT = replace(
    FAMILY,
    model_type="SiT",
    summary="SiT, as its official code has it: DiT that predicts a velocity",
    read_config=lambda reader: replace(read_config(reader), family="SiT"),
    write_config=lambda config: write_config(config) | {"_class_name": "SiT"},
)


def _with_second_time(config: DiT) -> DiT:
    conditioner = replace(config.conditioner, second=config.conditioner.time)
    return replace(config, conditioner=conditioner, family="FlowMapDiT")
