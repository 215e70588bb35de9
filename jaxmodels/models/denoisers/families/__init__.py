"""The registry of denoisers: one module for each class whose files are read, listed here."""

from collections.abc import Mapping
from typing import Any

from jaxmodels.checks import shown
from jaxmodels.models.config_keys import check_unknown, unknown_keys
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.models.denoisers.families import dit_diffusers, dit_official, flux, pixart, sd3
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigError, ConfigReader

DENOISERS: Mapping[str, Family[Any]] = {
    family.model_type: family
    for family in (
        dit_diffusers.FAMILY,
        dit_official.FAMILY,
        dit_official.SIT,
        flux.FAMILY,
        pixart.FAMILY,
        sd3.FAMILY,
    )
}

# What `diffusers` notes in every configuration.
_NOTES = ("_class_name", "_diffusers_version")


def denoiser_from_config(values: Mapping[str, Any]) -> Denoiser:
    """The denoiser that a ``config.json`` of `diffusers` describes.

    Raises:
        ConfigError: the class is not known, or a key has a value that is not supported or is unknown and may
            change the model; the message names it and the value.
    """
    name = values.get("_class_name") if isinstance(values, Mapping) else None
    if not isinstance(name, str) or name not in DENOISERS:
        raise ConfigError(
            f"config: key '_class_name' is {shown(name)}; the denoisers are: {', '.join(sorted(DENOISERS))}"
        )
    family, reader = DENOISERS[name], ConfigReader(values, f"config of {name}")
    try:
        config = family.read_config(reader)
    except ConfigError:
        raise
    except ValueError as error:  # a layer refuses its sizes
        raise ConfigError(f"{reader.name}: {error}") from error
    check_unknown(reader.name, unknown_keys(reader.unread(), (*family.inert, *_NOTES)), strict=False)
    return config


def denoiser_to_config(config: Denoiser) -> dict[str, Any]:
    """The ``config.json`` of a denoiser: `denoiser_from_config` gives `config` back.

    Raises:
        ConfigError: `config.family` is none of `DENOISERS`, or has no place for something in the model.
    """
    if config.family is None or config.family not in DENOISERS:
        known = ", ".join(sorted(DENOISERS))
        raise ConfigError(f"config.family is {config.family!r}; to write it, set one of: {known}")
    written = DENOISERS[config.family].write_config(config)
    again = denoiser_from_config(written)
    lost = [name for name, value in vars(config).items() if getattr(again, name) != value]
    if lost:
        raise ConfigError(f"the {config.family!r} layout cannot express this model: {lost} would be lost")
    return written
