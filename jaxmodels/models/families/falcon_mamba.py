"""Falcon Mamba (`model_type` "falcon_mamba"): Mamba with step size, B and C normalised without weights."""

from typing import Any

from jaxmodels.layers.mamba_mixer import MambaMixer
from jaxmodels.layers.norm import WeightlessRMSNorm
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import mamba


def read_config(reader: ConfigReader) -> Decoder:
    return mamba.read_decoder(reader, WeightlessRMSNorm(eps=reader.epsilon("mixer_rms_eps", 1e-6)))


def write_config(config: Decoder) -> dict[str, Any]:
    written = mamba.write_decoder(config)
    mixer = config.blocks[0].mixer
    assert isinstance(mixer, MambaMixer)
    if not isinstance(mixer.dt_norm, WeightlessRMSNorm):
        raise ConfigError(f"the 'falcon_mamba' layout normalises without weights, got {mixer.dt_norm}")
    return written | {"architectures": ["FalconMambaForCausalLM"], "mixer_rms_eps": mixer.dt_norm.eps}


FAMILY = Family(
    model_type="falcon_mamba",
    summary="Falcon Mamba",
    read_config=read_config,
    write_config=write_config,
    inert=mamba.INERT,
    weights=mamba.WEIGHTS,
)
