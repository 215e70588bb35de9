"""The model's own modules for multi-token prediction as its drafter."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxtyping import Array, Float

from jaxmodels.checks import whole
from jaxmodels.decoding.drafters.drafter import LIMIT, STOP, Drafter, Proposal, Round, Verdict
from jaxmodels.decoding.drafters.feature_drafter import FeatureDrafter
from jaxmodels.decoding.drafters.layered_drafter import LayeredDrafter
from jaxmodels.layers.spec import Params
from jaxmodels.models.draft_heads.mtp import MTPHead
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True, eq=False)
class MTP:
    """A chain of `size` tokens by the modules that a checkpoint has for predicting further tokens.

    A single module drafts on from what it made itself (`FeatureDrafter`). Of several, each drafts one token,
    and the last one those beyond them (`LayeredDrafter`). For models that have such modules see
    `jaxmodels.models.draft_heads.mtp_layouts`.

    Attributes:
        size: tokens drafted per round.
        head, params: the modules and their parameters; by default those of the model that generates, which
            `Model.generate` reads from its checkpoint.

    Raises:
        ValueError: `size` is below 1; when run, the model has no such modules, or they are for another one.
    """

    size: int = 3
    head: MTPHead | None = None
    params: Params | None = field(default=None, repr=False)
    obeys: ClassVar[frozenset[str]] = LIMIT | STOP

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", whole("size", self.size, low=1))
        if self.head is not None and self.params is not None:
            _ = self.drafter

    @property
    def drafter(self) -> Drafter:
        """What drafts with the modules.

        Raises ValueError where they are not given yet.
        """
        if self.head is None or self.params is None:
            raise ValueError(
                "MTP: the modules are those of the model that generates, which Model.generate reads; give "
                "head and params here"
            )
        if len(self.head.modules) == 1:
            return FeatureDrafter(head=self.head, params=self.params, size=self.size)
        return LayeredDrafter(head=self.head, params=self.params, size=self.size)

    @property
    def taps(self) -> tuple[str, ...]:
        return self.drafter.taps

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> Any:
        return self.drafter.begin(around, taps)

    def propose(self, state: Any, around: Round) -> tuple[Proposal, Any]:
        return self.drafter.propose(state, around)

    def settle(self, pending: Any, around: Round, verdict: Verdict) -> Any:
        return self.drafter.settle(pending, around, verdict)


register_dataclass(MTP, ["params"], ["size", "head"])
