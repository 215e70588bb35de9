"""What DeepSeek-V2 and -V3 have in common with each other and with families that took over a part of them."""

from typing import Any

from jaxmodels.layers.latent_attention import LatentAttention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.moe import Experts, GatedExperts, MoE, Router, SigmoidTopK, SoftmaxTopK
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.rope import RopeStyle, rope_to_hf
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense, hybrid, mixture

ATTENTION = "model.layers.{i}.self_attn"
LATENT_ATTENTION_WEIGHTS = (
    Weight("blocks/{i}/mixer/w_q", f"{ATTENTION}.q_proj.weight", "(n h) d -> n h d"),
    Weight("blocks/{i}/mixer/w_q_down", f"{ATTENTION}.q_a_proj.weight"),
    Weight("blocks/{i}/mixer/b_q_down", f"{ATTENTION}.q_a_proj.bias"),
    Weight("blocks/{i}/mixer/query_norm/scale", f"{ATTENTION}.q_a_layernorm.weight"),
    Weight("blocks/{i}/mixer/w_q_up", f"{ATTENTION}.q_b_proj.weight", "(n h) r -> n h r"),
    Weight("blocks/{i}/mixer/w_kv_down", f"{ATTENTION}.kv_a_proj_with_mqa.weight"),
    Weight("blocks/{i}/mixer/w_k_rope", f"{ATTENTION}.kv_a_proj_with_mqa.weight"),
    Weight("blocks/{i}/mixer/b_kv_down", f"{ATTENTION}.kv_a_proj_with_mqa.bias"),
    Weight("blocks/{i}/mixer/b_k_rope", f"{ATTENTION}.kv_a_proj_with_mqa.bias"),
    Weight("blocks/{i}/mixer/latent_norm/scale", f"{ATTENTION}.kv_a_layernorm.weight"),
    Weight("blocks/{i}/mixer/w_uk", f"{ATTENTION}.kv_b_proj.weight", "(n h) r -> n h r", per="n"),
    Weight("blocks/{i}/mixer/w_uv", f"{ATTENTION}.kv_b_proj.weight", "(n v) r -> n r v", per="n"),
    Weight("blocks/{i}/mixer/w_o", f"{ATTENTION}.o_proj.weight", "d (n v) -> d n v"),
    Weight("blocks/{i}/mixer/b_o", f"{ATTENTION}.o_proj.bias"),
)

MIXTURE_WEIGHTS = (
    *mixture.ROUTER_WEIGHTS,
    Weight("blocks/{i}/ffn/router/selection_bias", "model.layers.{i}.mlp.gate.e_score_correction_bias"),
    *mixture.EXPERT_WEIGHTS,
    *hybrid.renamed(
        dense.GATED_MLP_WEIGHTS, ours=("/ffn/", "/ffn/shared/"), theirs=("mlp.", "mlp.shared_experts.")
    ),
)

FRAME_WEIGHTS = (
    *dense.ENDS_WEIGHTS,
    *dense.PRE_NORM_WEIGHTS,
    *dense.GATED_MLP_WEIGHTS,
    *MIXTURE_WEIGHTS,
)


def read_latent_attention(reader: ConfigReader, style: RopeStyle) -> LatentAttention:
    """Latent attention; its own norms have an epsilon of 1e-6 whatever that of the others is."""
    kv_rank, rope_dim = reader.positive_or("kv_lora_rank", 512), reader.positive_or("qk_rope_head_dim", 64)
    key_dim = reader.positive_or("qk_nope_head_dim", 128)
    query_rank = reader.count("q_lora_rank") if "q_lora_rank" in reader.values else 1536
    num_heads = reader.positive("num_attention_heads")
    reader.expect_same("num_key_value_heads", "num_attention_heads", num_heads)
    if rope_dim % 2:
        raise ConfigError(f"{reader.name}: key 'qk_rope_head_dim' must be even, got {rope_dim}")
    reader.expect_same("head_dim", "qk_rope_head_dim", rope_dim)
    reader.expect_same("qk_head_dim", "qk_nope_head_dim + qk_rope_head_dim", key_dim + rope_dim)
    return LatentAttention(
        d_model=reader.positive("hidden_size"),
        num_heads=num_heads,
        kv_rank=kv_rank,
        key_dim=key_dim,
        rope_dim=rope_dim,
        value_dim=reader.positive_or("v_head_dim", 128),
        latent_norm=RMSNorm(dim=kv_rank, axis=None),
        query_rank=query_rank,
        query_norm=None if query_rank is None else RMSNorm(dim=query_rank, axis=None),
        rope=dense.read_rope(reader, rope_dim, style=style),
        bias=reader.flag("attention_bias", False),
    )


def read_experts(reader: ConfigReader) -> GatedExperts:
    """The routed experts."""
    return GatedExperts(
        num_experts=reader.positive("n_routed_experts"),
        d_model=reader.positive("hidden_size"),
        d_ff=reader.positive("moe_intermediate_size"),
        activation=dense.read_activation(reader),
    )


def read_groups(
    reader: ConfigReader, experts: Experts, counted_by: str = "n_routed_experts"
) -> tuple[int, int]:
    """In how many groups the experts are, and of how many of them a token may choose.

    `counted_by` is the key that holds the number of experts.
    """
    groups, kept = reader.positive_or("n_group", 1), reader.positive_or("topk_group", 1)
    reader.check_divides("n_group", groups, counted_by, experts.num_experts)
    if kept > groups:
        raise ConfigError(f"{reader.name}: key 'topk_group' must be at most 'n_group' = {groups}, got {kept}")
    return groups, kept


def read_sigmoid_router(reader: ConfigReader, experts: Experts) -> SigmoidTopK:
    """Sigmoid scores, chosen within groups with a bias."""
    reader.expect("scoring_func", "sigmoid")
    reader.expect("topk_method", "noaux_tc")
    groups, kept = read_groups(reader, experts)
    return SigmoidTopK(
        d_model=reader.positive("hidden_size"),
        num_experts=experts.num_experts,
        top_k=reader.positive("num_experts_per_tok"),
        renormalise=reader.flag("norm_topk_prob", True),
        scale=reader.factor("routed_scaling_factor", 1.0),
        num_groups=groups,
        top_groups=kept,
    )


def read_feed_forwards(
    reader: ConfigReader, router: Router, experts: GatedExperts, first_dense: int, bias: bool = False
) -> list[GatedMLP | MoE]:
    """One feed-forward per layer: dense ones first, then mixtures with a shared expert.

    `first_dense` is the default of `first_k_dense_replace`. bias: of the dense and the shared ones.
    """
    reader.expect("moe_layer_freq", 1)
    shared = GatedMLP(
        d_model=experts.d_model,
        d_ff=experts.d_ff * reader.positive("n_shared_experts"),
        activation=experts.activation,
        bias=bias,
    )
    return dense_first(reader, MoE(router=router, experts=experts, shared=shared), first_dense, bias)


def dense_first(
    reader: ConfigReader, mixed: MoE, first_dense: int, bias: bool = False
) -> list[GatedMLP | MoE]:
    """`mixed` in all layers but the first `first_k_dense_replace`, which are dense and have the `bias`.

    `first_dense` is that key's default.
    """
    layers = reader.positive("num_hidden_layers")
    first = reader.take_or("first_k_dense_replace", int, first_dense)
    if first == 0:
        reader.consume("intermediate_size")  # the size of layers that there are none of
        return [mixed] * layers
    plain = dense.read_gated_mlp(reader, bias)
    return [plain if i < first else mixed for i in range(layers)]


def write_latent_attention(attention: LatentAttention) -> dict[str, Any]:
    """The keys that `read_latent_attention` reads."""
    return {
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_heads,
        "kv_lora_rank": attention.kv_rank,
        "q_lora_rank": attention.query_rank,
        "qk_nope_head_dim": attention.key_dim,
        "qk_rope_head_dim": attention.rope_dim,
        "v_head_dim": attention.value_dim,
        "attention_bias": attention.bias,
        **({} if attention.rope is None else rope_to_hf(attention.rope, attention.rope_dim)),
    }


def write_mixture(config: Decoder) -> dict[str, Any]:
    """The keys that `read_feed_forwards`, `read_experts` and the routers read; no dense size without such."""
    mixed = mixture.mixtures(config)[0]
    router, experts, shared = mixed.router, mixed.experts, mixed.shared
    plain = [block.ffn for block in config.blocks if isinstance(block.ffn, GatedMLP)]
    assert shared is not None and isinstance(experts, GatedExperts)
    return {
        **({"intermediate_size": plain[0].d_ff} if plain else {}),
        "hidden_act": experts.activation,
        "first_k_dense_replace": len(plain),
        "n_routed_experts": experts.num_experts,
        "n_shared_experts": shared.d_ff // experts.d_ff,
        "moe_intermediate_size": experts.d_ff,
        "num_experts_per_tok": router.top_k,
        **write_router(router),
    }


def write_router(router: Router) -> dict[str, Any]:
    """The keys of groups and weights."""
    if not isinstance(router, SigmoidTopK | SoftmaxTopK):
        raise ConfigError(f"the layout holds sigmoid or softmax top-k routers, not {router}")
    return {
        "norm_topk_prob": router.renormalise,
        "routed_scaling_factor": router.scale,
        "n_group": router.num_groups,
        "topk_group": router.top_groups,
    }
