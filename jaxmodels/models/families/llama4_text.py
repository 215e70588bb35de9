"""Llama 4, text (`model_type` "llama4_text"): chunked attention, mixtures weighted by their inputs.

The first layers of each four turn queries and keys and see no token of an earlier chunk. The fourth sees all
and has no positions, but for a factor of queries that grows with them.
"""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.moe import GatedExperts, MoE, SigmoidTopK
from jaxmodels.layers.norm import WeightlessRMSNorm
from jaxmodels.layers.query_scale import LogScale
from jaxmodels.layers.rope_scaling import LongRopeScaling, YarnScaling
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense, hybrid, mixture

CHUNKED = "chunked_attention"
EPS, THETA, CHUNK = 1e-5, 500000.0, 8192

FEED_FORWARD = "model.layers.{i}.feed_forward"
WEIGHTS = (
    *dense.ENDS_WEIGHTS,
    *dense.PRE_NORM_WEIGHTS,
    *dense.ATTENTION_WEIGHTS,
    *hybrid.GATED_MLP_WEIGHTS,
    *hybrid.renamed(
        hybrid.GATED_MLP_WEIGHTS,
        ours=("/ffn/", "/ffn/shared/"),
        theirs=(".feed_forward.", ".feed_forward.shared_expert."),
    ),
    Weight("blocks/{i}/ffn/router/w", f"{FEED_FORWARD}.router.weight"),
    Weight("blocks/{i}/ffn/experts/w_gate", f"{FEED_FORWARD}.experts.gate_up_proj", along=2),
    Weight("blocks/{i}/ffn/experts/w_up", f"{FEED_FORWARD}.experts.gate_up_proj", along=2),
    Weight("blocks/{i}/ffn/experts/w_down", f"{FEED_FORWARD}.experts.down_proj"),
)


def read_config(reader: ConfigReader) -> Decoder:
    norm, layers = dense.read_norm(reader, default_eps=EPS), reader.positive("num_hidden_layers")
    blocks = [
        Block(mixer_norm=norm, mixer=mixer, ffn_norm=norm, ffn=ffn)
        for mixer, ffn in zip(
            _read_attention(reader, layers, norm.eps), _read_feed_forwards(reader, layers), strict=True
        )
    ]
    return dense.finish_decoder(reader, blocks, norm)


def _read_attention(reader: ConfigReader, layers: int, eps: float) -> list[Attention]:
    """The attention of each layer."""
    bias, heads = reader.flag("attention_bias", False), dense.read_heads(reader, default_head_dim=128)
    rope = dense.read_rope(reader, heads["head_dim"], default_theta=THETA, style="interleaved")
    # transformers normalises rotated heads: the same, as long as rotations do not change their length.
    norm = WeightlessRMSNorm(eps=eps) if reader.flag("use_qk_norm", True) else None
    if norm is not None and isinstance(rope.scaling, YarnScaling | LongRopeScaling):
        raise ConfigError(f"{reader.name}: key 'use_qk_norm' is not supported with {rope.scaling}")
    period = reader.positive_or("no_rope_layer_interval", 4)
    usual = [int((i + 1) % period != 0) for i in range(layers)]
    given = reader.take_or("no_rope_layers", list, usual)
    turned = reader.pattern("no_rope_layers", (0, 1), layers, usual) if given else usual
    chunk = reader.count("attention_chunk_size") if "attention_chunk_size" in reader.values else CHUNK
    default = [CHUNKED if turns and chunk else dense.FULL for turns in turned]
    types = reader.pattern("layer_types", (CHUNKED, dense.FULL), layers, default)
    if CHUNKED in types and chunk is None:
        raise ConfigError(f"{reader.name}: key 'attention_chunk_size' is null, but 'layer_types' asks for it")
    tuned = reader.flag("attn_temperature_tuning", True)
    strength, interval = reader.factor("attn_scale", 0.1), reader.positive_or("floor_scale", 8192)
    scale = LogScale(strength=strength, interval=interval, offset=1)
    attention = Attention(**heads, qkv_bias=bias, out_bias=bias)
    near = replace(attention, rope=rope, query_norm=norm, key_norm=norm)
    far = replace(attention, query_scale=scale if tuned else None)
    return [
        replace(near if turns else far, chunk=chunk if kind == CHUNKED else None)
        for turns, kind in zip(turned, types, strict=True)
    ]


def _read_feed_forwards(reader: ConfigReader, layers: int) -> list[MoE | GatedMLP]:
    """The feed-forward of each layer; every one is a mixture unless told otherwise."""
    step = reader.positive_or("interleave_moe_layer_step", 1)
    mixed = set(reader.indices("moe_layers", layers, list(range(step - 1, layers, step))))
    plain = GatedMLP(
        d_model=reader.positive("hidden_size"),
        d_ff=reader.positive_or("intermediate_size_mlp", 16384),
        activation=dense.read_activation(reader),
    )
    experts = mixture.read_experts(reader, "intermediate_size")
    router = SigmoidTopK(
        d_model=plain.d_model,
        num_experts=experts.num_experts,
        top_k=reader.positive_or("num_experts_per_tok", 1),
        renormalise=False,
        selection_bias=False,
    )
    shared = replace(plain, d_ff=experts.d_ff)
    mixed_layer = MoE(router=router, experts=experts, shared=shared, weighted="inputs")
    return [mixed_layer if i in mixed else plain for i in range(layers)]


def write_config(config: Decoder) -> dict[str, Any]:
    layers, mixed = dense.attentions(config), mixture.mixtures(config)[0]
    plain = [block.ffn for block in config.blocks if isinstance(block.ffn, GatedMLP)]
    turned = [attention for attention in layers if attention.rope is not None]
    scales = [attention.query_scale for attention in layers if attention.query_scale is not None]
    assert isinstance(mixed.experts, GatedExperts)
    return {
        **hybrid.write_decoder(config),
        **dense.write_rope(config),
        "architectures": ["Llama4ForCausalLM"],
        "hidden_act": mixed.experts.activation,
        "num_attention_heads": layers[0].num_heads,
        "num_key_value_heads": layers[0].num_kv_heads,
        "head_dim": layers[0].head_dim,
        "attention_bias": layers[0].qkv_bias,
        "use_qk_norm": bool(turned) and turned[0].query_norm is not None,
        "no_rope_layers": [int(attention.rope is not None) for attention in layers],
        "layer_types": [dense.FULL if attention.chunk is None else CHUNKED for attention in layers],
        "attention_chunk_size": next((a.chunk for a in layers if a.chunk is not None), None),
        "attn_temperature_tuning": bool(scales),
        **({"attn_scale": scales[0].strength, "floor_scale": scales[0].interval} if scales else {}),
        "intermediate_size": mixed.experts.d_ff,
        **({"intermediate_size_mlp": plain[0].d_ff} if plain else {}),
        "num_local_experts": mixed.experts.num_experts,
        "num_experts_per_tok": mixed.router.top_k,
        "moe_layers": [i for i, block in enumerate(config.blocks) if isinstance(block.ffn, MoE)],
    }


FAMILY = Family(
    model_type="llama4_text",
    summary="Llama 4 Scout and Maverick, text",
    read_config=read_config,
    write_config=write_config,
    inert=("nope_layer_interval",),
    weights=WEIGHTS,
    unused=dense.UNUSED,
)
