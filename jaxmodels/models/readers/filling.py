"""What the families that fill in masked tokens have in common: the mask token and the length of a block."""

from typing import Any

from jaxmodels.layers.masks import BlockCausal
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.filling import MaskFilling
from jaxmodels.models.hf_config import ConfigError, ConfigReader

MASK_TOKEN = "mask_token_id"


def read_filling(
    reader: ConfigReader, vocab_size: int, default: int | None = None, offset: int = 0
) -> MaskFilling:
    """How the model is shown unknown tokens, by the key `mask_token_id`.

    `default` is the mask token of the family's published models, many of whose files lack the key.

    Raises:
        ConfigError: the mask token is no row of the embedding, or there is no key and `default` is none.
    """
    given = reader.optional(MASK_TOKEN, int)
    token = default if given is None else given
    if token is None or token >= vocab_size:
        published = "" if default is None else f"; that of the published models is {default}"
        found = "is missing" if given is None else f"is {given}"
        raise ConfigError(
            f"{reader.name}: key {MASK_TOKEN!r} {found}; it must be the id of the token that stands for an "
            f"unknown one, below the vocabulary's size (vocab_size) = {vocab_size}{published}"
        )
    return MaskFilling(mask_token=token, offset=offset)


def write_filling(config: Decoder) -> dict[str, Any]:
    """The key that `read_filling` reads."""
    if config.filling is None or config.filling.mask_token is None:
        raise ConfigError(f"the {config.family!r} layout needs a mask token, got filling={config.filling}")
    return {MASK_TOKEN: config.filling.mask_token}


def read_block_causal(reader: ConfigReader, default: int, key: str = "block_size") -> BlockCausal:
    """The mask of models whose tokens see their block whole; `default` is the family's length of a block."""
    return BlockCausal(reader.positive_or(key, default))


def write_block_causal(config: Decoder, key: str = "block_size") -> dict[str, Any]:
    """The key that `read_block_causal` reads."""
    if not isinstance(config.mask, BlockCausal):
        raise ConfigError(
            f"the {config.family!r} layout holds models whose mask is BlockCausal, got {config.mask}"
        )
    return {key: config.mask.block}
