"""What Qwen2 and Qwen3 share with the models that were made of them: attention, mixtures, written keys."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.moe import MoE
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense, mixture

# What transformers' configuration class of the dense Qwen3 assumes where the key is absent.
HEAD_DIM = 128


def read_plain_attention(reader: ConfigReader) -> Attention:
    """Qwen2's: biases on queries, keys and values."""
    return Attention(**dense.read_attention(reader), qkv_bias=True)


def read_normed_attention(reader: ConfigReader, default_head_dim: int | None = None) -> Attention:
    """Qwen3's: an RMSNorm of each head's queries and keys, and biases by the key `attention_bias`."""
    bias = reader.flag("attention_bias", False)
    shared = dense.read_attention(reader, default_head_dim)
    norm = RMSNorm(dim=shared["head_dim"], eps=reader.epsilon("rms_norm_eps", dense.DEFAULT_EPS), axis=None)
    return Attention(**shared, query_norm=norm, key_norm=norm, qkv_bias=bias, out_bias=bias)


def read_dense(reader: ConfigReader, attention: Attention) -> Decoder:
    """The decoder with this attention in each layer, windows as the configuration has them."""
    windows = dense.layer_windows(reader, reader.positive("num_hidden_layers"))
    return dense.read_decoder(reader, [replace(attention, sliding_window=w) for w in windows], mlp_bias=False)


def write_dense(config: Decoder) -> dict[str, Any]:
    """The keys that `read_dense` reads, and those of its attention but for biases."""
    return dense.write_decoder(config) | dense.write_windows(config)


def write_bias(config: Decoder) -> dict[str, Any]:
    """The key `attention_bias`."""
    return {"attention_bias": dense.attentions(config)[0].qkv_bias}


def read_mixture(reader: ConfigReader) -> Decoder:
    """Qwen3's mixture of experts, with one window for all layers or none."""
    norm, attention = dense.read_norm(reader), read_normed_attention(reader)
    window = dense.read_window(reader)
    if reader.flag("use_sliding_window", False):
        attention = replace(attention, sliding_window=window)
    experts = mixture.read_experts(reader, "moe_intermediate_size")
    reader.expect("shared_expert_intermediate_size", 0, None)
    reader.expect("use_qk_norm", True)
    router = mixture.read_router(reader, experts, 8, reader.flag("norm_topk_prob", False))
    layers = mixture.read_feed_forwards(reader, MoE(router=router, experts=experts))
    blocks = [Block(mixer_norm=norm, mixer=attention, ffn_norm=norm, ffn=ffn) for ffn in layers]
    return dense.finish_decoder(reader, blocks, norm)


def write_mixture(config: Decoder) -> dict[str, Any]:
    """The keys that `read_mixture` reads."""
    window = dense.attentions(config)[0].sliding_window
    written = dense.write_decoder(config) | mixture.write_qwen(config)
    written.pop("intermediate_size", None)
    return (
        written
        | mixture.write_sparse_layers(config)
        | write_bias(config)
        | {
            "sliding_window": window,
            "use_sliding_window": window is not None,
            "moe_intermediate_size": mixture.mixtures(config)[0].experts.d_ff,
        }
    )
