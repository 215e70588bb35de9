"""MiniMax-Text-01 (`model_type` "minimax"): lightning and full attention, mixtures of experts."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.lightning import LightningMixer, lightning_slope_scale
from jaxmodels.layers.moe import GatedExperts, MoE
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.rope import rope_to_hf
from jaxmodels.models.block import NormedResidualBlock
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight, for_mixer
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense, hybrid, linear_hybrid, mixture

LIGHTNING = "model.layers.{i}.self_attn"
QKV = f"{LIGHTNING}.qkv_proj.weight"

WEIGHTS = (
    *dense.ENDS_WEIGHTS,
    *dense.PRE_NORM_WEIGHTS,
    *for_mixer(Attention, *dense.ATTENTION_WEIGHTS),
    *for_mixer(
        LightningMixer,
        Weight("blocks/{i}/mixer/w_q", QKV, "(n h) d -> n h d", per="n"),
        Weight("blocks/{i}/mixer/w_k", QKV, "(n h) d -> n h d", per="n"),
        Weight("blocks/{i}/mixer/w_v", QKV, "(n h) d -> n h d", per="n"),
        Weight("blocks/{i}/mixer/w_gate", f"{LIGHTNING}.output_gate.weight", "(n h) d -> n h d"),
        Weight("blocks/{i}/mixer/norm/scale", f"{LIGHTNING}.norm.weight"),
        Weight("blocks/{i}/mixer/w_o", f"{LIGHTNING}.out_proj.weight", "d (n h) -> d n h"),
    ),
    *mixture.BLOCK_SPARSE_WEIGHTS,
)

# Tables of decays, which follow from the number of heads and layers.
UNUSED = r"model\.layers\.\d+\.self_attn\.(slope_rate|query_decay|key_decay|diagonal_decay)"


def _factors(reader: ConfigReader, name: str) -> tuple[float, float]:
    """The factors of what is carried past a layer and of what the layer gives."""
    alpha, beta = (reader.factor(f"{name}_{kind}_factor", 1.0) for kind in ("alpha", "beta"))
    return alpha, beta


def read_config(reader: ConfigReader) -> Decoder:
    norm, layers = dense.read_norm(reader, default_eps=1e-5), reader.positive("num_hidden_layers")
    heads = dense.read_attention(reader, default_theta=1e6)
    attention = Attention(**heads, sliding_window=reader.count("sliding_window"))
    experts = mixture.read_experts(reader, "intermediate_size")
    ffn = MoE(router=mixture.read_router(reader, experts, 2, renormalise=True), experts=experts)
    lightning = LightningMixer(
        d_model=attention.d_model,
        num_heads=attention.num_heads,
        head_dim=attention.head_dim,
        norm=RMSNorm(dim=attention.num_heads * attention.head_dim, axis="ssm_inner"),
        activation=experts.activation,
        chunk_size=reader.positive_or("block_size", 256),
    )
    factors = {
        kind: _factors(reader, f"{kind.split('_')[0]}_attn") for kind in (dense.FULL, linear_hybrid.LINEAR)
    }
    ffn_alpha, ffn_beta = _factors(reader, "mlp")
    default = [linear_hybrid.LINEAR if i % 2 else dense.FULL for i in range(layers)]
    blocks = [
        NormedResidualBlock(
            mixer_norm=norm,
            mixer=attention
            if kind == dense.FULL
            else replace(lightning, slope_scale=lightning_slope_scale(i, layers)),
            mixer_alpha=factors[kind][0],
            mixer_beta=factors[kind][1],
            ffn_norm=norm,
            ffn=ffn,
            ffn_alpha=ffn_alpha,
            ffn_beta=ffn_beta,
        )
        for i, kind in enumerate(linear_hybrid.read_layer_types(reader, default))
    ]
    return dense.finish_decoder(reader, blocks, norm)


def write_config(config: Decoder) -> dict[str, Any]:
    attention, lightning = hybrid.first_of(config, Attention), hybrid.first_of(config, LightningMixer)
    layer = hybrid.first_of(config, MoE)
    assert isinstance(layer.experts, GatedExperts)
    rope = {} if attention.rope is None else rope_to_hf(attention.rope, attention.head_dim)
    written = {
        **hybrid.write_decoder(config),
        **linear_hybrid.write_layer_types(config),
        **rope,
        "architectures": ["MiniMaxForCausalLM"],
        "hidden_act": layer.experts.activation,
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "sliding_window": attention.sliding_window,
        "block_size": lightning.chunk_size,
        "intermediate_size": layer.experts.d_ff,
        "num_local_experts": layer.experts.num_experts,
        "num_experts_per_tok": layer.router.top_k,
    }
    if attention.head_dim != config.d_model // attention.num_heads:
        written["head_dim"] = attention.head_dim  # which checkpoints leave out otherwise
    for block in config.blocks:
        if not isinstance(block, NormedResidualBlock):
            raise ConfigError(f"the 'minimax' layout holds blocks with normed residuals alone, not {block}")
        kind = "full" if isinstance(block.mixer, Attention) else "linear"
        written |= {
            f"{kind}_attn_alpha_factor": block.mixer_alpha,
            f"{kind}_attn_beta_factor": block.mixer_beta,
            "mlp_alpha_factor": block.ffn_alpha,
            "mlp_beta_factor": block.ffn_beta,
        }
    return written


FAMILY = Family(
    model_type="minimax",
    summary="MiniMax-Text-01: lightning and full attention, mixtures of experts",
    read_config=read_config,
    write_config=write_config,
    weights=WEIGHTS,
    unused=(*dense.UNUSED, UNUSED),
    renamed=mixture.BLOCK_SPARSE_RENAMED,
)
