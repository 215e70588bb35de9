"""Z-Image as `diffusers` stores it (`ZImageTransformer2DModel`)."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.condition import AdaptiveNorm, ProjectedModulation
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.rope_axes import AxesRope
from jaxmodels.layers.timestep import TimestepEmbedding
from jaxmodels.models.denoisers import parts, weight_rows
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.denoisers.sandwich_block import SANDWICH_PARTS, SandwichBlock
from jaxmodels.models.denoisers.text_projection import TextProjection
from jaxmodels.models.denoisers.weight_rows import affine
from jaxmodels.models.denoisers.z_image import ZImage
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader

# What no configuration says: the widest condition, the width inside the embedding of times, and the eps of
# queries' and keys' norms.
WIDEST, INSIDE, QK_EPS = 256, 1024, 1e-5


def read_config(reader: ConfigReader) -> ZImage:
    reader.expect("all_f_patch_size", [1], (1,))
    reader.expect("siglip_feat_dim", None)
    (patch,) = reader.counts("all_patch_size", (2,))
    d_model, num_heads = reader.positive_or("dim", 3840), reader.positive_or("n_heads", 30)
    reader.check_divides("n_heads", num_heads, "dim", d_model)
    axes, head_dim = reader.counts("axes_dims", (32, 48, 48)), d_model // num_heads
    if sum(axes) != head_dim:
        raise ConfigError(
            f"{reader.name}: key 'axes_dims' must add up to dim / n_heads = {head_dim}, got {axes}"
        )
    eps, channels = reader.epsilon("norm_eps", 1e-5), reader.positive_or("in_channels", 16)
    width = min(d_model, WIDEST)
    norm, rope = RMSNorm(dim=d_model, eps=eps), AxesRope(axes=axes, theta=reader.base("rope_theta", 256.0))
    qk_norm = RMSNorm(dim=head_dim, eps=QK_EPS, axis=None) if reader.flag("qk_norm", True) else None
    attention = replace(
        parts.plain_attention(num_heads, head_dim, qk_norm), rope=rope, qkv_bias=False, out_bias=False
    )
    made = ProjectedModulation(d_model=d_model, d_condition=width, parts=SANDWICH_PARTS, activation=None)
    block = SandwichBlock(
        mixer_norm=norm,
        mixer=attention,
        mixer_post_norm=norm,
        ffn_norm=norm,
        ffn=GatedMLP(d_model=d_model, d_ff=int(d_model / 3 * 8)),
        ffn_post_norm=norm,
        modulation=made,
    )
    refiners, caption = reader.positive_or("n_refiner_layers", 2), reader.positive_or("cap_feat_dim", 2560)
    lengths = reader.counts("axes_lens", (1024, 512, 512))
    return ZImage(
        projections=PatchProjections(
            d_model=d_model, patch=patch, in_channels=channels, out_channels=channels
        ),
        text_norm=RMSNorm(dim=caption, eps=eps, axis=None),
        text=TextProjection(d_model=d_model, width=caption),
        time=TimestepEmbedding(d_model=width, hidden=INSIDE),
        time_scale=reader.factor("t_scale", 1000.0),
        rope=rope,
        most_positions=(lengths[0], lengths[1], lengths[2]),
        context_refiners=(replace(block, modulation=None),) * refiners,
        refiners=(block,) * refiners,
        blocks=(block,) * reader.positive_or("n_layers", 30),
        final_norm=AdaptiveNorm(
            norm=parts.bare_norm(d_model),
            modulation=ProjectedModulation(d_model=d_model, d_condition=width, parts=("scale",)),
        ),
        family=FAMILY.model_type,
    )


def write_config(config: ZImage) -> dict[str, Any]:
    attention = config.blocks[0].mixer
    assert isinstance(attention, Attention)
    return {
        "_class_name": FAMILY.model_type,
        "all_f_patch_size": [1],
        "all_patch_size": [config.projections.patch],
        "axes_dims": list(config.rope.axes),
        "axes_lens": list(config.most_positions),
        "cap_feat_dim": config.text.width,
        "dim": config.projections.d_model,
        "in_channels": config.projections.in_channels,
        "n_heads": attention.num_heads,
        "n_layers": len(config.blocks),
        "n_refiner_layers": len(config.refiners),
        "norm_eps": config.text_norm.eps,
        "qk_norm": attention.query_norm is not None,
        "rope_theta": config.rope.theta,
        "t_scale": config.time_scale,
    }


def rows(config: ZImage) -> tuple[Weight, ...]:
    """All rows: names say the size of patches, and blocks of three kinds are numbered from 0 each."""
    size = f"{config.projections.patch}-1"
    kinds = {"blocks": "layers", "refiners": "noise_refiner", "context_refiners": "context_refiner"}
    numbered = (
        row
        for ours, theirs in kinds.items()
        for i in range(len(getattr(config, ours)))
        for row in _block(f"{ours}/{i}", f"{theirs}.{i}.")
    )
    return (
        *affine("patches/{p}", f"all_x_embedder.{size}", "d (p q c) -> d p q c"),
        *affine("out/{p}", f"all_final_layer.{size}.linear", "(p q c) d -> p q c d", "(p q c) -> p q c"),
        *weight_rows.modulation("final_norm/modulation", f"all_final_layer.{size}.adaLN_modulation.1"),
        *affine("time/{p}_in", "t_embedder.mlp.0"),
        *affine("time/{p}_out", "t_embedder.mlp.2"),
        Weight("text_norm/scale", "cap_embedder.0.weight"),
        *affine("text/{p}", "cap_embedder.1"),
        Weight("filling/text", "cap_pad_token", "1 d -> d"),
        Weight("filling/image", "x_pad_token", "1 d -> d"),
        *numbered,
    )


def _block(ours: str, theirs: str) -> tuple[Weight, ...]:
    norms = {"mixer_norm": "attention_norm1", "mixer_post_norm": "attention_norm2"}
    norms |= {"ffn_norm": "ffn_norm1", "ffn_post_norm": "ffn_norm2"}
    return (
        *weight_rows.modulation(f"{ours}/modulation", f"{theirs}adaLN_modulation.0"),
        *weight_rows.attention(f"{ours}/mixer", f"{theirs}attention."),
        *weight_rows.gated_mlp(f"{ours}/ffn", f"{theirs}feed_forward."),
        *(Weight(f"{ours}/{name}/scale", f"{theirs}{norm}.weight") for name, norm in norms.items()),
    )


# The class reads the number of key heads nowhere.
FAMILY = Family(
    model_type="ZImageTransformer2DModel",
    summary="Z-Image",
    read_config=read_config,
    write_config=write_config,
    weights=(),
    named_weights=rows,
    inert=("n_kv_heads",),
)
