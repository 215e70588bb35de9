"""MoE++ (`model_type` "MoE++"): constant, copy and zero experts, routers that see the layer before.

The layout of https://github.com/SkyworkAI/MoE-plus-plus, with a mixture in every layer.
"""

from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.moe import GatedExperts, MoE, ResidualRouter, ZeroComputationExperts
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense, mixture

# What the released layer is built with.
TOP_K, CONSTANTS, GATE_FEATURES = 2, 2, 8

GATE = "model.layers.{i}.mlp.moe.gate"
EXPERT = "model.layers.{i}.mlp.moe.experts.experts.{e}"
FFNS = "blocks/{i}/ffn/experts/w_down"
WEIGHTS = (
    *dense.ENDS_WEIGHTS,
    *dense.PRE_NORM_WEIGHTS,
    *dense.ATTENTION_WEIGHTS,
    Weight("blocks/{i}/ffn/router/w_in", f"{GATE}.wg.0.weight"),
    Weight("blocks/{i}/ffn/router/w", f"{GATE}.wg.2.weight"),
    Weight("blocks/{i}/ffn/router/w_previous", f"{GATE}.gate_map.weight"),
    Weight("blocks/{i}/ffn/experts/w_gate", f"{EXPERT}.up_proj.weight", "f d -> d f"),
    Weight("blocks/{i}/ffn/experts/w_up", f"{EXPERT}.up_proj.weight", "f d -> d f"),
    Weight(FFNS, f"{EXPERT}.down_proj.weight", "d f -> f d"),
    Weight("blocks/{i}/ffn/zero_computation/w", f"{EXPERT}.wg.weight", "p d -> d p", after=FFNS),
    Weight("blocks/{i}/ffn/zero_computation/constant", f"{EXPERT}.constant", after=FFNS),
)


def read_config(reader: ConfigReader) -> Decoder:
    reader.expect("moe_expert_interval", 1)
    reader.expect("moe_2layer_gate", True)
    reader.expect("hidden_act", "silu")
    attention = Attention(**dense.read_attention(reader))
    counts = reader.take_or("num_experts", list, [32])
    if len(counts) != 1 or not isinstance(counts[0], int) or counts[0] <= CONSTANTS + 2:
        raise ConfigError(
            f"{reader.name}: key 'num_experts' must hold one number above {CONSTANTS + 2}, got {counts!r}"
        )
    zero_computation = ZeroComputationExperts(d_model=attention.d_model, constants=CONSTANTS)
    experts = GatedExperts(
        num_experts=counts[0] - zero_computation.count,
        d_model=attention.d_model,
        d_ff=reader.positive("intermediate_size"),
    )
    mixtral = reader.flag("moe_use_mixtral_gating", False)
    unscaled = reader.flag("moe_feature_no_mul_topk", False) or mixtral
    normalised = reader.flag("moe_use_logits_norm", False)
    std = reader.factor("moe_gate_norm_std", 1.0)
    router = ResidualRouter(
        d_model=attention.d_model,
        num_experts=counts[0],
        top_k=TOP_K,
        hidden=GATE_FEATURES * counts[0],
        logit_std=std if normalised else None,
        zero_expert=not mixtral,
    )
    layer = MoE(
        router=router,
        experts=experts,
        zero_computation=zero_computation,
        input_scale=1.0 if unscaled else float(TOP_K),
    )
    norm = dense.read_norm(reader)
    block = Block(mixer_norm=norm, mixer=attention, ffn_norm=norm, ffn=layer)
    return dense.finish_decoder(reader, [block] * reader.positive("num_hidden_layers"), norm)


def write_config(config: Decoder) -> dict[str, Any]:
    layer = mixture.mixtures(config)[0]
    router = layer.router
    if not isinstance(router, ResidualRouter):
        raise ConfigError(f"the 'MoE++' layout holds residual routers, not {router}")
    return dense.write_decoder(config) | {
        "architectures": ["MoeForCausalLM"],
        "num_experts": [router.num_experts],
        "moe_expert_interval": 1,
        "moe_2layer_gate": True,
        "moe_use_mixtral_gating": not router.zero_expert,
        "moe_feature_no_mul_topk": layer.input_scale == 1.0,
        "moe_use_logits_norm": router.logit_std is not None,
        "moe_gate_norm_std": 1.0 if router.logit_std is None else router.logit_std,
    }


FAMILY = Family(
    model_type="MoE++",
    summary="MoE++ 7B",
    read_config=read_config,
    write_config=write_config,
    weights=WEIGHTS,
    unused=dense.UNUSED,
)
