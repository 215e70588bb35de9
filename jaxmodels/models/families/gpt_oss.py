"""gpt-oss (`model_type` "gpt_oss"): attention sinks, alternating windows, clamped gated experts.

Published checkpoints hold the experts in MXFP4, which `jaxmodels.checkpoints.quantized` reads; written are
unquantised ones, as transformers writes them.
"""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.moe import ClampedGatedExperts, MoE, SoftmaxTopK
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense, mixture

EPS, THETA, HEAD_DIM, WINDOW = 1e-5, 150000.0, 64, 128

EXPERTS = "model.layers.{i}.mlp.experts"
WEIGHTS = (
    *dense.ENDS_WEIGHTS,
    *dense.PRE_NORM_WEIGHTS,
    *dense.ATTENTION_WEIGHTS,
    Weight("blocks/{i}/mixer/sink_logits", "model.layers.{i}.self_attn.sinks"),
    Weight("blocks/{i}/ffn/router/w", "model.layers.{i}.mlp.router.weight"),
    Weight("blocks/{i}/ffn/router/b", "model.layers.{i}.mlp.router.bias"),
    Weight("blocks/{i}/ffn/experts/w_gate_up", f"{EXPERTS}.gate_up_proj"),
    Weight("blocks/{i}/ffn/experts/b_gate_up", f"{EXPERTS}.gate_up_proj_bias"),
    Weight("blocks/{i}/ffn/experts/w_down", f"{EXPERTS}.down_proj"),
    Weight("blocks/{i}/ffn/experts/b_down", f"{EXPERTS}.down_proj_bias"),
)


def read_config(reader: ConfigReader) -> Decoder:
    bias = reader.flag("attention_bias", True)
    heads = dense.read_attention(reader, default_head_dim=HEAD_DIM, default_theta=THETA)
    attention = Attention(**heads, qkv_bias=bias, out_bias=bias, sink_logits=True)
    layers = reader.positive("num_hidden_layers")
    default = [dense.FULL if i % 2 else dense.SLIDING for i in range(layers)]
    window = dense.read_window(reader, WINDOW)
    windows = dense.windows_of(dense.read_layer_types(reader, default), window)
    reader.expect("hidden_act", "silu")
    experts = ClampedGatedExperts(
        num_experts=mixture.read_expert_count(reader),
        d_model=attention.d_model,
        d_ff=reader.positive("intermediate_size"),
        alpha=reader.factor("swiglu_alpha", 1.702),
        limit=reader.factor("swiglu_limit", 7.0),
    )
    top_k = reader.positive_or("num_experts_per_tok", 4)
    reader.expect_same("experts_per_token", "num_experts_per_tok", top_k)
    router = SoftmaxTopK(
        d_model=experts.d_model, num_experts=experts.num_experts, top_k=top_k, renormalise=True, bias=True
    )
    norm = dense.read_norm(reader, default_eps=EPS)
    ffn = MoE(router=router, experts=experts)
    blocks = [
        Block(mixer_norm=norm, mixer=replace(attention, sliding_window=w), ffn_norm=norm, ffn=ffn)
        for w in windows
    ]
    return dense.finish_decoder(reader, blocks, norm)


def write_config(config: Decoder) -> dict[str, Any]:
    layer = mixture.mixtures(config)[0]
    experts = layer.experts
    if not isinstance(experts, ClampedGatedExperts):
        raise ConfigError(f"the 'gpt_oss' layout holds clamped gated experts, not {experts}")
    return (
        dense.write_decoder(config)
        | dense.write_layer_types(config)
        | {
            "architectures": ["GptOssForCausalLM"],
            "attention_bias": dense.attentions(config)[0].qkv_bias,
            "num_local_experts": experts.num_experts,
            "num_experts_per_tok": layer.router.top_k,
            "swiglu_alpha": experts.alpha,
            "swiglu_limit": experts.limit,
        }
    )


FAMILY = Family(
    model_type="gpt_oss",
    summary="gpt-oss-20b and -120b",
    read_config=read_config,
    write_config=write_config,
    inert=("initial_context_length",),
    weights=WEIGHTS,
    unused=dense.UNUSED,
)
