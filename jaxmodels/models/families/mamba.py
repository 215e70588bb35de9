"""Mamba (`model_type` "mamba"), the first one, in the layout of transformers."""

from typing import Any

from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import mamba


def read_config(reader: ConfigReader) -> Decoder:
    return mamba.read_decoder(reader, None)


def write_config(config: Decoder) -> dict[str, Any]:
    return mamba.write_decoder(config) | {"architectures": ["MambaForCausalLM"]}


FAMILY = Family(
    model_type="mamba",
    summary="Mamba, the first one, the transformers layout",
    read_config=read_config,
    write_config=write_config,
    inert=mamba.INERT,
    weights=mamba.WEIGHTS,
)
