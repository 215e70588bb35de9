"""WeDLM (`model_type` "wedlm"): weights and names of Qwen2.5 or Qwen3, causal attention to the masks too.

Source: https://arxiv.org/abs/2512.22737 and the configuration and modeling files of
tencent/WeDLM-8B-Instruct. Its decoding shows known tokens in front of the masks, wherever their positions
are, so that all masks see them. The logits at a mask speak of its own place.
"""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense, filling, qwen

# What the authors' engine takes where the configuration does not say it.
MASK_TOKEN = 151_665


def read_config(reader: ConfigReader) -> Decoder:
    attention = Attention(**dense.read_attention(reader), qkv_bias=reader.flag("attention_bias", True))
    if reader.flag("qk_norm", False):
        eps = reader.epsilon("rms_norm_eps", dense.DEFAULT_EPS)
        norm = RMSNorm(dim=attention.head_dim, eps=eps, axis=None)
        attention = replace(attention, query_norm=norm, key_norm=norm)
    config = qwen.read_dense(reader, attention)
    return replace(config, filling=filling.read_filling(reader, config.vocab_size, MASK_TOKEN))


def write_config(config: Decoder) -> dict[str, Any]:
    return (
        qwen.write_dense(config)
        | qwen.write_bias(config)
        | filling.write_filling(config)
        | {
            "architectures": ["WeDLMForCausalLM"],
            "qk_norm": dense.attentions(config)[0].query_norm is not None,
        }
    )


FAMILY = Family(
    model_type="wedlm",
    summary="WeDLM",
    read_config=read_config,
    write_config=write_config,
    weights=dense.WEIGHTS,
    unused=dense.UNUSED,
)
