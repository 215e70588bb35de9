"""What a model that was trained to fill in unknown tokens says of itself."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxmodels.checks import whole


@dataclass(frozen=True, kw_only=True)
class MaskFilling:
    """How a model is shown tokens that are not known yet, and where it answers.

    Attributes:
        mask_token: the id that stands in the place of an unknown token; None where a random token does
            (uniform corruption).
        offset: the logits at position ``j - offset`` speak of position j: 0 for models that answer in the
            token's own place, 1 for those that keep the shift of the autoregressive model they come from.

    Raises:
        ValueError: `mask_token` is negative or no whole number, `offset` is neither 0 nor 1.
    """

    mask_token: int | None
    offset: int = 0

    def __post_init__(self) -> None:
        if self.mask_token is not None:
            whole("MaskFilling: mask_token", self.mask_token)
        whole("MaskFilling: offset", self.offset, high=1)


@runtime_checkable
class FillsMasks(Protocol):
    """A model that may have been trained to fill in unknown tokens."""

    @property
    def filling(self) -> MaskFilling | None:
        """None where it was not."""


def filling_of(config: object) -> MaskFilling | None:
    """How `config` fills in unknown tokens; None where it was not trained to."""
    return config.filling if isinstance(config, FillsMasks) else None
