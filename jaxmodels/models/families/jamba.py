"""Jamba (`model_type` "jamba"): Mamba-1 and attention, some feed-forwards mixtures of experts."""

import math
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mamba_mixer import MambaMixer
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.moe import GatedExperts, MoE, SoftmaxTopK
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense, hybrid, mamba, mixture

INERT = ("use_associative_scan", "use_mambapy")

MAMBA = "model.layers.{i}.mamba"
WEIGHTS = (
    *hybrid.FRAME_WEIGHTS,
    *hybrid.GATED_MLP_WEIGHTS,
    *hybrid.renamed(mixture.EXPERT_WEIGHTS, theirs=(".mlp.", ".feed_forward.")),
    Weight("blocks/{i}/ffn/router/w", "model.layers.{i}.feed_forward.router.weight"),
    *dense.ATTENTION_WEIGHTS,
    *hybrid.renamed(
        [row for row in mamba.WEIGHTS if row.ours.startswith("blocks/{i}/mixer/")],
        theirs=("backbone.layers.{i}.mixer", MAMBA),
    ),
    *(
        Weight(f"blocks/{{i}}/mixer/{name}_norm/scale", f"{MAMBA}.{name}_layernorm.weight")
        for name in ("dt", "b", "c")
    ),
)


def read_config(reader: ConfigReader) -> Decoder:
    reader.expect("hidden_act", "silu", "swish")  # it is also the convolution's
    norm, layers = dense.read_norm(reader), reader.positive("num_hidden_layers")
    attention, ssm, ffn = _read_attention(reader), _read_mamba(reader, norm), dense.read_gated_mlp(reader)
    mixed = _read_mixture(reader, ffn)
    attended = _every(reader, "attn_layer", layers, 8, 4)
    routed = _every(reader, "expert_layer", layers, 2, 1)
    blocks = [
        Block(
            mixer_norm=norm,
            mixer=attention if attended[i] else ssm,
            ffn_norm=norm,
            ffn=mixed if mixed is not None and routed[i] else ffn,
        )
        for i in range(layers)
    ]
    return dense.finish_decoder(reader, blocks, norm)


def _every(reader: ConfigReader, name: str, layers: int, period: int, offset: int) -> list[bool]:
    """Which layers are of the kind that comes once in each period."""
    period = reader.positive_or(f"{name}_period", period)
    offset = reader.take_or(f"{name}_offset", int, offset)
    if offset >= period:
        raise ConfigError(f"{reader.name}: {name}_offset={offset} must be below {name}_period={period}")
    return [i % period == offset for i in range(layers)]


def _read_attention(reader: ConfigReader) -> Attention:
    """Without positions: the state space layers know the order."""
    return Attention(**dense.read_heads(reader))


def _read_mamba(reader: ConfigReader, norm: RMSNorm) -> MambaMixer:
    given, default = reader.values.get("mamba_dt_rank"), math.ceil(norm.dim / 16)
    reader.consume("mamba_dt_rank")
    dt_rank = default if given in (None, "auto") else reader.positive("mamba_dt_rank")
    state_dim = reader.positive_or("mamba_d_state", 16)
    state_norm = RMSNorm(dim=state_dim, eps=norm.eps, axis=None)
    return MambaMixer(
        d_model=norm.dim,
        d_inner=reader.positive_or("mamba_expand", 2) * norm.dim,
        state_dim=state_dim,
        dt_rank=dt_rank,
        conv_width=reader.positive_or("mamba_d_conv", 4),
        projection_bias=reader.flag("mamba_proj_bias", False),
        conv_bias=reader.flag("mamba_conv_bias", True),
        dt_norm=RMSNorm(dim=dt_rank, eps=norm.eps, axis=None),
        b_norm=state_norm,
        c_norm=state_norm,
    )


def _read_mixture(reader: ConfigReader, ffn: GatedMLP) -> MoE | None:
    """Experts of the dense feed-forward's size; none where there would be only one."""
    count, top_k = reader.positive_or("num_experts", 16), reader.positive_or("num_experts_per_tok", 2)
    reader.expect("num_local_experts", count)
    if count <= 1:
        return None
    experts = GatedExperts(num_experts=count, d_model=ffn.d_model, d_ff=ffn.d_ff, activation=ffn.activation)
    router = SoftmaxTopK(d_model=ffn.d_model, num_experts=count, top_k=top_k, renormalise=False)
    return MoE(router=router, experts=experts)


def write_config(config: Decoder) -> dict[str, Any]:
    attention, ssm = hybrid.first_of(config, Attention), hybrid.first_of(config, MambaMixer)
    ffn = next(block.ffn for block in config.blocks if block.ffn is not None)
    size = ffn.experts if isinstance(ffn, MoE) else ffn
    assert isinstance(size, GatedExperts | GatedMLP)
    routed = [isinstance(block.ffn, MoE) for block in config.blocks]
    experts: dict[str, Any] = {"num_experts": 1}
    if any(routed):
        router = mixture.mixtures(config)[0].router
        experts = {"num_experts": router.num_experts, "num_experts_per_tok": router.top_k}
        experts |= _write_every("expert_layer", routed)
    return (
        hybrid.write_decoder(config)
        | experts
        | _write_every("attn_layer", [isinstance(block.mixer, Attention) for block in config.blocks])
        | {
            "architectures": ["JambaForCausalLM"],
            "num_attention_heads": attention.num_heads,
            "num_key_value_heads": attention.num_kv_heads,
            "head_dim": attention.head_dim,
            "intermediate_size": size.d_ff,
            "hidden_act": size.activation,
            "mamba_expand": ssm.d_inner // ssm.d_model,
            "mamba_d_state": ssm.state_dim,
            "mamba_dt_rank": ssm.dt_rank,
            "mamba_d_conv": ssm.conv_width,
            "mamba_proj_bias": ssm.projection_bias,
            "mamba_conv_bias": ssm.conv_bias,
        }
    )


def _write_every(name: str, chosen: list[bool]) -> dict[str, int]:
    """The shortest period that tells which layers are `chosen`."""
    for period in range(1, len(chosen) + 1):
        offset = chosen.index(True)
        if offset < period and chosen == [i % period == offset for i in range(len(chosen))]:
            return {f"{name}_period": period, f"{name}_offset": offset}
    raise ConfigError(f"the 'jamba' layout holds one {name} in every period, got {chosen}")


FAMILY = Family(
    model_type="jamba",
    summary="Jamba: Mamba, a few attention layers, mixtures of experts",
    read_config=read_config,
    write_config=write_config,
    inert=INERT,
    weights=WEIGHTS,
)
