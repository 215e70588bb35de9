"""Mixtral (`model_type` "mixtral"): Mistral's shape with a mixture of experts in every layer."""

from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.moe import MoE
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense, mixture

EPS, THETA = 1e-5, 1e6


def read_config(reader: ConfigReader) -> Decoder:
    window = dense.read_window(reader) if "sliding_window" in reader.values else None
    attention = Attention(**dense.read_attention(reader, default_theta=THETA), sliding_window=window)
    experts = mixture.read_experts(reader, "intermediate_size")
    router = mixture.read_router(reader, experts, top_k=2, renormalise=True)
    norm = dense.read_norm(reader, default_eps=EPS)
    block = Block(mixer_norm=norm, mixer=attention, ffn_norm=norm, ffn=MoE(router=router, experts=experts))
    return dense.finish_decoder(reader, [block] * reader.positive("num_hidden_layers"), norm)


def write_config(config: Decoder) -> dict[str, Any]:
    layer, attention = mixture.mixtures(config)[0], dense.attentions(config)[0]
    written = dense.write_decoder(config)
    if attention.head_dim == config.d_model // attention.num_heads:
        del written["head_dim"]  # which checkpoints leave out
    return written | {
        "architectures": ["MixtralForCausalLM"],
        "sliding_window": attention.sliding_window,
        "num_local_experts": layer.experts.num_experts,
        "num_experts_per_tok": layer.router.top_k,
    }


FAMILY = Family(
    model_type="mixtral",
    summary="Mixtral 8x7B and 8x22B",
    read_config=read_config,
    write_config=write_config,
    weights=(
        *dense.ENDS_WEIGHTS,
        *dense.PRE_NORM_WEIGHTS,
        *dense.ATTENTION_WEIGHTS,
        *mixture.BLOCK_SPARSE_WEIGHTS,
    ),
    unused=dense.UNUSED,
    renamed=mixture.BLOCK_SPARSE_RENAMED,
)
