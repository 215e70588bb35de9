"""DeepSeek-V3's layout, which GLM-4.5 and its successors have too: modules are further layers of the model.

A module is a layer behind the last with its projection and norms beside it, always a mixture of experts. The
copies of embedding and head that some checkpoints hold with it are the model's own.
"""

from collections.abc import Mapping
from typing import Any

from jaxmodels.layers.moe import MoE
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.draft_heads.mtp_layouts.layout import MTPLayout
from jaxmodels.models.family import Weight
from jaxmodels.models.hf_config import ConfigError


def read_blocks(config: Decoder, values: Mapping[str, Any]) -> tuple[Block, ...]:
    last = config.blocks[-1]
    if not isinstance(last, Block) or not isinstance(last.ffn, MoE):
        raise ConfigError(
            "modules for multi-token prediction are mixtures of experts, which the model's last layer is not"
        )
    return (last,)


def number_of_layers(config: Decoder) -> int:
    """The modules are numbered on from the model's layers."""
    return len(config.blocks)


LAYER = "model.layers.{first}"

LAYOUT = MTPLayout(
    model_types=("deepseek_v3", "kimi_k2", "glm4_moe", "glm4_moe_lite"),
    count_key="num_nextn_predict_layers",
    read_blocks=read_blocks,
    architecture="DeepSeekMTPModel",
    first_number=number_of_layers,
    block="model.layers.{n}.",
    weights=(
        Weight("embed_norm/scale", f"{LAYER}.enorm.weight"),
        Weight("hidden_norm/scale", f"{LAYER}.hnorm.weight"),
        Weight("w_embed", f"{LAYER}.eh_proj.weight", along=1),
        Weight("w_hidden", f"{LAYER}.eh_proj.weight", along=1),
        Weight("final_norm/scale", f"{LAYER}.shared_head.norm.weight"),
    ),
    unused=(
        r"model\.layers\.\d+\.(embed_tokens|shared_head\.head)\.weight",
        r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
    ),
)
