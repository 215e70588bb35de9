"""The registry of model families: each module of this package holds one, or several of one layout."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from jaxmodels.checks import shown
from jaxmodels.models.config_keys import INERT_KEYS, check_unknown, unknown_keys
from jaxmodels.models.config_size import check_size
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.layer_errors import in_their_words
from jaxmodels.models.text_part import holds_other_parts, text_part


def _families() -> Iterator[Family]:
    """Every module-level `Family` of the modules beside this one."""
    for module in pkgutil.iter_modules(__path__):
        members = vars(importlib.import_module(f"{__name__}.{module.name}"))
        yield from (member for member in members.values() if isinstance(member, Family))


FAMILIES: Mapping[str, Family[Decoder]] = {family.model_type: family for family in _families()}


def list_families() -> tuple[str, ...]:
    """The `model_type` of every family that can be read and written."""
    return tuple(sorted(FAMILIES))


def find_family(values: Mapping[str, Any]) -> Family[Decoder]:
    """The family of a ``config.json`` dictionary.

    Raises ConfigError naming the `model_type` where no family has it.
    """
    model_type = values.get("model_type")
    if holds_other_parts(values):
        raise ConfigError(
            f"config: a model of model_type {model_type!r} holds a vision part beside its language model; "
            "load the language model with text_only=True"
        )
    for family in FAMILIES.values():
        if family.claims(values):
            return family
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        from jaxmodels.models.text_encoders.families import encoder_class  # which no decoder needs

        encoder = encoder_class(values)
        if encoder is not None:
            raise ConfigError(
                f"config: key 'architectures' names {encoder}, an encoder of texts, which generates none; "
                "jaxmodels.checkpoints.text_encoders.load_text_encoder reads it"
            )
        raise ConfigError(
            f"config: key 'model_type' is {shown(model_type)}; the families are: {', '.join(list_families())}"
        )
    return FAMILIES[model_type]


def config_from_hf(values: Mapping[str, Any], *, strict: bool = False, text_only: bool = False) -> Decoder:
    """The model that a Hugging Face ``config.json`` dictionary describes.

    Keys that no forward pass reads are accepted. Those that the family does not know warn with
    `ConfigWarning` where they cannot change the model (see `jaxmodels.models.config_keys`).

    Args:
        values: the dictionary.
        strict: refuse every unknown key.
        text_only: of a model that also holds a vision part, read the language model.

    Raises:
        ConfigError: a key is missing, has a value that is not supported, or is unknown and may change the
            model; the message names it and the value.
    """
    return read_hf_config(values, strict=strict, text_only=text_only)[0]


def read_hf_config(
    values: Mapping[str, Any], *, strict: bool = False, text_only: bool = False
) -> tuple[Decoder, dict[str, Any]]:
    """What `config_from_hf` gives, and the keys that do not describe the model, to be written back."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"config: must be a dictionary, got {shown(values)}")
    other = next((key for key in values if not isinstance(key, str)), None)
    if other is not None:
        raise ConfigError(f"config: its keys must be texts, got {shown(other)}")
    if not isinstance(text_only, bool):
        raise ConfigError(f"text_only must be True or False, got {shown(text_only)}")
    name = None
    if text_only and holds_other_parts(values):
        name = f"config of model_type {values['model_type']!r}: text_config"
        values = text_part(values)
    family = find_family(values)
    reader = ConfigReader({**values, "model_type": family.model_type}, name)
    try:
        config = family.read_config(reader)
        check_size(config, values)
    except ConfigError:
        raise
    except ValueError as error:  # a layer refuses its sizes
        raise ConfigError(f"{reader.name}: {in_their_words(str(error), values)}") from error
    unread = reader.unread()
    unknown = unknown_keys(unread, family.inert)
    check_unknown(reader.name, unknown, strict=strict)
    carried = {key for key in unread if key in values and key in INERT_KEYS | set(unknown)}
    return config, {key: values[key] for key in sorted(carried - {"model_type", "architectures"})}


def config_to_hf(config: Decoder) -> dict[str, Any]:
    """The ``config.json`` dictionary of a model: `config_from_hf` gives `config` back.

    Raises ConfigError where `config.family` names no family, or one whose layout cannot express the model.
    """
    if not isinstance(config, Decoder):
        raise ConfigError(f"config must be a Decoder, as config_from_hf gives, got {shown(config)}")
    if config.family not in FAMILIES:
        raise ConfigError(
            f"config.family is {config.family!r}; to write it, set one of: {', '.join(list_families())}"
        )
    try:
        written = FAMILIES[str(config.family)].write_config(config)
    except (AssertionError, AttributeError) as error:  # writers take the layers of their family for granted
        layers = {type(block.mixer).__name__ for block in config.blocks if block.mixer is not None}
        raise ConfigError(
            f"the {config.family!r} layout cannot express this model, whose layers are {sorted(layers)}"
        ) from error
    again = replace(config_from_hf(written), max_positions=config.max_positions)  # advisory
    if again != config:
        names = [field.name for field in fields(config)]
        lost = [name for name in names if getattr(again, name) != getattr(config, name)]
        raise ConfigError(f"the {config.family!r} layout cannot express this model: {lost} would be lost")
    return written
