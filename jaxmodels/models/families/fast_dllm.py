"""Fast-dLLM v2 (`model_type` "Fast_dLLM_Qwen"): weights and names of Qwen2.5, masks filled block by block.

Source: https://arxiv.org/abs/2509.26328 and the configuration and modeling files of
Efficient-Large-Model/Fast_dLLM_v2_7B. As in the autoregressive model, the logits at a place speak of the next
one. The mask token is an argument of the authors' `generate`, so that configurations do not name it.
"""

from dataclasses import replace
from typing import Any

from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense, filling, qwen

MASK_TOKEN, BLOCK, BLOCK_KEY = 151_665, 32, "bd_size"


def read_config(reader: ConfigReader) -> Decoder:
    config = qwen.read_dense(reader, qwen.read_plain_attention(reader))
    return replace(
        config,
        mask=filling.read_block_causal(reader, BLOCK, BLOCK_KEY),
        filling=filling.read_filling(reader, config.vocab_size, MASK_TOKEN, offset=1),
    )


def write_config(config: Decoder) -> dict[str, Any]:
    blocks = filling.write_filling(config) | filling.write_block_causal(config, BLOCK_KEY)
    return qwen.write_dense(config) | blocks | {"architectures": ["Fast_dLLM_QwenForCausalLM"]}


FAMILY = Family(
    model_type="Fast_dLLM_Qwen",
    summary="Fast-dLLM v2",
    read_config=read_config,
    write_config=write_config,
    weights=dense.WEIGHTS,
    unused=dense.UNUSED,
)
