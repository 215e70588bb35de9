"""SDAR (`model_type` "sdar" and "sdar_moe"): Qwen3's weights and names, trained to fill masks block by block.

Source: https://arxiv.org/abs/2510.06303 and the configurations of JetLM/SDAR-4B-Chat and SDAR-30B-A3B-Chat.
The logits at a mask speak of its own place. The mixture's configurations name neither the mask token nor the
length of a block, which are those of the dense models.
"""

from dataclasses import replace
from typing import Any

from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense, filling, mixture, qwen

MASK_TOKEN, BLOCK = 151_669, 4

# Of the authors' training framework.
INERT = (
    "attn_implementation", "debug", "fuse_cross_entropy", "max_window_layers", "micro_forward",
    "skip_checkpoint", "use_deepep",
)  # fmt: skip


def read_config(reader: ConfigReader) -> Decoder:
    return _filling_blocks(reader, qwen.read_dense(reader, qwen.read_normed_attention(reader, qwen.HEAD_DIM)))


def write_config(config: Decoder) -> dict[str, Any]:
    written = qwen.write_dense(config) | qwen.write_bias(config) | _write_blocks(config)
    return written | {"architectures": ["SDARForCausalLM"]}


def read_mixture_config(reader: ConfigReader) -> Decoder:
    return _filling_blocks(reader, qwen.read_mixture(reader))


def write_mixture_config(config: Decoder) -> dict[str, Any]:
    return qwen.write_mixture(config) | _write_blocks(config) | {"architectures": ["SDARMoeForCausalLM"]}


def _filling_blocks(reader: ConfigReader, config: Decoder) -> Decoder:
    return replace(
        config,
        mask=filling.read_block_causal(reader, BLOCK),
        filling=filling.read_filling(reader, config.vocab_size, MASK_TOKEN),
    )


def _write_blocks(config: Decoder) -> dict[str, Any]:
    return filling.write_filling(config) | filling.write_block_causal(config)


FAMILY = Family(
    model_type="sdar",
    summary="SDAR-1.7B, SDAR-4B, SDAR-8B",
    read_config=read_config,
    write_config=write_config,
    inert=INERT,
    weights=dense.WEIGHTS,
    unused=dense.UNUSED,
)

MIXTURE = Family(
    model_type="sdar_moe",
    summary="SDAR-30B-A3B",
    read_config=read_mixture_config,
    write_config=write_mixture_config,
    inert=INERT,
    weights=mixture.WEIGHTS,
    unused=dense.UNUSED,
)
