"""Stable Diffusion 3 and 3.5 as `diffusers` stores them (`SD3Transformer2DModel`)."""

from typing import Any

from jaxmodels.layers.condition import BLOCK_PARTS, ProjectedModulation
from jaxmodels.layers.joint_attention import JointAttention
from jaxmodels.layers.mlp import MLP
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.timestep import TimestepEmbedding
from jaxmodels.models.denoisers import parts, weight_rows
from jaxmodels.models.denoisers.joint_block import SECOND_PARTS, JointBlock
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.denoisers.sd3 import SD3
from jaxmodels.models.denoisers.text_conditioner import TextConditioner
from jaxmodels.models.denoisers.text_projection import TextProjection
from jaxmodels.models.denoisers.weight_rows import affine
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigReader

BLOCK = "transformer_blocks.{i}."
WEIGHTS = (
    *weight_rows.ends("pos_embed.proj", "proj_out"),
    Weight("positions/weight", "pos_embed.pos_embed", "1 (r c) d -> r c d"),
    *weight_rows.embed_mlp("conditioner/time", "time_text_embed.timestep_embedder"),
    *weight_rows.embed_mlp("conditioner/text", "time_text_embed.text_embedder"),
    *affine("context/{p}", "context_embedder"),
    *weight_rows.joint_block("blocks/{i}", BLOCK),
    *weight_rows.attention("blocks/{i}/second", BLOCK + "attn2."),
    *weight_rows.modulation("final_norm/modulation", "norm_out.linear"),
)


def read_config(reader: ConfigReader) -> SD3:
    reader.expect("qk_norm", None, "rms_norm")
    num_heads = reader.positive_or("num_attention_heads", 18)
    head_dim = reader.positive_or("attention_head_dim", 64)
    d_model, count = num_heads * head_dim, reader.positive_or("num_layers", 18)
    reader.expect_same("caption_projection_dim", "num_attention_heads * attention_head_dim", d_model)
    norm = RMSNorm(dim=head_dim, eps=parts.EPS, axis=None) if reader.values.get("qk_norm") else None
    dual = reader.indices("dual_attention_layers", count, [])
    in_channels = reader.positive_or("in_channels", 16)
    return SD3(
        sample_size=reader.positive_or("sample_size", 128),
        max_positions=reader.positive_or("pos_embed_max_size", 96),
        projections=PatchProjections(
            d_model=d_model,
            patch=reader.positive_or("patch_size", 2),
            in_channels=in_channels,
            # null is as many as come in, absent are the sixteen of the published models
            out_channels=reader.nullable("out_channels", int, 16) or in_channels,
        ),
        text=TextProjection(d_model=d_model, width=reader.positive_or("joint_attention_dim", 4096)),
        conditioner=TextConditioner(
            time=TimestepEmbedding(d_model=d_model),
            pooled_width=reader.positive_or("pooled_projection_dim", 2048),
        ),
        blocks=tuple(
            joint_block(num_heads, head_dim, norm, second=i in dual, ends=i == count - 1)
            for i in range(count)
        ),
        final_norm=parts.final_norm(d_model),
        family=FAMILY.model_type,
    )


def joint_block(
    num_heads: int, head_dim: int, qk_norm: RMSNorm | None, *, second: bool, ends: bool
) -> JointBlock:
    """One block. second: with an attention of the stream to itself; ends: the last to read the context."""
    d_model = num_heads * head_dim
    attention = parts.plain_attention(num_heads, head_dim, qk_norm)
    ffn = MLP(d_model=d_model, d_ff=4 * d_model, activation="gelu_new")
    own_parts = (*BLOCK_PARTS, *SECOND_PARTS) if second else BLOCK_PARTS
    made = ProjectedModulation(d_model=d_model, d_condition=d_model, parts=own_parts)
    context_parts = parts.LAST_PARTS if ends else BLOCK_PARTS
    return JointBlock(
        norm=parts.bare_norm(d_model),
        mixer=JointAttention(stream=attention, context=attention, ends_context=ends),
        second=attention if second else None,
        ffn=ffn,
        context_ffn=None if ends else ffn,
        modulation=made,
        context_modulation=ProjectedModulation(d_model=d_model, d_condition=d_model, parts=context_parts),
    )


def write_config(config: SD3) -> dict[str, Any]:
    attention = config.blocks[0].mixer.stream
    return {
        "_class_name": FAMILY.model_type,
        "attention_head_dim": attention.head_dim,
        "caption_projection_dim": config.projections.d_model,
        "dual_attention_layers": [i for i, block in enumerate(config.blocks) if block.second is not None],
        "in_channels": config.projections.in_channels,
        "joint_attention_dim": config.text.width,
        "num_attention_heads": attention.num_heads,
        "num_layers": len(config.blocks),
        "out_channels": config.projections.out_channels,
        "patch_size": config.projections.patch,
        "pooled_projection_dim": config.conditioner.pooled_width,
        "pos_embed_max_size": config.max_positions,
        "qk_norm": None if attention.query_norm is None else "rms_norm",
        "sample_size": config.sample_size,
    }


FAMILY = Family(
    model_type="SD3Transformer2DModel",
    summary="Stable Diffusion 3 and 3.5",
    read_config=read_config,
    write_config=write_config,
    weights=WEIGHTS,
)
