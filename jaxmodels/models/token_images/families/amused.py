"""aMUSEd as `diffusers` stores it (`UVit2DModel`)."""

from collections.abc import Iterator
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.condition import AdaptiveNorm, ProjectedModulation
from jaxmodels.layers.cross_attention import CrossAttention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import LayerNorm, Norm, RMSNorm, WeightlessRMSNorm
from jaxmodels.models.denoisers import weight_rows
from jaxmodels.models.denoisers.parts import LAST_PARTS
from jaxmodels.models.denoisers.weight_rows import affine
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.token_images.conv_next import ConvNextBlock
from jaxmodels.models.token_images.text_blocks import AdaptiveTextBlock, TwofoldTextBlock
from jaxmodels.models.token_images.uvit import UVit2D

# Of the norms that no key reaches.
_EPS = 1e-6


def _places(ours: str, theirs: str) -> tuple[Weight, ...]:
    """The rows of a convolution of single places, which is a projection."""
    return affine(f"{ours}/{{p}}", theirs, "o i 1 1 -> o i")


def _adaptive(ours: str, theirs: str) -> tuple[Weight, ...]:
    return (
        Weight(f"{ours}/norm/scale", f"{theirs}.norm.weight"),
        Weight(f"{ours}/norm/bias", f"{theirs}.norm.bias"),
        *weight_rows.modulation(f"{ours}/modulation", f"{theirs}.linear"),
    )


BLOCK = "transformer_layers.{i}."
WEIGHTS = (
    Weight("embed/weight", "embed.embeddings.weight"),
    Weight("embed_norm/scale", "embed.layer_norm.weight"),
    *_places("embed_out", "embed.conv"),
    *affine("text/{p}", "encoder_proj"),
    Weight("text_norm/scale", "encoder_proj_layer_norm.weight"),
    *weight_rows.embed_mlp("condition", "cond_embed"),
    Weight("in_norm/scale", "project_to_hidden_norm.weight"),
    *affine("in/{p}", "project_to_hidden"),
    *_adaptive("blocks/{i}/mixer_norm", BLOCK + "norm1"),
    *weight_rows.attention("blocks/{i}/mixer", BLOCK + "attn1."),
    *_adaptive("blocks/{i}/cross_norm", BLOCK + "norm2"),
    *weight_rows.attention("blocks/{i}/cross", BLOCK + "attn2."),
    *_adaptive("blocks/{i}/ffn_norm", BLOCK + "norm3"),
    # one projection in their code, the half that is not activated first
    *affine("blocks/{i}/ffn/{p}_up", BLOCK + "ff.net.0.proj"),
    *affine("blocks/{i}/ffn/{p}_gate", BLOCK + "ff.net.0.proj"),
    *affine("blocks/{i}/ffn/{p}_down", BLOCK + "ff.net.2"),
    Weight("out_norm/scale", "project_from_hidden_norm.weight"),
    *affine("out/{p}", "project_from_hidden"),
    *_places("head_in", "mlm_layer.conv1"),
    Weight("head_norm/scale", "mlm_layer.layer_norm.weight"),
    *_places("head", "mlm_layer.conv2"),
)


def read_config(reader: ConfigReader) -> UVit2D:
    d = reader.positive_or("hidden_size", 1024)
    channels = reader.positive_or("block_out_channels", 768)
    bias, affine_norms = reader.flag("use_bias", False), reader.flag("ln_elementwise_affine", True)
    eps = reader.epsilon("layer_norm_eps", 1e-6)
    features = reader.positive_or("micro_cond_encode_dim", 256)
    described = reader.positive_or("micro_cond_embed_dim", 1280)
    reader.check_divides("micro_cond_encode_dim", features, "micro_cond_embed_dim", described)

    def norm(width: int) -> Norm:
        return RMSNorm(dim=width, eps=eps) if affine_norms else WeightlessRMSNorm(eps=eps)

    def adaptive(inner: Norm) -> AdaptiveNorm:
        made = ProjectedModulation(d_model=d, d_condition=d, parts=LAST_PARTS, bias=bias)
        return AdaptiveNorm(norm=inner, modulation=made)

    attention = _attention(reader, "num_attention_heads", 16, d, bias)
    block = AdaptiveTextBlock(
        mixer_norm=adaptive(norm(d)),
        mixer=attention,
        cross_norm=adaptive(norm(d)),
        cross=CrossAttention(attention=attention, d_context=d),
        ffn_norm=adaptive(LayerNorm(dim=d, eps=eps, scale=affine_norms, bias=affine_norms and bias)),
        ffn=GatedMLP(
            d_model=d, d_ff=reader.positive_or("intermediate_size", 2816), activation="gelu", bias=bias
        ),
    )
    ends = _attention(reader, "block_num_heads", 12, channels, bias)
    code_width = reader.positive_or("in_channels", 768)
    halves = reader.flag("downsample", False)
    if reader.flag("upsample", False) != halves:
        raise ConfigError(f"{reader.name}: key 'upsample' must be that of 'downsample', {halves}")
    return UVit2D(
        vocab_size=reader.positive_or("vocab_size", 8256),
        num_codes=reader.positive_or("codebook_size", 8192),
        code_width=code_width,
        d_text=reader.positive_or("encoder_hidden_size", 768),
        d_pooled=reader.positive_or("cond_embed_dim", 768),
        num_described=described // features,
        described_features=features,
        conv=ConvNextBlock(
            channels=channels,
            norm=norm(channels),
            modulation=ProjectedModulation(d_model=channels, d_condition=d, parts=LAST_PARTS, bias=bias),
            bias=bias,
        ),
        attending=TwofoldTextBlock(
            norm=RMSNorm(dim=channels, eps=_EPS),
            cross=CrossAttention(attention=ends, d_context=channels),
            d_text=d,
            bias=bias,
        ),
        num_pairs=reader.positive_or("num_res_blocks", 3),
        halves=halves,
        blocks=(block,) * reader.layers(22),
        channel_norm=norm(channels),
        model_norm=norm(d),
        code_norm=norm(code_width),
        bias=bias,
        sample_size=reader.positive_or("sample_size", 64),
        family=FAMILY.model_type,
    )


def _attention(reader: ConfigReader, key: str, default: int, width: int, bias: bool) -> Attention:
    heads = reader.positive_or(key, default)
    reader.check_divides(key, heads, "its width", width)
    return Attention(
        d_model=width,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width // heads,
        qkv_bias=bias,
        out_bias=bias,
    )


def write_config(config: UVit2D) -> dict[str, Any]:
    block = config.blocks[0]
    mixer, ffn, last = block.mixer, block.ffn, block.ffn_norm.norm
    assert isinstance(mixer, Attention) and isinstance(ffn, GatedMLP) and isinstance(last, LayerNorm)
    return {
        "_class_name": FAMILY.model_type,
        "block_num_heads": config.attending.cross.attention.num_heads,
        "block_out_channels": config.channels,
        "codebook_size": config.num_codes,
        "cond_embed_dim": config.d_pooled,
        "downsample": config.halves,
        "encoder_hidden_size": config.d_text,
        "hidden_size": config.d_model,
        "in_channels": config.code_width,
        "intermediate_size": ffn.d_ff,
        "layer_norm_eps": last.eps,
        "ln_elementwise_affine": last.scale,
        "micro_cond_embed_dim": config.num_described * config.described_features,
        "micro_cond_encode_dim": config.described_features,
        "num_attention_heads": mixer.num_heads,
        "num_hidden_layers": len(config.blocks),
        "num_res_blocks": config.num_pairs,
        "sample_size": config.sample_size,
        "upsample": config.halves,
        "use_bias": config.bias,
        "vocab_size": config.vocab_size,
    }


def named_weights(config: UVit2D) -> tuple[Weight, ...]:
    """The rows of the two ends."""
    return (*_end("down", "halving", "downsample", config), *_end("up", "doubling", "upsample", config))


def _end(end: str, ours: str, theirs: str, config: UVit2D) -> Iterator[Weight]:
    yield Weight(f"{end}/{ours}/norm/scale", f"{end}_block.{theirs}.norm.weight")
    yield from affine(f"{end}/{ours}/conv/{{p}}", f"{end}_block.{theirs}.conv")
    for i in range(config.num_pairs):
        conv, name = f"{end}/conv/{i}", f"{end}_block.res_blocks.{i}."
        yield from affine(f"{conv}/depthwise/{{p}}", name + "depthwise")
        yield Weight(f"{conv}/norm/scale", name + "norm.weight")
        yield from affine(f"{conv}/{{p}}_in", name + "channelwise_linear_1")
        yield Weight(f"{conv}/response_norm/scale", name + "channelwise_norm.gamma", "1 1 1 c -> c")
        yield Weight(f"{conv}/response_norm/bias", name + "channelwise_norm.beta", "1 1 1 c -> c")
        yield from affine(f"{conv}/{{p}}_out", name + "channelwise_linear_2")
        yield from weight_rows.modulation(f"{conv}/modulation", name + "cond_embeds_mapper")
        pair, name = f"{end}/attending/{i}", f"{end}_block.attention_blocks.{i}."
        yield from affine(f"{pair}/{{p}}_text", name + "kv_mapper")
        for number, which in enumerate(("first", "second"), start=1):
            yield Weight(f"{pair}/{which}/norm/scale", f"{name}norm{number}.weight")
            yield from weight_rows.attention(f"{pair}/{which}/cross", f"{name}attn{number}.")


FAMILY = Family(
    model_type="UVit2DModel",
    summary="aMUSEd",
    read_config=read_config,
    write_config=write_config,
    weights=WEIGHTS,
    named_weights=named_weights,
)
