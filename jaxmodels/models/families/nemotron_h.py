"""Nemotron-H (`model_type` "nemotron_h"): one layer per block: Mamba-2, attention, MLP or experts."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from jaxmodels.checks import shown
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import MLP
from jaxmodels.layers.moe import LatentSpace, MoE, PlainExperts
from jaxmodels.layers.norm import GatedRMSNorm, RMSNorm
from jaxmodels.layers.ssd_mixer import SSDMixer
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import deepseek, dense, hybrid

# Beside how weights are drawn: `expand`, whose product the heads spell out; how caches are kept; and what
# transformers' code does not read: rotary settings, `residual_in_fp32`, `time_step_limit`, other names of
# sizes and epsilons.
INERT = (
    "attention_head_dim", "expand", "mamba_ssm_cache_dtype", "moe_shared_expert_overlap", "norm_eps",
    "partial_rotary_factor", "rescale_prenorm_residual", "residual_in_fp32", "rms_norm_eps", "rope_theta",
    "time_step_floor", "time_step_limit", "time_step_max", "time_step_rank",
)  # fmt: skip
# Keys of layers, which are read where the model has such layers.
LAYER_KEYS = (
    "attention_bias", "chunk_size", "conv_kernel", "head_dim", "intermediate_size", "mamba_head_dim",
    "mamba_hidden_act", "mamba_num_heads", "mamba_proj_bias", "mlp_bias", "mlp_hidden_act",
    "moe_intermediate_size", "moe_latent_size", "moe_shared_expert_intermediate_size", "n_group", "n_groups",
    "n_routed_experts", "n_shared_experts", "norm_topk_prob", "num_attention_heads", "num_experts_per_tok",
    "num_key_value_heads", "routed_scaling_factor", "sliding_window", "ssm_state_size", "time_step_min",
    "topk_group", "use_bias", "use_conv_bias",
)  # fmt: skip

# The letters of `hybrid_override_pattern`.
LETTERS = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}

WEIGHTS = (
    Weight("embed/weight", "backbone.embeddings.weight"),
    Weight("final_norm/scale", "backbone.norm_f.weight"),
    Weight("head/weight", "lm_head.weight"),
    Weight("blocks/{i}/mixer_norm/scale", "backbone.layers.{i}.norm.weight"),
    Weight("blocks/{i}/ffn_norm/scale", "backbone.layers.{i}.norm.weight"),
    *hybrid.ssd_weights("blocks/{i}/mixer", "backbone.layers.{i}.mixer"),
    *hybrid.renamed(
        dense.ATTENTION_WEIGHTS, theirs=("model.layers.{i}.self_attn", "backbone.layers.{i}.mixer")
    ),
    *hybrid.renamed(
        (*dense.GATED_MLP_WEIGHTS, *deepseek.MIXTURE_WEIGHTS),
        theirs=("model.layers.{i}.mlp", "backbone.layers.{i}.mixer"),
    ),
    *dense.affine_rows("blocks/{i}/ffn/latent/{p}_down", "backbone.layers.{i}.mixer.fc1_latent_proj"),
    *dense.affine_rows("blocks/{i}/ffn/latent/{p}_up", "backbone.layers.{i}.mixer.fc2_latent_proj"),
)


def read_config(reader: ConfigReader) -> Decoder:
    eps = reader.epsilon("layer_norm_epsilon", 1e-5)
    norm = RMSNorm(dim=reader.positive("hidden_size"), eps=eps)
    makers: dict[str, Callable[[], Block]] = {
        "linear_attention": lambda: Block(mixer_norm=norm, mixer=_read_ssd(reader, norm)),
        "full_attention": lambda: Block(mixer_norm=norm, mixer=_read_attention(reader)),
        "mlp": lambda: Block(ffn_norm=norm, ffn=_read_mlp(reader, "intermediate_size")),
        "moe": lambda: Block(ffn_norm=norm, ffn=_read_mixture(reader)),
    }
    types = _read_layer_types(reader, makers)
    layers = {kind: make() for kind, make in makers.items() if kind in types}
    reader.consume(*LAYER_KEYS)
    reader.expect("tie_word_embeddings", False)  # transformers' code does not tie them
    return dense.finish_decoder(reader, [layers[kind] for kind in types], norm)


def _read_layer_types(reader: ConfigReader, known: Mapping[str, Any]) -> list[str]:
    """The key `layers_block_type`, or the letters of the older `hybrid_override_pattern`."""
    letters = reader.optional("hybrid_override_pattern", str)
    if letters is None and reader.values.get("layers_block_type") is None:
        raise ConfigError(f"{reader.name}: key 'layers_block_type' or 'hybrid_override_pattern' is missing")
    if letters is None:
        return hybrid.read_layer_types(reader, known, key="layers_block_type")
    spelled = reader.pattern("hybrid_override_pattern", LETTERS, reader.layers(len(letters)))
    default = [LETTERS[letter] for letter in spelled]
    types = hybrid.read_layer_types(reader, known, default, key="layers_block_type")
    if types != default:
        raise ConfigError(
            f"{reader.name}: key 'hybrid_override_pattern' says {letters!r}, which 'layers_block_type' "
            f"contradicts: {shown(types)}"
        )
    return types


def _read_ssd(reader: ConfigReader, norm: RMSNorm) -> SSDMixer:
    reader.expect("mamba_hidden_act", "silu", "swish")
    reader.expect("mamba_proj_bias", False)
    num_heads, head_dim = reader.positive("mamba_num_heads"), reader.positive("mamba_head_dim")
    groups = reader.positive("n_groups")
    return SSDMixer(
        d_model=norm.dim,
        num_heads=num_heads,
        head_dim=head_dim,
        state_dim=reader.positive("ssm_state_size"),
        num_groups=groups,
        conv_width=reader.positive_or("conv_kernel", 4),
        chunk_size=reader.positive_or("chunk_size", 128),
        dt_limit=(reader.take_or("time_step_min", float, 0.001), math.inf),
        projection_bias=reader.flag("use_bias", False),
        conv_bias=reader.flag("use_conv_bias", True),
        norm=GatedRMSNorm(dim=num_heads * head_dim, eps=norm.eps, num_groups=groups),
    )


def _read_attention(reader: ConfigReader) -> Attention:
    """Without positions: the state space layers know the order."""
    reader.expect("attention_bias", False)
    reader.expect("sliding_window", None)
    return Attention(
        d_model=reader.positive("hidden_size"),
        num_heads=reader.positive("num_attention_heads"),
        num_kv_heads=reader.positive("num_key_value_heads"),
        head_dim=reader.positive_or("head_dim", 128),
    )


def _read_mlp(reader: ConfigReader, d_ff: str) -> MLP:
    return MLP(
        d_model=reader.positive("hidden_size"),
        d_ff=reader.positive(d_ff),
        activation=dense.read_activation(reader, "mlp_hidden_act", "relu2"),
        bias=reader.flag("mlp_bias", False),
    )


def _read_mixture(reader: ConfigReader) -> MoE:
    """DeepSeek-V3's routing over experts without gates, which may work in a narrower space."""
    reader.expect("n_shared_experts", 1)
    shared = _read_mlp(reader, "moe_shared_expert_intermediate_size")
    dim = reader.count("moe_latent_size")
    latent = None if dim is None else LatentSpace(d_model=shared.d_model, dim=dim, bias=shared.bias)
    experts = PlainExperts(
        num_experts=reader.positive("n_routed_experts"),
        d_model=shared.d_model if dim is None else dim,
        d_ff=reader.positive("moe_intermediate_size"),
        activation=shared.activation,
    )
    router = deepseek.read_sigmoid_router(reader, experts)
    return MoE(router=router, experts=experts, shared=shared, latent=latent)


def write_config(config: Decoder) -> dict[str, Any]:
    written: dict[str, Any] = {}
    names = []
    for block in config.blocks:
        layer = block.ffn if block.mixer is None else block.mixer
        kind = next((kind for kind in WRITERS if isinstance(layer, kind)), None)
        if kind is None or (block.mixer is not None and block.ffn is not None):
            raise ConfigError(f"the 'nemotron_h' layout holds blocks of one layer, got {block}")
        name, write = WRITERS[kind]
        names.append(name)
        written |= write(layer)
    ends = hybrid.write_decoder(config)
    return (
        {key: value for key, value in ends.items() if key not in ("num_hidden_layers", "rms_norm_eps")}
        | written
        | {
            "architectures": ["NemotronHForCausalLM"],
            "layer_norm_epsilon": ends["rms_norm_eps"],
            "layers_block_type": names,
        }
    )


def _write_ssd(ssd: SSDMixer) -> dict[str, Any]:
    return {
        "mamba_num_heads": ssd.num_heads,
        "mamba_head_dim": ssd.head_dim,
        "ssm_state_size": ssd.state_dim,
        "n_groups": ssd.num_groups,
        "conv_kernel": ssd.conv_width,
        "chunk_size": ssd.chunk_size,
        "time_step_min": ssd.dt_limit[0],
        "use_bias": ssd.projection_bias,
        "use_conv_bias": ssd.conv_bias,
    }


def _write_attention(attention: Attention) -> dict[str, Any]:
    return {
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
    }


def _write_mlp(mlp: MLP) -> dict[str, Any]:
    return {"intermediate_size": mlp.d_ff, "mlp_hidden_act": mlp.activation, "mlp_bias": mlp.bias}


def _write_mixture(mixture: MoE) -> dict[str, Any]:
    if not isinstance(mixture.shared, MLP):
        raise ConfigError(f"the 'nemotron_h' layout holds a shared MLP beside experts, got {mixture.shared}")
    return {
        "n_routed_experts": mixture.experts.num_experts,
        "moe_latent_size": None if mixture.latent is None else mixture.latent.dim,
        "moe_intermediate_size": mixture.experts.d_ff,
        "moe_shared_expert_intermediate_size": mixture.shared.d_ff,
        "num_experts_per_tok": mixture.router.top_k,
        "mlp_hidden_act": mixture.shared.activation,
        "mlp_bias": mixture.shared.bias,
        **deepseek.write_router(mixture.router),
    }


WRITERS: Mapping[type, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    SSDMixer: ("linear_attention", _write_ssd),
    Attention: ("full_attention", _write_attention),
    MLP: ("mlp", _write_mlp),
    MoE: ("moe", _write_mixture),
}

FAMILY = Family(
    model_type="nemotron_h",
    summary="Nemotron-H: one Mamba-2, attention or feed-forward layer per block",
    read_config=read_config,
    write_config=write_config,
    inert=INERT,
    weights=WEIGHTS,
)
