"""DiT as `diffusers` stores it (`DiTTransformer2DModel`): a conditioner in each block, and frequencies of its
own."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import MLP
from jaxmodels.layers.norm import LayerNorm
from jaxmodels.models.denoisers import parts, weight_rows
from jaxmodels.models.denoisers.dit import DiT, dit, dit_block
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.denoisers.weight_rows import affine
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigReader

# Times are embedded with this shift of frequencies, which no configuration says.
FREQ_SHIFT = 1.0

BLOCK = "transformer_blocks.{i}."
EMBEDDERS = BLOCK + "norm1.emb."
WEIGHTS = (
    *weight_rows.ends("pos_embed.proj", "proj_out_2"),
    *weight_rows.embed_mlp("conditioners/{i}/time", EMBEDDERS + "timestep_embedder"),
    Weight("conditioners/{i}/classes/weight", EMBEDDERS + "class_embedder.embedding_table.weight"),
    *weight_rows.modulation("blocks/{i}/modulation", BLOCK + "norm1.linear"),
    *weight_rows.attention("blocks/{i}/mixer", BLOCK + "attn1."),
    Weight("blocks/{i}/ffn_norm/scale", BLOCK + "norm3.weight"),
    Weight("blocks/{i}/ffn_norm/bias", BLOCK + "norm3.bias"),
    *affine("blocks/{i}/ffn/{p}_up", BLOCK + "ff.net.0.proj"),
    *affine("blocks/{i}/ffn/{p}_down", BLOCK + "ff.net.2"),
    *weight_rows.modulation("final_norm/modulation", "proj_out_1"),
)


def read_config(reader: ConfigReader) -> DiT:
    reader.expect("norm_type", "ada_norm_zero")
    reader.expect("activation_fn", *parts.ACTIVATIONS)
    num_heads = reader.positive_or("num_attention_heads", 16)
    head_dim = reader.positive_or("attention_head_dim", 72)
    d_model, in_channels = num_heads * head_dim, reader.positive_or("in_channels", 4)
    learned, eps = reader.flag("norm_elementwise_affine", False), reader.epsilon("norm_eps", 1e-5)
    activation = parts.ACTIVATIONS[reader.take_or("activation_fn", str, "gelu-approximate")]
    attention = parts.plain_attention(num_heads, head_dim)
    block = replace(
        dit_block(num_heads, head_dim, 4 * d_model),
        mixer=replace(attention, qkv_bias=reader.flag("attention_bias", True)),
        ffn_norm=LayerNorm(dim=d_model, eps=eps, scale=learned, bias=learned),
        ffn=MLP(d_model=d_model, d_ff=4 * d_model, activation=activation),
    )
    return dit(
        block,
        reader.positive_or("num_layers", 28),
        sample_size=reader.positive_or("sample_size", 32),
        projections=PatchProjections(
            d_model=d_model,
            patch=reader.positive_or("patch_size", 2),
            in_channels=in_channels,
            out_channels=reader.positive_or("out_channels", in_channels),
        ),
        num_classes=reader.positive_or("num_embeds_ada_norm", 1000),
        freq_shift=FREQ_SHIFT,
        own_conditioners=True,
        family=FAMILY.model_type,
    )


def write_config(config: DiT) -> dict[str, Any]:
    block = config.blocks[0]
    attention, ffn, norm = block.mixer, block.ffn, block.ffn_norm
    assert isinstance(attention, Attention) and isinstance(ffn, MLP) and isinstance(norm, LayerNorm)
    return {
        "_class_name": FAMILY.model_type,
        "activation_fn": parts.activation_name(ffn.activation),
        "attention_bias": attention.qkv_bias,
        "attention_head_dim": attention.head_dim,
        "in_channels": config.projections.in_channels,
        "norm_elementwise_affine": norm.scale,
        "norm_eps": norm.eps,
        "norm_type": "ada_norm_zero",
        "num_attention_heads": attention.num_heads,
        "num_embeds_ada_norm": config.conditioner.num_classes,
        "num_layers": len(config.blocks),
        "out_channels": config.projections.out_channels,
        "patch_size": config.projections.patch,
        "sample_size": config.sample_size,
    }


# Group norms are of other kinds of block, and the softmax is taken in float32 in any case.
FAMILY = Family(
    model_type="DiTTransformer2DModel",
    summary="DiT, as diffusers has it",
    read_config=read_config,
    write_config=write_config,
    weights=WEIGHTS,
    inert=("norm_num_groups", "upcast_attention", "cross_attention_dim", *parts.OLDER_KEYS),
)
