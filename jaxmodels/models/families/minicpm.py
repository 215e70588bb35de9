"""BlockFFN (`model_type` "minicpm"): MiniCPM's shape with small experts behind a ReLU router.

The layout of https://github.com/thunlp/BlockFFN with `ffn_type` "block_linear" (experts as one matrix) or
"vanilla" (MiniCPM's dense feed-forward) and `attention_type` "vanilla".
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.moe import DenseAbove, MoE, PlainExperts, ReLURouter
from jaxmodels.layers.moe.relu_router import RouterNorm
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense

# Keys of the other kinds of attention and feed-forward, and of kernels.
INERT = (
    "block_implementation", "ffn_gated", "kv_lora_rank", "moe_routing_strategy", "moe_top_k", "moe_top_p",
    "num_shared_experts", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
)  # fmt: skip

WEIGHTS = (
    *dense.WEIGHTS,
    Weight("blocks/{i}/ffn/router/w", "model.layers.{i}.mlp.router_proj.weight"),
    Weight("blocks/{i}/ffn/router/scale", "model.layers.{i}.mlp.router_norm.weight"),
    Weight("blocks/{i}/ffn/experts/w_up", "model.layers.{i}.mlp.up_proj", "(e f) d -> e d f"),
    Weight("blocks/{i}/ffn/experts/w_down", "model.layers.{i}.mlp.down_proj", "d (e f) -> e f d"),
)


def _read_mixture(reader: ConfigReader) -> MoE:
    reader.expect("router_act", "relu")
    reader.expect("norm_after_router", *get_args(RouterNorm))
    reader.consume("intermediate_size")
    experts = PlainExperts(
        num_experts=reader.positive("num_experts"),
        d_model=reader.positive("hidden_size"),
        d_ff=reader.positive("expert_size"),
        activation=dense.read_activation(reader),
    )
    norm: Any = reader.take_or("norm_after_router", str, "sum")
    router = ReLURouter(
        d_model=experts.d_model,
        num_experts=experts.num_experts,
        norm=norm,
        norm_scale=reader.factor("norm_scale", 1.0),
        eps=dense.read_norm(reader).eps,
    )
    return MoE(router=router, experts=experts, dispatch=DenseAbove(tokens=8))


def read_config(reader: ConfigReader) -> Decoder:
    reader.expect("attention_type", "vanilla")
    reader.expect("ffn_type", "vanilla", "block_linear")
    bias = reader.flag("attention_bias", False)
    attention = Attention(**dense.read_attention(reader), qkv_bias=bias, out_bias=bias)
    is_block = reader.take_or("ffn_type", str, "vanilla") == "block_linear"
    if not is_block:
        reader.consume("expert_size", "num_experts", "router_act", "norm_after_router", "norm_scale")
    ffn = _read_mixture(reader) if is_block else dense.read_gated_mlp(reader)
    layers, norm = reader.positive("num_hidden_layers"), dense.read_norm(reader)
    reader.expect_same("mup_denominator", "num_hidden_layers", layers)  # another one is a drafter's
    residual = reader.factor("scale_depth", 1.0) / math.sqrt(layers)
    block = Block(mixer_norm=norm, mixer=attention, ffn_norm=norm, ffn=ffn, residual_scale=residual)
    embed_scale = reader.factor("scale_emb", 1.0)
    logit_scale = reader.positive_or("dim_model_base", 1) / attention.d_model
    config = dense.finish_decoder(reader, [block] * layers, norm, default_tie=True)
    return replace(config, embed_scale=embed_scale, logit_scale=logit_scale)


def write_config(config: Decoder) -> dict[str, Any]:
    block, ffn = config.blocks[0], config.blocks[0].ffn
    assert isinstance(block, Block)
    depth = block.residual_scale * math.sqrt(len(config.blocks))
    written = dense.write_decoder(config)
    if isinstance(ffn, MoE):
        del written["intermediate_size"]
    return (
        written
        | _write_feed_forward(ffn)
        | {
            "architectures": ["MiniCPMForCausalLM"],
            "attention_type": "vanilla",
            "attention_bias": dense.attentions(config)[0].qkv_bias,
            "scale_depth": _as_read(depth, lambda value: value / math.sqrt(len(config.blocks))),
            "scale_emb": config.embed_scale,
            "dim_model_base": round(config.logit_scale * config.d_model),
        }
    )


def _write_feed_forward(ffn: Any) -> dict[str, Any]:
    if isinstance(ffn, GatedMLP):
        return {"ffn_type": "vanilla"}
    if not isinstance(ffn, MoE) or not isinstance(ffn.router, ReLURouter):
        raise ConfigError(f"the 'minicpm' layout holds ReLU routers, not {ffn}")
    return {
        "ffn_type": "block_linear",
        "router_act": "relu",
        "num_experts": ffn.experts.num_experts,
        "expert_size": ffn.experts.d_ff,
        "norm_after_router": ffn.router.norm,
        "norm_scale": ffn.router.norm_scale,
    }


def _as_read(value: float, read: Callable[[float], float]) -> float:
    """`value`, or the number of few digits beside it that is read as the same."""
    short = float(f"{value:.12g}")
    return short if read(short) == read(value) else value


FAMILY = Family(
    model_type="minicpm",
    summary="BlockFFN and MiniCPM, the layout of BlockFFN's authors",
    read_config=read_config,
    write_config=write_config,
    inert=INERT,
    weights=WEIGHTS,
    unused=dense.UNUSED,
)
