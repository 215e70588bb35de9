"""Kimi Linear (`model_type` "kimi_linear"): Kimi Delta Attention and latent attention without positions."""

from dataclasses import replace
from typing import Any

from jaxmodels.checks import shown
from jaxmodels.layers.gated_delta_mixer import GatedDeltaMixer
from jaxmodels.layers.latent_attention import LatentAttention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.moe import GatedExperts, MoE, SigmoidTopK
from jaxmodels.layers.norm import GatedRMSNorm, RMSNorm
from jaxmodels.layers.window import Mixer
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight, for_mixer
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import deepseek, dense, hybrid, linear_hybrid, mixture

# Widths that follow from others; rotary settings, which no layer reads.
INERT = (*dense.ROPE_KEYS, "head_dim", "qk_head_dim")

SPARSE, DENSE = "sparse", "dense"
DELTA, MOE = "model.layers.{i}.self_attn", "model.layers.{i}.block_sparse_moe"

DELTA_WEIGHTS = for_mixer(
    GatedDeltaMixer,
    Weight("blocks/{i}/mixer/w_q", f"{DELTA}.q_proj.weight", "(g r) d -> g r d"),
    Weight("blocks/{i}/mixer/w_k", f"{DELTA}.k_proj.weight", "(g r) d -> g r d"),
    Weight("blocks/{i}/mixer/w_v", f"{DELTA}.v_proj.weight", "(g m p) d -> g m p d"),
    Weight("blocks/{i}/mixer/conv_q", f"{DELTA}.q_conv1d.weight", "(g r) 1 w -> w g r"),
    Weight("blocks/{i}/mixer/conv_k", f"{DELTA}.k_conv1d.weight", "(g r) 1 w -> w g r"),
    Weight("blocks/{i}/mixer/conv_v", f"{DELTA}.v_conv1d.weight", "(n p) 1 w -> w n p"),
    Weight("blocks/{i}/mixer/w_beta", f"{DELTA}.b_proj.weight", "(g m) d -> g m d"),
    Weight("blocks/{i}/mixer/w_decay_down", f"{DELTA}.f_a_proj.weight"),
    Weight("blocks/{i}/mixer/w_decay_up", f"{DELTA}.f_b_proj.weight", "(g m r) j -> g m r j"),
    Weight("blocks/{i}/mixer/dt_bias", f"{DELTA}.dt_bias", "(n r) -> n r"),
    Weight("blocks/{i}/mixer/a_log", f"{DELTA}.A_log", "1 1 n 1 -> n"),
    Weight("blocks/{i}/mixer/w_gate_down", f"{DELTA}.g_a_proj.weight"),
    Weight("blocks/{i}/mixer/w_gate_up", f"{DELTA}.g_b_proj.weight", "(g m p) j -> g m p j"),
    Weight("blocks/{i}/mixer/norm/scale", f"{DELTA}.o_norm.weight"),
    Weight("blocks/{i}/mixer/w_o", f"{DELTA}.o_proj.weight", "d (n p) -> d n p"),
)

WEIGHTS = (
    *dense.ENDS_WEIGHTS,
    *dense.PRE_NORM_WEIGHTS,
    *DELTA_WEIGHTS,
    *for_mixer(LatentAttention, *deepseek.LATENT_ATTENTION_WEIGHTS),
    *dense.GATED_MLP_WEIGHTS,
    *mixture.BLOCK_SPARSE_WEIGHTS,
    Weight("blocks/{i}/ffn/router/selection_bias", f"{MOE}.gate.e_score_correction_bias"),
    *hybrid.renamed(
        dense.GATED_MLP_WEIGHTS,
        ours=("/ffn/", "/ffn/shared/"),
        theirs=("mlp.", "block_sparse_moe.shared_experts."),
    ),
)

# transformers writes the feed-forwards of dense layers under the name of the mixtures.
RENAMED = (
    (r"\.block_sparse_moe\.(gate|up|down)_proj\.", r".mlp.\1_proj."),
    *mixture.BLOCK_SPARSE_RENAMED,
    (r"\.self_attn\.forget_gate\.", ".self_attn."),  # a module within transformers
)


def _read_latent_attention(reader: ConfigReader) -> LatentAttention:
    """Latent attention; its own norms have an epsilon of 1e-6 whatever that of the others is."""
    reader.expect("mla_use_nope", True)
    num_heads, kv_rank = reader.positive("num_attention_heads"), reader.positive_or("kv_lora_rank", 512)
    query_rank = reader.count("q_lora_rank")
    reader.expect_same("num_key_value_heads", "num_attention_heads", num_heads)
    return LatentAttention(
        d_model=reader.positive("hidden_size"),
        num_heads=num_heads,
        kv_rank=kv_rank,
        key_dim=reader.positive_or("qk_nope_head_dim", 128),
        rope_dim=reader.positive_or("qk_rope_head_dim", 64),
        value_dim=reader.positive_or("v_head_dim", 128),
        latent_norm=RMSNorm(dim=kv_rank, axis=None),
        query_rank=query_rank,
        query_norm=None if query_rank is None else RMSNorm(dim=query_rank, axis=None),
        bias=reader.flag("attention_bias", False),
    )


def _read_delta(reader: ConfigReader, inner: ConfigReader, eps: float) -> GatedDeltaMixer:
    """The sizes stand in the dictionary `linear_attn_config`, or among the other keys."""
    reader.expect("hidden_act", "silu", "swish")
    heads = inner.positive_or("num_heads", reader.positive_or("linear_num_heads", 32))
    head_dim = inner.positive_or("head_dim", reader.positive_or("linear_head_dim", 128))
    width = reader.positive_or("linear_conv_kernel_dim", 4)
    return GatedDeltaMixer(
        d_model=reader.positive("hidden_size"),
        num_heads=heads,
        num_key_heads=heads,
        head_dim=head_dim,
        key_dim=head_dim,
        conv_width=inner.positive_or("short_conv_kernel_size", width),
        decay_rank=head_dim,
        gate_rank=head_dim,
        norm=GatedRMSNorm(dim=head_dim, eps=eps, order="norm_then_gate", activation="sigmoid", axis=None),
    )


def _read_layer_types(reader: ConfigReader, inner: ConfigReader, layers: int) -> list[str]:
    """`layer_types`; without it the layers of each kind, counted from 1, in `linear_attn_config`."""
    default = [dense.FULL if i and i % 4 == 0 else linear_hybrid.LINEAR for i in range(layers)]
    full, linear = (inner.indices(key, layers + 1, []) for key in ("full_attn_layers", "kda_layers"))
    if full or linear:
        if sorted(full + linear) != list(range(1, layers + 1)):
            raise ConfigError(
                f"{inner.name}: keys 'full_attn_layers' = {shown(full)} and 'kda_layers' = {shown(linear)} "
                f"must together hold each of 1 to {layers} once"
            )
        default = [dense.FULL if i + 1 in full else linear_hybrid.LINEAR for i in range(layers)]
    return linear_hybrid.read_layer_types(reader, default)


def _read_mixture(reader: ConfigReader) -> MoE:
    reader.expect("moe_router_activation_func", "sigmoid")
    reader.expect("moe_layer_freq", 1)
    reader.expect("use_grouped_topk", True)
    experts = mixture.read_experts(reader, "moe_intermediate_size")
    router = SigmoidTopK(
        d_model=experts.d_model,
        num_experts=experts.num_experts,
        top_k=reader.positive_or("num_experts_per_token", 8),
        renormalise=reader.flag("moe_renormalize", True),
        scale=reader.factor("routed_scaling_factor", 2.446),
        num_groups=reader.positive_or("num_expert_group", 1),
        top_groups=reader.positive_or("topk_group", 1),
    )
    shared = GatedMLP(
        d_model=experts.d_model,
        d_ff=experts.d_ff * reader.positive_or("num_shared_experts", 1),
        activation=experts.activation,
    )
    return MoE(router=router, experts=experts, shared=shared)


def _read_feed_forwards(reader: ConfigReader, layers: int) -> list[MoE | GatedMLP]:
    first = reader.take_or("first_k_dense_replace", int, 1)
    default = [DENSE if i < first else SPARSE for i in range(layers)]
    types = reader.pattern("mlp_layer_types", (DENSE, SPARSE), layers, default)
    mixed = _read_mixture(reader)
    if DENSE not in types:
        reader.consume("intermediate_size")  # the size of layers that there are none of
        return [mixed] * layers
    plain = dense.read_gated_mlp(reader)
    return [mixed if kind == SPARSE else plain for kind in types]


def read_config(reader: ConfigReader) -> Decoder:
    inner = reader.section("linear_attn_config")
    norm, layers = dense.read_norm(reader, default_eps=1e-5), reader.positive("num_hidden_layers")
    mixers: dict[str, Mixer] = {
        dense.FULL: _read_latent_attention(reader),
        linear_hybrid.LINEAR: _read_delta(reader, inner, norm.eps),
    }
    types = _read_layer_types(reader, inner, layers)
    blocks = [
        Block(mixer_norm=norm, mixer=mixers[kind], ffn_norm=norm, ffn=ffn)
        for kind, ffn in zip(types, _read_feed_forwards(reader, layers), strict=True)
    ]
    reader.expect("tie_word_embeddings", False)  # transformers' code has a head whatever the key says
    limit = reader.count("model_max_length")
    return replace(dense.finish_decoder(reader, blocks, norm), max_positions=limit)


def write_config(config: Decoder) -> dict[str, Any]:
    delta, layer = hybrid.first_of(config, GatedDeltaMixer), hybrid.first_of(config, MoE)
    router, experts, shared = layer.router, layer.experts, layer.shared
    if not isinstance(router, SigmoidTopK) or not isinstance(experts, GatedExperts) or shared is None:
        raise ConfigError(f"the 'kimi_linear' layout holds sigmoid routers and shared experts, not {layer}")
    written = {
        **hybrid.write_decoder(config),
        **linear_hybrid.write_layer_types(config),
        **deepseek.write_latent_attention(hybrid.first_of(config, LatentAttention)),
        "architectures": ["KimiLinearForCausalLM"],
        "hidden_act": experts.activation,
        "linear_num_heads": delta.num_heads,
        "linear_head_dim": delta.head_dim,
        "linear_conv_kernel_dim": delta.conv_width,
        "mlp_layer_types": [SPARSE if isinstance(block.ffn, MoE) else DENSE for block in config.blocks],
        "num_experts": experts.num_experts,
        "num_experts_per_token": router.top_k,
        "moe_intermediate_size": experts.d_ff,
        "num_shared_experts": shared.d_ff // experts.d_ff,
        "moe_renormalize": router.renormalise,
        "routed_scaling_factor": router.scale,
        "num_expert_group": router.num_groups,
        "topk_group": router.top_groups,
    }
    plain = [block.ffn for block in config.blocks if isinstance(block.ffn, GatedMLP)]
    if plain:
        written["intermediate_size"] = plain[0].d_ff
    if "max_position_embeddings" in written:
        written["model_max_length"] = written.pop("max_position_embeddings")
    return written


FAMILY = Family(
    model_type="kimi_linear",
    summary="Kimi Linear: delta attention with decays per channel, latent attention, mixtures of experts",
    read_config=read_config,
    write_config=write_config,
    inert=INERT,
    weights=WEIGHTS,
    unused=dense.UNUSED,
    renamed=RENAMED,
)
