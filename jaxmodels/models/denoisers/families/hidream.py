"""HiDream as `diffusers` stores it (`HiDreamImageTransformer2DModel`)."""

from dataclasses import replace
from itertools import chain
from typing import Any

from jaxmodels.checks import shown
from jaxmodels.layers.condition import NORM_PARTS, ProjectedModulation
from jaxmodels.layers.joint_attention import JointAttention
from jaxmodels.layers.mlp import FeedForward, GatedMLP
from jaxmodels.layers.moe import GatedExperts, MoE, SoftmaxTopK
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.rope_axes import AxesRope
from jaxmodels.layers.timestep import TimestepEmbedding
from jaxmodels.models.denoisers import parts, weight_rows
from jaxmodels.models.denoisers.hidream import HiDream
from jaxmodels.models.denoisers.joint_block import JointBlock
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.denoisers.text_conditioner import TextConditioner
from jaxmodels.models.denoisers.text_projection import TextProjection
from jaxmodels.models.denoisers.tied_block import TiedBlock
from jaxmodels.models.denoisers.weight_rows import HEAD_BIAS, HEADS, affine
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import MOST_LAYERS, ConfigError, ConfigReader

# Of the norms of queries and keys, which no configuration says, and what feed-forwards are rounded up to.
QK_EPS, MULTIPLE = 1e-5, 256


def _attention(ours: str, theirs: str, suffix: str = "") -> tuple[Weight, ...]:
    inputs = (
        affine(f"{ours}/{{p}}_{part}", f"{theirs}to_{part}{suffix}", HEADS, HEAD_BIAS) for part in "qkv"
    )
    return (
        *chain(*inputs),
        *affine(f"{ours}/{{p}}_o", f"{theirs}to_out{suffix}", "d (n h) -> d n h"),
        Weight(f"{ours}/query_norm/scale", f"{theirs}q_rms_norm{suffix}.weight"),
        Weight(f"{ours}/key_norm/scale", f"{theirs}k_rms_norm{suffix}.weight"),
    )


def _feed_forward(ours: str, theirs: str) -> tuple[Weight, ...]:
    """The rows of a feed-forward, a mixture or a plain one."""
    return (
        Weight(f"{ours}/router/w", f"{theirs}gate.weight"),
        *weight_rows.gated_mlp(f"{ours}/experts", f"{theirs}experts.{{e}}.", "f d -> d f"),
        *weight_rows.gated_mlp(f"{ours}/shared", f"{theirs}shared_experts."),
        *weight_rows.gated_mlp(ours, theirs),
    )


DOUBLE = "double_stream_blocks.{i}.block."
SINGLE = "single_stream_blocks.{i}.block."
WEIGHTS = (
    *affine("patches/{p}", "x_embedder.proj", "d (p q c) -> d p q c"),
    *affine("out/{p}", "final_layer.linear", "(p q c) d -> p q c d", "(p q c) -> p q c"),
    *weight_rows.embed_mlp("conditioner/time", "t_embedder.timestep_embedder"),
    *weight_rows.embed_mlp("conditioner/text", "p_embedder.pooled_embedder"),
    # One projection of the condition: six parts of the image, six of the text.
    *weight_rows.modulation("blocks/{i}/modulation", DOUBLE + "adaLN_modulation.1"),
    *weight_rows.modulation("blocks/{i}/context_modulation", DOUBLE + "adaLN_modulation.1"),
    *_attention("blocks/{i}/mixer/stream", DOUBLE + "attn1."),
    *_attention("blocks/{i}/mixer/context", DOUBLE + "attn1.", "_t"),
    *_feed_forward("blocks/{i}/ffn", DOUBLE + "ff_i."),
    *weight_rows.gated_mlp("blocks/{i}/context_ffn", DOUBLE + "ff_t."),
    *weight_rows.modulation("final_norm/modulation", "final_layer.adaLN_modulation.1"),
)
SINGLE_WEIGHTS = (
    *weight_rows.modulation("single_blocks/{i}/modulation", SINGLE + "adaLN_modulation.1"),
    *_attention("single_blocks/{i}/mixer", SINGLE + "attn1."),
    *_feed_forward("single_blocks/{i}/ffn", SINGLE + "ff_i."),
)


def read_config(reader: ConfigReader) -> HiDream:
    num_heads = reader.positive_or("num_attention_heads", 20)
    head_dim = reader.positive_or("attention_head_dim", 128)
    axes, d_model = reader.counts("axes_dims_rope", (32, 32, 32)), num_heads * head_dim
    if sum(axes) not in (head_dim, head_dim // 2):
        raise ConfigError(
            f"{reader.name}: key 'axes_dims_rope' must add up to 'attention_head_dim' = {head_dim} or half "
            f"of it, got {axes}"
        )
    doubles, singles = reader.positive_or("num_layers", 16), reader.positive_or("num_single_layers", 32)
    patch, channels = reader.positive("patch_size"), reader.positive_or("in_channels", 64)
    texts, rope = reader.counts("caption_channels", (4096, 4096)), AxesRope(axes=axes)
    height, width = reader.counts("max_resolution", (128, 128))
    double = _read_double(reader, num_heads, head_dim, rope)
    projection = TextProjection(d_model=d_model, width=texts[0], bias=False)
    return HiDream(
        projections=PatchProjections(
            d_model=d_model,
            patch=patch,
            in_channels=channels,
            out_channels=reader.positive_or("out_channels", channels),
        ),
        most_patches=height * width // patch**2,
        text=projection,
        states=replace(projection, width=texts[1]),
        state_layers=_read_layers(reader, doubles + singles),
        conditioner=TextConditioner(
            time=TimestepEmbedding(d_model=d_model), pooled_width=reader.positive_or("text_emb_dim", 2048)
        ),
        rope=rope,
        blocks=(double,) * doubles,
        single_blocks=_single_blocks(double, singles),
        final_norm=parts.final_norm(d_model, NORM_PARTS),
        family=FAMILY.model_type,
    )


def _read_double(reader: ConfigReader, num_heads: int, head_dim: int, rope: AxesRope) -> JointBlock:
    d_model = num_heads * head_dim
    norm = RMSNorm(dim=d_model, eps=QK_EPS, axis=None)
    made = ProjectedModulation(d_model=d_model, d_condition=d_model)
    attention = replace(parts.plain_attention(num_heads, head_dim, norm), rope=rope, norm_across_heads=True)
    return JointBlock(
        norm=parts.bare_norm(d_model),
        mixer=JointAttention(stream=attention, context=attention, padding="empty_keys"),
        ffn=_read_feed_forward(reader, d_model),
        context_ffn=gated(d_model, 4 * d_model),
        modulation=made,
        context_modulation=made,
    )


def _single_blocks(double: JointBlock, count: int) -> tuple[TiedBlock, ...]:
    """The blocks with the same weights for image and text, of which the last ends the text."""
    single, made = replace(double, context_ffn=double.ffn), double.modulation
    assert isinstance(made, ProjectedModulation)
    last = replace(
        single,
        mixer=replace(double.mixer, ends_context=True),
        context_ffn=None,
        context_modulation=replace(made, parts=NORM_PARTS),
    )
    return (TiedBlock(joint=single),) * (count - 1) + (TiedBlock(joint=last),)


def gated(d_model: int, hidden: int) -> GatedMLP:
    """A feed-forward of about two thirds of `hidden`."""
    return GatedMLP(d_model=d_model, d_ff=-(-int(2 * hidden / 3) // MULTIPLE) * MULTIPLE)


def _read_feed_forward(reader: ConfigReader, d_model: int) -> FeedForward:
    count, top_k = (
        reader.take_or("num_routed_experts", int, 4),
        reader.positive_or("num_activated_experts", 2),
    )
    plain = gated(d_model, 4 * d_model)
    if not count:
        return plain
    return MoE(
        router=SoftmaxTopK(d_model=d_model, num_experts=count, top_k=top_k, renormalise=False),
        experts=GatedExperts(num_experts=count, d_model=d_model, d_ff=plain.d_ff),
        shared=gated(d_model, 2 * d_model),
    )


def _read_layers(reader: ConfigReader, count: int) -> tuple[int, ...]:
    layers = reader.indices("llama_layers", MOST_LAYERS, [])
    if len(layers) != count:
        raise ConfigError(
            f"{reader.name}: key 'llama_layers' must name one layer of the language model for each of "
            f"{count} blocks (num_layers + num_single_layers), got {len(layers)}: {shown(layers)}"
        )
    return tuple(layers)


def write_config(config: HiDream) -> dict[str, Any]:
    block, p = config.blocks[0], config.projections
    attention, mixture = block.mixer.stream, block.ffn
    return {
        "_class_name": FAMILY.model_type,
        "attention_head_dim": attention.head_dim,
        "axes_dims_rope": list(config.rope.axes),
        "caption_channels": [config.text.width, config.states.width],
        "in_channels": p.in_channels,
        "llama_layers": list(config.state_layers),
        "max_resolution": [config.most_patches * p.patch, p.patch],
        "num_activated_experts": mixture.router.top_k if isinstance(mixture, MoE) else 2,
        "num_attention_heads": attention.num_heads,
        "num_layers": len(config.blocks),
        "num_routed_experts": mixture.router.num_experts if isinstance(mixture, MoE) else 0,
        "num_single_layers": len(config.single_blocks),
        "out_channels": p.out_channels,
        "patch_size": p.patch,
        "text_emb_dim": config.conditioner.pooled_width,
    }


def numbered_rows(config: HiDream) -> tuple[Weight, ...]:
    """The rows of the single blocks, and those of the projections of texts: one for the hidden states of each
    block, then that of the text's tokens."""
    singles = (row.at(i) for i in range(len(config.single_blocks)) for row in SINGLE_WEIGHTS)
    count = len(config.state_layers)
    paths = (*(f"states/{i}/w" for i in range(count)), "context/w")
    projections = (Weight(path, f"caption_projection.{i}.linear.weight") for i, path in enumerate(paths))
    return (*singles, *projections)


# What is given while training is no part of a forward pass.
FAMILY = Family(
    model_type="HiDreamImageTransformer2DModel",
    summary="HiDream-I1",
    read_config=read_config,
    write_config=write_config,
    weights=WEIGHTS,
    named_weights=numbered_rows,
    inert=("force_inference_output",),
)
