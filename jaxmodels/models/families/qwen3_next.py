"""Qwen3-Next (`model_type` "qwen3_next"): Gated DeltaNet and gated attention, with mixtures of experts.

Qwen3.5 ("qwen3_5_text", "qwen3_5_moe_text") has the same layers with projections stored apart, and dense
feed-forwards or mixtures.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.gated_delta_mixer import GatedDeltaMixer
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.moe import MoE
from jaxmodels.layers.norm import GatedRMSNorm, RMSNorm
from jaxmodels.layers.rope import rope_to_hf
from jaxmodels.layers.window import Mixer
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight, for_mixer
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense, hybrid, linear_hybrid, mixture

DELTA = "model.layers.{i}.linear_attn"
QKVZ, BA, CONV = f"{DELTA}.in_proj_qkvz.weight", f"{DELTA}.in_proj_ba.weight", f"{DELTA}.conv1d.weight"
QUERY = "model.layers.{i}.self_attn.q_proj"

DELTA_WEIGHTS = for_mixer(
    GatedDeltaMixer,
    # A key head's query, key, values and gates stand together, and so do its betas and decays.
    Weight("blocks/{i}/mixer/w_q", QKVZ, "(g r) d -> g r d", per="g"),
    Weight("blocks/{i}/mixer/w_k", QKVZ, "(g r) d -> g r d", per="g"),
    Weight("blocks/{i}/mixer/w_v", QKVZ, "(g m p) d -> g m p d", per="g"),
    Weight("blocks/{i}/mixer/w_gate", QKVZ, "(g m p) d -> g m p d", per="g"),
    Weight("blocks/{i}/mixer/w_beta", BA, "(g m) d -> g m d", per="g"),
    Weight("blocks/{i}/mixer/w_decay", BA, "(g m) d -> g m d", per="g"),
    Weight("blocks/{i}/mixer/conv_q", CONV, "(g r) 1 w -> w g r"),
    Weight("blocks/{i}/mixer/conv_k", CONV, "(g r) 1 w -> w g r"),
    Weight("blocks/{i}/mixer/conv_v", CONV, "(n p) 1 w -> w n p"),
    Weight("blocks/{i}/mixer/dt_bias", f"{DELTA}.dt_bias"),
    Weight("blocks/{i}/mixer/a_log", f"{DELTA}.A_log"),
    Weight("blocks/{i}/mixer/norm/scale", f"{DELTA}.norm.weight"),
    Weight("blocks/{i}/mixer/w_o", f"{DELTA}.out_proj.weight", "d (n p) -> d n p"),
)

ATTENTION_WEIGHTS = for_mixer(
    Attention,
    # A head's gates follow its query.
    Weight("blocks/{i}/mixer/w_q", f"{QUERY}.weight", "(n h) d -> n h d", per="n"),
    Weight("blocks/{i}/mixer/w_gate", f"{QUERY}.weight", "(n h) d -> n h d", per="n"),
    Weight("blocks/{i}/mixer/b_q", f"{QUERY}.bias", "(n h) -> n h", per="n"),
    Weight("blocks/{i}/mixer/b_gate", f"{QUERY}.bias", "(n h) -> n h", per="n"),
    *(row for row in dense.ATTENTION_WEIGHTS if not row.theirs.startswith(QUERY)),
)

FRAME_WEIGHTS = (
    *dense.ENDS_WEIGHTS,
    *dense.PRE_NORM_WEIGHTS,
    *ATTENTION_WEIGHTS,
    *dense.GATED_MLP_WEIGHTS,
    *mixture.ROUTER_WEIGHTS,
    *mixture.EXPERT_WEIGHTS,
    *mixture.SHARED_EXPERT_WEIGHTS,
)
WEIGHTS = (*FRAME_WEIGHTS, *DELTA_WEIGHTS)

# Qwen3.5's: all queries, then all keys, then all values; gates, betas and decays by themselves.
QKV = f"{DELTA}.in_proj_qkv.weight"
APART = {
    "w_q": QKV, "w_k": QKV, "w_v": QKV, "w_gate": f"{DELTA}.in_proj_z.weight",
    "w_beta": f"{DELTA}.in_proj_b.weight", "w_decay": f"{DELTA}.in_proj_a.weight",
}  # fmt: skip
APART_WEIGHTS = tuple(
    replace(row, theirs=APART.get(row.ours.rpartition("/")[2], row.theirs), per=None) for row in DELTA_WEIGHTS
)


def _read_attention(reader: ConfigReader, eps: float) -> Attention:
    heads = dense.read_heads(reader, default_head_dim=256)
    rope = dense.read_partial_rope(reader, heads["head_dim"], default_factor=0.25)
    norm = RMSNorm(dim=heads["head_dim"], eps=eps, axis=None, offset=1.0)
    bias = reader.flag("attention_bias", False)
    return Attention(
        **heads, rope=rope, query_norm=norm, key_norm=norm, output_gate=True, qkv_bias=bias, out_bias=bias
    )


def _read_delta(reader: ConfigReader, eps: float) -> GatedDeltaMixer:
    reader.expect("hidden_act", "silu", "swish")
    head_dim = reader.positive_or("linear_value_head_dim", 128)
    heads, key_heads = (
        reader.positive_or("linear_num_value_heads", 32),
        reader.positive_or("linear_num_key_heads", 16),
    )
    reader.check_divides("linear_num_key_heads", key_heads, "linear_num_value_heads", heads)
    return GatedDeltaMixer(
        d_model=reader.positive("hidden_size"),
        num_heads=heads,
        num_key_heads=key_heads,
        head_dim=head_dim,
        key_dim=reader.positive_or("linear_key_head_dim", 128),
        conv_width=reader.positive_or("linear_conv_kernel_dim", 4),
        norm=GatedRMSNorm(dim=head_dim, eps=eps, order="norm_then_gate", axis=None),
    )


def _read_mixture(reader: ConfigReader) -> MoE:
    experts = mixture.read_experts(reader, "moe_intermediate_size")
    shared = GatedMLP(
        d_model=experts.d_model,
        d_ff=reader.positive_or("shared_expert_intermediate_size", 512),
        activation=experts.activation,
    )
    router = mixture.read_router(reader, experts, 10, reader.flag("norm_topk_prob", True))
    return MoE(router=router, experts=experts, shared=shared, shared_gate=True)


def read_config(reader: ConfigReader) -> Decoder:
    return _read_decoder(reader, mixture.read_feed_forwards(reader, _read_mixture(reader)))


def _read_decoder(reader: ConfigReader, ffns: Sequence[MoE | GatedMLP]) -> Decoder:
    norm = dense.read_norm(reader, offset=1.0)
    mixers: dict[str, Mixer] = {
        dense.FULL: _read_attention(reader, norm.eps),
        linear_hybrid.LINEAR: _read_delta(reader, norm.eps),
    }
    layers, period = reader.positive("num_hidden_layers"), reader.positive_or("full_attention_interval", 4)
    default = [linear_hybrid.LINEAR if (i + 1) % period else dense.FULL for i in range(layers)]
    types = linear_hybrid.read_layer_types(reader, default)
    blocks = [
        Block(mixer_norm=norm, mixer=mixers[kind], ffn_norm=norm, ffn=ffn)
        for kind, ffn in zip(types, ffns, strict=True)
    ]
    return dense.finish_decoder(reader, blocks, norm)


def write_config(config: Decoder) -> dict[str, Any]:
    layer = hybrid.first_of(config, MoE)
    return {
        **_write_decoder(config),
        **mixture.write_qwen(config),
        **mixture.write_sparse_layers(config),
        "architectures": ["Qwen3NextForCausalLM"],
        "moe_intermediate_size": layer.experts.d_ff,
        "shared_expert_intermediate_size": 0 if layer.shared is None else layer.shared.d_ff,
    }


def _write_decoder(config: Decoder) -> dict[str, Any]:
    """The keys that do not depend on the feed-forwards."""
    attention, delta = hybrid.first_of(config, Attention), hybrid.first_of(config, GatedDeltaMixer)
    rope = {} if attention.rope is None else rope_to_hf(attention.rope, attention.head_dim)
    # Left out, this one would stand for a quarter of the head.
    rope.setdefault("rope_parameters", {}).setdefault("partial_rotary_factor", 1.0)
    return {
        **hybrid.write_decoder(config),
        **linear_hybrid.write_layer_types(config),
        **rope,
        "hidden_act": "silu",
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
        "attention_bias": attention.qkv_bias,
        "linear_num_value_heads": delta.num_heads,
        "linear_num_key_heads": delta.num_key_heads,
        "linear_value_head_dim": delta.head_dim,
        "linear_key_head_dim": delta.key_dim,
        "linear_conv_kernel_dim": delta.conv_width,
    }


def read_dense(reader: ConfigReader) -> Decoder:
    reader.expect("attn_output_gate", True)
    reader.expect("mlp_only_layers", [])
    return _read_decoder(reader, [dense.read_gated_mlp(reader)] * reader.positive("num_hidden_layers"))


def write_dense(config: Decoder) -> dict[str, Any]:
    return {
        **_write_decoder(config),
        "architectures": ["Qwen3_5ForCausalLM"],
        "intermediate_size": hybrid.first_of(config, GatedMLP).d_ff,
    }


def read_mixtures(reader: ConfigReader) -> Decoder:
    """Every layer is a mixture, and the weights of the chosen experts add up to 1."""
    reader.expect("attn_output_gate", True)
    reader.expect("mlp_only_layers", [])
    reader.expect("norm_topk_prob", True)
    reader.consume("intermediate_size")  # the size of dense layers, which there are none of
    return _read_decoder(reader, [_read_mixture(reader)] * reader.positive("num_hidden_layers"))


def write_mixtures(config: Decoder) -> dict[str, Any]:
    written = write_config(config)
    sparse = ("decoder_sparse_step", "mlp_only_layers", "norm_topk_prob")
    return {key: value for key, value in written.items() if key not in sparse} | {
        "architectures": ["Qwen3_5MoeForCausalLM"]
    }


FAMILY = Family(
    model_type="qwen3_next",
    summary="Qwen3-Next: Gated DeltaNet and attention, mixtures of experts",
    read_config=read_config,
    write_config=write_config,
    weights=WEIGHTS,
    unused=dense.UNUSED,
)

QWEN3_5 = replace(
    FAMILY,
    model_type="qwen3_5_text",
    summary="Qwen3.5, dense, text",
    read_config=read_dense,
    write_config=write_dense,
    weights=(*FRAME_WEIGHTS, *APART_WEIGHTS),
    inert=("mamba_ssm_dtype",),
)

QWEN3_5_MOE = replace(
    QWEN3_5,
    model_type="qwen3_5_moe_text",
    summary="Qwen3.5 mixtures of experts, text",
    read_config=read_mixtures,
    write_config=write_mixtures,
)
