"""Granite 4 (`model_type` "granitemoehybrid"): Mamba-2 and attention, one expert shared."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.moe import MoE
from jaxmodels.layers.ssd_mixer import SSDMixer
from jaxmodels.layers.window import Mixer
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense, hybrid, mixture

# Under `ffn` where there is no mixture, under `ffn/shared` beside one.
SHARED_WEIGHTS = tuple(
    Weight(f"blocks/{{i}}/{ffn}/w_{name}", f"model.layers.{{i}}.shared_mlp.{theirs}.weight")
    for ffn in ("ffn", "ffn/shared")
    for name, theirs in (("gate", "input_linear"), ("up", "input_linear"), ("down", "output_linear"))
)

# Keys of attention, which are read where the model has such layers.
ATTENTION_KEYS = (
    *dense.ROPE_KEYS, "attention_bias", "attention_multiplier", "head_dim", "num_attention_heads",
    "num_key_value_heads", "position_embedding_type",
)  # fmt: skip

WEIGHTS = (
    *dense.ENDS_WEIGHTS,
    *dense.PRE_NORM_WEIGHTS,
    *dense.ATTENTION_WEIGHTS,
    *hybrid.ssd_weights("blocks/{i}/mixer", "model.layers.{i}.mamba"),
    *mixture.GRANITE_WEIGHTS,
    *SHARED_WEIGHTS,
)


def read_config(reader: ConfigReader) -> Decoder:
    reader.expect("hidden_act", "silu", "swish")  # it is also the convolution's
    norm, ffn = dense.read_norm(reader), _read_feed_forward(reader)
    makers: dict[str, Callable[[], Mixer]] = {
        "linear_attention": lambda: hybrid.read_ssd(reader, norm),
        "full_attention": lambda: _read_attention(reader),
    }
    layers = reader.positive("num_hidden_layers")
    types = hybrid.read_layer_types(reader, makers, default=["linear_attention"] * layers)
    mixers = {kind: make() for kind, make in makers.items() if kind in types}
    reader.consume(*hybrid.SSD_KEYS, *ATTENTION_KEYS)
    reader.expect("normalization_function", "rmsnorm", None)
    residual = reader.factor("residual_multiplier", 1.0)
    blocks = [
        Block(mixer_norm=norm, mixer=mixers[kind], ffn_norm=norm, ffn=ffn, residual_scale=residual)
        for kind in types
    ]
    embed_scale = reader.factor("embedding_multiplier", 1.0)
    logit_scale = dense.reciprocal(reader.factor("logits_scaling", 1.0))
    config = dense.finish_decoder(reader, blocks, norm)
    return replace(config, embed_scale=embed_scale, logit_scale=logit_scale)


def _read_attention(reader: ConfigReader) -> Attention:
    reader.expect("position_embedding_type", "rope", "nope", None)
    attention = hybrid.read_attention(reader)
    has_rope = reader.values.get("position_embedding_type") == "rope"
    scale = reader.factor("attention_multiplier", 1.0)
    return replace(attention, scale=scale, rope=attention.rope if has_rope else None)


def _read_feed_forward(reader: ConfigReader) -> GatedMLP | MoE:
    shared = GatedMLP(
        d_model=reader.positive("hidden_size"),
        d_ff=reader.positive_or("shared_intermediate_size", 1024),
        activation=dense.read_activation(reader),
    )
    if reader.take_or("num_local_experts", int, 8) == 0:
        reader.consume("intermediate_size", "num_experts_per_tok")
        return shared
    experts = mixture.read_experts(reader, "intermediate_size")
    router = mixture.read_router(reader, experts, 2, renormalise=True)
    return MoE(router=router, experts=experts, shared=shared)


def write_config(config: Decoder) -> dict[str, Any]:
    block = config.blocks[0]
    assert isinstance(block, Block) and isinstance(block.ffn, GatedMLP | MoE)
    shared = block.ffn.shared if isinstance(block.ffn, MoE) else block.ffn
    assert isinstance(shared, GatedMLP)
    experts: dict[str, Any] = {"num_local_experts": 0}
    if isinstance(block.ffn, MoE):
        experts = {
            "num_local_experts": block.ffn.experts.num_experts,
            "num_experts_per_tok": block.ffn.router.top_k,
            "intermediate_size": block.ffn.experts.d_ff,
        }
    return (
        hybrid.write_decoder(config)
        | _write_mixers(config)
        | experts
        | {
            "architectures": ["GraniteMoeHybridForCausalLM"],
            "layer_types": [
                "full_attention" if isinstance(block.mixer, Attention) else "linear_attention"
                for block in config.blocks
            ],
            "shared_intermediate_size": shared.d_ff,
            "hidden_act": shared.activation,
            "residual_multiplier": block.residual_scale,
            "embedding_multiplier": config.embed_scale,
            "logits_scaling": dense.reciprocal(config.logit_scale),
        }
    )


def _write_mixers(config: Decoder) -> dict[str, Any]:
    """The keys of the kinds of layers that the model has."""
    written: dict[str, Any] = {}
    for block in config.blocks:
        mixer = block.mixer
        if isinstance(mixer, SSDMixer):
            written |= hybrid.write_ssd(mixer) | {"mamba_expand": mixer.d_inner // mixer.d_model}
        elif isinstance(mixer, Attention):
            written |= hybrid.write_attention(mixer)
            written["attention_multiplier"] = mixer.scale
            written["position_embedding_type"] = None if mixer.rope is None else "rope"
    return written


FAMILY = Family(
    model_type="granitemoehybrid",
    summary="Granite 4: Mamba-2, a few attention layers, mixtures of experts",
    read_config=read_config,
    write_config=write_config,
    weights=WEIGHTS,
)
