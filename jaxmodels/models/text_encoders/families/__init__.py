"""The registry of text encoders: one module for each layout that is read, listed here."""

from collections.abc import Mapping
from typing import Any

from jaxmodels.checks import shown
from jaxmodels.models.class_registry import ClassRegistry
from jaxmodels.models.hf_config import ConfigError
from jaxmodels.models.text_encoders.families import clip, t5
from jaxmodels.models.text_encoders.text_encoder import TextEncoder

TEXT_ENCODERS = ClassRegistry[TextEncoder]("text encoders", (clip.FAMILY, clip.PROJECTED_FAMILY, t5.FAMILY))

# Classes of transformers whose files hold an encoder among other parts.
_HOLDING = {"T5ForConditionalGeneration": "T5EncoderModel", "T5Model": "T5EncoderModel"}


def encoder_class(values: Mapping[str, Any]) -> str | None:
    """The class of `TEXT_ENCODERS` that a ``config.json`` is of; None if of none."""
    given = values.get("architectures")
    name = given[0] if isinstance(given, list) and given else None
    name = _HOLDING.get(name, name) if isinstance(name, str) else None
    return name if name in TEXT_ENCODERS else None


def text_encoder_from_config(values: Mapping[str, Any]) -> TextEncoder:
    """The encoder that a ``config.json`` of transformers describes.

    Raises:
        ConfigError: its class is none of these, or a key has a value that is not supported or is unknown and
            may change the model; the message names it and the value.
    """
    name = encoder_class(values)
    if name is None:
        given, known = shown(values.get("architectures")), ", ".join(sorted(TEXT_ENCODERS))
        raise ConfigError(f"config: key 'architectures' is {given}; the text encoders are: {known}")
    return TEXT_ENCODERS.read({**values, "_class_name": name})


def text_encoder_to_config(config: TextEncoder) -> dict[str, Any]:
    """The ``config.json`` of an encoder.

    Raises:
        ConfigError: `config.family` is none of these, or has no place for something in the model.
    """
    written = TEXT_ENCODERS.write(config)
    return {key: value for key, value in written.items() if key != "_class_name"}
