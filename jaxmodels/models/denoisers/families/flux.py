"""Flux as `diffusers` stores it (`FluxTransformer2DModel`), whose pipeline cuts canvases into patches."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.condition import ProjectedModulation
from jaxmodels.layers.joint_attention import JointAttention
from jaxmodels.layers.mlp import MLP
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.rope_axes import AxesRope
from jaxmodels.layers.timestep import TimestepEmbedding
from jaxmodels.models.denoisers import parts, weight_rows
from jaxmodels.models.denoisers.flux import Flux
from jaxmodels.models.denoisers.joint_block import SINGLE_PARTS, JointBlock, SingleBlock
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.denoisers.text_conditioner import TextConditioner
from jaxmodels.models.denoisers.text_projection import TextProjection
from jaxmodels.models.denoisers.weight_rows import affine
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader

# Height and width of the pipeline's patches, whose numbers it orders by channel, row and column. Times are
# sigmas, embedded as thousandths.
PATCH, TIME_SCALE = 2, 1000.0

SINGLE = "single_transformer_blocks.{i}."
WEIGHTS = (
    *affine("patches/{p}", "x_embedder", "d (c p q) -> d p q c"),
    *affine("out/{p}", "proj_out", "(c p q) d -> p q c d", "(c p q) -> p q c"),
    *weight_rows.embed_mlp("conditioner/time", "time_text_embed.timestep_embedder"),
    *weight_rows.embed_mlp("conditioner/guidance", "time_text_embed.guidance_embedder"),
    *weight_rows.embed_mlp("conditioner/text", "time_text_embed.text_embedder"),
    *affine("context/{p}", "context_embedder"),
    *weight_rows.joint_block("blocks/{i}", "transformer_blocks.{i}."),
    *weight_rows.modulation("final_norm/modulation", "norm_out.linear"),
)
SINGLE_WEIGHTS = (
    *weight_rows.modulation("single_blocks/{i}/modulation", SINGLE + "norm.linear"),
    *weight_rows.attention_inputs("single_blocks/{i}/mixer", SINGLE + "attn."),
    *affine("single_blocks/{i}/ffn/{p}_up", SINGLE + "proj_mlp"),
    # One projection of what attention and feed-forward give, side by side.
    Weight("single_blocks/{i}/mixer/w_o", SINGLE + "proj_out.weight", "d (n h) -> d n h", along=1),
    Weight("single_blocks/{i}/ffn/w_down", SINGLE + "proj_out.weight", along=1),
    Weight("single_blocks/{i}/ffn/b_down", SINGLE + "proj_out.bias"),
)


def read_config(reader: ConfigReader) -> Flux:
    reader.expect("patch_size", 1)
    num_heads = reader.positive_or("num_attention_heads", 24)
    head_dim = reader.positive_or("attention_head_dim", 128)
    axes = reader.counts("axes_dims_rope", (16, 56, 56))
    if sum(axes) != head_dim:
        raise ConfigError(
            f"{reader.name}: key 'axes_dims_rope' must add up to 'attention_head_dim' = {head_dim}, "
            f"got {axes}"
        )
    d_model, rope = num_heads * head_dim, AxesRope(axes=axes)
    packed_in = reader.positive_or("in_channels", 64)
    packed_out = reader.positive_or("out_channels", packed_in)
    for key, value in (("in_channels", packed_in), ("out_channels", packed_out)):
        if value % PATCH**2:
            raise ConfigError(
                f"{reader.name}: key {key!r} must be a multiple of {PATCH**2}, the numbers of a patch of "
                f"{PATCH} x {PATCH} per channel, got {value}"
            )
    norm = RMSNorm(dim=head_dim, eps=parts.EPS, axis=None)
    attention = replace(parts.plain_attention(num_heads, head_dim, norm), rope=rope)
    ffn = MLP(d_model=d_model, d_ff=4 * d_model, activation="gelu_new")
    outer = parts.bare_norm(d_model)
    made = ProjectedModulation(d_model=d_model, d_condition=d_model)
    double = JointBlock(
        norm=outer,
        mixer=JointAttention(stream=attention, context=attention),
        ffn=ffn,
        context_ffn=ffn,
        modulation=made,
        context_modulation=made,
    )
    single = SingleBlock(
        norm=outer,
        mixer=replace(attention, out_bias=False),
        ffn=ffn,
        modulation=replace(made, parts=SINGLE_PARTS),
    )
    return Flux(
        projections=PatchProjections(
            d_model=d_model,
            patch=PATCH,
            in_channels=packed_in // PATCH**2,
            out_channels=packed_out // PATCH**2,
        ),
        text=TextProjection(d_model=d_model, width=reader.positive_or("joint_attention_dim", 4096)),
        conditioner=TextConditioner(
            time=TimestepEmbedding(d_model=d_model),
            pooled_width=reader.positive_or("pooled_projection_dim", 768),
            guided=reader.flag("guidance_embeds", False),
            time_scale=TIME_SCALE,
            guidance_scale=TIME_SCALE,
        ),
        rope=rope,
        blocks=(double,) * reader.positive_or("num_layers", 19),
        single_blocks=(single,) * reader.positive_or("num_single_layers", 38),
        final_norm=parts.final_norm(d_model),
        family=FAMILY.model_type,
    )


def write_config(config: Flux) -> dict[str, Any]:
    attention = config.blocks[0].mixer.stream
    return {
        "_class_name": FAMILY.model_type,
        "attention_head_dim": attention.head_dim,
        "axes_dims_rope": list(config.rope.axes),
        "guidance_embeds": config.conditioner.guided,
        "in_channels": config.projections.in_channels * PATCH**2,
        "joint_attention_dim": config.text.width,
        "num_attention_heads": attention.num_heads,
        "num_layers": len(config.blocks),
        "num_single_layers": len(config.single_blocks),
        "out_channels": config.projections.out_channels * PATCH**2,
        "patch_size": 1,
        "pooled_projection_dim": config.conditioner.pooled_width,
    }


def single_rows(config: Flux) -> tuple[Weight, ...]:
    """The rows of the single blocks, which are numbered from 0 as the double ones are."""
    return tuple(row.at(i) for i in range(len(config.single_blocks)) for row in SINGLE_WEIGHTS)


FAMILY = Family(
    model_type="FluxTransformer2DModel",
    summary="Flux",
    read_config=read_config,
    write_config=write_config,
    weights=WEIGHTS,
    named_weights=single_rows,
)
