"""What the families that mix linear with full attention have in common: their layer types."""

from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.latent_attention import LatentAttention
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers.dense import FULL

LINEAR = "linear_attention"


def read_layer_types(reader: ConfigReader, default: list[str]) -> list[str]:
    """The `layer_types` key: one of full_attention and linear_attention for each layer."""
    return reader.pattern("layer_types", (FULL, LINEAR), len(default), default)


def write_layer_types(config: Decoder) -> dict[str, Any]:
    """The key that `read_layer_types` reads."""
    attends = [isinstance(block.mixer, Attention | LatentAttention) for block in config.blocks]
    return {"layer_types": [FULL if full else LINEAR for full in attends]}
